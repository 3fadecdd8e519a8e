//! What a policy program is shown of events and filters: no private content. Pure.
//!
//! The promise is that nobody but its recipient learns of a gift wrap. So of events that not everyone may read a program sees
//! the envelope alone, never content or recipient, and of filters that may reach such events nothing that could tell which
//! of them a client means: a program that knows a wrap's id must not learn who asks for it.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::event::{Audience, Event, is_wrap, kind};
use crate::filter::Filter;

/// The tags of a private event that a program sees: proof of work (NIP-13) and the time of its end (NIP-40).
const ENVELOPE_TAGS: [&str; 2] = ["nonce", "expiration"];

/// An event as a program sees it, as JSON without line breaks.
pub(super) fn shown_event(event: &Event) -> Vec<u8> {
    if event.audience() == Audience::Public {
        return event.json().to_vec();
    }
    let envelope = Envelope {
        id: event.id_hex(),
        pubkey: hex::encode(event.pubkey),
        created_at: event.created_at,
        kind: event.kind,
        tags: event
            .tags
            .iter()
            .filter(|tag| ENVELOPE_TAGS.contains(&tag[0].as_str()))
            .collect(),
        content: "",
        sig: hex::encode(event.sig),
    };
    // Strings and numbers always become JSON; an empty object is what no program takes for an event.
    serde_json::to_vec(&envelope).unwrap_or_else(|_| b"{}".to_vec())
}

/// The seven fields of NIP-01, in their order.
#[derive(Serialize)]
struct Envelope<'a> {
    id: String,
    pubkey: String,
    created_at: u64,
    kind: u16,
    tags: Vec<&'a Vec<String>>,
    content: &'static str,
    sig: String,
}

/// A filter as a program sees it. What is withheld is named under `withheld`, with the number of its values.
pub(super) fn shown_filter(filter: &Filter) -> Value {
    let mut shown = Map::new();
    let mut withheld = Map::new();
    let hides = may_reach_private(filter);
    let mut say = |field: &str, count: usize, values: Value| {
        if hides {
            withheld.insert(field.to_owned(), count.into());
        } else {
            shown.insert(field.to_owned(), values);
        }
    };
    if let Some(ids) = &filter.ids {
        say("ids", ids.len(), hex_list(ids));
    }
    if let Some(authors) = &filter.authors {
        say("authors", authors.len(), hex_list(authors));
    }
    for (letter, values) in &filter.tags {
        let field = format!("#{}", char::from(*letter));
        say(&field, values.len(), json!(values));
    }
    if let Some(kinds) = &filter.kinds {
        shown.insert("kinds".to_owned(), json!(kinds));
    }
    for (field, time) in [("since", filter.since), ("until", filter.until)] {
        if let Some(time) = time {
            shown.insert(field.to_owned(), json!(time));
        }
    }
    if let Some(limit) = filter.limit {
        shown.insert("limit".to_owned(), json!(limit));
    }
    if !withheld.is_empty() {
        shown.insert("withheld".to_owned(), Value::Object(withheld));
    }
    Value::Object(shown)
}

/// Whether an event that not everyone may read could match, by the kinds alone.
fn may_reach_private(filter: &Filter) -> bool {
    filter
        .kinds
        .as_ref()
        .is_none_or(|kinds| kinds.iter().any(|kind| is_never_public(*kind)))
}

/// The kinds whose audience may be other than everyone (`Event::audience`).
fn is_never_public(kind: u16) -> bool {
    is_wrap(kind) || matches!(kind, kind::DELETION | kind::VANISH)
}

fn hex_list(values: &[[u8; 32]]) -> Value {
    values.iter().map(hex::encode).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(kind: u16, tags: &Value, content: &str) -> Event {
        let json = json!({
            "id": "11".repeat(32), "pubkey": "22".repeat(32), "created_at": 1_700_000_000, "kind": kind, "tags": tags,
            "content": content, "sig": "33".repeat(64),
        });
        Event::parse(json.to_string().as_bytes()).expect("an event")
    }

    fn shown(event: &Event) -> Value {
        serde_json::from_slice(&shown_event(event)).expect("JSON")
    }

    fn filter(json: &Value) -> Value {
        shown_filter(&Filter::from_json(json.to_string().as_bytes()).expect("a filter"))
    }

    #[test]
    fn a_public_event_is_shown_as_it_is() {
        let note = event(
            1,
            &json!([["t", "bird"], ["p", "44".repeat(32)]]),
            "hello\n",
        );
        assert_eq!(shown_event(&note), note.json().as_ref());
    }

    #[test]
    fn of_a_wrap_the_envelope_is_shown_without_recipient_and_content() {
        let recipient = "44".repeat(32);
        let tags = json!([
            ["p", recipient, "wss://r.test"],
            ["nonce", "7", "20"],
            ["expiration", "1800000000"],
            ["x", "y"]
        ]);
        for kind in [1059, 21_059] {
            let wrap = event(kind, &tags, "sealed");
            assert_eq!(
                shown(&wrap),
                json!({
                    "id": "11".repeat(32), "pubkey": "22".repeat(32), "created_at": 1_700_000_000, "kind": kind,
                    "tags": [["nonce", "7", "20"], ["expiration", "1800000000"]], "content": "", "sig": "33".repeat(64),
                })
            );
        }
    }

    #[test]
    fn what_a_private_deletion_or_vanishing_is_about_is_not_shown() {
        let of_a_wrap = event(5, &json!([["e", "55".repeat(32)], ["k", "1059"]]), "why");
        let vanish = event(62, &json!([["relay", "ALL_RELAYS"]]), "why");
        for hidden in [of_a_wrap, vanish] {
            let shown = shown(&hidden);
            assert_eq!(
                (&shown["tags"], &shown["content"]),
                (&json!([]), &json!(""))
            );
        }
        let public = event(5, &json!([["e", "55".repeat(32)], ["k", "1"]]), "why");
        assert_eq!(shown(&public)["content"], "why");
    }

    #[test]
    fn a_filter_that_reaches_public_events_only_is_shown_in_full() {
        let given = json!({
            "ids": ["11".repeat(32)], "authors": ["22".repeat(32)], "kinds": [1, 7], "#p": ["44".repeat(32)],
            "#t": ["bird"], "since": 5, "until": 9, "limit": 3,
        });
        assert_eq!(filter(&given), given);
    }

    #[test]
    fn a_filter_that_may_reach_private_events_says_how_much_it_withholds() {
        let rest = json!({"ids": ["11".repeat(32)], "authors": [], "#p": ["44".repeat(32), "55".repeat(32)], "limit": 3});
        let withheld = json!({"ids": 1, "authors": 0, "#p": 2});
        assert_eq!(filter(&rest), json!({"limit": 3, "withheld": withheld}));
        for kind in [5, 62, 1059, 21_059] {
            let mut with_kind = rest.clone();
            with_kind["kinds"] = json!([1, kind]);
            assert_eq!(
                filter(&with_kind),
                json!({"kinds": [1, kind], "limit": 3, "withheld": withheld})
            );
        }
        assert_eq!(filter(&json!({"kinds": [1059]})), json!({"kinds": [1059]}));
    }

    proptest! {
        /// Whoever may not read it as a stranger does not see its content or any key in its tags as a program.
        #[test]
        fn no_private_content_is_shown(kind in prop_oneof![Just(5_u16), Just(62), Just(1059), Just(21_059)], content in "\\PC{1,80}") {
            let (secret, recipient) = (format!("<<{content}>>"), "ab".repeat(32));
            let hidden = event(kind, &json!([["p", recipient], ["e", "cd".repeat(32)], ["relay", "ALL_RELAYS"]]), &secret);
            prop_assume!(hidden.audience() != Audience::Public);
            let shown = String::from_utf8(shown_event(&hidden)).expect("text");
            prop_assert!(!shown.contains(&recipient) && !shown.contains(&"cd".repeat(32)));
            prop_assert_eq!(serde_json::from_str::<Value>(&shown).expect("JSON")["content"].clone(), json!(""));
        }
    }
}
