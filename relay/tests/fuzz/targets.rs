//! What is fuzzed. Each target takes any bytes and says in a few words how they were answered: words, not values, so that the
//! number of answers is bounded.

use std::sync::LazyLock;

use ::negentropy::{Id, Negentropy, NegentropyStorageVector};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use nightjar_config::{ConfigError, RelayConfig};
use nightjar_envelope::{Body, BodyKind, Cursor, FleetId, Keyring, Route, StreamName, open, seal};
use nightjar_relay::event::Event;
use nightjar_relay::filter::Filter;
use nightjar_relay::http_auth::{self, HttpAuthError};
use nightjar_relay::message::{self, ClientMessage, MessageLimits, Problem};
use nightjar_relay::plugin::{Line, Verdict};

/// A text message of a client, and the events and filters in it.
pub(crate) fn frame(input: &[u8]) -> String {
    let limits = MessageLimits {
        max_filters: 20,
        max_subid_length: 64,
    };
    // The socket lets only UTF-8 through.
    let Ok(text) = std::str::from_utf8(input) else {
        return "not UTF-8".to_owned();
    };
    match message::parse(text, &limits) {
        Ok(ClientMessage::Event(raw) | ClientMessage::Auth(raw)) => {
            let claims = message::claimed_id(raw).is_some();
            format!(
                "event, claims an id {claims}, {}",
                event(raw.get().as_bytes())
            )
        }
        Ok(ClientMessage::Req { filters, .. } | ClientMessage::Count { filters, .. }) => {
            let mut answers = filters.iter().map(|raw| filter(raw.get().as_bytes()));
            let first = answers.next().unwrap_or_default();
            format!("question {} {first}", answers.count().min(2))
        }
        Ok(ClientMessage::Close { .. }) => "close".to_owned(),
        Ok(ClientMessage::NegOpen {
            filter: raw,
            message,
            ..
        }) => format!(
            "open {} {}",
            filter(raw.get().as_bytes()),
            negentropy(&message)
        ),
        Ok(ClientMessage::NegMessage { message, .. }) => {
            format!("message {}", negentropy(&message))
        }
        Ok(ClientMessage::NegClose { .. }) => "end".to_owned(),
        Err(error) if matches!(error.problem, Problem::UnknownVerb(_)) => "verb".to_owned(),
        Err(error) => format!("{error}"),
    }
}

/// One filter.
pub(crate) fn filter(input: &[u8]) -> String {
    match Filter::from_json(input) {
        Ok(mut filter) => {
            filter.cap_limit(500, 5_000);
            assert!(filter.limit.is_some_and(|limit| limit <= 5_000));
            let fields = [
                filter.ids.is_some(),
                filter.authors.is_some(),
                filter.kinds.is_some(),
                !filter.tags.is_empty(),
                filter.since.is_some(),
                filter.until.is_some(),
                filter.matches_nothing(),
                filter.names_private_kind(),
                filter.most_matches().is_some(),
            ];
            format!("{fields:?} {}", filter.value_count().min(3))
        }
        Err(error) => format!("{error}"),
    }
}

/// One event with its tags: shape, what it says of itself, id and signature. What is served of it is read as the same event.
pub(crate) fn event(input: &[u8]) -> String {
    let event = match Event::parse(input) {
        Ok(event) => event,
        Err(error) => return format!("{error}"),
    };
    let again = Event::parse(event.json()).expect("what is served is an event");
    assert!(again == event && again.json() == event.json());
    assert!(serde_json::from_slice::<String>(event.content_json()).is_ok());
    let facts = [
        event.expiration().is_some(),
        event.is_protected(),
        event.is_private(),
        event.coordinate().is_some(),
        event.deleted_ids().next().is_some(),
        event.deleted_coordinates().next().is_some(),
        event.recipients().next().is_some(),
        event.d_tag().is_empty(),
    ];
    let audience = std::mem::discriminant(&event.audience());
    let verified = event
        .verify()
        .map_err(|error| std::mem::discriminant(&error));
    format!("{facts:?} {:?} {audience:?} {verified:?}", event.class())
}

/// One message of the negentropy protocol (NIP-77) to a relay that has some events.
pub(crate) fn negentropy(input: &[u8]) -> String {
    const LIMIT: u64 = 4_096;
    let mut storage = NegentropyStorageVector::new();
    for number in 0..100_u8 {
        let id = Id::from_byte_array([number; 32]);
        storage.insert(u64::from(number / 10), id).expect("room");
    }
    storage.seal().expect("a set");
    let mut side = Negentropy::owned(storage, LIMIT).expect("a side");
    match side.reconcile(input) {
        Ok(answer) => {
            assert!(answer.len() as u64 <= LIMIT, "{} bytes", answer.len());
            format!("answered, {} bytes", answer.len().next_power_of_two())
        }
        Err(error) => format!("{error}"),
    }
}

/// A line with a subject, and after it an envelope; the same bytes are also sealed and opened again. Names of streams and hints are read from
/// the line too.
pub(crate) fn envelope(input: &[u8]) -> String {
    const FLEET: [u8; 16] = [7; 16];
    static KEYS: LazyLock<Keyring> = LazyLock::new(|| Keyring::generate().expect("a keyring"));
    let end = input.iter().position(|byte| *byte == b'\n');
    let (line, rest) = input.split_at(end.unwrap_or(input.len()));
    let rest = rest.strip_prefix(b"\n").unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let name = line.parse::<StreamName>().map(|name| {
        assert_eq!(name.to_string(), line, "a name has one spelling");
    });
    let hint = Route::from_hint_subject(&line).map(|route| {
        assert_eq!(route.hint_subject().as_deref(), Some(&*line));
    });
    let Ok(route) = Route::from_subject(&line) else {
        return format!("no subject, stream {}, hint {}", name.is_ok(), hint.is_ok());
    };
    assert_eq!(route.subject(), line, "a subject has one spelling");
    let fleet = FleetId::from_bytes(FLEET);
    let body = Body {
        admitted_ms: rest.len() as u64,
        trace: None,
        kind: BodyKind::Event,
        json: rest,
    };
    if let Ok(sealed) = seal(&KEYS, &fleet, &route, &body) {
        let opened = open(&KEYS, &fleet, &route, &sealed).expect("our own envelope");
        assert!(opened.json == rest && opened.admitted_ms == body.admitted_ms);
    }
    match open(&KEYS, &fleet, &route, rest) {
        Ok(_) => panic!("nobody but this test has the key"),
        Err(error) => format!("{:?} {error}", route.class),
    }
}

/// The two files that a relay reads: its settings and its keyring. Its owner writes them, and YAML takes time that grows with the square of the
/// depth, so they are short here.
pub(crate) fn settings(input: &[u8]) -> String {
    let input = &input[..input.len().min(4_096)];
    let keyring = Keyring::parse(input).map(|keyring| keyring.epochs().count().min(3));
    let Ok(text) = std::str::from_utf8(input) else {
        return "not UTF-8".to_owned();
    };
    match RelayConfig::from_yaml(text) {
        Ok(config) => {
            let again = RelayConfig::from_yaml(&config.to_yaml()).expect("what is written is read");
            assert!(again == config);
            "settings".to_owned()
        }
        Err(ConfigError::Field { field, .. }) => field,
        Err(ConfigError::Form(text)) => {
            // The parser repeats what it read.
            let problems = [
                "unknown field",
                "missing field",
                "invalid",
                "duplicate",
                "expected",
                "anchor",
                "recursion",
            ];
            let problem = problems.iter().find(|problem| text.contains(**problem));
            let is_path = |field: &&str| {
                let mut characters = field.chars();
                field.len() < 40
                    && characters.all(|c| c.is_ascii_lowercase() || "_.[]0123456789".contains(c))
            };
            let field = text.split(':').next().filter(is_path);
            format!("{problem:?} {field:?} {keyring:?}")
        }
    }
}

/// The text of a cursor that a client presents, and the same bytes as what one is made of.
pub(crate) fn cursor(input: &[u8]) -> String {
    static KEYS: LazyLock<Keyring> = LazyLock::new(|| Keyring::generate().expect("a keyring"));
    let fleet = FleetId::from_bytes([7; 16]);
    let (head, rest) = input.split_at(input.len().min(8));
    let issued_s = head.iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
    let places = rest.chunks(3).map(|bytes| {
        let shard = bytes[0] % 8;
        let seq = bytes[1..]
            .iter()
            .fold(1, |all, byte| all << 8 | u64::from(*byte));
        (format!("EV_a_1_{shard}").parse().expect("a stream"), seq)
    });
    let ours = Cursor {
        position: places.collect(),
        issued_s,
        readers: rest
            .chunks_exact(8)
            .take(255)
            .filter_map(|tag| tag.try_into().ok())
            .collect(),
    };
    if let Ok(sealed) = ours.seal(&KEYS, &fleet) {
        assert!(Cursor::open(&KEYS, &fleet, &sealed) == Ok(ours));
    }
    match Cursor::open(&KEYS, &fleet, &String::from_utf8_lossy(input)) {
        Ok(_) => panic!("nobody but this test has the key"),
        Err(error) => format!("{:?}", std::mem::discriminant(&error)),
    }
}

/// A line that a policy program writes.
pub(crate) fn plugin_line(input: &[u8]) -> String {
    match Line::parse(input) {
        Line::Answer(_, Verdict::Reject(reason)) => {
            assert!(reason.len() < 1_024, "{} bytes", reason.len());
            let prefix = reason.split(':').next().unwrap_or_default();
            format!("reject {}", prefix.len())
        }
        Line::Answer(_, verdict) => format!("{verdict:?}"),
        Line::Undecided(_) => "undecided".to_owned(),
        Line::Nonsense => "nonsense".to_owned(),
    }
}

/// The value of an `Authorization` header (NIP-98), and a body after a line break.
pub(crate) fn http_auth(input: &[u8]) -> String {
    let end = input.iter().position(|byte| *byte == b'\n');
    let (value, body) = input.split_at(end.unwrap_or(input.len()));
    let Ok(value) = HeaderValue::from_bytes(value) else {
        return "no header".to_owned();
    };
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value);
    let json = match http_auth::event_json(&headers) {
        Ok(json) => json,
        Err(error) => return format!("{:?}", std::mem::discriminant(&error)),
    };
    let Ok(event) = Event::parse(&json) else {
        return "no event".to_owned();
    };
    let request = http_auth::Request {
        method: "POST".to_owned(),
        path_and_query: "/".to_owned(),
        payload: Some(http_auth::payload_of(body)),
    };
    let urls = ["wss://relay.example.org".to_owned()];
    let checked = http_auth::check(&event, &request, &urls, event.created_at);
    let call = http_auth::check_call(&event, body);
    let of =
        |result: Result<(), HttpAuthError>| result.map_err(|error| std::mem::discriminant(&error));
    format!(
        "{:?} {:?} {}",
        of(checked),
        of(call),
        event.verify().is_ok()
    )
}
