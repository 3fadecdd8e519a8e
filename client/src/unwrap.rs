//! Opening gift wraps with every check of NIP-17, NIP-44 and NIP-59. Each check has its own reason.

use nostr::event::{Event, EventId, Kind, UnsignedEvent};
use nostr::key::PublicKey;

use crate::identity::Identity;
use crate::wrap::MILLISECONDS_TAG;

/// Gift wrap that relays keep (NIP-59).
pub const WRAP: u16 = 1059;
/// Gift wrap that relays pass on and never store (NIP-59, 2026).
pub const EPHEMERAL_WRAP: u16 = 21059;
const SEAL: u16 = 13;

/// A message that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Computed id of the rumor; unique together with `from`.
    pub id: EventId,
    /// Who sealed it, and so who wrote it.
    pub from: PublicKey,
    /// Everyone it is addressed to, by the rumor's `p` tags.
    pub to: Vec<PublicKey>,
    /// Rumor kind: 14 for text, 15 for a file, 7 for a reaction.
    pub kind: u16,
    /// The text (kind 14) or what the kind says.
    pub content: String,
    /// When the sender says it was written: milliseconds since 1970; whole seconds unless the sender gave more.
    pub written_ms: u64,
    /// Subject tag of the conversation, if any.
    pub subject: Option<String>,
    /// Id of the wrap it came in.
    pub wrap_id: EventId,
    /// Whether the wrap was the kind that relays never store.
    pub ephemeral: bool,
}

/// Why a wrap was refused. Nothing of its content is in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// Not kind 1059 or 21059.
    #[error("kind {0} is not a gift wrap: expected {WRAP} or {EPHEMERAL_WRAP}")]
    NotAWrap(u16),
    /// No `p` tag names this identity.
    #[error("the wrap is addressed to somebody else")]
    NotForUs,
    /// The wrap's id is not the hash of its fields.
    #[error("the wrap's id does not match its fields")]
    WrapId,
    /// The wrap's signature is wrong.
    #[error("the wrap's signature is wrong")]
    WrapSignature,
    /// The wrap's content does not decrypt with our key (NIP-44).
    #[error("the wrap does not decrypt with this key")]
    WrapUndecipherable,
    /// What was in the wrap is no event.
    #[error("the seal is not a Nostr event")]
    SealMalformed,
    /// What was in the wrap is not kind 13.
    #[error("the seal has kind {0}: expected {SEAL}")]
    SealKind(u16),
    /// A seal's tags must be empty (NIP-59).
    #[error("the seal has tags: it must have none")]
    SealTags,
    /// The seal's id is not the hash of its fields.
    #[error("the seal's id does not match its fields")]
    SealId,
    /// The seal's signature is wrong, so nobody vouches for the message.
    #[error("the seal's signature is wrong")]
    SealSignature,
    /// The seal's content does not decrypt between sender and us (NIP-44).
    #[error("the seal does not decrypt with this key")]
    SealUndecipherable,
    /// What was in the seal is no unsigned event.
    #[error("the message inside is not a Nostr event")]
    RumorMalformed,
    /// The message names another author than who sealed it (NIP-17: impersonation).
    #[error("the message names another author than who sealed it")]
    Impersonation,
    /// The message claims an id that is not the hash of its fields.
    #[error("the message claims an id that does not match its fields")]
    RumorId,
}

impl UnwrapError {
    /// Whether the wrap is not the event whose id it carries, as far as was checked.
    pub(crate) fn is_forged_wrap(self) -> bool {
        matches!(
            self,
            Self::NotAWrap(_) | Self::NotForUs | Self::WrapId | Self::WrapSignature
        )
    }
}

/// Opens a wrap as `reader`: wrap kind, addressee, id and signature; seal kind, empty tags, id and signature; same author in
/// seal and rumor; the rumor's id computed, and a claimed id refused when it differs.
pub fn unwrap(reader: &Identity, wrap: &Event) -> Result<Message, UnwrapError> {
    check_wrap(reader, wrap)?;
    let seal = reader
        .open(&wrap.pubkey, &wrap.content)
        .map_err(|()| UnwrapError::WrapUndecipherable)?;
    let seal = Event::from_json(seal).map_err(|_| UnwrapError::SealMalformed)?;
    check_seal(&seal)?;
    let rumor = reader
        .open(&seal.pubkey, &seal.content)
        .map_err(|()| UnwrapError::SealUndecipherable)?;
    let rumor = UnsignedEvent::from_json(rumor).map_err(|_| UnwrapError::RumorMalformed)?;
    let id = check_rumor(&seal, &rumor)?;
    Ok(message(id, rumor, wrap))
}

fn check_wrap(reader: &Identity, wrap: &Event) -> Result<(), UnwrapError> {
    let kind = wrap.kind.as_u16();
    if kind != WRAP && kind != EPHEMERAL_WRAP {
        return Err(UnwrapError::NotAWrap(kind));
    }
    if !wrap
        .tags
        .public_keys()
        .any(|key| key == reader.public_key())
    {
        return Err(UnwrapError::NotForUs);
    }
    if !wrap.verify_id() {
        return Err(UnwrapError::WrapId);
    }
    if !wrap.verify_signature() {
        return Err(UnwrapError::WrapSignature);
    }
    Ok(())
}

fn check_seal(seal: &Event) -> Result<(), UnwrapError> {
    if seal.kind != Kind::Seal {
        return Err(UnwrapError::SealKind(seal.kind.as_u16()));
    }
    if !seal.tags.is_empty() {
        return Err(UnwrapError::SealTags);
    }
    if !seal.verify_id() {
        return Err(UnwrapError::SealId);
    }
    if !seal.verify_signature() {
        return Err(UnwrapError::SealSignature);
    }
    Ok(())
}

fn check_rumor(seal: &Event, rumor: &UnsignedEvent) -> Result<EventId, UnwrapError> {
    if rumor.pubkey != seal.pubkey {
        return Err(UnwrapError::Impersonation);
    }
    let computed = rumor.compute_id();
    match rumor.id {
        Some(claimed) if claimed != computed => Err(UnwrapError::RumorId),
        _ => Ok(computed),
    }
}

fn message(id: EventId, rumor: UnsignedEvent, wrap: &Event) -> Message {
    let tag = |name: &str| {
        rumor
            .tags
            .iter()
            .find(|tag| tag.kind() == name)
            .and_then(|tag| tag.content())
    };
    let millis = tag(MILLISECONDS_TAG)
        .and_then(|text| text.parse::<u64>().ok())
        .filter(|ms| *ms < 1000)
        .unwrap_or(0);
    Message {
        id,
        from: rumor.pubkey,
        to: rumor.tags.public_keys().collect(),
        kind: rumor.kind.as_u16(),
        written_ms: rumor
            .created_at
            .as_secs()
            .saturating_mul(1000)
            .saturating_add(millis),
        subject: tag("subject").map(str::to_owned),
        content: rumor.content,
        wrap_id: wrap.id,
        ephemeral: wrap.kind.as_u16() == EPHEMERAL_WRAP,
    }
}

#[cfg(test)]
#[path = "unwrap_tests.rs"]
mod tests;
