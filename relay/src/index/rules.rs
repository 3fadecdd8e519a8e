//! What is visible, as a function of the set of entries applied and the time, never of their order.
//!
//! * A **floor** per coordinate is the greatest (`created_at`, then lowest id) ever applied, also of events that were
//!   deleted or expired by then. Nothing below it is visible, so a deleted version never uncovers an older one.
//! * A **tombstone** (target id, deleter) hides its target if the deleter is the author, or the recipient of a gift wrap.
//!   It does not expire, and works whichever of the two comes first. Kinds 5 and 62 cannot be deleted by id.
//! * Kind 5 with an `a` tag, and kind 62, hide what is not newer than they are. Kind 62 hides everything of its author
//!   but kind 62, and gift wraps to its author. A wrap that it hides gets a tombstone when it is applied: that tells one
//!   that was known from one that is published for the first time, which is answered as if nobody had vanished.
//! * Expiration (NIP-40) and retention (by the latest NATS timestamp of an event's positions) hide by the clock.
//!
//! * A **ban** (NIP-86) hides at output, for as long as it lasts; what is stored does not depend on it (see `lists`).
//!
//! Each of these but the last only ever hides more, and takes the greatest of what it has seen: so they commute.

use heed::RoTxn;

use super::keys;
use super::record::Subject;
use super::tables::Tables;
use super::{Applied, IndexError};
use crate::event::{EventId, PublicKey, kind};

/// The time as rules need it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// Unix time in seconds.
    pub(super) now_s: u64,
    /// How long messages are kept, in milliseconds.
    pub(super) retention_ms: u64,
}

impl Clock {
    /// NIP-40.
    pub(super) fn is_expired(&self, expiration: Option<u64>) -> bool {
        expiration.is_some_and(|time| time <= self.now_s)
    }

    /// Past the retention of messages.
    pub(super) fn is_aged_out(&self, log_time_ms: Option<u64>) -> bool {
        log_time_ms.is_some_and(|time| {
            time.saturating_add(self.retention_ms) <= self.now_s.saturating_mul(1000)
        })
    }
}

/// `New` if an event is visible as far as rules go; otherwise why not. `log_time_ms` is given for messages only.
pub(super) fn judge(
    tables: &Tables,
    txn: &RoTxn<'_>,
    subject: &Subject,
    log_time_ms: Option<u64>,
    clock: &Clock,
) -> Result<Applied, IndexError> {
    if is_deleted(tables, txn, subject)? {
        Ok(Applied::Deleted)
    } else if clock.is_expired(subject.expiration) || clock.is_aged_out(log_time_ms) {
        Ok(Applied::Expired)
    } else if is_below_floor(tables, txn, subject)? {
        Ok(Applied::Superseded)
    } else {
        Ok(Applied::New)
    }
}

/// Whether the event was deleted by its id.
pub(super) fn has_tombstone(
    tables: &Tables,
    txn: &RoTxn<'_>,
    subject: &Subject,
) -> Result<bool, IndexError> {
    for deleter in deleters(subject) {
        if tables
            .tombstones
            .get(txn, &keys::pair(&subject.id, &deleter))?
            .is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_deleted(tables: &Tables, txn: &RoTxn<'_>, subject: &Subject) -> Result<bool, IndexError> {
    if has_tombstone(tables, txn, subject)? {
        return Ok(true);
    }
    for key in vanishers(subject) {
        if time_of(tables.vanished.get(txn, &key)?, "vanished")?
            .is_some_and(|time| time >= subject.created_at)
        {
            return Ok(true);
        }
    }
    let Some(coordinate) = &subject.coordinate else {
        return Ok(false);
    };
    let deleted = time_of(
        tables.deleted_coordinates.get(txn, coordinate)?,
        "deleted_coordinates",
    )?;
    Ok(deleted.is_some_and(|time| time >= subject.created_at))
}

/// Whose deletion requests by id count.
pub(super) fn deleters(subject: &Subject) -> Vec<PublicKey> {
    match subject.kind {
        kind::DELETION | kind::VANISH => Vec::new(),
        kind::GIFT_WRAP => std::iter::once(subject.pubkey)
            .chain(subject.readers().iter().copied())
            .collect(),
        _ => vec![subject.pubkey],
    }
}

/// Whose requests to vanish count.
fn vanishers(subject: &Subject) -> Vec<PublicKey> {
    match subject.kind {
        kind::VANISH => Vec::new(),
        kind::GIFT_WRAP | kind::EPHEMERAL_GIFT_WRAP => std::iter::once(subject.pubkey)
            .chain(subject.readers().iter().copied())
            .collect(),
        _ => vec![subject.pubkey],
    }
}

fn is_below_floor(tables: &Tables, txn: &RoTxn<'_>, subject: &Subject) -> Result<bool, IndexError> {
    let Some(coordinate) = &subject.coordinate else {
        return Ok(false);
    };
    let floor = Floor::read(tables, txn, coordinate)?;
    Ok(floor.is_some_and(|floor| floor.beats(subject.created_at, &subject.id)))
}

/// The greatest version of a coordinate ever applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor {
    pub(super) created_at: u64,
    pub(super) id: EventId,
}

impl Floor {
    pub(super) fn read(
        tables: &Tables,
        txn: &RoTxn<'_>,
        coordinate: &[u8],
    ) -> Result<Option<Floor>, IndexError> {
        let Some(row) = tables.floors.get(txn, coordinate)? else {
            return Ok(None);
        };
        let parts = row.split_first_chunk::<8>();
        let floor = parts.and_then(|(time, id)| {
            Some(Floor {
                created_at: u64::from_be_bytes(*time),
                id: id.try_into().ok()?,
            })
        });
        floor
            .map(Some)
            .ok_or(IndexError::Damaged { table: "floors" })
    }

    pub(super) fn encode(&self) -> [u8; keys::PLACE_LEN] {
        keys::due(self.created_at, &self.id)
    }

    /// This version hides that one: it is newer, or as new with a lower id (NIP-01).
    pub(super) fn beats(&self, created_at: u64, id: &EventId) -> bool {
        self.created_at > created_at || (self.created_at == created_at && self.id < *id)
    }
}

/// Reads a row that holds one number.
pub(super) fn time_of(row: Option<&[u8]>, table: &'static str) -> Result<Option<u64>, IndexError> {
    row.map(|row| keys::read_u64(row).ok_or(IndexError::Damaged { table }))
        .transpose()
}
