//! One ordered walk over an index table, in small steps: it keeps keys, never a cursor, so it can wait without holding a
//! read transaction.

use std::collections::VecDeque;
use std::ops::Bound;

use heed::RoTxn;

use super::IndexError;
use super::keys::{self, Place};
use super::record::Record;
use super::tables::{Table, Tables};
use crate::event::{EventId, PublicKey};

/// Keys read at once: few at first, since most answers are short.
const FIRST_CHUNK: usize = 8;
const LAST_CHUNK: usize = 128;

/// Which events a scan can reach: the public ones, or those of one authenticated reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Public,
    Private(PublicKey),
}

impl Space {
    /// The record of an event in this space.
    pub(super) fn load<'t>(
        &self,
        tables: &Tables,
        txn: &'t RoTxn<'_>,
        id: &EventId,
    ) -> Result<Option<Record<'t>>, IndexError> {
        let (row, table) = match self {
            Space::Public => (tables.events.get(txn, id)?, "events"),
            Space::Private(reader) => (
                tables.private_events.get(txn, &keys::private(reader, id))?,
                "private_events",
            ),
        };
        row.map(|row| Record::decode(row, table)).transpose()
    }
}

/// A walk from newest to oldest.
#[derive(Debug)]
pub(super) struct Scan {
    /// Index of the filter it serves.
    pub(super) filter: usize,
    pub(super) space: Space,
    /// Whether events it finds may still fail the filter's tags.
    pub(super) check_tags: bool,
    source: Source,
    buffer: VecDeque<Place>,
}

#[derive(Debug)]
enum Source {
    /// Keys of a table between two bounds, both inclusive at first; `next` moves on.
    Range {
        table: Table,
        next: Bound<Vec<u8>>,
        last: Vec<u8>,
        chunk: usize,
    },
    /// Ids still to be looked up.
    Ids(Vec<EventId>),
    /// All places are in the buffer.
    Exhausted,
}

impl Scan {
    /// Walks the rows of `table` under `prefix` between two times.
    pub(super) fn over(
        filter: usize,
        space: Space,
        table: Table,
        prefix: &[u8],
        since: Option<u64>,
        until: Option<u64>,
        check_tags: bool,
    ) -> Scan {
        let next = Bound::Included(Place::newest(until).under(prefix));
        let last = Place::oldest(since).under(prefix);
        let source = Source::Range {
            table,
            next,
            last,
            chunk: FIRST_CHUNK,
        };
        Scan {
            filter,
            space,
            check_tags,
            source,
            buffer: VecDeque::new(),
        }
    }

    /// Looks up events by id.
    pub(super) fn of_ids(filter: usize, space: Space, ids: Vec<EventId>, check_tags: bool) -> Scan {
        Scan {
            filter,
            space,
            check_tags,
            source: Source::Ids(ids),
            buffer: VecDeque::new(),
        }
    }

    /// The next place, without going past it.
    pub(super) fn peek(
        &mut self,
        tables: &Tables,
        txn: &RoTxn<'_>,
    ) -> Result<Option<Place>, IndexError> {
        if self.buffer.is_empty() {
            self.refill(tables, txn)?;
        }
        Ok(self.buffer.front().copied())
    }

    /// Goes past the place that [`Scan::peek`] showed.
    pub(super) fn step(&mut self) {
        self.buffer.pop_front();
    }

    /// How many rows it has, counted up to `max`.
    pub(super) fn count(&self, txn: &RoTxn<'_>, max: usize) -> Result<usize, IndexError> {
        match &self.source {
            Source::Range {
                table, next, last, ..
            } => {
                let bounds = (
                    next.as_ref().map(Vec::as_slice),
                    Bound::Included(last.as_slice()),
                );
                let mut count = 0;
                for row in table.range(txn, &bounds)?.take(max) {
                    row?;
                    count += 1;
                }
                Ok(count)
            }
            Source::Ids(ids) => Ok(ids.len()),
            Source::Exhausted => Ok(0),
        }
    }

    fn refill(&mut self, tables: &Tables, txn: &RoTxn<'_>) -> Result<(), IndexError> {
        match &mut self.source {
            Source::Range {
                table,
                next,
                last,
                chunk,
            } => {
                let bounds = (
                    next.as_ref().map(Vec::as_slice),
                    Bound::Included(last.as_slice()),
                );
                let mut last_key = Vec::new();
                for row in table.range(txn, &bounds)?.take(*chunk) {
                    let (key, _) = row?;
                    self.buffer.push_back(
                        Place::from_key(key).ok_or(IndexError::Damaged { table: "by_*" })?,
                    );
                    last_key.clear();
                    last_key.extend_from_slice(key);
                }
                if self.buffer.len() < *chunk {
                    self.source = Source::Exhausted;
                } else {
                    *next = Bound::Excluded(last_key);
                    *chunk = (*chunk * 2).min(LAST_CHUNK);
                }
            }
            Source::Ids(ids) => {
                let mut places = Vec::with_capacity(ids.len());
                for id in ids.iter() {
                    let record = self.space.load(tables, txn, id)?;
                    places.extend(record.map(|record| Place::new(record.created_at, *id)));
                }
                places.sort_unstable();
                self.buffer = places.into();
                self.source = Source::Exhausted;
            }
            Source::Exhausted => {}
        }
        Ok(())
    }
}
