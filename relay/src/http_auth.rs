//! HTTP authorization by a signed event (NIP-98): reading the header, and what its event must say of the request. Pure: the clock, the
//! relay's URLs and the request are arguments. Signatures are checked by `admission`, on its threads.

#[cfg(test)]
mod tests;
mod url;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest, Sha256};

use crate::event::Event;
use url::Url;

/// The kind of the event.
pub const KIND: u16 = 27_235;
/// How far its clock may be away, in seconds (NIP-98: about 60).
const WINDOW_SECONDS: u64 = 60;
/// Longest value of an Authorization header, in bytes. An ordinary one has some 700.
pub const MAX_HEADER: usize = 16 * 1024;
const SCHEME: &str = "Nostr";

/// Clients leave the padding out or write it.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a request is not authorized. The text says what would be right; it never repeats what was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpAuthError {
    /// No header.
    #[error(
        "send the header \"Authorization: Nostr <base64>\" with a signed event of kind 27235 (NIP-98)"
    )]
    Missing,
    /// More than one header.
    #[error("send one Authorization header, this request has {0}")]
    Several(usize),
    /// The header is too long.
    #[error("the Authorization header has {len} bytes, the limit is {MAX_HEADER}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Another scheme.
    #[error("the Authorization header must have the scheme Nostr: \"Nostr <base64>\"")]
    Scheme,
    /// Not base64.
    #[error(
        "what follows \"Nostr \" must be the event's JSON in base64 (the standard alphabet, with + and /)"
    )]
    Base64,
    /// Another kind.
    #[error("the event of an Authorization header has kind 27235, this one has kind {0}")]
    Kind(u16),
    /// Too old or too new.
    #[error(
        "created_at is {away} s away from this relay's clock, {WINDOW_SECONDS} s are allowed; sign a new event for every request"
    )]
    Time {
        /// Seconds away.
        away: u64,
    },
    /// A tag that is not there once.
    #[error("the event needs exactly one {name} tag, it has {count}")]
    Tag {
        /// The tag's name.
        name: &'static str,
        /// How many there are.
        count: usize,
    },
    /// Another URL.
    #[error("the u tag must be {expected:?}, the public URL of this request")]
    Url {
        /// A URL that would do.
        expected: String,
    },
    /// Another method.
    #[error("the method tag must be {expected:?}, the method of this request")]
    Method {
        /// The request's method.
        expected: String,
    },
    /// Another body.
    #[error(
        "the payload tag must be the SHA-256 of the request's body in hex, of exactly the bytes sent"
    )]
    Payload,
}

/// The request that an event must be about.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its method, in capitals.
    pub method: String,
    /// Path and query, as `/?x=1`.
    pub path_and_query: String,
    /// SHA-256 of its body; `None` if it has none.
    pub payload: Option<[u8; 32]>,
}

/// SHA-256 of a body.
pub fn payload_of(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// The JSON of the event in a request's header.
pub fn event_json(headers: &HeaderMap) -> Result<Vec<u8>, HttpAuthError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(HttpAuthError::Missing)?;
    let more = values.count();
    if more > 0 {
        return Err(HttpAuthError::Several(more + 1));
    }
    if value.len() > MAX_HEADER {
        return Err(HttpAuthError::TooLong { len: value.len() });
    }
    let text = value.to_str().map_err(|_| HttpAuthError::Scheme)?;
    let (scheme, credentials) = text.trim().split_once(' ').ok_or(HttpAuthError::Scheme)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(HttpAuthError::Scheme);
    }
    BASE64
        .decode(credentials.trim())
        .map_err(|_| HttpAuthError::Base64)
}

/// Whether an event authorizes a request to a relay with these public URLs.
///
/// Its `u` tag must be one of them, by its `http` or `ws` name, with the request's path and query; behind a proxy that changes paths, the
/// public URL's own path will do. Scheme, host and port are compared as RFC 3986 does: without case, without default port.
pub fn check(
    event: &Event,
    request: &Request,
    public_urls: &[String],
    now_s: u64,
) -> Result<(), HttpAuthError> {
    if event.kind != KIND {
        return Err(HttpAuthError::Kind(event.kind));
    }
    let away = event.created_at.abs_diff(now_s);
    if away > WINDOW_SECONDS {
        return Err(HttpAuthError::Time { away });
    }
    let signed = only_value(event, "u")?;
    let ours: Vec<Url<'_>> = public_urls
        .iter()
        .filter_map(|url| Url::parse(url))
        .collect();
    let is_ours = Url::parse(signed).is_some_and(|signed| {
        ours.iter()
            .any(|ours| signed.names(ours, &request.path_and_query))
    });
    if !is_ours {
        let best = ours.iter().find(|url| url.is_secure()).or(ours.first());
        let expected = best.map(|url| url.with_path(&request.path_and_query));
        return Err(HttpAuthError::Url {
            expected: expected.unwrap_or_default(),
        });
    }
    if only_value(event, "method")? != request.method {
        return Err(HttpAuthError::Method {
            expected: request.method.clone(),
        });
    }
    request
        .payload
        .map_or(Ok(()), |payload| check_payload(event, &payload))
}

/// Whether an event is one for a POST with this body, whatever the relay and the time: for a call that another relay admitted.
pub fn check_call(event: &Event, body: &[u8]) -> Result<(), HttpAuthError> {
    if event.kind != KIND {
        return Err(HttpAuthError::Kind(event.kind));
    }
    if only_value(event, "method")? != "POST" {
        let expected = "POST".to_owned();
        return Err(HttpAuthError::Method { expected });
    }
    check_payload(event, &payload_of(body))
}

fn check_payload(event: &Event, payload: &[u8; 32]) -> Result<(), HttpAuthError> {
    let mut signed = [0; 32];
    let is_hash = hex::decode_to_slice(only_value(event, "payload")?, &mut signed).is_ok();
    if is_hash && signed == *payload {
        Ok(())
    } else {
        Err(HttpAuthError::Payload)
    }
}

/// The value of a tag that must be there exactly once.
fn only_value<'a>(event: &'a Event, name: &'static str) -> Result<&'a str, HttpAuthError> {
    let mut values = event.tag_values(name);
    match (values.next(), values.count()) {
        (Some(value), 0) => Ok(value),
        (first, more) => Err(HttpAuthError::Tag {
            name,
            count: usize::from(first.is_some()) + more,
        }),
    }
}
