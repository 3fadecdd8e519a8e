//! A Nostr event as bytes on the wire and as fields (NIP-01): strict parsing, id and signature checks, and what an event
//! says about itself (class, audience, coordinate, expiration). Pure: no I/O, no clock.

mod coordinate;
mod parse;
#[cfg(test)]
mod tests;
mod verify;
mod work;

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use nightjar_envelope::Class;

pub use coordinate::Coordinate;
pub use work::leading_zero_bits;

/// A public key: 32 bytes, x-only (BIP-340).
pub type PublicKey = [u8; 32];
/// An event id: 32 bytes, SHA-256 of the canonical serialization (NIP-01).
pub type EventId = [u8; 32];

/// The kinds that rules of the relay name.
pub mod kind {
    /// Profile (NIP-01).
    pub const PROFILE: u16 = 0;
    /// List of follows (NIP-02).
    pub const FOLLOWS: u16 = 3;
    /// Deletion request (NIP-09).
    pub const DELETION: u16 = 5;
    /// Request to vanish (NIP-62).
    pub const VANISH: u16 = 62;
    /// Relays on which somebody reads private messages (NIP-17).
    pub const MESSAGE_RELAYS: u16 = 10_050;
    /// Gift wrap (NIP-59).
    pub const GIFT_WRAP: u16 = 1059;
    /// Ephemeral gift wrap (NIP-59): never stored.
    pub const EPHEMERAL_GIFT_WRAP: u16 = 21059;
}

/// Kinds of which some events, once stored, are for their readers alone.
pub(crate) const PRIVATE_KINDS: [u16; 3] = [kind::DELETION, kind::VANISH, kind::GIFT_WRAP];

/// Greatest `created_at` and expiration accepted, in seconds: the greatest integer that every JSON reader keeps exact.
pub const MAX_TIMESTAMP: u64 = (1 << 53) - 1;
/// Most `e` tags, and most `a` tags, in one deletion request.
pub const MAX_DELETION_TARGETS: usize = 500;

/// Why an event is refused. `Display` is the message of `OK false`, with its NIP-01 prefix; it never repeats content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The bytes are not JSON.
    #[error("invalid: the event is not JSON: {0}")]
    NotJson(String),
    /// The JSON is something else than an object.
    #[error(
        "invalid: the event must be a JSON object with id, pubkey, created_at, kind, tags, content and sig: {0}"
    )]
    NotAnObject(String),
    /// A field is absent or null.
    #[error("invalid: the event has no field {0}, or it is null")]
    Missing(&'static str),
    /// A field has the wrong type, range or spelling.
    #[error("invalid: {field} must be {expected}; it is {found}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// What NIP-01 asks for.
        expected: &'static str,
        /// The kind and size of what came, never the value.
        found: String,
    },
    /// A tag is not an array of one or more strings.
    #[error("invalid: tag {index} {reason}")]
    Tag {
        /// Position in `tags`, from 0.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The normalised JSON does not fit into an envelope.
    #[error("invalid: the event is {len} bytes long, the limit is {limit}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A gift wrap without exactly one recipient.
    #[error(
        "invalid: kind {kind} needs exactly one p tag with a public key in lowercase hex; it has {count}"
    )]
    Recipients {
        /// The event's kind.
        kind: u16,
        /// How many usable p tags it has.
        count: usize,
    },
    /// A deletion request with too many targets.
    #[error("invalid: a deletion request may name at most {limit} events; it names {count}")]
    TooManyTargets {
        /// How many it names.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// The id is not the hash of the event.
    #[error("invalid: id does not match the event; computed {computed}")]
    IdMismatch {
        /// The id the event should have, in lowercase hex.
        computed: String,
    },
    /// The signature does not belong to id and pubkey.
    #[error("invalid: the signature does not verify")]
    BadSignature,
}

/// Who may read an event. Depends on the event alone, so that the order of arrival cannot change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// Everyone.
    Public,
    /// Only these keys, once authenticated. An empty list: nobody.
    Only(Vec<PublicKey>),
}

/// An event whose shape is right; after [`Event::verify`] also its id and signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// Event id.
    pub id: EventId,
    /// Author.
    pub pubkey: PublicKey,
    /// Unix time in seconds, as the author says; at most [`MAX_TIMESTAMP`].
    pub created_at: u64,
    /// Kind, 0 to 65535.
    pub kind: u16,
    /// Tags; each has at least one string.
    pub tags: Vec<Vec<String>>,
    /// BIP-340 signature over the id.
    pub sig: [u8; 64],
    json: Bytes,
    tags_json: Range<usize>,
    content_json: Range<usize>,
}

/// Shows id and kind only: an event's content, tags and author stay out of logs.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("kind", &self.kind)
            .field("json_len", &self.json.len())
            .finish_non_exhaustive()
    }
}

impl Event {
    /// Parses and normalises one event. Checks shape only; see [`Event::verify`].
    ///
    /// Unknown fields are dropped (they are not signed). What is kept, sealed and served is the compact JSON of exactly
    /// the seven fields of NIP-01, see [`Event::json`].
    pub fn parse(json: &[u8]) -> Result<Event, EventError> {
        parse::parse(json)
    }

    /// Checks that the id is the hash of the canonical serialization and that the signature is the author's (BIP-340).
    pub fn verify(&self) -> Result<(), EventError> {
        self.verify_id()?;
        self.verify_signature()
    }

    /// Checks the id alone: enough for an event from the log that a relay of the same trust domain admitted.
    pub fn verify_id(&self) -> Result<(), EventError> {
        verify::check_id(self)
    }

    /// Checks the signature against id and pubkey. It says nothing of the other fields unless the id was checked.
    pub(crate) fn verify_signature(&self) -> Result<(), EventError> {
        verify::check_signature(self)
    }

    /// The compact JSON of the seven fields, in the order id, pubkey, created_at, kind, tags, content, sig.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The content as a JSON string literal, quotes included.
    pub fn content_json(&self) -> &[u8] {
        &self.json[self.content_json.clone()]
    }

    /// Where in [`Event::json`] the tags array lies.
    pub(crate) fn tags_range(&self) -> Range<usize> {
        self.tags_json.clone()
    }

    /// The class that decides on stream and subject.
    pub fn class(&self) -> Class {
        class_of(self.kind)
    }

    /// The id in lowercase hex.
    pub fn id_hex(&self) -> String {
        hex::encode(self.id)
    }

    /// NIP-40: the least of the expiration tags that are times, in seconds; at most [`MAX_TIMESTAMP`]. Other values are
    /// ignored.
    pub fn expiration(&self) -> Option<u64> {
        self.tag_values("expiration")
            .filter_map(|value| value.parse().ok())
            .filter(|time| *time <= MAX_TIMESTAMP)
            .min()
    }

    /// The keys in `p` tags (lowercase hex only), in the order given.
    pub fn recipients(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.tag_values("p").filter_map(parse_hex::<32>)
    }

    /// A gift wrap, stored (1059) or ephemeral (21059): only its recipients may learn that it exists.
    pub fn is_private(&self) -> bool {
        is_wrap(self.kind)
    }

    /// NIP-70: the event carries a `["-"]` tag.
    pub fn is_protected(&self) -> bool {
        self.tags.iter().any(|tag| tag[0] == "-")
    }

    /// Value of the first `d` tag, or the empty string (NIP-01).
    pub fn d_tag(&self) -> &str {
        self.tag_values("d").next().unwrap_or("")
    }

    /// What replaceable and addressable events are unique by.
    pub fn coordinate(&self) -> Option<Coordinate> {
        Coordinate::of(self.kind, self.pubkey, self.d_tag())
    }

    /// NIP-09: the event ids a deletion request names; empty for other kinds.
    pub fn deleted_ids(&self) -> impl Iterator<Item = EventId> + '_ {
        self.deletion_values("e").filter_map(parse_hex::<32>)
    }

    /// NIP-09: the coordinates a deletion request names, its author's own only; empty for other kinds.
    pub fn deleted_coordinates(&self) -> impl Iterator<Item = Coordinate> + '_ {
        self.deletion_values("a")
            .filter_map(Coordinate::parse)
            .filter(|coordinate| coordinate.pubkey == self.pubkey)
    }

    /// Who may read this event.
    ///
    /// A gift wrap: its `p`-tagged recipients. A request to vanish: its author. A deletion request: its author, if it may
    /// be about a gift wrap, that is if it names events by id and has no `k` tag, or one for a gift wrap or what lies in one. (Whether the
    /// named event is a wrap cannot be asked: it may come later, or have been aged out.)
    pub fn audience(&self) -> Audience {
        match self.kind {
            kind::GIFT_WRAP | kind::EPHEMERAL_GIFT_WRAP => {
                let mut readers: Vec<PublicKey> = self.recipients().collect();
                readers.sort_unstable();
                readers.dedup();
                Audience::Only(readers)
            }
            kind::VANISH => Audience::Only(vec![self.pubkey]),
            kind::DELETION if self.may_delete_wrap() => Audience::Only(vec![self.pubkey]),
            _ => Audience::Public,
        }
    }

    fn may_delete_wrap(&self) -> bool {
        let mut kinds = self.tag_values("k").peekable();
        if kinds.peek().is_none() {
            return self.tags.iter().any(|tag| tag[0] == "e");
        }
        // Some clients name the kind inside the wrap; what is no kind at all says nothing.
        kinds.any(|value| value.trim().parse().map_or(true, is_private_message))
    }

    fn deletion_values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a str> + 'a {
        let name = if self.kind == kind::DELETION {
            Some(name)
        } else {
            None
        };
        name.into_iter().flat_map(|name| self.tag_values(name))
    }

    /// Second elements of the tags with this name.
    pub(crate) fn tag_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.tags
            .iter()
            .filter(move |tag| tag[0] == name)
            .filter_map(|tag| tag.get(1))
            .map(String::as_str)
    }
}

/// The class of a kind: ephemeral 20000-29999; state for replaceable, addressable, deletion and vanish; messages otherwise.
pub fn class_of(kind: u16) -> Class {
    match kind {
        20_000..=29_999 => Class::Ephemeral,
        0 | 3 | 10_000..=19_999 | 30_000..=39_999 | kind::DELETION | kind::VANISH => Class::State,
        _ => Class::Messages,
    }
}

/// Kinds of which an author has one event at a time.
pub(crate) fn is_replaceable(kind: u16) -> bool {
    matches!(kind, 0 | 3 | 10_000..=19_999)
}

/// Gift wraps of either kind.
pub(crate) fn is_wrap(kind: u16) -> bool {
    matches!(kind, kind::GIFT_WRAP | kind::EPHEMERAL_GIFT_WRAP)
}

/// A gift wrap, or what lies in one: seal, chat message, file message (NIP-17).
fn is_private_message(kind: u16) -> bool {
    is_wrap(kind) || (13..=15).contains(&kind)
}

/// Exactly `N` bytes in lowercase hex.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let lowercase = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (lowercase && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}
