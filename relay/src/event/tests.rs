//! Tests of events.

use nostr::event::{EventBuilder, FinalizeEvent, Kind, Tag};
use nostr::key::Keys;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const KEY: &str = "ab";

fn hex_of(pair: &str, bytes: usize) -> String {
    pair.repeat(bytes)
}

fn valid() -> Value {
    json!({
        "id": hex_of("01", 32), "pubkey": hex_of(KEY, 32), "created_at": 1_700_000_000, "kind": 1,
        "tags": [["e", hex_of("02", 32)], ["t", "x"]], "content": "hello", "sig": hex_of("03", 64),
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut event = valid();
    event[field] = value;
    event
}

fn parse(value: &Value) -> Result<Event, EventError> {
    Event::parse(value.to_string().as_bytes())
}

fn of_kind(kind: u16, tags: Value) -> Event {
    let mut value = with("kind", json!(kind));
    value["tags"] = tags;
    parse(&value).unwrap()
}

fn signed(content: &str) -> String {
    let keys = Keys::generate();
    let tag = Tag::parse([
        "t",
        "quote\" slash\\ nl\n tab\t bell\u{7} del\u{7f} sep\u{2028} snow\u{2603}",
    ])
    .unwrap();
    let event = EventBuilder::new(Kind::TextNote, content)
        .tag(tag)
        .finalize(&keys)
        .unwrap();
    serde_json::to_string(&event).unwrap()
}

#[test]
fn events_signed_elsewhere_verify_with_every_character_that_is_escaped() {
    let all: String = (0u8..=0x7f).map(char::from).collect();
    for content in [
        "",
        "plain",
        &all,
        "\u{2028}\u{1f600}\u{ffff}",
        r#"{"a":"\"}"#,
    ] {
        let event = Event::parse(signed(content).as_bytes()).unwrap();
        assert_eq!(event.verify(), Ok(()), "{content:?}");
        let again = Event::parse(event.json()).unwrap();
        assert_eq!(again, event);
        let literal: String = serde_json::from_slice(event.content_json()).unwrap();
        assert_eq!(literal, content);
    }
}

#[test]
fn json_is_normalised_to_the_seven_fields() {
    let loose = signed("a/b")
        .replacen('{', "{ \"seen_on\" : [\"x\"],\n ", 1)
        .replace("a/b", "a\\/\\u0062");
    let event = Event::parse(loose.as_bytes()).unwrap();
    assert_eq!(event.verify(), Ok(()));
    let text = std::str::from_utf8(event.json()).unwrap();
    assert!(
        text.starts_with(&format!("{{\"id\":\"{}\",\"pubkey\":\"", event.id_hex())),
        "{text}"
    );
    assert!(
        text.contains(r#""content":"a/b""#) && !text.contains("seen_on"),
        "{text}"
    );
}

#[test]
fn a_changed_event_does_not_verify() {
    let original: Value = serde_json::from_str(&signed("hello")).unwrap();
    for (field, value) in [
        ("content", json!("hellO")),
        ("created_at", json!(5)),
        ("kind", json!(2)),
        ("tags", json!([])),
    ] {
        let mut changed = original.clone();
        changed[field] = value;
        assert!(
            matches!(
                parse(&changed).unwrap().verify(),
                Err(EventError::IdMismatch { .. })
            ),
            "{field}"
        );
    }
    let mut other_sig = original.clone();
    let first = if original["sig"].as_str().unwrap().starts_with('0') {
        "1"
    } else {
        "0"
    };
    other_sig["sig"] = json!(format!(
        "{first}{}",
        &original["sig"].as_str().unwrap()[1..]
    ));
    assert_eq!(
        parse(&other_sig).unwrap().verify(),
        Err(EventError::BadSignature)
    );
    let mut other_author = original;
    other_author["pubkey"] = json!(Keys::generate().public_key().to_hex());
    let mut event = parse(&other_author).unwrap();
    event.id = verify::compute_id(&event);
    assert_eq!(event.verify(), Err(EventError::BadSignature));
}

#[test]
fn a_key_that_is_not_on_the_curve_is_a_bad_signature() {
    let mut event = parse(&with("pubkey", json!(hex_of("ff", 32)))).unwrap();
    event.id = verify::compute_id(&event);
    assert_eq!(event.verify(), Err(EventError::BadSignature));
}

#[test]
fn wrong_fields_are_named_and_never_repeated() {
    let secret = "s3cret";
    let cases = [
        ("id", json!(hex_of("AB", 32))),
        ("id", json!(hex_of("ab", 31))),
        ("id", json!(secret)),
        ("pubkey", json!(7)),
        ("created_at", json!("1")),
        ("created_at", json!(1.5)),
        ("created_at", json!(-1)),
        ("created_at", json!(1u64 << 53)),
        ("kind", json!(65_536)),
        ("tags", json!(secret)),
        ("tags", json!({})),
        ("content", json!([secret])),
        ("sig", json!(hex_of("0g", 64))),
    ];
    for (field, value) in cases {
        let message = parse(&with(field, value.clone())).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("invalid: {field} must be ")),
            "{field} {value}: {message}"
        );
        assert!(!message.contains(secret), "{message}");
    }
}

#[test]
fn tags_are_arrays_of_one_or_more_strings() {
    for (tags, index) in [
        (json!([["e"], []]), 1),
        (json!([["e"], "s3cret"]), 1),
        (json!([["e", 1]]), 0),
    ] {
        let error = parse(&with("tags", tags)).unwrap_err();
        assert!(
            matches!(error, EventError::Tag { index: at, .. } if at == index),
            "{error}"
        );
    }
}

#[test]
fn what_is_not_an_event_object_is_refused() {
    for text in [
        "",
        "{",
        "[]",
        "\"x\"",
        "null",
        "\u{0}",
        r#"{"id":"#,
        "{\"id\":\"\\ud800\"}",
    ] {
        let message = Event::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(message.starts_with("invalid: "), "{text}: {message}");
    }
    for field in [
        "id",
        "pubkey",
        "created_at",
        "kind",
        "tags",
        "content",
        "sig",
    ] {
        let mut event = valid();
        event.as_object_mut().unwrap().remove(field);
        assert_eq!(parse(&event), Err(EventError::Missing(field)));
        assert_eq!(
            parse(&with(field, json!(null))),
            Err(EventError::Missing(field))
        );
    }
    let doubled = valid().to_string().replacen('{', "{\"kind\":1,", 1);
    assert!(matches!(
        Event::parse(doubled.as_bytes()),
        Err(EventError::NotAnObject(_))
    ));
    assert!(Event::parse(b"\xff\xfe").is_err());
}

#[test]
fn the_size_limit_is_that_of_the_envelope() {
    let limit = nightjar_envelope::MAX_EVENT_BYTES;
    let empty = parse(&with("content", json!(""))).unwrap().json().len();
    assert!(parse(&with("content", json!("x".repeat(limit - empty)))).is_ok());
    let error = parse(&with("content", json!("x".repeat(limit - empty + 1)))).unwrap_err();
    assert_eq!(
        error,
        EventError::TooLarge {
            len: limit + 1,
            limit
        }
    );
}

#[test]
fn a_gift_wrap_has_exactly_one_recipient() {
    let recipient = hex_of("0a", 32);
    for kind in [kind::GIFT_WRAP, kind::EPHEMERAL_GIFT_WRAP] {
        let good = of_kind(kind, json!([["p", recipient]]));
        assert_eq!(good.audience(), Audience::Only(vec![[0x0a; 32]]));
        assert!(good.is_private());
        for tags in [
            json!([]),
            json!([["p"]]),
            json!([["p", "x"]]),
            json!([["p", recipient], ["p", recipient]]),
        ] {
            let mut value = with("kind", json!(kind));
            value["tags"] = tags;
            assert!(matches!(parse(&value), Err(EventError::Recipients { .. })));
        }
    }
}

#[test]
fn a_deletion_request_is_public_only_if_it_cannot_be_about_a_wrap() {
    let author = Audience::Only(vec![[0xab; 32]]);
    let (e, a) = (
        json!(["e", hex_of("02", 32)]),
        json!(["a", format!("30000:{}:d", hex_of(KEY, 32))]),
    );
    assert_eq!(of_kind(5, json!([e])).audience(), author);
    for kind in ["1059", "21059", "13", "14", "15", "wrap"] {
        assert_eq!(
            of_kind(5, json!([e, ["k", kind]])).audience(),
            author,
            "{kind}"
        );
    }
    assert_eq!(
        of_kind(5, json!([e, ["k", "1"], ["k", "1059"]])).audience(),
        author
    );
    assert_eq!(
        of_kind(5, json!([e, ["k", "1"]])).audience(),
        Audience::Public
    );
    assert_eq!(of_kind(5, json!([a])).audience(), Audience::Public);
    assert_eq!(of_kind(62, json!([])).audience(), author);
    assert_eq!(of_kind(1, json!([e])).audience(), Audience::Public);
}

#[test]
fn deletion_requests_name_ids_and_own_coordinates_and_not_too_many() {
    let (own, other) = (hex_of(KEY, 32), hex_of("cd", 32));
    let request = of_kind(
        5,
        json!([
            ["e", hex_of("02", 32)],
            ["e", "x"],
            ["a", format!("30000:{own}:a:b")],
            ["a", format!("30000:{other}:d")],
            ["a", format!("10002:{own}:")],
            ["a", format!("1:{own}:")]
        ]),
    );
    assert_eq!(request.deleted_ids().collect::<Vec<_>>(), [[2; 32]]);
    let coordinates: Vec<_> = request
        .deleted_coordinates()
        .map(|one| (one.kind, one.d))
        .collect();
    assert_eq!(
        coordinates,
        [(30_000, "a:b".to_owned()), (10_002, String::new())]
    );
    assert_eq!(
        of_kind(1, json!([["e", hex_of("02", 32)]]))
            .deleted_ids()
            .count(),
        0
    );

    let mut many = with("kind", json!(5));
    many["tags"] = json!(vec![
        json!(["e", hex_of("02", 32)]);
        MAX_DELETION_TARGETS + 1
    ]);
    assert_eq!(
        parse(&many),
        Err(EventError::TooManyTargets {
            count: 501,
            limit: 500
        })
    );
}

#[test]
fn classes_coordinates_and_expirations_follow_the_nips() {
    let cases = [
        (0, Class::State),
        (1, Class::Messages),
        (3, Class::State),
        (5, Class::State),
        (62, Class::State),
        (1059, Class::Messages),
        (9_999, Class::Messages),
        (10_000, Class::State),
        (19_999, Class::State),
        (20_000, Class::Ephemeral),
        (29_999, Class::Ephemeral),
        (30_000, Class::State),
        (39_999, Class::State),
        (40_000, Class::Messages),
        (65_535, Class::Messages),
    ];
    for (kind, class) in cases {
        assert_eq!(class_of(kind), class, "{kind}");
    }
    assert_eq!(
        of_kind(30_000, json!([["d"], ["d", "x"], ["d", "y"]]))
            .coordinate()
            .unwrap()
            .d,
        "x"
    );
    assert_eq!(
        of_kind(10_050, json!([["d", "x"]])).coordinate().unwrap().d,
        ""
    );
    assert_eq!(of_kind(1, json!([])).coordinate(), None);
    let expiring = of_kind(
        1,
        json!([
            ["expiration", "soon"],
            ["expiration", "20"],
            ["expiration", "10"]
        ]),
    );
    assert_eq!(expiring.expiration(), Some(10));
    assert!(of_kind(1, json!([["-"]])).is_protected());
}

#[test]
fn debug_shows_no_content_and_no_key() {
    let shown = format!("{:?}", parse(&valid()).unwrap());
    assert!(
        !shown.contains("hello") && !shown.contains("abab") && !shown.contains("171"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Event::parse(&bytes);
    }

    #[test]
    fn damaged_events_never_panic(cut in 0usize..600, byte: u8) {
        let mut text = valid().to_string().into_bytes();
        let at = cut % text.len();
        text[at] = byte;
        if let Ok(event) = Event::parse(&text) {
            prop_assert!(Event::parse(event.json()).is_ok());
        }
        text.truncate(at);
        prop_assert!(Event::parse(&text).is_err());
    }

    #[test]
    fn parsing_its_own_json_changes_nothing(content: String, tags in prop::collection::vec(prop::collection::vec(any::<String>(), 1..4), 0..4)) {
        let mut value = with("content", json!(content));
        value["tags"] = json!(tags);
        let event = parse(&value).unwrap();
        prop_assert_eq!(&event.tags, &tags);
        prop_assert_eq!(Event::parse(event.json()).unwrap(), event);
    }
}
