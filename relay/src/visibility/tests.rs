//! Tests of the read door.

use serde_json::json;

use super::*;

const AUTHOR: PublicKey = [0xab; 32];
const RECIPIENT: PublicKey = [0x0a; 32];
const STRANGER: PublicKey = [0x0c; 32];

fn event(kind: u16, tags: &serde_json::Value) -> Event {
    let event = json!({
        "id": "01".repeat(32), "pubkey": "ab".repeat(32), "created_at": 100, "kind": kind, "tags": tags,
        "content": "", "sig": "03".repeat(64),
    });
    Event::parse(event.to_string().as_bytes()).unwrap()
}

fn allowed(event: &Event, keys: &[PublicKey]) -> bool {
    may_read(event, &keys.iter().copied().collect()).is_some()
}

#[test]
fn a_gift_wrap_is_for_its_authenticated_recipient() {
    for kind in [1059, 21059] {
        let wrap = event(kind, &json!([["p", "0a".repeat(32)]]));
        assert!(!allowed(&wrap, &[]));
        assert!(!allowed(&wrap, &[STRANGER]));
        assert!(!allowed(&wrap, &[AUTHOR]));
        assert!(allowed(&wrap, &[RECIPIENT]));
        assert!(allowed(&wrap, &[STRANGER, RECIPIENT]));
    }
}

#[test]
fn deletions_of_wraps_and_requests_to_vanish_are_for_their_author() {
    for hidden in [
        event(5, &json!([["e", "02".repeat(32)], ["k", "1059"]])),
        event(62, &json!([["relay", "ALL_RELAYS"]])),
    ] {
        assert!(!allowed(&hidden, &[]));
        assert!(!allowed(&hidden, &[RECIPIENT]));
        assert!(allowed(&hidden, &[AUTHOR]));
    }
}

#[test]
fn everything_else_is_for_everyone() {
    for kind in [0, 1, 4, 13, 14, 10_050, 30_000, 65_535] {
        assert!(
            allowed(&event(kind, &json!([["p", "0a".repeat(32)]])), &[]),
            "{kind}"
        );
    }
}

#[test]
fn only_filters_that_name_wraps_ask_for_authentication() {
    let gate = |filter: serde_json::Value, readers: &Readers| {
        let filter = Filter::from_json(filter.to_string().as_bytes()).unwrap();
        gate_filter(&[Filter::default(), filter], readers)
    };
    let (stranger, somebody) = (Readers::anonymous(), Readers::from_iter([STRANGER]));
    for kinds in [json!([1059]), json!([1, 21059])] {
        assert_eq!(
            gate(json!({"kinds": kinds}), &stranger),
            FilterGate::AuthRequired
        );
        assert_eq!(gate(json!({"kinds": kinds}), &somebody), FilterGate::Open);
    }
    for open in [
        json!({}),
        json!({"kinds": [1, 5, 62]}),
        json!({"#p": ["0a".repeat(32)]}),
        json!({"ids": []}),
    ] {
        assert_eq!(gate(open, &stranger), FilterGate::Open);
    }
}
