//! A management call as the log carries it: the administrator's own signed NIP-98 event, and the body that it is about. Pure.
//!
//! The relay that admitted it checked who its administrators are. Everyone else checks again that the event was signed and that
//! the body is the one it names, so that no region can make up a call.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::call::{self, Call, CallError};
use super::lists::{Change, Stamp};
use crate::event::{Event, EventError, EventId, PublicKey};
use crate::http_auth::{self, HttpAuthError};

/// Why the body of an envelope is no management call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not the two fields.
    #[error("not a signed call")]
    Form,
    /// The event is none, or not signed by its key.
    #[error("the call is not signed: {0}")]
    Event(#[from] EventError),
    /// The event is no NIP-98 event for this body.
    #[error("the call is not signed: {0}")]
    Auth(#[from] HttpAuthError),
    /// The body is none that this version knows.
    #[error("{0}")]
    Call(#[from] CallError),
    /// It changes nothing.
    #[error("the call changes nothing")]
    Read,
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    auth: &'a RawValue,
    body: String,
}

/// A change of the fleet's lists and the signature under it.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedChange {
    /// When it was signed, and its id.
    pub stamp: Stamp,
    /// Who signed it.
    pub signer: PublicKey,
    /// What changes.
    pub change: Change,
    json: Bytes,
}

/// Shows the size only: who was banned by whom stays out of logs.
impl std::fmt::Debug for SignedChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedChange")
            .field("json_len", &self.json.len())
            .finish_non_exhaustive()
    }
}

impl SignedChange {
    /// Of a verified NIP-98 event, the body that it names, and what this body changes.
    pub fn new(auth: &Event, body: &str, change: Change) -> Result<Self, RecordError> {
        let wire = Wire {
            auth: serde_json::from_slice(auth.json()).map_err(|_| RecordError::Form)?,
            body: body.to_owned(),
        };
        let json = serde_json::to_vec(&wire).map_err(|_| RecordError::Form)?;
        Ok(Self::with(auth, change, json.into()))
    }

    fn with(auth: &Event, change: Change, json: Bytes) -> Self {
        Self {
            stamp: Stamp {
                created_at: auth.created_at,
                id: auth.id,
            },
            signer: auth.pubkey,
            change,
            json,
        }
    }

    /// Reads what another relay wrote, and checks the signature and the hash of the body.
    pub fn open(json: &[u8]) -> Result<Self, RecordError> {
        let wire: Wire<'_> = serde_json::from_slice(json).map_err(|_| RecordError::Form)?;
        let auth = Event::parse(wire.auth.get().as_bytes())?;
        http_auth::check_call(&auth, wire.body.as_bytes())?;
        auth.verify()?;
        match call::parse(wire.body.as_bytes()).1? {
            Call::Change(change) => Ok(Self::with(&auth, change, Bytes::copy_from_slice(json))),
            Call::Read(_) | Call::SupportedMethods => Err(RecordError::Read),
        }
    }

    /// Its id: that of the signed event.
    pub fn id(&self) -> &EventId {
        &self.stamp.id
    }

    /// What is sealed.
    pub fn json(&self) -> &Bytes {
        &self.json
    }
}

#[cfg(test)]
mod tests {
    use nostr::event::{EventBuilder, FinalizeEvent, Kind, Tag};
    use nostr::key::Keys;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    const BODY: &str = r#"{"method":"banevent","params":["abababababababababababababababababababababababababababababababab","\u0000 \"why\""]}"#;

    fn auth(body: &str) -> Event {
        let payload = hex::encode(Sha256::digest(body));
        let tags = [
            ["method", "POST"],
            ["u", "https://relay.test/"],
            ["payload", &payload],
        ];
        let event = EventBuilder::new(Kind::from_u16(27_235), "")
            .tags(tags.map(|tag| Tag::parse(tag).expect("a tag")))
            .finalize(&Keys::generate())
            .expect("signed");
        Event::parse(serde_json::to_string(&event).expect("JSON").as_bytes()).expect("an event")
    }

    fn change(body: &str) -> Change {
        match call::parse(body.as_bytes()).1 {
            Ok(Call::Change(change)) => change,
            other => panic!("no change: {other:?}"),
        }
    }

    #[test]
    fn what_one_relay_writes_another_reads() {
        let written = SignedChange::new(&auth(BODY), BODY, change(BODY)).expect("a record");
        assert_eq!(SignedChange::open(written.json()), Ok(written.clone()));
        assert!(!format!("{written:?}").contains("why"));
    }

    #[test]
    fn another_body_or_signature_is_refused() {
        let event = auth(BODY);
        let other = BODY.replace("abab", "cdcd");
        let swapped = SignedChange::new(&event, &other, change(&other)).expect("a record");
        assert_eq!(
            SignedChange::open(swapped.json()),
            Err(RecordError::Auth(HttpAuthError::Payload))
        );
        let written = SignedChange::new(&event, BODY, change(BODY)).expect("a record");
        let text = String::from_utf8(written.json().to_vec()).expect("text");
        let forged = text.replace(&hex::encode(event.sig), &"03".repeat(64));
        assert_eq!(
            SignedChange::open(forged.as_bytes()),
            Err(RecordError::Event(EventError::BadSignature))
        );
    }

    #[test]
    fn what_changes_nothing_has_no_place_in_the_log() {
        let body = r#"{"method":"listbannedpubkeys","params":[]}"#;
        let written = SignedChange::new(&auth(body), body, change(BODY)).expect("a record");
        assert_eq!(SignedChange::open(written.json()), Err(RecordError::Read));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, body in "\\PC*") {
            let _ = SignedChange::open(&bytes);
            let wire = serde_json::json!({"auth": {}, "body": body});
            prop_assert!(SignedChange::open(wire.to_string().as_bytes()).is_err());
        }
    }
}
