//! From an envelope to an event or a management call: opened, parsed, and checked against what its subject claims. Pure.

use std::sync::Arc;

use nightjar_envelope::{
    BodyKind, Class, DamageReason, FleetId, KeyEpoch, Keyring, OpenError, Route, TraceContext,
};

use crate::event::{Event, EventError};
use crate::index::Logged;
use crate::management::record::{RecordError, SignedChange};

/// What came out of an envelope.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) content: Logged,
    /// When its relay admitted it, in milliseconds since the epoch.
    pub(crate) admitted_ms: u64,
    pub(crate) trace: Option<TraceContext>,
}

/// Why an envelope gives nothing.
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
    /// The body is no management call that this version knows. A relay of a later version writes new calls only once every relay reads
    /// them.
    #[error("the body is no management call: {}", without_id_of_call(.0))]
    Call(#[from] RecordError),
    /// A management call that is not under a subject of state.
    #[error("a management call under a subject of another class")]
    CallClass,
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
            Self::Class { .. } | Self::CallClass => "class",
            Self::Call(_) => "call",
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

fn without_id_of_call(error: &RecordError) -> String {
    match error {
        RecordError::Event(error) => format!("the call is not signed: {}", without_id(error)),
        other => other.to_string(),
    }
}

/// Opens one envelope. The signature of an event is not checked again: the relay that sealed it belongs to the same trust domain. That
/// of a management call is: there are few of them, and each rules over the whole fleet.
pub(crate) fn open(
    keyring: &Keyring,
    fleet: &FleetId,
    route: &Route,
    envelope: &[u8],
) -> Result<Opened, OpeningError> {
    let body = nightjar_envelope::open(keyring, fleet, route, envelope)?;
    let content = match body.kind {
        BodyKind::Event => open_event(&body.json, route)?,
        BodyKind::Management if route.class != Class::State => return Err(OpeningError::CallClass),
        BodyKind::Management => Logged::Change(Arc::new(SignedChange::open(&body.json)?)),
    };
    Ok(Opened {
        content,
        admitted_ms: body.admitted_ms,
        trace: body.trace,
    })
}

fn open_event(json: &[u8], route: &Route) -> Result<Logged, OpeningError> {
    let event = Event::parse(json)?;
    event.verify_id()?;
    if event.class() != route.class {
        return Err(OpeningError::Class { kind: event.kind });
    }
    Ok(Logged::Event(Arc::new(event)))
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
        let computed_of_call = EventError::IdMismatch {
            computed: computed.clone(),
        };
        let error = OpeningError::from(RecordError::from(computed_of_call));
        assert!(!error.to_string().contains(&computed), "{error}");
    }
}
