//! The report of `nightjar check`: one document, with what to fix first at its top.

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::code::Code;
use crate::output::{Document, counted, shown};

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Must be corrected.
    Failed,
    /// Should be looked at; fails nothing.
    Warning,
    /// As it should be.
    Ok,
    /// Could not be found out, mostly for want of rights.
    Skipped,
}

impl Outcome {
    fn word(self) -> (&'static str, Style) {
        match self {
            Self::Failed => ("FAILED", AnsiColor::Red.on_default().bold()),
            Self::Warning => ("warning", AnsiColor::Yellow.on_default()),
            Self::Ok => ("ok", AnsiColor::Green.on_default()),
            Self::Skipped => ("skipped", Style::new().dimmed()),
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// Stable name.
    pub(crate) name: String,
    /// What it is about: kubernetes, install, manifest, operator, or `fleet/NAME`.
    pub(crate) category: String,
    pub(crate) result: Outcome,
    /// What was found.
    pub(crate) message: String,
    /// What to do; of checks that are not ok.
    pub(crate) hint: Option<String>,
    /// The page that `nightjar explain` shows, also offline.
    pub(crate) explain: Option<String>,
}

impl Check {
    pub(super) fn ok(category: &str, name: &str, message: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            category: category.to_owned(),
            result: Outcome::Ok,
            message: message.into(),
            hint: None,
            explain: None,
        }
    }

    pub(super) fn failed(
        category: &str,
        name: &str,
        code: Code,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            result: Outcome::Failed,
            hint: Some(hint.into()),
            explain: Some(code.to_string()),
            ..Self::ok(category, name, message)
        }
    }

    pub(super) fn warning(
        category: &str,
        name: &str,
        code: Code,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            result: Outcome::Warning,
            ..Self::failed(category, name, code, message, hint)
        }
    }

    pub(super) fn skipped(category: &str, name: &str, message: impl Into<String>) -> Self {
        Self {
            result: Outcome::Skipped,
            ..Self::ok(category, name, message)
        }
    }
}

/// All checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// The worst of all that is not skipped.
    pub(crate) result: Outcome,
    /// The API server.
    pub(crate) server: String,
    pub(crate) namespace: String,
    /// Version of this program.
    pub(crate) nightjar: &'static str,
    pub(crate) failed: usize,
    pub(crate) warnings: usize,
    pub(crate) ok: usize,
    pub(crate) skipped: usize,
    /// What to fix first comes first; within that in the order of the checks.
    pub(crate) checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(server: &str, namespace: &str, mut checks: Vec<Check>) -> Self {
        checks.sort_by_key(|check| check.result);
        let count = |result| checks.iter().filter(|check| check.result == result).count();
        let (failed, warnings) = (count(Outcome::Failed), count(Outcome::Warning));
        Self {
            result: match (failed, warnings) {
                (0, 0) => Outcome::Ok,
                (0, _) => Outcome::Warning,
                _ => Outcome::Failed,
            },
            server: server.to_owned(),
            namespace: namespace.to_owned(),
            nightjar: env!("CARGO_PKG_VERSION"),
            failed,
            warnings,
            ok: count(Outcome::Ok),
            skipped: count(Outcome::Skipped),
            checks,
        }
    }

    fn section(&self, title: &str, results: &[Outcome], text: &mut String) {
        let checks = || {
            self.checks
                .iter()
                .filter(|check| results.contains(&check.result))
        };
        if checks().next().is_none() {
            return;
        }
        let width =
            |of: fn(&Check) -> &str| checks().map(|check| of(check).len()).max().unwrap_or(0);
        let (category, name) = (width(|check| &check.category), width(|check| &check.name));
        *text += &format!("{title}\n");
        for check in checks() {
            let (word, style) = check.result.word();
            *text += &format!(
                "  {style}{word:<7}{style:#}  {:<category$}  {:<name$}  {}\n",
                check.category,
                check.name,
                shown(&check.message)
            );
            if let Some(hint) = &check.hint {
                *text += &format!("           hint: {}\n", shown(hint));
            }
            if let Some(code) = &check.explain {
                *text += &format!("           more: nightjar explain {code}\n");
            }
        }
        text.push('\n');
    }
}

impl Document for Report {
    fn text(&self) -> String {
        let mut text = String::new();
        self.section("Fix first", &[Outcome::Failed], &mut text);
        self.section("Look at", &[Outcome::Warning], &mut text);
        self.section("Fine", &[Outcome::Ok], &mut text);
        self.section("Not looked at", &[Outcome::Skipped], &mut text);
        let (word, style) = self.result.word();
        let Self {
            server,
            namespace,
            nightjar,
            failed,
            warnings,
            ok,
            skipped,
            ..
        } = self;
        text += &format!(
            "{style}{word}{style:#}: {failed} failed, {}, {ok} ok, {skipped} skipped \
             (nightjar {nightjar}, {server}, namespace {namespace})\n",
            counted(*warnings, "warning", "warnings")
        );
        text
    }

    fn names(&self) -> Vec<String> {
        let name = |check: &Check| format!("{}/{}", check.category, check.name);
        self.checks.iter().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_fix_comes_first_and_every_field_is_in_the_text() {
        let checks = vec![
            Check::ok("kubernetes", "api-version", "Kubernetes v1.34.1"),
            Check::skipped("fleet/eu", "keys", "you may not `get secrets`"),
            Check::warning(
                "operator",
                "definition",
                Code::CheckDefinition,
                "differs",
                "helm upgrade nightjar CHART",
            ),
            Check::failed(
                "fleet/eu",
                "pods",
                Code::CheckPods,
                "1 of 9 pods is not ready: eu-a-nats-1",
                "nightjar why eu",
            ),
        ];
        let report = Report::new("https://198.18.0.1:6443", "messages", checks);
        let text = anstream::adapter::strip_str(&report.text()).to_string();
        insta::assert_snapshot!(text);
        for check in &report.checks {
            let json = serde_json::to_value(check).unwrap();
            for (field, value) in json.as_object().unwrap() {
                let Some(value) = value.as_str() else {
                    continue;
                };
                let value = if field == "result" && value == "failed" {
                    "FAILED"
                } else {
                    value
                };
                assert!(text.contains(value), "{field}: {value}");
            }
        }
    }
}
