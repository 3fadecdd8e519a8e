//! The arrival cursor as a relay gives and takes it: `docs/proposals/0001-arrival-cursor.md`.

use bytes::Bytes;
use nightjar_envelope::{Cursor, CursorError, FleetId, PositionVector, ReaderTag, StreamName};
use thiserror::Error;

use crate::log::Keys;
use crate::visibility::Readers;

/// Makes and opens cursors under the fleet's keys as they are now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cursors {
    keys: Keys,
    fleet: FleetId,
}

/// Why a REQ with a cursor is refused. `Display` is the reason of the CLOSED, with its prefix, and says how to go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CursorRefusal {
    /// It cannot be opened.
    #[error("invalid: cursor: {0}; begin again with an empty cursor")]
    Unusable(#[from] CursorError),
    /// Older than the log: what arrived after it may have been deleted by age already.
    #[error(
        "invalid: cursor: it was made {age_s} s ago, messages are kept for {retention_s} s; begin again with an empty cursor"
    )]
    TooOld {
        /// Its age in seconds.
        age_s: u64,
        /// How long messages are kept, in seconds.
        retention_s: u64,
    },
    /// Somebody has authenticated of whose private messages it does not speak: they were not sent then.
    #[error(
        "invalid: cursor: it does not speak of the private messages of every key of this connection; begin again with an empty cursor"
    )]
    Readers,
    /// The filters of one REQ do not agree.
    #[error("invalid: cursor: the filters of a REQ that name one must name the same")]
    Differ,
    /// The keyring has not been read.
    #[error("error: the relay has no keys yet, ask again")]
    NoKeys,
}

/// What a REQ asks for by its cursor.
#[derive(Clone, Debug)]
pub struct Resume {
    cursors: Cursors,
    /// Of whose private messages the next cursor speaks.
    readers: Vec<ReaderTag>,
    /// Where to go on; none: a cursor is wanted for the first time.
    after: Option<PositionVector>,
}

impl Cursors {
    /// Cursors of a fleet.
    pub fn new(keys: Keys, fleet: FleetId) -> Self {
        Self { keys, fleet }
    }

    /// Takes the `cursor` of a REQ: a text that this fleet made, or nothing, to get one.
    ///
    /// `is_private`: gift wraps may match. Only then does the next cursor speak of the private messages of who has authenticated, and only
    /// where this one does.
    pub fn take(
        &self,
        text: &str,
        readers: &Readers,
        is_private: bool,
        retention_s: u64,
        now_s: u64,
    ) -> Result<Resume, CursorRefusal> {
        let mut tags: Vec<ReaderTag> = readers.iter().map(Cursor::reader_tag).collect();
        let after = if text.is_empty() {
            if !is_private {
                tags.clear();
            }
            None
        } else {
            let keyring = self.keys.current().ok_or(CursorRefusal::NoKeys)?;
            let cursor = Cursor::open(&keyring, &self.fleet, text)?;
            let age_s = now_s.saturating_sub(cursor.issued_s);
            if age_s > retention_s {
                return Err(CursorRefusal::TooOld { age_s, retention_s });
            }
            if is_private && !tags.iter().all(|tag| cursor.readers.contains(tag)) {
                return Err(CursorRefusal::Readers);
            }
            tags.retain(|tag| cursor.readers.contains(tag));
            Some(cursor.position)
        };
        Ok(Resume {
            cursors: self.clone(),
            readers: tags,
            after,
        })
    }
}

impl Resume {
    /// Where to go on.
    pub fn after(&self) -> Option<&PositionVector> {
        self.after.as_ref()
    }

    /// Whether an event at this place of the log was sent before: another relay was further than this one.
    pub fn was_sent(&self, stream: &StreamName, seq: u64) -> bool {
        self.after
            .as_ref()
            .is_some_and(|after| seq <= after.get(stream))
    }

    /// A cursor at this position; none while there are no keys.
    pub fn cursor(&self, position: PositionVector, now_s: u64) -> Option<String> {
        let keyring = self.cursors.keys.current()?;
        let cursor = Cursor {
            position,
            issued_s: now_s,
            readers: self.readers.clone(),
        };
        cursor
            .seal(&keyring, &self.cursors.fleet)
            .inspect_err(|error| tracing::error!(%error, "no cursor was made"))
            .ok()
    }
}

/// An event and the cursor that goes with it, as they stand in a frame.
pub(crate) fn beside(json: &Bytes, cursor: &str) -> Bytes {
    let mut bytes = Vec::with_capacity(json.len() + cursor.len() + 3);
    bytes.extend_from_slice(json);
    // Base64url needs no escapes.
    bytes.extend_from_slice(b",\"");
    bytes.extend_from_slice(cursor.as_bytes());
    bytes.push(b'"');
    Bytes::from(bytes)
}
