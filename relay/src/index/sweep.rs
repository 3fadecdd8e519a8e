//! Erasing what the clock has hidden, and naming log entries that newer ones have made useless.

use heed::{RoTxn, RwTxn};

use super::keys::{self, PLACE_LEN};
use super::placement::{self, Slot, StreamNames};
use super::rules::{Clock, Floor};
use super::tables::{Table, Tables};
use super::{IndexError, LogPosition, store};
use crate::event::EventId;

/// Erases at most `max` events past their expiration or retention. Floors and tombstones stay.
pub(super) fn erase_expired(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    clock: &Clock,
    max: usize,
) -> Result<usize, IndexError> {
    let mut ids = due(tables.expirations, txn, clock.now_s, max)?;
    if let Some(oldest_ms) = clock
        .now_s
        .saturating_mul(1000)
        .checked_sub(clock.retention_ms)
    {
        ids.extend(due(tables.retention, txn, oldest_ms, max - ids.len())?);
    }
    for id in &ids {
        store::erase(tables, txn, id)?;
    }
    Ok(ids.len())
}

/// Ids in a queue whose time has come.
fn due(queue: Table, txn: &RoTxn<'_>, until: u64, max: usize) -> Result<Vec<EventId>, IndexError> {
    let mut ids = Vec::new();
    for row in queue.iter(txn)?.take(max) {
        let (key, _) = row?;
        let key: &[u8; PLACE_LEN] = key
            .try_into()
            .map_err(|_| IndexError::Damaged { table: "queue" })?;
        if keys::read_u64(key).is_none_or(|time| time > until) {
            break;
        }
        ids.extend(key.last_chunk::<32>());
    }
    Ok(ids)
}

/// Entries below their floor that the log can do without: both they and an entry of the floor itself have passed the pull
/// consumer, so a rebuild finds the floor whatever becomes of them.
pub(super) fn removable(
    tables: &Tables,
    txn: &RoTxn<'_>,
    max: usize,
) -> Result<Vec<LogPosition>, IndexError> {
    let names = StreamNames::read(tables, txn)?;
    let position = placement::read_position(tables, txn)?;
    let is_confirmed = |at: &LogPosition| position.get(&at.stream) >= at.seq;
    let mut removable = Vec::new();
    for row in tables.superseded.iter(txn)? {
        if removable.len() == max {
            break;
        }
        let (slot, coordinate) = row?;
        let slot: &Slot = slot.try_into().map_err(|_| IndexError::Damaged {
            table: "superseded",
        })?;
        let at = names.position(slot)?;
        let Some(floor) = Floor::read(tables, txn, coordinate)? else {
            continue;
        };
        let mut floor_is_confirmed = false;
        for slot in placement::slots(tables, txn, &floor.id)? {
            floor_is_confirmed |= is_confirmed(&names.position(&slot)?);
        }
        if floor_is_confirmed && is_confirmed(&at) {
            removable.push(at);
        }
    }
    Ok(removable)
}

/// Forgets entries that are gone from the log.
pub(super) fn forget_removed(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    removed: &[LogPosition],
) -> Result<(), IndexError> {
    for at in removed {
        let slot = placement::slot_of(tables, txn, Some(&(at.stream.clone(), at.seq)))?;
        tables.superseded.delete(txn, &slot)?;
    }
    Ok(())
}
