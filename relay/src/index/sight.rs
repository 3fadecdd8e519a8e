//! What of the tables may still be seen: not expired, not past its retention, not banned. Who may see it is another question (`visibility`).

use heed::RoTxn;
use nightjar_envelope::Class;

use super::IndexError;
use super::lists;
use super::placement;
use super::record::Record;
use super::rules::Clock;
use super::tables::Tables;
use crate::event::{EventId, class_of};

/// The sight of one query.
#[derive(Debug)]
pub(super) struct Sight {
    clock: Clock,
    /// Whether there may be bans, as of the batch under way.
    has_bans: bool,
}

impl Sight {
    pub(super) fn new(clock: Clock) -> Sight {
        Sight {
            clock,
            has_bans: false,
        }
    }

    /// Looks for bans. Called at the beginning of each batch.
    pub(super) fn begin(&mut self, tables: &Tables, txn: &RoTxn<'_>) -> Result<(), IndexError> {
        self.has_bans = lists::has_bans(tables, txn)?;
        Ok(())
    }

    /// Whether a stored event is still to be seen.
    pub(super) fn shows(
        &self,
        tables: &Tables,
        txn: &RoTxn<'_>,
        id: &EventId,
        record: &Record<'_>,
    ) -> Result<bool, IndexError> {
        if self.clock.is_expired(record.expiration) {
            return Ok(false);
        }
        if self.has_bans && lists::hides(tables, txn, id, &record.pubkey, &record.audience)? {
            return Ok(false);
        }
        if class_of(record.kind) != Class::Messages {
            return Ok(true);
        }
        let log_time_ms = placement::log_time(tables, txn, id)?;
        Ok(!self.clock.is_aged_out(log_time_ms))
    }
}
