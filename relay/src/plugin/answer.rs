//! Answers as programs write them: one line of JSON each. Pure. The form is that of strfry's event sifters.

use serde::Deserialize;

use crate::metrics::EventResult;

/// Longest reason that a client is told, in bytes.
const MAX_REASON_BYTES: usize = 512;
/// Said when a program refuses without a reason.
const NO_REASON: &str = "blocked: refused by the policy of this relay";
/// The machine-readable prefixes of NIP-01 and NIP-42, and what they count as.
const PREFIXES: [(&str, EventResult); 9] = [
    ("blocked", EventResult::blocked),
    ("rate-limited", EventResult::rate_limited),
    ("invalid", EventResult::invalid),
    ("pow", EventResult::pow),
    ("restricted", EventResult::restricted),
    ("auth-required", EventResult::auth_required),
    ("duplicate", EventResult::duplicate),
    ("mute", EventResult::blocked),
    ("error", EventResult::error),
];

/// What a program decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Accept,
    /// Refuse, with this reason for the client: with a machine-readable prefix, at most 512 bytes of it the program's.
    Reject(String),
    /// Say that all is well, and drop it.
    ShadowReject,
}

/// One line of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// An answer to the question of this id.
    Answer(String, Verdict),
    /// An answer that names a question, but says nothing that a program may say.
    Undecided(String),
    /// Something else. Programs print such things by mistake, so it is ignored.
    Nonsense,
}

#[derive(Deserialize)]
struct Answer<'a> {
    id: String,
    #[serde(default)]
    action: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    msg: Option<String>,
}

impl Line {
    /// Reads a line, with or without its line break.
    pub fn parse(line: &[u8]) -> Self {
        let Ok(answer) = serde_json::from_slice::<Answer<'_>>(line) else {
            return Self::Nonsense;
        };
        let verdict = match answer.action.as_deref() {
            Some("accept") => Verdict::Accept,
            Some("reject") => Verdict::Reject(reason(answer.msg.as_deref().unwrap_or(""))),
            Some("shadowReject") => Verdict::ShadowReject,
            _ => return Self::Undecided(answer.id),
        };
        Self::Answer(answer.id, verdict)
    }
}

/// The reason for the client: what the program says, behind `blocked: ` unless it begins with a prefix that clients know.
fn reason(said: &str) -> String {
    let said = said.trim();
    if said.is_empty() {
        return NO_REASON.to_owned();
    }
    let mut reason = if prefix(said).is_some() {
        said.to_owned()
    } else {
        format!("blocked: {said}")
    };
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    reason
}

fn prefix(reason: &str) -> Option<EventResult> {
    let (first, _) = reason.split_once(':')?;
    PREFIXES
        .iter()
        .find(|(prefix, _)| *prefix == first)
        .map(|(_, result)| *result)
}

/// What a reason counts as in the metrics.
pub(super) fn result_of(reason: &str) -> EventResult {
    prefix(reason).unwrap_or(EventResult::blocked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Line {
        Line::parse(text.as_bytes())
    }

    fn rejected(text: &str) -> String {
        let line = json!({"id": "x", "action": "reject", "msg": text}).to_string();
        match parse(&line) {
            Line::Answer(_, Verdict::Reject(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_three_actions_are_read_and_more_fields_do_no_harm() {
        for (text, verdict) in [
            (r#"{"id":"x","action":"accept"}"#, Verdict::Accept),
            (
                r#" {"action": "accept", "id": "x", "msg": null, "more": [1]} "#,
                Verdict::Accept,
            ),
            (
                "{\"id\":\"x\",\"action\":\"\\u0061ccept\",\"msg\":\"\"}\r\n",
                Verdict::Accept,
            ),
            (
                r#"{"id":"x","action":"shadowReject","msg":"spam"}"#,
                Verdict::ShadowReject,
            ),
            (
                r#"{"id":"x","action":"reject","msg":"no"}"#,
                Verdict::Reject("blocked: no".to_owned()),
            ),
            (
                r#"{"id":"x","action":"reject"}"#,
                Verdict::Reject(NO_REASON.to_owned()),
            ),
        ] {
            assert_eq!(parse(text), Line::Answer("x".to_owned(), verdict), "{text}");
        }
    }

    #[test]
    fn an_answer_without_a_known_action_decides_nothing() {
        for text in [
            r#"{"id":"x","action":"perhaps"}"#,
            r#"{"id":"x","action":"Accept"}"#,
            r#"{"id":"x"}"#,
        ] {
            assert_eq!(parse(text), Line::Undecided("x".to_owned()), "{text}");
        }
        for text in [
            "",
            "hello",
            "[]",
            "{}",
            r#"{"action":"accept"}"#,
            r#"{"id":7,"action":"accept"}"#,
            "\u{0}",
        ] {
            assert_eq!(parse(text), Line::Nonsense, "{text}");
        }
        assert_eq!(Line::parse(b"\xff\xfe"), Line::Nonsense);
    }

    #[test]
    fn a_reason_has_a_prefix_that_clients_know() {
        for (said, told) in [
            ("not on the list", "blocked: not on the list"),
            ("rate-limited: slow down", "rate-limited: slow down"),
            ("auth-required: members only", "auth-required: members only"),
            ("Blocked: x", "blocked: Blocked: x"),
            ("note: this", "blocked: note: this"),
            ("  \n", NO_REASON),
        ] {
            assert_eq!(rejected(said), told);
        }
        assert_eq!(result_of("rate-limited: x"), EventResult::rate_limited);
        assert_eq!(result_of("mute: x"), EventResult::blocked);
        let long = rejected(&"\u{1F426}".repeat(1000));
        assert!(long.len() <= MAX_REASON_BYTES && long.starts_with("blocked: \u{1F426}"));
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_ignored(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Line::parse(&line);
        }

        #[test]
        fn any_json_with_the_right_names_is_read_or_ignored(
            id in "\\PC{0,20}", action in "accept|reject|shadowReject|\\PC{0,12}", msg in "\\PC{0,700}", with_msg: bool,
        ) {
            let mut answer = json!({"id": id, "action": action});
            if with_msg {
                answer["msg"] = json!(msg);
            }
            match parse(&answer.to_string()) {
                Line::Answer(of, verdict) => {
                    prop_assert_eq!(of, id);
                    if let Verdict::Reject(reason) = verdict {
                        prop_assert!(reason.len() <= MAX_REASON_BYTES);
                        prop_assert!(prefix(&reason).is_some());
                    }
                }
                Line::Undecided(of) => prop_assert_eq!(of, id),
                Line::Nonsense => prop_assert!(false, "an object with an id"),
            }
        }
    }
}
