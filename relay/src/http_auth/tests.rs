//! Headers of every sort: each mistake has its sentence, and nothing but the right one passes.

use axum::http::HeaderValue;
use nostr::event::{EventBuilder, FinalizeEvent, Kind, Tag};
use nostr::key::Keys;
use nostr::types::Timestamp;
use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_800_000_000;
const BODY: &[u8] = br#"{"method":"supportedmethods","params":[]}"#;
const URLS: [&str; 2] = ["ws://relay.example.net:4000", "wss://relay.example.com"];

fn urls() -> Vec<String> {
    URLS.map(str::to_owned).to_vec()
}

fn request() -> Request {
    Request {
        method: "POST".to_owned(),
        path_and_query: "/".to_owned(),
        payload: Some(payload_of(BODY)),
    }
}

fn signed(kind: u16, at: u64, tags: &[&[&str]]) -> Event {
    let tags = tags
        .iter()
        .map(|tag| Tag::parse(tag.iter().copied()).expect("a tag"));
    let event = EventBuilder::new(Kind::from_u16(kind), "")
        .tags(tags)
        .custom_created_at(Timestamp::from_secs(at))
        .finalize(&Keys::generate())
        .expect("signed");
    let json = serde_json::to_vec(&event).expect("JSON");
    Event::parse(&json).expect("an event")
}

/// The three tags of a right event, one of them exchanged.
fn with_tag(name: &str, tags: &[&[&str]]) -> Event {
    let payload = hex::encode(payload_of(BODY));
    let right: [&[&str]; 3] = [
        &["u", "https://relay.example.com/"],
        &["method", "POST"],
        &["payload", &payload],
    ];
    let mut all: Vec<&[&str]> = right.into_iter().filter(|tag| tag[0] != name).collect();
    all.extend_from_slice(tags);
    signed(KIND, NOW, &all)
}

fn right() -> Event {
    with_tag("none", &[])
}

fn refusal(event: &Event, now_s: u64) -> String {
    check(event, &request(), &urls(), now_s)
        .expect_err("refused")
        .to_string()
}

fn header(value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(value).expect("a value");
    headers.insert(header::AUTHORIZATION, value);
    headers
}

fn encoded(event: &Event) -> String {
    format!("Nostr {}", BASE64.encode(event.json()))
}

#[test]
fn a_right_header_is_read_and_passes() {
    let event = right();
    let json = event_json(&header(&encoded(&event))).expect("read");
    assert_eq!(Event::parse(&json), Ok(event.clone()));
    let unpadded = encoded(&event).trim_end_matches('=').to_owned();
    assert_eq!(event_json(&header(&unpadded)), Ok(json.clone()));
    let spelled = encoded(&event).replace("Nostr ", "nostr   ");
    assert_eq!(event_json(&header(&spelled)), Ok(json.clone()));
    // As a shell's pipe leaves it.
    let line = [&json[..], b"\n"].concat();
    let with_newline = header(&format!("Nostr {}", BASE64.encode(&line)));
    let read = event_json(&with_newline).expect("read");
    assert_eq!(Event::parse(&read), Ok(event.clone()));
    for now_s in [NOW - 60, NOW, NOW + 60] {
        assert_eq!(check(&event, &request(), &urls(), now_s), Ok(()));
    }
    // Hex knows no case, and a body that is not there needs no hash.
    let upper = hex::encode_upper(payload_of(BODY));
    let event = with_tag("payload", &[&["payload", &upper]]);
    assert_eq!(check(&event, &request(), &urls(), NOW), Ok(()));
    let without = Request {
        payload: None,
        ..request()
    };
    assert_eq!(
        check(&with_tag("payload", &[]), &without, &urls(), NOW),
        Ok(())
    );
}

#[test]
fn what_is_wrong_with_a_header_is_told() {
    let long = format!("Nostr {}", "A".repeat(MAX_HEADER));
    for (value, expected) in [
        ("Bearer abc", "must have the scheme Nostr"),
        ("Nostr", "must have the scheme Nostr"),
        ("", "must have the scheme Nostr"),
        ("Nostr {}", "must be the event's JSON in base64"),
        ("Nostr a-_b", "must be the event's JSON in base64"),
        (&long, "has 16390 bytes, the limit is 16384"),
    ] {
        let error = event_json(&header(value)).expect_err("refused").to_string();
        assert!(error.contains(expected), "{value:.40}: {error}");
    }
    assert_eq!(event_json(&HeaderMap::new()), Err(HttpAuthError::Missing));
    let mut twice = header("Nostr e30=");
    twice.append(
        header::AUTHORIZATION,
        HeaderValue::from_static("Nostr e30="),
    );
    assert_eq!(event_json(&twice), Err(HttpAuthError::Several(2)));
}

#[test]
fn what_is_wrong_with_an_event_is_told() {
    let url: &[&[&str]] = &[&["u", "https://relay.example.com/other"]];
    for (event, now_s, expected) in [
        (
            signed(22_242, NOW, &[]),
            NOW,
            "has kind 27235, this one has kind 22242",
        ),
        (
            right(),
            NOW + 61,
            "created_at is 61 s away from this relay's clock, 60 s are allowed",
        ),
        (right(), NOW - 61, "created_at is 61 s away"),
        (with_tag("u", &[]), NOW, "needs exactly one u tag, it has 0"),
        (
            with_tag("none", url),
            NOW,
            "needs exactly one u tag, it has 2",
        ),
        (
            with_tag("u", url),
            NOW,
            "the u tag must be \"https://relay.example.com/\", the public URL",
        ),
        (
            with_tag("method", &[&["method", "GET"]]),
            NOW,
            "the method tag must be \"POST\"",
        ),
        (
            with_tag("method", &[&["method", "post"]]),
            NOW,
            "the method tag must be \"POST\"",
        ),
        (
            with_tag("method", &[]),
            NOW,
            "needs exactly one method tag, it has 0",
        ),
        (
            with_tag("payload", &[]),
            NOW,
            "needs exactly one payload tag, it has 0",
        ),
        (
            with_tag("payload", &[&["payload", "abc"]]),
            NOW,
            "must be the SHA-256 of the request's body",
        ),
        (
            with_tag("payload", &[&["payload", &"0".repeat(64)]]),
            NOW,
            "must be the SHA-256",
        ),
    ] {
        let refusal = refusal(&event, now_s);
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
}

#[test]
fn a_call_of_another_relay_needs_its_method_and_body_alone() {
    assert_eq!(check_call(&right(), BODY), Ok(()));
    assert_eq!(check_call(&right(), b"{}"), Err(HttpAuthError::Payload));
    let get = with_tag("method", &[&["method", "GET"]]);
    assert!(matches!(
        check_call(&get, BODY),
        Err(HttpAuthError::Method { .. })
    ));
}

proptest! {
    #[test]
    fn no_header_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), scheme: bool) {
        let mut value = if scheme { b"Nostr ".to_vec() } else { Vec::new() };
        value.extend(bytes);
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value);
            if let Ok(json) = event_json(&headers) {
                let _ = Event::parse(&json);
            }
        }
    }

    #[test]
    fn any_changed_byte_of_a_right_header_is_noticed(at in any::<prop::sample::Index>(), other in 0x21_u8..0x7f) {
        let event = right();
        let mut value = encoded(&event).into_bytes();
        let at = at.index(value.len());
        prop_assume!(value[at] != other);
        value[at] = other;
        let value = String::from_utf8(value).expect("ASCII");
        // The scheme knows no case; every other change is one of the event.
        let same = event_json(&header(&value)).is_ok_and(|json| json == *event.json());
        let passes = event_json(&header(&value))
            .ok()
            .and_then(|json| Event::parse(&json).ok())
            .is_some_and(|event| event.verify().is_ok() && check(&event, &request(), &urls(), NOW).is_ok());
        prop_assert!(!passes || same, "{value}");
    }

    #[test]
    fn a_request_passes_only_with_its_own_method_path_and_body(
        method in "[A-Z]{3,4}", path in "/[a-z]{0,2}", body in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let other = Request { method: method.clone(), path_and_query: path.clone(), payload: Some(payload_of(&body)) };
        let is_right = method == "POST" && path == "/" && body == BODY;
        prop_assert_eq!(check(&right(), &other, &urls(), NOW).is_ok(), is_right);
    }

    #[test]
    fn no_url_makes_the_comparison_panic(url in "\\PC{0,60}", path in "\\PC{0,20}") {
        let event = with_tag("u", &[&["u", &url]]);
        let _ = check(&event, &Request { path_and_query: path, ..request() }, &urls(), NOW);
    }
}
