//! Making private messages: rumor (kind 14), seal (kind 13), gift wrap (kind 1059). NIP-17, NIP-44, NIP-59.

use nostr::event::{
    Event, EventBuilder, EventId, FinalizeEvent, FinalizeUnsignedEvent, Kind, Tag, UnsignedEvent,
};
use nostr::key::PublicKey;
use nostr::nips::nip59::GiftWrapBuilder;
use nostr::types::Timestamp;

use crate::identity::{Identity, IdentityError};

/// Rumor tag with the milliseconds (0 to 999) that `created_at` leaves out. It travels encrypted, so only who reads the
/// message learns it; other clients use the same tag to order messages of one second.
pub const MILLISECONDS_TAG: &str = "ms";

/// The largest gift wrap that a Nightjar relay keeps, in bytes of JSON. Each layer of NIP-44 pads its content and writes it
/// in base64, so a text of some 140 KiB fills it, less when many of its characters are escaped in JSON.
pub const MAX_WRAP_BYTES: usize = 512 * 1024 - 512;

/// An unsigned private message (NIP-17 kind 14), the same for each of its readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rumor {
    event: UnsignedEvent,
    id: EventId,
}

/// Why a message was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// An empty message says nothing and NIP-44 cannot encrypt it in every client.
    #[error("the message is empty")]
    Empty,
    /// The text is too long for one message.
    #[error("the message is too long: wrapped it has {len} bytes, the limit is {limit}")]
    TooLong {
        /// Bytes of the wrap, or of the text when that alone is too long.
        len: usize,
        /// The limit, [`MAX_WRAP_BYTES`].
        limit: usize,
    },
    /// A message needs somebody to read it.
    #[error("the message has no recipient")]
    NoRecipient,
    /// Signing or encrypting failed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Rumor {
    /// A text for `to`, written at `unix_ms` (milliseconds since 1970).
    pub fn text(
        from: &Identity,
        to: &[PublicKey],
        text: &str,
        unix_ms: u64,
    ) -> Result<Self, WrapError> {
        if text.is_empty() {
            return Err(WrapError::Empty);
        }
        if text.len() > MAX_WRAP_BYTES {
            return Err(WrapError::TooLong {
                len: text.len(),
                limit: MAX_WRAP_BYTES,
            });
        }
        if to.is_empty() {
            return Err(WrapError::NoRecipient);
        }
        let event = EventBuilder::new(Kind::PrivateDirectMessage, text)
            .tags(to.iter().map(|key| Tag::public_key(*key)))
            .tag(Tag::custom(
                MILLISECONDS_TAG,
                [(unix_ms % 1000).to_string()],
            ))
            .custom_created_at(Timestamp::from_secs(unix_ms / 1000))
            .finalize_unsigned(from.public_key());
        let id = event.compute_id();
        Ok(Self {
            event: UnsignedEvent {
                id: Some(id),
                ..event
            },
            id,
        })
    }

    /// The computed id: what readers deduplicate by, together with the sender.
    pub fn id(&self) -> EventId {
        self.id
    }

    /// Seals the message as `from` and wraps it for one reader under a fresh one-time key. Seal and wrap carry random
    /// times of the last two days (NIP-59).
    pub fn wrap_for(&self, from: &Identity, reader: &PublicKey) -> Result<Event, WrapError> {
        let wrap = GiftWrapBuilder::new(*reader, self.event.clone())
            .finalize(from.keys())
            .map_err(|error| {
                WrapError::Identity(IdentityError::Crypto {
                    what: "wrap the message",
                    reason: error.to_string(),
                })
            })?;
        let len = wrap.as_json().len();
        if len > MAX_WRAP_BYTES {
            return Err(WrapError::TooLong {
                len,
                limit: MAX_WRAP_BYTES,
            });
        }
        Ok(wrap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_long_and_unaddressed_messages_are_refused_with_their_size() {
        let alice = Identity::generate();
        let bob = Identity::generate().public_key();
        assert_eq!(
            Rumor::text(&alice, &[bob], "", 0).unwrap_err(),
            WrapError::Empty
        );
        assert_eq!(
            Rumor::text(&alice, &[], "hi", 0).unwrap_err(),
            WrapError::NoRecipient
        );
        let long = "x".repeat(MAX_WRAP_BYTES + 1);
        assert_eq!(
            Rumor::text(&alice, &[bob], &long, 0).unwrap_err(),
            WrapError::TooLong {
                len: MAX_WRAP_BYTES + 1,
                limit: MAX_WRAP_BYTES
            }
        );
    }

    #[test]
    fn message_is_refused_when_its_wrap_would_be_too_large_for_relays() {
        let alice = Identity::generate();
        let bob = Identity::generate().public_key();
        let wrap = |text: String| {
            Rumor::text(&alice, &[bob], &text, 0)
                .unwrap()
                .wrap_for(&alice, &bob)
        };
        assert!(wrap("x".repeat(140 * 1024)).is_ok());
        assert!(matches!(
            wrap("\"".repeat(140 * 1024)),
            Err(WrapError::TooLong { .. })
        ));
    }

    #[test]
    fn wrap_hides_sender_and_time() {
        let alice = Identity::generate();
        let bob = Identity::generate().public_key();
        let now = Timestamp::now().as_secs();
        let rumor = Rumor::text(&alice, &[bob], "hi", now * 1000).unwrap();
        let wrap = rumor.wrap_for(&alice, &bob).unwrap();
        assert_eq!(wrap.kind, Kind::GiftWrap);
        assert_ne!(wrap.pubkey, alice.public_key());
        assert!(
            wrap.created_at.as_secs() <= now && wrap.created_at.as_secs() + 2 * 86_400 + 5 > now
        );
        assert!(!wrap.as_json().contains(&alice.public_key().to_hex()));
    }
}
