//! The messages of NIP-01, NIP-42, NIP-45, NIP-67 and NIP-77 between client and relay: text in, text out, no socket and
//! no state.
//!
//! Parsing borrows: events and filters stay raw JSON here and are parsed by those who know them.

mod neg;

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

/// A message from a client, shape checked, contents not yet.
#[derive(Debug)]
pub enum ClientMessage<'a> {
    /// `["EVENT", <event>]`.
    Event(&'a RawValue),
    /// `["REQ", <subscription id>, <filter>...]`.
    Req {
        /// Chosen by the client, 1 to `max_subid_length` characters.
        subscription: String,
        /// At least one, at most `max_filters`.
        filters: Vec<&'a RawValue>,
    },
    /// `["COUNT", <query id>, <filter>...]` (NIP-45).
    Count {
        /// Chosen by the client, 1 to `max_subid_length` characters. Not a subscription's: the two do not meet.
        query: String,
        /// At least one, at most `max_filters`.
        filters: Vec<&'a RawValue>,
    },
    /// `["CLOSE", <subscription id>]`.
    Close {
        /// The subscription to end.
        subscription: String,
    },
    /// `["AUTH", <event of kind 22242>]`.
    Auth(&'a RawValue),
    /// `["NEG-OPEN", <id>, <filter>, <message in hex>]` (NIP-77).
    NegOpen {
        /// Chosen by the client, 1 to `max_subid_length` characters. Neither a subscription's nor a COUNT's.
        sync: String,
        /// Which events are reconciled.
        filter: &'a RawValue,
        /// The first message of the negentropy protocol.
        message: Vec<u8>,
    },
    /// `["NEG-MSG", <id>, <message in hex>]`.
    NegMessage {
        /// The reconciliation to go on with.
        sync: String,
        /// The next message of the negentropy protocol.
        message: Vec<u8>,
    },
    /// `["NEG-CLOSE", <id>]`.
    NegClose {
        /// The reconciliation to end.
        sync: String,
    },
}

/// What the shape of a message may be at most (NIP-11 names).
#[derive(Debug, Clone, Copy)]
pub struct MessageLimits {
    /// Filters of one REQ or COUNT.
    pub max_filters: usize,
    /// Characters of a subscription id.
    pub max_subid_length: usize,
}

/// Why a message is none that this relay knows, and how that is answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{problem}")]
pub struct MessageError {
    /// What is wrong. Never repeats the message itself.
    pub problem: Problem,
    /// What the answer is about.
    pub about: About,
}

/// What a refusal is about: that decides on its verb, and on what ends with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// Nothing with an id: NOTICE.
    Nothing,
    /// A REQ with this subscription id: CLOSED.
    Subscription(String),
    /// A COUNT with this query id: CLOSED.
    Count(String),
    /// A reconciliation with this id: NEG-ERR.
    Sync(String),
}

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// The message is longer than one may be.
    #[error("the message has {has} bytes, the limit is {limit} bytes (max_message_length)")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
        /// Its length in bytes.
        has: usize,
    },
    /// The text is no JSON array.
    #[error("a message is a JSON array such as [\"REQ\",\"id\",{{}}]; this one is not ({0})")]
    NotAnArray(String),
    /// The array has no first element.
    #[error("a message begins with its verb; this array is empty")]
    Empty,
    /// The first element is no string.
    #[error("a message begins with its verb as a string")]
    VerbNotAString,
    /// The verb is none that this relay knows.
    #[error(
        "unknown verb {0}; this relay knows EVENT, REQ, COUNT, CLOSE, AUTH, NEG-OPEN, NEG-MSG and NEG-CLOSE"
    )]
    UnknownVerb(String),
    /// The wrong number of elements follows the verb.
    #[error("{verb} takes {takes}, this one has {has} elements after the verb")]
    WrongCount {
        /// The verb.
        verb: &'static str,
        /// What belongs there.
        takes: &'static str,
        /// How many elements there are.
        has: usize,
    },
    /// An element is of another JSON type than it must be.
    #[error("{what} must be {must_be}")]
    WrongType {
        /// The element.
        what: &'static str,
        /// The JSON type it must have.
        must_be: &'static str,
    },
    /// The subscription id is empty or too long.
    #[error("a subscription id has 1 to {limit} characters, this one has {has} (max_subid_length)")]
    SubscriptionIdLength {
        /// The limit in characters.
        limit: usize,
        /// Its length.
        has: usize,
    },
    /// A REQ or COUNT has more filters than allowed.
    #[error("a {verb} has at most {limit} filters, this one has {has} (max_filters)")]
    TooManyFilters {
        /// The verb.
        verb: &'static str,
        /// The limit.
        limit: usize,
        /// How many there are.
        has: usize,
    },
}

impl From<Problem> for MessageError {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            about: About::Nothing,
        }
    }
}

/// Array elements, of which only the first `KEEP` are kept: a long array must not cost memory.
struct Elements<'a> {
    kept: Vec<&'a RawValue>,
    total: usize,
}

const KEEP: usize = 1024;

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementsVisitor;
        impl<'de> Visitor<'de> for ElementsVisitor {
            type Value = Elements<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut kept = Vec::new();
                let mut total = 0;
                while kept.len() < KEEP {
                    match seq.next_element::<&'de RawValue>()? {
                        Some(element) => kept.push(element),
                        None => {
                            return Ok(Elements {
                                total: kept.len(),
                                kept,
                            });
                        }
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    total += 1;
                }
                Ok(Elements {
                    total: total + kept.len(),
                    kept,
                })
            }
        }
        deserializer.deserialize_seq(ElementsVisitor)
    }
}

/// Parses one text message of a client.
pub fn parse<'a>(text: &'a str, limits: &MessageLimits) -> Result<ClientMessage<'a>, MessageError> {
    let elements: Elements<'a> =
        serde_json::from_str(text).map_err(|error| Problem::NotAnArray(describe(&error)))?;
    let Some((verb, rest)) = elements.kept.split_first() else {
        return Err(Problem::Empty.into());
    };
    let Ok(verb) = serde_json::from_str::<String>(verb.get()) else {
        return Err(Problem::VerbNotAString.into());
    };
    let has = elements.total - 1;
    match verb.as_str() {
        "EVENT" => one("EVENT", "one event", rest, has)
            .and_then(|event| object("the event", event))
            .map(ClientMessage::Event)
            .map_err(MessageError::from),
        "AUTH" => one("AUTH", "one event of kind 22242", rest, has)
            .and_then(|event| object("the event", event))
            .map(ClientMessage::Auth)
            .map_err(MessageError::from),
        "CLOSE" => {
            let subscription =
                subscription_id(one("CLOSE", "one subscription id", rest, has)?, limits)?;
            Ok(ClientMessage::Close { subscription })
        }
        "REQ" => question("REQ", rest, has, limits, About::Subscription).map(
            |(subscription, filters)| ClientMessage::Req {
                subscription,
                filters,
            },
        ),
        "COUNT" => question("COUNT", rest, has, limits, About::Count)
            .map(|(query, filters)| ClientMessage::Count { query, filters }),
        "NEG-OPEN" => neg::open(rest, has, limits),
        "NEG-MSG" => neg::message(rest, has, limits),
        "NEG-CLOSE" => neg::close(rest, has, limits),
        _ => Err(Problem::UnknownVerb(shorten(&verb)).into()),
    }
}

/// Why a message of more than `limit` bytes is refused. Only what belongs to a reconciliation is refused under its id: whoever waits for
/// that answer would not look at a NOTICE, and messages of reconciliations grow by themselves.
pub fn too_long(text: &str, limit: usize, limits: &MessageLimits) -> MessageError {
    let about = match parse(text, limits) {
        Ok(ClientMessage::NegOpen { sync, .. } | ClientMessage::NegMessage { sync, .. }) => {
            About::Sync(sync)
        }
        Err(MessageError {
            about: About::Sync(sync),
            ..
        }) => About::Sync(sync),
        _ => About::Nothing,
    };
    MessageError {
        problem: Problem::TooLong {
            limit,
            has: text.len(),
        },
        about,
    }
}

/// An id and filters: a REQ or a COUNT.
fn question<'a>(
    verb: &'static str,
    rest: &[&'a RawValue],
    has: usize,
    limits: &MessageLimits,
    about: fn(String) -> About,
) -> Result<(String, Vec<&'a RawValue>), MessageError> {
    let wrong_count = Problem::WrongCount {
        verb,
        takes: "a subscription id and at least one filter",
        has,
    };
    let Some((id, filters)) = rest.split_first() else {
        return Err(wrong_count.into());
    };
    let id = subscription_id(id, limits)?;
    let refuse = |problem| MessageError {
        problem,
        about: about(id.clone()),
    };
    if filters.is_empty() {
        return Err(refuse(wrong_count));
    }
    if has - 1 > limits.max_filters {
        return Err(refuse(Problem::TooManyFilters {
            verb,
            limit: limits.max_filters,
            has: has - 1,
        }));
    }
    for filter in filters {
        object("a filter", filter).map_err(refuse)?;
    }
    Ok((id, filters.to_vec()))
}

fn one<'a>(
    verb: &'static str,
    takes: &'static str,
    rest: &[&'a RawValue],
    has: usize,
) -> Result<&'a RawValue, Problem> {
    match rest {
        [only] => Ok(only),
        _ => Err(Problem::WrongCount { verb, takes, has }),
    }
}

fn object<'a>(what: &'static str, raw: &'a RawValue) -> Result<&'a RawValue, Problem> {
    if raw.get().starts_with('{') {
        Ok(raw)
    } else {
        Err(Problem::WrongType {
            what,
            must_be: "an object",
        })
    }
}

fn subscription_id(raw: &RawValue, limits: &MessageLimits) -> Result<String, Problem> {
    let Ok(id) = serde_json::from_str::<String>(raw.get()) else {
        return Err(Problem::WrongType {
            what: "a subscription id",
            must_be: "a string",
        });
    };
    let has = id.chars().count();
    if has == 0 || has > limits.max_subid_length {
        return Err(Problem::SubscriptionIdLength {
            limit: limits.max_subid_length,
            has,
        });
    }
    Ok(id)
}

/// Where the JSON ends to be JSON, without repeating any of it.
fn describe(error: &serde_json::Error) -> String {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "it ends early",
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Data | serde_json::error::Category::Io => "another type",
    };
    format!("{kind}, column {}", error.column())
}

/// A client's word for an answer: at most 20 characters, only visible ASCII.
fn shorten(word: &str) -> String {
    word.chars()
        .filter(char::is_ascii_graphic)
        .take(20)
        .collect()
}

/// The event id of an EVENT or AUTH that could not be parsed, if it shows one: then the answer is an OK for it.
pub fn claimed_id(event: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Claim {
        id: String,
    }
    let claim: Claim = serde_json::from_str(event.get()).ok()?;
    let is_id = claim.id.len() == 64
        && claim
            .id
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then_some(claim.id)
}

/// `["OK", id, accepted, message]`. `message` begins with a machine-readable prefix or is empty.
pub fn ok(id_hex: &str, accepted: bool, message: &str) -> Bytes {
    Bytes::from(format!(
        "[\"OK\",\"{id_hex}\",{accepted},{}]",
        quoted(message)
    ))
}

/// `["EOSE", subscription]`, with the hint `["finish"]` behind it if every stored event that matches was sent (NIP-67), and a
/// cursor behind the hints if one was asked for.
pub fn eose(subscription: &str, complete: bool, cursor: Option<&str>) -> Bytes {
    let hints = match (complete, cursor.is_some()) {
        (true, _) => ",[\"finish\"]",
        (false, true) => ",[]",
        (false, false) => "",
    };
    let cursor = cursor.map(|cursor| format!(",{}", quoted(cursor)));
    Bytes::from(format!(
        "[\"EOSE\",{}{hints}{}]",
        quoted(subscription),
        cursor.unwrap_or_default()
    ))
}

/// `["COUNT", query, {"count": count}]`.
pub fn count(query: &str, count: u64) -> Bytes {
    Bytes::from(format!(
        "[\"COUNT\",{},{{\"count\":{count}}}]",
        quoted(query)
    ))
}

/// `["CLOSED", subscription or query, message]`.
pub fn closed(subscription: &str, message: &str) -> Bytes {
    Bytes::from(format!(
        "[\"CLOSED\",{},{}]",
        quoted(subscription),
        quoted(message)
    ))
}

/// `["NEG-MSG", id, message in hex]`.
pub fn neg_message(id: &str, message: &[u8]) -> Bytes {
    Bytes::from(format!(
        "[\"NEG-MSG\",{},\"{}\"]",
        quoted(id),
        hex::encode(message)
    ))
}

/// `["NEG-ERR", id, reason]`. `reason` begins with a machine-readable prefix.
pub fn neg_error(id: &str, reason: &str) -> Bytes {
    Bytes::from(format!("[\"NEG-ERR\",{},{}]", quoted(id), quoted(reason)))
}

/// `["NOTICE", message]`.
pub fn notice(message: &str) -> Bytes {
    Bytes::from(format!("[\"NOTICE\",{}]", quoted(message)))
}

/// `["AUTH", challenge]`.
pub fn auth(challenge: &str) -> Bytes {
    Bytes::from(format!("[\"AUTH\",{}]", quoted(challenge)))
}

/// The part of an EVENT frame before the event's own bytes; the same for every event of a subscription.
pub fn event_prefix(subscription: &str) -> Bytes {
    Bytes::from(format!("[\"EVENT\",{},", quoted(subscription)))
}

/// A JSON string literal.
fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for character in text.chars() {
        match character {
            '"' => literal.push_str("\\\""),
            '\\' => literal.push_str("\\\\"),
            '\n' => literal.push_str("\\n"),
            control if u32::from(control) < 0x20 => {
                // Writing into a String cannot fail.
                let _ = write!(literal, "\\u{:04x}", u32::from(control));
            }
            other => literal.push(other),
        }
    }
    literal.push('"');
    literal
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: MessageLimits = MessageLimits {
        max_filters: 3,
        max_subid_length: 8,
    };

    fn check_refused(text: &str, expected: &str, about: About) {
        let error = parse(text, &LIMITS).expect_err(text);
        assert!(
            error.to_string().contains(expected),
            "{text}: {error} lacks {expected}"
        );
        assert_eq!(error.about, about, "{text}");
    }

    fn subscription() -> About {
        About::Subscription("s".to_owned())
    }

    #[test]
    fn every_malformed_message_names_what_is_wrong_and_whom_to_answer() {
        check_refused("hello", "not JSON, column 1", About::Nothing);
        check_refused("", "it ends early", About::Nothing);
        check_refused("{}", "another type", About::Nothing);
        check_refused("[\"REQ\"", "it ends early", About::Nothing);
        check_refused("[]", "empty", About::Nothing);
        check_refused("[1]", "verb as a string", About::Nothing);
        check_refused("[\"COUNTESS\",1]", "unknown verb COUNTESS", About::Nothing);
        check_refused("[\"EVENT\"]", "EVENT takes one event", About::Nothing);
        check_refused("[\"EVENT\",{},{}]", "has 2 elements", About::Nothing);
        check_refused(
            "[\"EVENT\",7]",
            "the event must be an object",
            About::Nothing,
        );
        check_refused("[\"REQ\"]", "at least one filter", About::Nothing);
        check_refused(
            "[\"REQ\",7,{}]",
            "a subscription id must be a string",
            About::Nothing,
        );
        check_refused("[\"REQ\",\"\",{}]", "1 to 8 characters", About::Nothing);
        check_refused(
            "[\"REQ\",\"123456789\",{}]",
            "this one has 9 (max_subid_length)",
            About::Nothing,
        );
        check_refused("[\"REQ\",\"s\"]", "at least one filter", subscription());
        check_refused(
            "[\"REQ\",\"s\",[]]",
            "a filter must be an object",
            subscription(),
        );
        check_refused(
            "[\"REQ\",\"s\",{},{},{},{}]",
            "at most 3 filters, this one has 4",
            subscription(),
        );
        check_refused(
            "[\"COUNT\"]",
            "COUNT takes a subscription id",
            About::Nothing,
        );
        check_refused(
            "[\"COUNT\",\"s\",7]",
            "a filter must be an object",
            About::Count("s".to_owned()),
        );
        check_refused(
            "[\"CLOSE\"]",
            "CLOSE takes one subscription id",
            About::Nothing,
        );
        check_refused(
            "[\"AUTH\",\"challenge\"]",
            "must be an object",
            About::Nothing,
        );
    }

    #[test]
    fn well_formed_messages_are_taken_apart() {
        let Ok(ClientMessage::Req {
            subscription,
            filters,
        }) = parse("[\"REQ\", \"a\\\"b\", {\"kinds\":[1]} , {}]", &LIMITS)
        else {
            panic!("no REQ")
        };
        assert_eq!(
            (subscription.as_str(), filters[0].get(), filters.len()),
            ("a\"b", "{\"kinds\":[1]}", 2)
        );
        assert!(matches!(
            parse("[\"COUNT\",\"c\",{}]", &LIMITS),
            Ok(ClientMessage::Count { query, filters }) if query == "c" && filters.len() == 1
        ));
        assert!(matches!(
            parse("[\"EVENT\",{}]", &LIMITS),
            Ok(ClientMessage::Event(_))
        ));
        assert!(matches!(
            parse("[\"AUTH\",{}]", &LIMITS),
            Ok(ClientMessage::Auth(_))
        ));
        assert!(matches!(
            parse("[\"CLOSE\",\"x\"]", &LIMITS),
            Ok(ClientMessage::Close { .. })
        ));
    }

    #[test]
    fn a_claimed_id_is_64_lowercase_hex_characters_or_nothing() {
        let raw = |text: String| RawValue::from_string(text).expect("JSON");
        let id = "0f".repeat(32);
        assert_eq!(
            claimed_id(&raw(format!("{{\"id\":\"{id}\",\"kind\":\"x\"}}"))),
            Some(id)
        );
        assert_eq!(claimed_id(&raw("{\"id\":\"zz\"}".to_owned())), None);
        assert_eq!(claimed_id(&raw("{\"id\":7}".to_owned())), None);
        assert_eq!(claimed_id(&raw("{}".to_owned())), None);
    }

    fn as_json(frame: &Bytes) -> serde_json::Value {
        serde_json::from_slice(frame).expect("the frame is JSON")
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_panic(text in ".{0,300}") {
            let _ = parse(&text, &LIMITS);
            let _ = too_long(&text, 0, &LIMITS);
        }

        #[test]
        fn any_array_of_json_is_answered_without_panic(
            verb in prop_oneof!["EVENT", "REQ", "COUNT", "CLOSE", "AUTH", "\\PC{0,6}"],
            rest in proptest::collection::vec(
                prop_oneof!["\\{\\}", "\"\\PC{0,4}\"", "\\[\\]", "null", "-?[0-9]{1,30}", "\\{\"id\":\"[0-9a-f]{62,66}\"\\}"], 0..6),
        ) {
            let verb = serde_json::to_string(&verb).expect("a string");
            let mut text = format!("[{verb}");
            for element in &rest {
                text.push(',');
                text.push_str(element);
            }
            text.push(']');
            if let Ok(ClientMessage::Event(raw) | ClientMessage::Auth(raw)) = parse(&text, &LIMITS) {
                let _ = claimed_id(raw);
            }
        }

        #[test]
        fn answers_are_json_whatever_words_they_carry(word in "\\PC{0,40}|[\\x00-\\x1f]{1,8}") {
            prop_assert_eq!(as_json(&notice(&word)), serde_json::json!(["NOTICE", word]));
            prop_assert_eq!(as_json(&closed(&word, &word)), serde_json::json!(["CLOSED", word, word]));
            prop_assert_eq!(as_json(&count(&word, 7)), serde_json::json!(["COUNT", word, {"count": 7}]));
            prop_assert_eq!(as_json(&neg_message(&word, &[0x61])), serde_json::json!(["NEG-MSG", word, "61"]));
            prop_assert_eq!(as_json(&neg_error(&word, &word)), serde_json::json!(["NEG-ERR", word, word]));
            prop_assert_eq!(as_json(&eose(&word, false, None)), serde_json::json!(["EOSE", word]));
            prop_assert_eq!(as_json(&eose(&word, false, Some("c"))), serde_json::json!(["EOSE", word, [], "c"]));
            prop_assert_eq!(as_json(&eose(&word, true, Some("c"))), serde_json::json!(["EOSE", word, ["finish"], "c"]));
            prop_assert_eq!(as_json(&eose(&word, true, None)), serde_json::json!(["EOSE", word, ["finish"]]));
            let frame = [&event_prefix(&word)[..], b"{}]"].concat();
            prop_assert_eq!(as_json(&Bytes::from(frame)), serde_json::json!(["EVENT", word, {}]));
        }
    }
}
