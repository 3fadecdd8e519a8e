//! `nightjar runbook`: the pages for alerts, which are part of the program.

use clap::Args;
use serde::Serialize;

use crate::code::Code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Format, Record, write};

/// Name and text of every page of `docs/runbooks/`, by name; made by the build script.
static PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/runbooks.rs"));

#[derive(Debug, Args)]
pub(crate) struct RunbookArgs {
    /// Name of the alert, such as RolloutWaiting; capitals and dashes do not matter [default: list all]
    name: Option<String>,
}

#[derive(Serialize)]
struct EntryRecord {
    name: &'static str,
    title: &'static str,
}
impl Record for EntryRecord {
    const COLUMNS: &'static [&'static str] = &["name", "title"];
}

#[derive(Serialize)]
struct PageRecord {
    name: &'static str,
    title: &'static str,
    page: &'static str,
}
impl Record for PageRecord {
    const COLUMNS: &'static [&'static str] = &["name", "title", "page"];
}

pub(crate) fn run(args: &RunbookArgs, context: &Context) -> Result<(), CliError> {
    let Some(asked) = &args.name else {
        if PAGES.is_empty() {
            context.console.note("this build has no runbook pages");
        }
        let entry = |(name, page): &(&'static str, &'static str)| EntryRecord {
            name,
            title: title(page),
        };
        return context
            .out
            .list(&PAGES.iter().map(entry).collect::<Vec<_>>());
    };
    let (name, page) = find(PAGES, asked).ok_or_else(|| {
        CliError::new(
            Code::NoSuchRunbook,
            format!("there is no runbook page `{asked}`"),
            "nightjar runbook",
        )
    })?;
    match context.out.format() {
        // A page is made for reading; as a table it would lose its shape.
        Format::Table => write(page),
        _ => context.out.one(&PageRecord {
            name,
            title: title(page),
            page,
        }),
    }
}

/// Alerts are written in several ways: `NightjarRolloutWaiting`, `rollout-waiting`.
fn find(
    pages: &'static [(&'static str, &'static str)],
    asked: &str,
) -> Option<(&'static str, &'static str)> {
    let plain = |text: &str| -> String {
        let letters = text.chars().filter(char::is_ascii_alphanumeric);
        let text: String = letters.map(|c| c.to_ascii_lowercase()).collect();
        text.strip_prefix("nightjar")
            .map_or(text.clone(), ToOwned::to_owned)
    };
    pages
        .iter()
        .copied()
        .find(|(name, _)| plain(name) == plain(asked))
}

/// The first heading.
fn title(page: &'static str) -> &'static str {
    let heading = page.lines().find_map(|line| line.strip_prefix("# "));
    heading.unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;

    #[test]
    fn table_and_json_have_the_same_fields() {
        assert_same_fields(&EntryRecord {
            name: "",
            title: "",
        });
        assert_same_fields(&PageRecord {
            name: "",
            title: "",
            page: "",
        });
    }

    #[test]
    fn pages_are_found_however_the_alert_is_written() {
        static PAGES: &[(&str, &str)] = &[("RolloutWaiting", "# Rollout waits\n\ntext\n")];
        for name in [
            "RolloutWaiting",
            "rollout-waiting",
            "NightjarRolloutWaiting",
        ] {
            assert_eq!(
                find(PAGES, name).map(|(name, page)| (name, title(page))),
                Some(("RolloutWaiting", "Rollout waits"))
            );
        }
        assert!(find(PAGES, "rollout").is_none());
    }

    #[test]
    fn every_page_of_the_build_has_a_title() {
        for (name, page) in PAGES {
            assert!(!title(page).is_empty(), "{name}");
        }
    }
}
