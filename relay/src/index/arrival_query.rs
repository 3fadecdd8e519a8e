//! Answering a cursor: what arrived after a position, in the order of the positions, in batches that give up their read transaction.
//!
//! First everything that the pull consumer had applied when the query began, up to the filters' limits; then what this relay knows
//! beyond that (its own publishes), which no cursor speaks of yet. A page that ends early is exact: its position tells how far it came.
//! Filters that few rows of the index lead to are answered from those alone (see `gather`); the pages are the same.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::ops::{Bound, RangeBounds};
use std::sync::atomic;
use std::time::Instant;

use heed::RoTxn;
use nightjar_envelope::{PositionVector, StreamName};

use super::gather::{Budget, Steps, gather};
use super::placement::{self, Slot, StreamNames, UNPLACED};
use super::query::found;
use super::record::Record;
use super::rules::Clock;
use super::scan::Space;
use super::sight::Sight;
use super::tables::Table;
use super::{Batch, BatchLimits, Found, Index, IndexError};
use crate::event::EventId;
use crate::filter::Filter;
use crate::visibility::{Readers, may_read_audience};

/// Rows read at once.
const CHUNK: usize = 128;

/// A query over arrivals in progress. Owns what it needs, as [`super::Query`] does.
#[derive(Debug)]
pub struct ArrivalQuery {
    index: Index,
    readers: Readers,
    sight: Sight,
    /// Each filter and how many events it may still answer with.
    filters: Vec<(Filter, usize)>,
    /// What the client was sent before.
    after: PositionVector,
    /// What the pull consumer had applied when the query began.
    upto: PositionVector,
    /// The streams that this relay knows, in the order of their numbers.
    streams: Vec<Stream>,
    walks: Vec<Walk>,
    /// Walks below this number are in the heap, or done.
    primed: usize,
    heap: BinaryHeap<Reverse<(Slot, EventId, usize)>>,
    /// What no pull consumer has applied is being read.
    ahead: bool,
    /// The page ended before this slot was looked at, and after all before it.
    cut: Option<Slot>,
    looked_at: u64,
    most_looked_at: u64,
}

#[derive(Debug)]
struct Stream {
    number: [u8; 2],
    name: StreamName,
    after: u64,
    upto: u64,
}

/// First and last key; the first is left out once it was read.
type KeyRange = (Bound<Vec<u8>>, Vec<u8>);

/// The rows of one keyspace.
#[derive(Debug)]
struct Walk {
    space: Space,
    table: Table,
    /// What is still to be read.
    ranges: VecDeque<KeyRange>,
    buffer: VecDeque<(Slot, EventId)>,
}

/// What became of one row.
enum Step {
    End,
    Nothing,
    Match(Found),
    /// What is at this slot matches, and the limits of the filters that match are reached.
    Over(Slot),
}

impl ArrivalQuery {
    pub(super) fn new(
        index: &Index,
        filters: &[Filter],
        readers: &Readers,
        after: PositionVector,
        most_looked_at: u64,
        clock: Clock,
        budget: Budget,
    ) -> Result<ArrivalQuery, IndexError> {
        let txn = index.read_txn()?;
        let upto = placement::read_position(index.tables(), &txn)?;
        let names = StreamNames::read(index.tables(), &txn)?;
        let mut streams: Vec<Stream> = names
            .iter()
            .map(|(number, name)| Stream {
                number,
                name: name.clone(),
                after: after.get(name),
                upto: upto.get(name),
            })
            .collect();
        streams.sort_unstable_by_key(|stream| stream.number);
        let mut query = ArrivalQuery {
            index: index.clone(),
            readers: readers.clone(),
            sight: Sight::new(clock),
            filters: filters.iter().filter_map(with_limit).collect(),
            after,
            upto,
            streams,
            walks: Vec::new(),
            primed: 0,
            heap: BinaryHeap::new(),
            ahead: false,
            cut: None,
            looked_at: 0,
            most_looked_at,
        };
        let logged: Vec<_> = query.streams.iter().map(Stream::logged).collect();
        query.begin(&logged);
        query.gather(&logged, budget, &txn)?;
        Ok(query)
    }

    /// The next part of the answer. Holds a read transaction only while it runs; always makes some progress.
    pub fn next_batch(&mut self, limits: &BatchLimits) -> Result<Batch, IndexError> {
        let started = Instant::now();
        let index = self.index.clone();
        let txn = index.read_txn()?;
        self.sight.begin(index.tables(), &txn)?;
        let (mut batch, mut bytes) = (Batch::default(), 0);
        loop {
            match self.step(&txn)? {
                Step::End => {
                    batch.done = true;
                    batch.complete = self.cut.is_none();
                    return Ok(batch);
                }
                Step::Over(slot) => self.cut_before(slot),
                Step::Nothing => {}
                Step::Match(found) => {
                    bytes += found.json.len();
                    batch.events.push(found);
                }
            }
            let is_full = batch.events.len() >= limits.events || bytes >= limits.bytes;
            if is_full || started.elapsed() >= limits.time {
                return Ok(batch);
            }
        }
    }

    /// How far this relay's answer reaches, once it is done: everything at or below was sent, before or now.
    pub fn position(&self) -> PositionVector {
        let mut position = self.after.clone();
        let Some(cut) = &self.cut else {
            position.merge_max(&self.upto);
            return position;
        };
        for stream in &self.streams {
            match stream.number.as_slice().cmp(&cut[..2]) {
                Ordering::Less => position.advance(&stream.name, stream.upto),
                Ordering::Equal => position.advance(&stream.name, seq_of(cut).saturating_sub(1)),
                Ordering::Greater => false,
            };
        }
        position
    }

    /// How many arrivals it has looked at so far.
    #[cfg(test)]
    pub(super) fn looked_at(&self) -> u64 {
        self.looked_at
    }

    /// Ends the page: nothing more is looked at.
    fn cut_before(&mut self, slot: Slot) {
        self.cut = Some(slot);
        self.walks.clear();
        self.heap.clear();
        self.primed = 0;
    }

    fn begin(&mut self, slots: &[(Slot, Slot)]) {
        let tables = *self.index.tables();
        let mut spaces = Vec::new();
        if self
            .filters
            .iter()
            .any(|(filter, _)| filter.may_match_public())
        {
            spaces.push((Space::Public, tables.arrivals, Vec::new()));
        }
        if self
            .filters
            .iter()
            .any(|(filter, _)| filter.may_match_private())
        {
            let private = self.readers.iter().map(|reader| {
                let prefix = reader.to_vec();
                (Space::Private(*reader), tables.private_arrivals, prefix)
            });
            spaces.extend(private);
        }
        let walks = spaces.into_iter().map(|(space, table, prefix)| Walk {
            space,
            table,
            ranges: slots
                .iter()
                .map(|(first, last)| {
                    let first = [&prefix[..], first, &[0; 32]].concat();
                    (
                        Bound::Included(first),
                        [&prefix[..], last, &[0xff; 32]].concat(),
                    )
                })
                .collect(),
            buffer: VecDeque::new(),
        });
        self.walks = walks.collect();
        self.primed = 0;
    }

    /// Takes the filters' own rows where they are cheaper than all arrivals.
    fn gather(
        &mut self,
        logged: &[(Slot, Slot)],
        budget: Budget,
        txn: &RoTxn<'_>,
    ) -> Result<(), IndexError> {
        let filters: Vec<&Filter> = self.filters.iter().map(|(filter, _)| filter).collect();
        let (mut steps, tables) = (Steps::within(budget), self.index.tables());
        for walk in &mut self.walks {
            let granted = steps.grant(walk.count(txn, steps.left())?);
            if let Some(rows) = gather(walk.space, &filters, logged, tables, txn, granted)? {
                walk.ranges.clear();
                walk.buffer = rows.into();
            }
        }
        Ok(())
    }

    fn step(&mut self, txn: &RoTxn<'_>) -> Result<Step, IndexError> {
        if self.primed < self.walks.len() {
            self.push(self.primed, txn)?;
            self.primed += 1;
            return Ok(Step::Nothing);
        }
        let Some(Reverse((slot, id, number))) = self.heap.peek().copied() else {
            if self.ahead || self.cut.is_some() {
                return Ok(Step::End);
            }
            self.ahead = true;
            let mut beyond: Vec<_> = self.streams.iter().map(Stream::ahead).collect();
            beyond.push((UNPLACED, UNPLACED));
            self.begin(&beyond);
            return Ok(Step::Nothing);
        };
        if !self.ahead && self.looked_at >= self.most_looked_at.max(1) {
            self.cut_before(slot);
            return Ok(Step::Nothing);
        }
        self.looked_at += 1;
        let step = self.answer(&slot, &id, number, txn)?;
        if matches!(step, Step::Over(_)) {
            return Ok(step);
        }
        // Readers that share an event have it at the same slot.
        while let Some(Reverse((same, other, number))) = self.heap.peek().copied() {
            if (same, other) != (slot, id) {
                break;
            }
            self.heap.pop();
            self.walks[number].buffer.pop_front();
            self.push(number, txn)?;
        }
        Ok(step)
    }

    fn push(&mut self, number: usize, txn: &RoTxn<'_>) -> Result<(), IndexError> {
        let walk = &mut self.walks[number];
        if walk.buffer.is_empty() {
            walk.refill(txn)?;
        }
        if let Some((slot, id)) = walk.buffer.front() {
            self.heap.push(Reverse((*slot, *id, number)));
        }
        Ok(())
    }

    fn answer(
        &mut self,
        slot: &Slot,
        id: &EventId,
        walk: usize,
        txn: &RoTxn<'_>,
    ) -> Result<Step, IndexError> {
        let (index, space) = (self.index.clone(), self.walks[walk].space);
        let Some(record) = space.load(index.tables(), txn, id)? else {
            return Ok(Step::Nothing); // erased since the row was read
        };
        if !self.sight.shows(index.tables(), txn, id, &record)? {
            return Ok(Step::Nothing);
        }
        let Some(permit) = may_read_audience(&record.audience, &self.readers) else {
            let violations = &index.inner().door_violations;
            violations.fetch_add(1, atomic::Ordering::Relaxed);
            return Ok(Step::Nothing);
        };
        let matching = self.matching(&record, id)?;
        if matching.is_empty() || self.was_sent(slot, id, txn)? {
            return Ok(Step::Nothing);
        }
        let mut counted = false;
        for number in matching {
            let left = &mut self.filters[number].1;
            counted |= *left > 0;
            *left = left.saturating_sub(1);
        }
        // What is ahead of the cursor is little, and would be sent again: it is sent whole.
        if counted || self.ahead {
            Ok(Step::Match(found(permit, *id, &record)))
        } else {
            Ok(Step::Over(*slot))
        }
    }

    fn matching(&self, record: &Record<'_>, id: &EventId) -> Result<Vec<usize>, IndexError> {
        let mut matching = Vec::new();
        let mut tags = None;
        for (number, (filter, _)) in self.filters.iter().enumerate() {
            if !filter.matches_head(id, &record.pubkey, record.created_at, record.kind) {
                continue;
            }
            if !filter.tags.is_empty() {
                let tags = match &tags {
                    Some(tags) => tags,
                    None => tags.insert(record.tags()?),
                };
                if !filter.matches_tags(tags) {
                    continue;
                }
            }
            matching.push(number);
        }
        Ok(matching)
    }

    /// Whether the client has an event by another of its positions: one at or below its cursor, or one that came earlier in this answer.
    /// Positions up to `upto` are fixed, as the pull consumer applies in order; one that is gone was erased, and its event came again.
    fn was_sent(&self, slot: &Slot, id: &EventId, txn: &RoTxn<'_>) -> Result<bool, IndexError> {
        let slots = placement::slots(self.index.tables(), txn, id)?;
        if !self.ahead && !slots.contains(slot) {
            return Ok(true);
        }
        let was_sent = |other: &Slot| {
            let number = &other[..2];
            let Some(stream) = self.streams.iter().find(|stream| stream.number == number) else {
                return false;
            };
            let seq = seq_of(other);
            seq <= stream.after || (seq <= stream.upto && (self.ahead || other < slot))
        };
        Ok(slots.iter().any(was_sent))
    }
}

impl Stream {
    fn slot(&self, seq: u64) -> Slot {
        let mut slot = Slot::default();
        slot[..2].copy_from_slice(&self.number);
        slot[2..].copy_from_slice(&seq.to_be_bytes());
        slot
    }

    /// After the cursor, and applied by the pull consumer.
    fn logged(&self) -> (Slot, Slot) {
        let after = self.after.saturating_add(1);
        (self.slot(after), self.slot(self.upto))
    }

    /// After both.
    fn ahead(&self) -> (Slot, Slot) {
        let after = self.after.max(self.upto).saturating_add(1);
        (self.slot(after), self.slot(u64::MAX))
    }
}

impl Walk {
    /// How many rows are still to be read, counted up to `most`.
    fn count(&self, txn: &RoTxn<'_>, most: usize) -> Result<usize, IndexError> {
        let mut count = 0;
        for range in &self.ranges {
            if let Some(bounds) = bounds_of(range) {
                for row in self.table.range(txn, &bounds)?.take(most - count) {
                    row?;
                    count += 1;
                }
            }
        }
        Ok(count)
    }

    fn refill(&mut self, txn: &RoTxn<'_>) -> Result<(), IndexError> {
        while let Some(range) = self.ranges.front_mut() {
            let mut last_key = Vec::new();
            if let Some(bounds) = bounds_of(range) {
                for row in self.table.range(txn, &bounds)?.take(CHUNK) {
                    let key = row?.0;
                    let row = row_of(key).ok_or(IndexError::Damaged { table: "arrivals" })?;
                    self.buffer.push_back(row);
                    last_key.clear();
                    last_key.extend_from_slice(key);
                }
            }
            if self.buffer.len() < CHUNK {
                self.ranges.pop_front();
            } else {
                range.0 = Bound::Excluded(last_key);
            }
            if !self.buffer.is_empty() {
                break;
            }
        }
        Ok(())
    }
}

/// The bounds of a range that is not empty.
fn bounds_of(range: &KeyRange) -> Option<impl RangeBounds<[u8]>> {
    let start = range.0.as_ref().map(Vec::as_slice);
    let last = range.1.as_slice();
    let is_empty = match start {
        Bound::Included(key) | Bound::Excluded(key) => key > last,
        Bound::Unbounded => false,
    };
    (!is_empty).then_some((start, Bound::Included(last)))
}

/// The sequence number in a slot.
fn seq_of(slot: &Slot) -> u64 {
    let (_, seq) = slot.split_at(2);
    u64::from_be_bytes(seq.try_into().unwrap_or([0xff; 8]))
}

/// Slot and id at the end of a key.
fn row_of(key: &[u8]) -> Option<(Slot, EventId)> {
    let (slot, id) = key.last_chunk::<42>()?.split_first_chunk::<10>()?;
    Some((*slot, id.try_into().ok()?))
}

/// A filter with its limit; none if no event can match it, whatever the limit. A limit of 0 leaves something out where something matches.
fn with_limit(filter: &Filter) -> Option<(Filter, usize)> {
    let mut filter = filter.clone();
    let limit = filter.limit.take().unwrap_or(usize::MAX);
    (!filter.matches_nothing()).then_some((filter, limit))
}
