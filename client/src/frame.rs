//! Frames between client and relay as text (NIP-01, NIP-42). Pure: no socket, no clock.

use nostr::event::Event;
use nostr::filter::Filter;
use serde_json::value::RawValue;

/// What a relay says.
#[derive(Debug, Clone)]
pub enum RelayFrame {
    /// An event of a subscription. The JSON is kept as it came.
    Event {
        /// Subscription id.
        subscription: String,
        /// The event's own bytes.
        event: Box<RawValue>,
        /// Where to go on after it, if a cursor was asked for.
        cursor: Option<String>,
    },
    /// The answer to an event.
    Ok {
        /// Event id as the relay wrote it.
        id: String,
        /// Whether it was taken.
        accepted: bool,
        /// Reason, with its machine-readable prefix.
        message: String,
    },
    /// Everything stored was sent, or a page of it.
    Eose {
        /// Subscription id.
        subscription: String,
        /// Nothing was left out (NIP-67).
        finished: bool,
        /// Where to go on, if a cursor was asked for.
        cursor: Option<String>,
    },
    /// The relay ended a subscription.
    Closed {
        /// Subscription id.
        subscription: String,
        /// Reason, with its machine-readable prefix.
        message: String,
    },
    /// A word to the user.
    Notice {
        /// The text.
        message: String,
    },
    /// A challenge to prove who we are (NIP-42).
    Auth {
        /// The challenge.
        challenge: String,
    },
    /// A verb that this client does not know; ignored.
    Unknown {
        /// The verb.
        verb: String,
    },
}

/// Why a relay's frame could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a JSON array that starts with a verb.
    #[error("not a Nostr frame ({len} bytes): expected a JSON array that starts with a verb")]
    NotAFrame {
        /// Length of the frame, in bytes.
        len: usize,
    },
    /// The verb is known, but not with these elements.
    #[error("{verb} frame with wrong elements ({len} bytes)")]
    Elements {
        /// The verb.
        verb: &'static str,
        /// Length of the frame, in bytes.
        len: usize,
    },
}

impl RelayFrame {
    /// Reads one text frame. Elements after the known ones are ignored, as later NIPs add some.
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        let len = text.len();
        let elements: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|_| FrameError::NotAFrame { len })?;
        let string = |at: usize| {
            elements
                .get(at)
                .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok())
        };
        let verb = string(0).ok_or(FrameError::NotAFrame { len })?;
        let need =
            |verb: &'static str, at: usize| string(at).ok_or(FrameError::Elements { verb, len });
        Ok(match verb.as_str() {
            "EVENT" => {
                let event = elements
                    .get(2)
                    .ok_or(FrameError::Elements { verb: "EVENT", len })?;
                Self::Event {
                    subscription: need("EVENT", 1)?,
                    event: (*event).to_owned(),
                    cursor: string(3),
                }
            }
            "OK" => {
                let accepted = elements
                    .get(2)
                    .and_then(|raw| serde_json::from_str(raw.get()).ok());
                Self::Ok {
                    id: need("OK", 1)?,
                    accepted: accepted.ok_or(FrameError::Elements { verb: "OK", len })?,
                    message: string(3).unwrap_or_default(),
                }
            }
            "EOSE" => Self::Eose {
                subscription: need("EOSE", 1)?,
                finished: elements
                    .get(2)
                    .and_then(|raw| serde_json::from_str::<Vec<String>>(raw.get()).ok())
                    .is_some_and(|hints| hints.iter().any(|hint| hint == "finish")),
                cursor: string(3),
            },
            "CLOSED" => Self::Closed {
                subscription: need("CLOSED", 1)?,
                message: string(2).unwrap_or_default(),
            },
            "NOTICE" => Self::Notice {
                message: need("NOTICE", 1)?,
            },
            "AUTH" => Self::Auth {
                challenge: need("AUTH", 1)?,
            },
            _ => Self::Unknown { verb },
        })
    }
}

/// `["EVENT", ...]` of an event's own JSON.
pub fn event(json: &str) -> String {
    format!(r#"["EVENT",{json}]"#)
}

/// `["AUTH", ...]` of a signed kind 22242 event (NIP-42).
pub fn auth(event: &Event) -> String {
    format!(r#"["AUTH",{}]"#, event.as_json())
}

/// `["REQ", ...]`. A `cursor`, empty at first, asks a relay that offers it for what arrived after it.
pub fn req(subscription: &str, filters: &[Filter], cursor: Option<&str>) -> String {
    let mut frame = format!(r#"["REQ",{}"#, quoted(subscription));
    for filter in filters {
        frame.push(',');
        let filter = filter.as_json();
        match (cursor, filter.strip_suffix('}')) {
            (Some(cursor), Some(fields)) => {
                let comma = if fields == "{" { "" } else { "," };
                frame.push_str(&format!(r#"{fields}{comma}"cursor":{}}}"#, quoted(cursor)));
            }
            _ => frame.push_str(&filter),
        }
    }
    frame.push(']');
    frame
}

/// `["CLOSE", ...]`.
pub fn close(subscription: &str) -> String {
    format!(r#"["CLOSE",{}]"#, quoted(subscription))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The machine-readable prefix of an OK or CLOSED message (NIP-01, NIP-42).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// The relay has it already.
    Duplicate,
    /// AUTH first.
    AuthRequired,
    /// AUTH was made, and this identity may not.
    Restricted,
    /// The author or address is banned.
    Blocked,
    /// Too much in too short a time.
    RateLimited,
    /// The event is wrong.
    Invalid,
    /// Proof of work is missing.
    Pow,
    /// The relay's own trouble; here also "not durable in time".
    Error,
    /// None of these.
    Other,
}

impl Prefix {
    /// Reads the prefix before the first colon.
    pub fn of(message: &str) -> Self {
        match message
            .split_once(':')
            .map_or("", |(prefix, _)| prefix.trim())
        {
            "duplicate" => Self::Duplicate,
            "auth-required" => Self::AuthRequired,
            "restricted" => Self::Restricted,
            "blocked" => Self::Blocked,
            "rate-limited" => Self::RateLimited,
            "invalid" => Self::Invalid,
            "pow" => Self::Pow,
            "error" => Self::Error,
            _ => Self::Other,
        }
    }
}

/// A frame as it may be shown: the challenge and our signed answer to it are credentials of the connection and masked, and
/// encrypted content is replaced by its length.
pub fn masked(text: &str) -> String {
    let Ok(mut frame) = serde_json::from_str::<serde_json::Value>(text) else {
        return format!("<{} bytes that are not JSON>", text.len());
    };
    if let Some(elements) = frame.as_array_mut() {
        let is_auth = elements.first().and_then(|verb| verb.as_str()) == Some("AUTH");
        for element in elements.iter_mut().skip(1) {
            if is_auth && element.is_string() {
                *element = "<challenge masked>".into();
            } else if let Some(event) = element.as_object_mut() {
                mask_event(event);
            }
        }
    }
    frame.to_string()
}

fn mask_event(event: &mut serde_json::Map<String, serde_json::Value>) {
    let kind = event.get("kind").and_then(serde_json::Value::as_u64);
    if kind == Some(22_242) {
        for field in ["id", "sig"] {
            event.insert(field.to_owned(), "<masked>".into());
        }
        let tags = event
            .get_mut("tags")
            .and_then(serde_json::Value::as_array_mut);
        for tag in tags.into_iter().flatten() {
            if tag.get(0).and_then(|name| name.as_str()) == Some("challenge") {
                *tag = serde_json::json!(["challenge", "<masked>"]);
            }
        }
    }
    if matches!(kind, Some(4 | 13 | 1059 | 21_059))
        && let Some(len) = event
            .get("content")
            .and_then(|content| content.as_str())
            .map(str::len)
    {
        event.insert(
            "content".to_owned(),
            format!("<{len} bytes, encrypted>").into(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use nostr::types::RelayUrl;
    use proptest::prelude::*;

    #[test]
    fn frames_are_read_and_later_elements_ignored() {
        let frame = RelayFrame::parse(r#"["EOSE","a",["hint"],"cursor"]"#).unwrap();
        assert!(
            matches!(frame, RelayFrame::Eose { subscription, finished: false, cursor: Some(cursor) } if subscription == "a" && cursor == "cursor")
        );
        let frame = RelayFrame::parse(r#"["EOSE","a",["finish"]]"#).unwrap();
        assert!(matches!(
            frame,
            RelayFrame::Eose {
                finished: true,
                cursor: None,
                ..
            }
        ));
        let frame = RelayFrame::parse(r#"["EVENT","a",{"id" : 1}]"#).unwrap();
        assert!(matches!(frame, RelayFrame::Event { event, .. } if event.get() == r#"{"id" : 1}"#));
        let frame = RelayFrame::parse(r#"["OK","x",false,"auth-required: who?"]"#).unwrap();
        assert!(
            matches!(frame, RelayFrame::Ok { accepted: false, message, .. }
            if Prefix::of(&message) == Prefix::AuthRequired)
        );
        assert!(matches!(
            RelayFrame::parse(r#"["COUNT","x",{}]"#),
            Ok(RelayFrame::Unknown { .. })
        ));
        assert_eq!(
            RelayFrame::parse(r#"["OK","x",1]"#).unwrap_err(),
            FrameError::Elements {
                verb: "OK",
                len: 12
            }
        );
    }

    #[test]
    fn a_cursor_stands_in_every_filter() {
        let filters = [Filter::new(), Filter::new().limit(1)];
        assert_eq!(
            req("a", &filters, Some("x\"")),
            r#"["REQ","a",{"cursor":"x\""},{"limit":1,"cursor":"x\""}]"#
        );
        assert_eq!(req("a", &filters[1..], None), r#"["REQ","a",{"limit":1}]"#);
    }

    #[test]
    fn wire_view_masks_credentials_and_ciphertext() {
        let alice = Identity::generate();
        let url = RelayUrl::parse("ws://127.0.0.1:1").unwrap();
        let answer = alice.answer_challenge(&url, "s3cr3t-challenge").unwrap();
        let shown = masked(&auth(&answer));
        assert!(!shown.contains("s3cr3t-challenge") && !shown.contains(&answer.sig.to_string()));
        assert!(shown.contains("ws://127.0.0.1:1"));
        assert!(!masked(r#"["AUTH","s3cr3t"]"#).contains("s3cr3t"));
        assert!(
            masked(r#"["EVENT","s",{"kind":1059,"content":"abcd"}]"#)
                .contains("<4 bytes, encrypted>")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "\\PC{0,80}") {
            let _ = RelayFrame::parse(&text);
            let _ = masked(&text);
        }

        #[test]
        fn subscription_ids_survive_quoting(id in "\\PC{1,20}") {
            let text = close(&id).replacen("CLOSE", "EOSE", 1);
            let read = matches!(RelayFrame::parse(&text), Ok(RelayFrame::Eose { subscription, .. }) if subscription == id);
            prop_assert!(read);
        }
    }
}
