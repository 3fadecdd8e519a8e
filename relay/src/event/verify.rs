//! Id and signature of an event (NIP-01, BIP-340).

use nostr::event::{Event as NostrEvent, EventId as NostrEventId, Kind, Signature, Tags};
use nostr::key::PublicKey;
use nostr::types::Timestamp;
use sha2::{Digest, Sha256};

use super::{Event, EventError};

/// Compares the id with SHA-256 of `[0,pubkey,created_at,kind,tags,content]`.
pub(super) fn check_id(event: &Event) -> Result<(), EventError> {
    let computed = compute_id(event);
    if computed == event.id {
        Ok(())
    } else {
        Err(EventError::IdMismatch {
            computed: hex::encode(computed),
        })
    }
}

/// The normalised JSON already holds tags and content in canonical form, so they are hashed in place.
pub(super) fn compute_id(event: &Event) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(format!(
        "[0,\"{}\",{},{},",
        hex::encode(event.pubkey),
        event.created_at,
        event.kind
    ));
    hash.update(&event.json[event.tags_json.clone()]);
    hash.update(b",");
    hash.update(event.content_json());
    hash.update(b"]");
    hash.finalize().into()
}

/// `nostr` checks a signature against id and key alone; the other fields of its event are not read.
pub(super) fn check_signature(event: &Event) -> Result<(), EventError> {
    let signed = NostrEvent::new(
        NostrEventId::from_byte_array(event.id),
        PublicKey::from_byte_array(event.pubkey),
        Timestamp::from_secs(0),
        Kind::TextNote,
        Tags::new(),
        "",
        Signature::from_byte_array(event.sig),
    );
    if signed.verify_signature() {
        Ok(())
    } else {
        Err(EventError::BadSignature)
    }
}
