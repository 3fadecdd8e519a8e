//! Questions as programs read them: one line of JSON each. Pure. The write question is that of strfry's event sifters.

use bytes::Bytes;
use serde::Serialize;

use super::disclosure::{shown_event, shown_filter};
use super::source::Source;
use crate::event::Event;
use crate::filter::Filter;
use crate::visibility::Readers;

/// What a client asked for with filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A subscription.
    Req,
    /// A count (NIP-45).
    Count,
    /// A reconciliation (NIP-77).
    NegOpen,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Req => "REQ",
            Self::Count => "COUNT",
            Self::NegOpen => "NEG-OPEN",
        }
    }
}

/// What both questions say of the client.
pub(super) struct Asker<'a> {
    /// Unix time in seconds.
    pub(super) received_at: u64,
    pub(super) source: &'a Source,
    pub(super) give_address: bool,
    pub(super) readers: &'a Readers,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Origin {
    received_at: u64,
    source_type: &'static str,
    source_info: String,
    authed: Vec<String>,
}

impl Asker<'_> {
    fn origin(&self) -> Origin {
        Origin {
            received_at: self.received_at,
            source_type: self.source.kind(),
            source_info: self.source.info(self.give_address),
            authed: self.readers.iter().map(hex::encode).collect(),
        }
    }
}

#[derive(Serialize)]
struct ReadQuestion<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    verb: &'static str,
    filters: Vec<serde_json::Value>,
    #[serde(flatten)]
    origin: Origin,
}

/// Whether an event may be published. The answer names the event's id.
pub(super) fn write_question(event: &Event, asker: &Asker<'_>) -> Bytes {
    let shown = shown_event(event);
    let origin = to_json(&asker.origin());
    let mut line = Vec::with_capacity(shown.len() + origin.len() + 32);
    // The event is JSON already; only the braces are put around it.
    line.extend_from_slice(br#"{"type":"new","event":"#);
    line.extend_from_slice(&shown);
    line.push(b',');
    line.extend_from_slice(&origin[1..]);
    line.push(b'\n');
    line.into()
}

/// Whether a question to the index may be answered. The answer names `id`.
pub(super) fn read_question(id: &str, verb: Verb, filters: &[Filter], asker: &Asker<'_>) -> Bytes {
    let mut line = to_json(&ReadQuestion {
        kind: "read",
        id,
        verb: verb.name(),
        filters: filters.iter().map(shown_filter).collect(),
        origin: asker.origin(),
    });
    line.push(b'\n');
    line.into()
}

/// Maps, lists, strings and numbers always become JSON.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::admission::AddressKey;

    fn source() -> Source {
        let address = "192.0.2.7".parse().expect("an address");
        Source::new(address, AddressKey::for_tests(7), true)
    }

    fn line(bytes: &Bytes) -> Value {
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(bytes.last(), Some(&b'\n'));
        serde_json::from_slice(bytes).expect("JSON")
    }

    fn asker<'a>(source: &'a Source, readers: &'a Readers) -> Asker<'a> {
        Asker {
            received_at: 1_700_000_000,
            source,
            give_address: false,
            readers,
        }
    }

    fn event(content: &str) -> Event {
        let json = json!({
            "id": "11".repeat(32), "pubkey": "22".repeat(32), "created_at": 1, "kind": 1, "tags": [["t", content]],
            "content": content, "sig": "33".repeat(64),
        });
        Event::parse(json.to_string().as_bytes()).expect("an event")
    }

    #[test]
    fn a_write_question_is_what_strfry_asks_with_the_keys_that_authenticated() {
        let (source, readers) = (source(), [[0xab; 32]].into_iter().collect());
        let asked = line(&write_question(&event("hi"), &asker(&source, &readers)));
        assert_eq!(
            asked,
            json!({
                "type": "new",
                "event": {
                    "id": "11".repeat(32), "pubkey": "22".repeat(32), "created_at": 1, "kind": 1, "tags": [["t", "hi"]],
                    "content": "hi", "sig": "33".repeat(64),
                },
                "receivedAt": 1_700_000_000,
                "sourceType": "IP4",
                "sourceInfo": "0000000000000007",
                "authed": ["ab".repeat(32)],
            })
        );
    }

    #[test]
    fn a_read_question_has_an_id_of_its_own_the_verb_and_the_filters() {
        let (source, readers) = (source(), Readers::anonymous());
        let filters = [Filter::from_json(br#"{"kinds":[1],"limit":5}"#).expect("a filter")];
        let mut asker = asker(&source, &readers);
        asker.give_address = true;
        for (verb, name) in [
            (Verb::Req, "REQ"),
            (Verb::Count, "COUNT"),
            (Verb::NegOpen, "NEG-OPEN"),
        ] {
            assert_eq!(
                line(&read_question("read-7", verb, &filters, &asker)),
                json!({
                    "type": "read", "id": "read-7", "verb": name, "filters": [{"kinds": [1], "limit": 5}],
                    "receivedAt": 1_700_000_000, "sourceType": "IP4", "sourceInfo": "192.0.2.7", "authed": [],
                })
            );
        }
    }

    proptest! {
        /// A line break in an event would be a second question.
        #[test]
        fn a_question_is_one_line_whatever_the_event_says(content in "(\\PC|[\r\n\u{85}\u{2028}\u{0}\"\\\\]){0,60}") {
            let (source, readers) = (source(), Readers::anonymous());
            let asked = line(&write_question(&event(&content), &asker(&source, &readers)));
            prop_assert_eq!(asked["event"]["content"].as_str(), Some(content.as_str()));
        }
    }
}
