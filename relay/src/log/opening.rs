//! From an envelope to an event: opened, parsed, and checked against what its subject claims. Pure.

use std::sync::Arc;

use nightjar_envelope::{DamageReason, FleetId, KeyEpoch, Keyring, OpenError, Route, TraceContext};

use crate::event::{Event, EventError};

/// An event that came out of an envelope.
#[derive(Clone, Debug)]
pub(crate) struct OpenedEvent {
    pub(crate) event: Arc<Event>,
    /// When its relay admitted it, in milliseconds since the epoch.
    pub(crate) admitted_ms: u64,
    pub(crate) trace: Option<TraceContext>,
}

/// Why an envelope gives no event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpeningError {
    /// The key is not here yet: the position stops.
    #[error("key epoch {0} is not in the keyring")]
    UnknownEpoch(KeyEpoch),
    /// The key was destroyed on purpose: skip and count.
    #[error("key epoch {0} was destroyed")]
    DestroyedEpoch(KeyEpoch),
    /// The subject is none of ours: skip, count, keep a record.
    #[error("the subject is no route of the fleet")]
    Subject,
    /// Known key, bad content: skip, count, keep a record.
    #[error("damaged envelope: {0}")]
    Damaged(DamageReason),
    /// The envelope's version is not known: skipped like damage. A new version is sealed only once every relay opens it,
    /// and waiting would let one bad byte stop a stream for ever.
    #[error("envelope version {0} is not known")]
    Version(u8),
    /// The body is no event with the right id.
    #[error("the body is no event: {}", without_id(.0))]
    Event(#[from] EventError),
    /// The event belongs to another class than its subject says.
    #[error("kind {kind} under a subject of another class")]
    Class {
        /// The event's kind.
        kind: u16,
    },
}

impl OpeningError {
    /// The label of `nj_log_skipped_entries_total`.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::UnknownEpoch(_) => "unknown-epoch",
            Self::DestroyedEpoch(_) => "destroyed-epoch",
            Self::Subject => "subject",
            Self::Damaged(_) => "damaged",
            Self::Version(_) => "version",
            Self::Event(_) => "event",
            Self::Class { .. } => "class",
        }
    }
}

impl From<OpenError> for OpeningError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::UnknownEpoch(epoch) => Self::UnknownEpoch(epoch),
            OpenError::DestroyedEpoch(epoch) => Self::DestroyedEpoch(epoch),
            OpenError::Damaged(reason) => Self::Damaged(reason),
            OpenError::UnsupportedVersion(version) => Self::Version(version),
        }
    }
}

/// The client that sent an event may read its id in the answer; logs and quarantine records may not hold it.
fn without_id(error: &EventError) -> String {
    match error {
        EventError::IdMismatch { .. } => "invalid: id does not match the event".to_owned(),
        other => other.to_string(),
    }
}

/// Opens one envelope. The signature is not checked again: the relay that sealed it belongs to the same trust domain.
pub(crate) fn open(
    keyring: &Keyring,
    fleet: &FleetId,
    route: &Route,
    envelope: &[u8],
) -> Result<OpenedEvent, OpeningError> {
    let body = nightjar_envelope::open(keyring, fleet, route, envelope)?;
    let event = Event::parse(&body.event_json)?;
    event.verify_id()?;
    if event.class() != route.class {
        return Err(OpeningError::Class { kind: event.kind });
    }
    Ok(OpenedEvent {
        event: Arc::new(event),
        admitted_ms: body.admitted_ms,
        trace: body.trace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_for_logs_holds_no_event_id() {
        let computed = "ab".repeat(32);
        let error = OpeningError::from(EventError::IdMismatch {
            computed: computed.clone(),
        });
        assert!(!error.to_string().contains(&computed), "{error}");
    }
}
