//! Rows of one stored event: writing, finding and erasing them. Public and private events never share a table.

use heed::{RoTxn, RwTxn};

use super::IndexError;
use super::arrival;
use super::keys::{self, Place};
use super::placement;
use super::record::{Record, Subject, encode};
use super::rules::Floor;
use super::tables::{Table, Tables, put_key};
use crate::event::{Event, EventId, PublicKey};

/// Writes a visible event and its index rows.
pub(super) fn insert(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    event: &Event,
    subject: &Subject,
) -> Result<(), IndexError> {
    let record = encode(event);
    if matches!(subject.audience, crate::event::Audience::Public) {
        tables.events.put(txn, &subject.id, &record)?;
    } else {
        for reader in subject.readers() {
            tables
                .private_events
                .put(txn, &keys::private(reader, &subject.id), &record)?;
        }
        tables
            .owners
            .put(txn, &subject.id, &subject.readers().concat())?;
    }
    for (table, key) in rows(tables, subject) {
        put_key(table, txn, &key)?;
    }
    if let Some(time) = subject.expiration {
        put_key(tables.expirations, txn, &keys::due(time, &subject.id))?;
    }
    Ok(())
}

/// The rows that lead to an event, apart from its record.
fn rows(tables: &Tables, subject: &Subject) -> Vec<(Table, Vec<u8>)> {
    let place = Place::new(subject.created_at, subject.id);
    let kind = subject.kind.to_be_bytes();
    let mut rows = Vec::with_capacity(4 + subject.letters.len());
    if matches!(subject.audience, crate::event::Audience::Public) {
        rows.push((tables.by_time, place.under(&[])));
        rows.push((tables.by_kind, place.under(&kind)));
        rows.push((tables.by_author, place.under(&subject.pubkey)));
        rows.push((
            tables.by_author_kind,
            place.under(&keys::author_kind(&subject.pubkey, subject.kind)),
        ));
        rows.extend(
            subject
                .letters
                .iter()
                .map(|(letter, value)| (tables.by_tag, place.under(&keys::tag(*letter, value)))),
        );
    } else {
        for reader in subject.readers() {
            rows.push((tables.private_by_time, place.under(reader)));
            rows.push((
                tables.private_by_kind,
                place.under(&keys::private(reader, &kind)),
            ));
        }
        rows.push((tables.private_authors, place.under(&subject.pubkey)));
    }
    rows
}

/// Whether the event itself is stored.
pub(super) fn is_stored(
    tables: &Tables,
    txn: &RoTxn<'_>,
    id: &EventId,
) -> Result<bool, IndexError> {
    Ok(tables.events.get(txn, id)?.is_some() || tables.owners.get(txn, id)?.is_some())
}

/// The stored event, wherever it is. For rules, never for queries.
pub(super) fn find<'t>(
    tables: &Tables,
    txn: &'t RoTxn<'_>,
    id: &EventId,
) -> Result<Option<Record<'t>>, IndexError> {
    if let Some(row) = tables.events.get(txn, id)? {
        return Record::decode(row, "events").map(Some);
    }
    let Some(owners) = tables.owners.get(txn, id)? else {
        return Ok(None);
    };
    let damaged = || IndexError::Damaged { table: "owners" };
    let reader: &PublicKey = owners.first_chunk::<32>().ok_or_else(damaged)?;
    let row = tables
        .private_events
        .get(txn, &keys::private(reader, id))?
        .ok_or_else(damaged)?;
    Record::decode(row, "private_events").map(Some)
}

/// Erases an event and its rows, if it is stored. The floor holder of a coordinate keeps its positions: the sweeper needs
/// to know that the log has it.
pub(super) fn erase(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    id: &EventId,
) -> Result<bool, IndexError> {
    let Some(record) = find(tables, txn, id)? else {
        return Ok(false);
    };
    let subject = record.subject(*id)?;
    for (table, key) in rows(tables, &subject) {
        table.delete(txn, &key)?;
    }
    tables.events.delete(txn, id)?;
    for reader in subject.readers() {
        tables
            .private_events
            .delete(txn, &keys::private(reader, id))?;
    }
    tables.owners.delete(txn, id)?;
    arrival::forget(tables, txn, &subject)?;
    if let Some(time) = subject.expiration {
        tables.expirations.delete(txn, &keys::due(time, id))?;
    }
    placement::forget_log_time(tables, txn, id)?;
    let floor = match &subject.coordinate {
        Some(coordinate) => Floor::read(tables, txn, coordinate)?,
        None => None,
    };
    if floor.is_none_or(|floor| floor.id != *id) {
        placement::forget(tables, txn, id)?;
    }
    Ok(true)
}
