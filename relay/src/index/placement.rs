//! Where the log has an event: every position, and the latest NATS timestamp, which retention counts from.

use heed::{RoTxn, RwTxn};
use nightjar_envelope::{PositionVector, StreamName};

use super::keys;
use super::rules::time_of;
use super::tables::{Tables, keys_under, put_key};
use super::{IndexError, LogPosition, LogTime};
use crate::event::EventId;

/// Stands for "position not known yet"; after every slot.
pub(super) const UNPLACED: [u8; 10] = [0xff; 10];
const NO_LIMIT: usize = usize::MAX;

/// A position as the tables have it: stream number and sequence.
pub(super) type Slot = [u8; 10];

/// The slot of a position; the stream gets a number if it has none.
pub(super) fn slot_of(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    at: Option<&(StreamName, u64)>,
) -> Result<Slot, IndexError> {
    let Some((stream, seq)) = at else {
        return Ok(UNPLACED);
    };
    let name = stream.to_string();
    let number = match tables.streams.get(txn, name.as_bytes())? {
        Some(number) => number
            .try_into()
            .map_err(|_| IndexError::Damaged { table: "streams" })?,
        None => {
            let number = u16::try_from(tables.streams.len(txn)?)
                .unwrap_or(u16::MAX - 1)
                .to_be_bytes();
            tables.streams.put(txn, name.as_bytes(), &number)?;
            number
        }
    };
    let mut slot = [0; 10];
    slot[..2].copy_from_slice(&number);
    slot[2..].copy_from_slice(&seq.to_be_bytes());
    Ok(slot)
}

/// Notes that the log has `id` at `slot`. A timestamp already there is replaced by that of NATS alone.
pub(super) fn add(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    id: &EventId,
    slot: &Slot,
    log_time: LogTime,
) -> Result<(), IndexError> {
    if *slot == UNPLACED {
        if keys_under(tables.placements, txn, id, 1)?.is_empty() {
            tables.placements.put(
                txn,
                &[id.as_slice(), slot].concat(),
                &log_time.millis().to_be_bytes(),
            )?;
        }
        return Ok(());
    }
    tables
        .placements
        .delete(txn, &[id.as_slice(), &UNPLACED].concat())?;
    let key = [id.as_slice(), slot].concat();
    if matches!(log_time, LogTime::Nats(_)) || tables.placements.get(txn, &key)?.is_none() {
        tables
            .placements
            .put(txn, &key, &log_time.millis().to_be_bytes())?;
    }
    Ok(())
}

/// All slots of an event, in order.
pub(super) fn slots(
    tables: &Tables,
    txn: &RoTxn<'_>,
    id: &EventId,
) -> Result<Vec<Slot>, IndexError> {
    let keys = keys_under(tables.placements, txn, id, NO_LIMIT)?;
    let slots: Option<Vec<Slot>> = keys
        .iter()
        .map(|key| key.last_chunk::<10>().copied())
        .collect();
    let mut slots = slots.ok_or(IndexError::Damaged {
        table: "placements",
    })?;
    slots.retain(|slot| *slot != UNPLACED);
    Ok(slots)
}

/// Forgets where an event is.
pub(super) fn forget(tables: &Tables, txn: &mut RwTxn<'_>, id: &EventId) -> Result<(), IndexError> {
    for key in keys_under(tables.placements, txn, id, NO_LIMIT)? {
        tables.placements.delete(txn, &key)?;
    }
    Ok(())
}

/// Notes an entry below its coordinate's floor for the sweeper.
pub(super) fn add_superseded(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    slot: &Slot,
    coordinate: &[u8],
) -> Result<(), IndexError> {
    if *slot != UNPLACED {
        tables.superseded.put(txn, slot, coordinate)?;
    }
    Ok(())
}

/// Brings the retention queue of a stored message up to date with its positions.
pub(super) fn refresh_log_time(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    id: &EventId,
) -> Result<(), IndexError> {
    let mut latest = None;
    for row in tables.placements.prefix_iter(txn, id)? {
        latest = latest.max(time_of(Some(row?.1), "placements")?);
    }
    let old = log_time(tables, txn, id)?;
    if old == latest {
        return Ok(());
    }
    forget_log_time(tables, txn, id)?;
    if let Some(latest) = latest {
        tables.log_times.put(txn, id, &latest.to_be_bytes())?;
        put_key(tables.retention, txn, &keys::due(latest, id))?;
    }
    Ok(())
}

/// Latest NATS timestamp of a stored message, in milliseconds.
pub(super) fn log_time(
    tables: &Tables,
    txn: &RoTxn<'_>,
    id: &EventId,
) -> Result<Option<u64>, IndexError> {
    time_of(tables.log_times.get(txn, id)?, "log_times")
}

/// Takes a message out of the retention queue.
pub(super) fn forget_log_time(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    id: &EventId,
) -> Result<(), IndexError> {
    if let Some(old) = log_time(tables, txn, id)? {
        tables.retention.delete(txn, &keys::due(old, id))?;
        tables.log_times.delete(txn, id)?;
    }
    Ok(())
}

/// What the pull consumer has applied.
pub(super) fn read_position(
    tables: &Tables,
    txn: &RoTxn<'_>,
) -> Result<PositionVector, IndexError> {
    let mut position = PositionVector::default();
    for row in tables.position.iter(txn)? {
        let (name, seq) = row?;
        let damaged = || IndexError::Damaged { table: "position" };
        position.advance(
            &read_name(name).ok_or_else(damaged)?,
            keys::read_u64(seq).ok_or_else(damaged)?,
        );
    }
    Ok(position)
}

/// The names of the stream numbers.
pub(super) struct StreamNames(Vec<([u8; 2], StreamName)>);

impl StreamNames {
    pub(super) fn read(tables: &Tables, txn: &RoTxn<'_>) -> Result<StreamNames, IndexError> {
        let mut names = Vec::new();
        for row in tables.streams.iter(txn)? {
            let (name, number) = row?;
            let number = number.try_into().ok();
            let pair = number
                .zip(read_name(name))
                .ok_or(IndexError::Damaged { table: "streams" })?;
            names.push(pair);
        }
        Ok(StreamNames(names))
    }

    /// The streams and their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = ([u8; 2], &StreamName)> {
        self.0.iter().map(|(number, name)| (*number, name))
    }

    /// The position a slot stands for.
    pub(super) fn position(&self, slot: &Slot) -> Result<LogPosition, IndexError> {
        let (number, seq) = slot.split_at(2);
        let found = self
            .0
            .iter()
            .find(|(candidate, _)| candidate == number)
            .map(|(_, name)| name.clone());
        let seq = keys::read_u64(seq);
        found
            .zip(seq)
            .map(|(stream, seq)| LogPosition { stream, seq })
            .ok_or(IndexError::Damaged { table: "streams" })
    }
}

fn read_name(bytes: &[u8]) -> Option<StreamName> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}
