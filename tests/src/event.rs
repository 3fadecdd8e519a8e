//! Keys and signed events for tests, made with the `nostr` crate and kept as the JSON that goes over the socket.

use std::time::{SystemTime, UNIX_EPOCH};

use nostr::event::{Event, EventBuilder, FinalizeEvent, Kind, Tag};
use nostr::key::Keys;
use nostr::types::Timestamp;
use serde_json::Value;

/// A signed event: its id (lowercase hex) and its JSON.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Lowercase hex.
    pub id: String,
    /// The event's object.
    pub json: String,
}

impl Signed {
    /// The event as JSON value, for tests that look at or damage a field.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.json).expect("a signed event is JSON")
    }
}

/// Somebody with a key.
#[derive(Clone, Debug)]
pub struct Person {
    keys: Keys,
}

impl Person {
    /// A new key.
    pub fn new() -> Person {
        Person {
            keys: Keys::generate(),
        }
    }

    /// Public key, lowercase hex.
    pub fn pubkey(&self) -> String {
        self.keys.public_key().to_hex()
    }

    /// Secret key, lowercase hex: for a program of the tests that acts for this person.
    pub fn secret(&self) -> String {
        self.keys.secret_key().to_secret_hex()
    }

    /// A signed event of this person.
    pub fn event(&self, kind: u16, created_at: u64, tags: &[&[&str]], content: &str) -> Signed {
        let tags = tags
            .iter()
            .map(|tag| Tag::parse(tag.iter().copied()).expect("a tag has a name"));
        let builder = EventBuilder::new(Kind::from(kind), content)
            .tags(tags)
            .custom_created_at(Timestamp::from(created_at));
        signed(&builder.finalize(&self.keys).expect("signing"))
    }

    /// An event created now, without tags.
    pub fn note(&self, content: &str) -> Signed {
        self.event(1, now(), &[], content)
    }

    /// The answer to a relay's challenge (NIP-42).
    pub fn auth(&self, relay: &str, challenge: &str) -> Signed {
        self.event(
            22242,
            now(),
            &[&["relay", relay], &["challenge", challenge]],
            "",
        )
    }

    /// A NIP-17 message to somebody: rumor, seal and gift wrap.
    pub fn message(&self, to: &Person, text: &str) -> Signed {
        let builder =
            nostr::nips::nip17::PrivateDirectMessageBuilder::new(to.keys.public_key(), text);
        signed(&builder.finalize(&self.keys).expect("wrapping"))
    }

    /// The text of a NIP-17 message to this person.
    pub fn open(&self, wrap: &str) -> String {
        let wrap: Event = serde_json::from_str(wrap).expect("an event");
        nostr::nips::nip59::extract_rumor(&self.keys, &wrap)
            .expect("a wrap for this person")
            .rumor
            .content
    }
}

impl Default for Person {
    fn default() -> Self {
        Person::new()
    }
}

/// A wrap-shaped event (kind 1059 or 21059) under a key of its own, addressed to `to`, with content that opens for nobody.
pub fn wrap_for(kind: u16, to: &str, content: &str) -> Signed {
    Person::new().event(kind, now(), &[&["p", to]], content)
}

/// A gift wrap-shaped event of any date, under a key of its own, with content that opens for nobody.
pub fn wrap_at(created_at: u64, to: &str, content: &str) -> Signed {
    Person::new().event(1059, created_at, &[&["p", to]], content)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs()
}

fn signed(event: &Event) -> Signed {
    Signed {
        id: event.id.to_hex(),
        json: serde_json::to_string(event).expect("events are JSON"),
    }
}
