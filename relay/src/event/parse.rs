//! JSON to [`Event`]: strict types, ranges and spelling, with errors that name the field and never repeat its value.

use bytes::Bytes;
use nightjar_envelope::MAX_EVENT_BYTES;
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::{Event, EventError, MAX_DELETION_TARGETS, MAX_TIMESTAMP, kind, parse_hex};

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    pubkey: Option<&'a RawValue>,
    #[serde(borrow)]
    created_at: Option<&'a RawValue>,
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    tags: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    sig: Option<&'a RawValue>,
}

pub(super) fn parse(json: &[u8]) -> Result<Event, EventError> {
    let raw: RawEvent<'_> =
        serde_json::from_slice(json).map_err(|error| outer_error(json, &error))?;
    let id = hex_field::<32>("id", "64 lowercase hex digits", raw.id)?;
    let pubkey = hex_field::<32>("pubkey", "64 lowercase hex digits", raw.pubkey)?;
    let created_at = integer_field(
        "created_at",
        "an integer from 0 to 2^53-1",
        raw.created_at,
        MAX_TIMESTAMP,
    )?;
    let kind = integer_field(
        "kind",
        "an integer from 0 to 65535",
        raw.kind,
        u64::from(u16::MAX),
    )?;
    let kind = u16::try_from(kind).unwrap_or(u16::MAX);
    let tags = tags_field(required("tags", raw.tags)?)?;
    let content = string_field("content", "a string", raw.content)?;
    let sig = hex_field::<64>("sig", "128 lowercase hex digits", raw.sig)?;

    let event = build(
        Fields {
            id,
            pubkey,
            created_at,
            kind,
            tags,
            sig,
        },
        &content,
    )?;
    check_kind_rules(&event)?;
    Ok(event)
}

struct Fields {
    id: [u8; 32],
    pubkey: [u8; 32],
    created_at: u64,
    kind: u16,
    tags: Vec<Vec<String>>,
    sig: [u8; 64],
}

/// Writes the normalised JSON and remembers where tags and content lie in it.
fn build(fields: Fields, content: &str) -> Result<Event, EventError> {
    let Fields {
        id,
        pubkey,
        created_at,
        kind,
        tags,
        sig,
    } = fields;
    let mut json = format!(
        r#"{{"id":"{}","pubkey":"{}","created_at":{created_at},"kind":{kind},"tags":"#,
        hex::encode(id),
        hex::encode(pubkey)
    )
    .into_bytes();
    let tags_start = json.len();
    append_json(&mut json, &tags)?;
    let tags_json = tags_start..json.len();
    json.extend_from_slice(br#","content":"#);
    let content_start = json.len();
    append_json(&mut json, content)?;
    let content_json = content_start..json.len();
    json.extend_from_slice(format!(r#","sig":"{}"}}"#, hex::encode(sig)).as_bytes());
    if json.len() > MAX_EVENT_BYTES {
        return Err(EventError::TooLarge {
            len: json.len(),
            limit: MAX_EVENT_BYTES,
        });
    }
    Ok(Event {
        id,
        pubkey,
        created_at,
        kind,
        tags,
        sig,
        json: Bytes::from(json),
        tags_json,
        content_json,
    })
}

/// serde_json escapes as NIP-01 asks: `\n \" \\ \r \t \b \f`, other control characters as `\u00xx` (JSON knows no other
/// spelling, and every client writes them so), all else verbatim.
fn append_json<T: serde::Serialize + ?Sized>(
    json: &mut Vec<u8>,
    value: &T,
) -> Result<(), EventError> {
    serde_json::to_writer(json, value).map_err(|error| EventError::NotJson(error.to_string()))
}

/// Rules that routing and deletion depend on.
fn check_kind_rules(event: &Event) -> Result<(), EventError> {
    if event.is_private() {
        let count = event.recipients().count();
        let named = event.tags.iter().filter(|tag| tag[0] == "p").count();
        if count != 1 || named != 1 {
            return Err(EventError::Recipients {
                kind: event.kind,
                count,
            });
        }
    }
    if event.kind == kind::DELETION {
        for name in ["e", "a"] {
            let count = event.tags.iter().filter(|tag| tag[0] == name).count();
            if count > MAX_DELETION_TARGETS {
                return Err(EventError::TooManyTargets {
                    count,
                    limit: MAX_DELETION_TARGETS,
                });
            }
        }
    }
    Ok(())
}

/// serde's own text may quote the input, so only its position is used.
fn outer_error(json: &[u8], error: &serde_json::Error) -> EventError {
    let place = format!("at line {}, column {}", error.line(), error.column());
    match error.classify() {
        Category::Data if json.trim_ascii_start().first() == Some(&b'{') => {
            EventError::NotAnObject(format!("a field is given twice or badly named, {place}"))
        }
        Category::Data => EventError::NotAnObject(format!("it is {}", describe_json(json))),
        Category::Io | Category::Syntax | Category::Eof => EventError::NotJson(place),
    }
}

fn required<'a>(
    field: &'static str,
    value: Option<&'a RawValue>,
) -> Result<&'a RawValue, EventError> {
    value.ok_or(EventError::Missing(field))
}

fn string_field(
    field: &'static str,
    expected: &'static str,
    value: Option<&RawValue>,
) -> Result<String, EventError> {
    let raw = required(field, value)?.get();
    serde_json::from_str(raw).map_err(|_| wrong(field, expected, raw))
}

fn hex_field<const N: usize>(
    field: &'static str,
    expected: &'static str,
    value: Option<&RawValue>,
) -> Result<[u8; N], EventError> {
    let text = string_field(field, expected, value)?;
    parse_hex(&text).ok_or_else(|| EventError::Field {
        field,
        expected,
        found: format!(
            "a string of {} characters that are not all such digits",
            text.chars().count()
        ),
    })
}

fn integer_field(
    field: &'static str,
    expected: &'static str,
    value: Option<&RawValue>,
    max: u64,
) -> Result<u64, EventError> {
    let raw = required(field, value)?.get();
    serde_json::from_str(raw)
        .ok()
        .filter(|number| *number <= max)
        .ok_or_else(|| wrong(field, expected, raw))
}

fn tags_field(value: &RawValue) -> Result<Vec<Vec<String>>, EventError> {
    let raw = value.get();
    if let Ok(tags) = serde_json::from_str::<Vec<Vec<String>>>(raw) {
        return match tags.iter().position(Vec::is_empty) {
            Some(index) => Err(EventError::Tag {
                index,
                reason: "is empty: a tag is an array of one or more strings",
            }),
            None => Ok(tags),
        };
    }
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(raw) else {
        return Err(wrong("tags", "an array of arrays of strings", raw));
    };
    let index = items
        .iter()
        .position(|item| serde_json::from_str::<Vec<String>>(item.get()).is_err());
    Err(EventError::Tag {
        index: index.unwrap_or(0),
        reason: "is not an array of strings",
    })
}

fn wrong(field: &'static str, expected: &'static str, raw: &str) -> EventError {
    EventError::Field {
        field,
        expected,
        found: describe_json(raw.as_bytes()).to_owned(),
    }
}

/// The kind of a JSON value by its first byte, for messages that must not repeat it.
pub(crate) fn describe_json(json: &[u8]) -> &'static str {
    match json.trim_ascii_start().first() {
        Some(b'"') => "a string that does not fit",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "another number",
        _ => "nothing",
    }
}
