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

/// The largest text of a message, in bytes: what fits into a wrap that our relays keep.
///
/// Two layers of NIP-44 padding and base64 grow the text by up to some 3.6 times; relays take events of up to 512 KiB.
pub const MAX_TEXT_BYTES: usize = 128 * 1024;

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
    #[error("the message has {len} bytes, the limit is {limit}")]
    TooLong {
        /// Bytes of the text.
        len: usize,
        /// The limit, [`MAX_TEXT_BYTES`].
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
        if text.len() > MAX_TEXT_BYTES {
            return Err(WrapError::TooLong {
                len: text.len(),
                limit: MAX_TEXT_BYTES,
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
        GiftWrapBuilder::new(*reader, self.event.clone())
            .finalize(from.keys())
            .map_err(|error| {
                WrapError::Identity(IdentityError::Crypto {
                    what: "wrap the message",
                    reason: error.to_string(),
                })
            })
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
        let long = "x".repeat(MAX_TEXT_BYTES + 1);
        assert_eq!(
            Rumor::text(&alice, &[bob], &long, 0).unwrap_err(),
            WrapError::TooLong {
                len: MAX_TEXT_BYTES + 1,
                limit: MAX_TEXT_BYTES
            }
        );
    }

    #[test]
    fn longest_message_fits_into_an_event_that_relays_take() {
        let alice = Identity::generate();
        let bob = Identity::generate().public_key();
        for text in ["x".repeat(MAX_TEXT_BYTES), "\"".repeat(MAX_TEXT_BYTES)] {
            let rumor = Rumor::text(&alice, &[bob], &text, 0).unwrap();
            let wrap = rumor.wrap_for(&alice, &bob).unwrap();
            let len = wrap.as_json().len();
            assert!(len < 512 * 1024, "{len} bytes");
        }
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
