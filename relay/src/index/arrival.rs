//! Rows that lead from a position of the log to the event there: what a cursor is answered from. An event at several positions has a row
//! for each; only stored events have rows.

use heed::RwTxn;

use super::IndexError;
use super::keys;
use super::placement::{Slot, UNPLACED};
use super::record::Subject;
use super::tables::{Table, Tables, keys_under, put_key};
use crate::event::Audience;

const NO_LIMIT: usize = usize::MAX;

/// Notes that a stored event is at `slot`. Called after `placement::add`.
pub(super) fn add(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    subject: &Subject,
    slot: &Slot,
) -> Result<(), IndexError> {
    // Whoever knows a position does not need the row for an unknown one.
    let placement = [subject.id.as_slice(), slot].concat();
    if tables.placements.get(txn, &placement)?.is_none() {
        return Ok(());
    }
    if *slot != UNPLACED {
        for (table, key) in rows(tables, subject, &UNPLACED) {
            table.delete(txn, &key)?;
        }
    }
    for (table, key) in rows(tables, subject, slot) {
        put_key(table, txn, &key)?;
    }
    Ok(())
}

/// Forgets every row of an event. Called before its placements are forgotten.
pub(super) fn forget(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    subject: &Subject,
) -> Result<(), IndexError> {
    for placement in keys_under(tables.placements, txn, &subject.id, NO_LIMIT)? {
        let slot: &Slot = placement.last_chunk().ok_or(IndexError::Damaged {
            table: "placements",
        })?;
        for (table, key) in rows(tables, subject, slot) {
            table.delete(txn, &key)?;
        }
    }
    Ok(())
}

fn rows(tables: &Tables, subject: &Subject, slot: &Slot) -> Vec<(Table, Vec<u8>)> {
    let row = [slot.as_slice(), &subject.id].concat();
    if matches!(subject.audience, Audience::Public) {
        return vec![(tables.arrivals, row)];
    }
    let readers = subject.readers().iter();
    readers
        .map(|reader| (tables.private_arrivals, keys::private(reader, &row)))
        .collect()
}
