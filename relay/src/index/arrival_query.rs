//! Answering a cursor: what arrived after a position, in the order of the positions, in batches that give up their read transaction.
//!
//! First everything that the pull consumer had applied when the query began, up to the filters' limits; then what this relay knows
//! beyond that (its own publishes), which no cursor speaks of yet. A page that ends early is exact: its position tells how far it came.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::time::Instant;

use heed::RoTxn;
use nightjar_envelope::{PositionVector, StreamName};

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
    /// The last slot that was looked at.
    last: Option<Slot>,
    /// The page ended before everything was looked at.
    cut: bool,
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

/// The rows of one keyspace.
#[derive(Debug)]
struct Walk {
    space: Space,
    table: Table,
    /// First and last key of what is still to be read; the first is left out once it was read.
    ranges: VecDeque<(Bound<Vec<u8>>, Vec<u8>)>,
    buffer: VecDeque<(Slot, EventId)>,
}

/// What became of one row.
enum Step {
    End,
    Nothing,
    Match(Found),
    /// It matches, and the limits of the filters that match are reached.
    Over,
}

impl ArrivalQuery {
    pub(super) fn new(
        index: Index,
        filters: &[Filter],
        readers: &Readers,
        after: PositionVector,
        most_looked_at: u64,
        clock: Clock,
    ) -> Result<ArrivalQuery, IndexError> {
        let (upto, mut streams) = {
            let txn = index.read_txn()?;
            let upto = placement::read_position(index.tables(), &txn)?;
            let names = StreamNames::read(index.tables(), &txn)?;
            let streams: Vec<Stream> = names
                .iter()
                .map(|(number, name)| Stream {
                    number,
                    name: name.clone(),
                    after: after.get(name),
                    upto: upto.get(name),
                })
                .collect();
            (upto, streams)
        };
        streams.sort_unstable_by_key(|stream| stream.number);
        let mut query = ArrivalQuery {
            index,
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
            last: None,
            cut: false,
            looked_at: 0,
            most_looked_at,
        };
        let logged: Vec<_> = query.streams.iter().map(Stream::logged).collect();
        query.begin(&logged);
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
                    batch.complete = !self.cut;
                    return Ok(batch);
                }
                Step::Over => self.cut_here(),
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
        if !self.cut {
            position.merge_max(&self.upto);
            return position;
        }
        let Some((number, seq)) = self.last.and_then(|slot| {
            let (number, seq) = slot.split_first_chunk::<2>()?;
            Some((*number, u64::from_be_bytes(seq.try_into().ok()?)))
        }) else {
            return position;
        };
        for stream in &self.streams {
            if stream.number < number {
                position.advance(&stream.name, stream.upto);
            } else if stream.number == number {
                position.advance(&stream.name, seq);
            }
        }
        position
    }

    /// Ends the page: nothing more is looked at.
    fn cut_here(&mut self) {
        self.cut = true;
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

    fn step(&mut self, txn: &RoTxn<'_>) -> Result<Step, IndexError> {
        if self.primed < self.walks.len() {
            self.push(self.primed, txn)?;
            self.primed += 1;
            return Ok(Step::Nothing);
        }
        let Some(Reverse((slot, id, number))) = self.heap.peek().copied() else {
            if self.ahead || self.cut {
                return Ok(Step::End);
            }
            self.ahead = true;
            let mut beyond: Vec<_> = self.streams.iter().map(Stream::ahead).collect();
            beyond.push((UNPLACED, UNPLACED));
            self.begin(&beyond);
            return Ok(Step::Nothing);
        };
        if !self.ahead && self.looked_at >= self.most_looked_at && self.last.is_some() {
            self.cut_here();
            return Ok(Step::Nothing);
        }
        self.looked_at += 1;
        let step = self.answer(&slot, &id, number, txn)?;
        if matches!(step, Step::Over) {
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
        self.last = Some(slot);
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
            violations.fetch_add(1, Ordering::Relaxed);
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
            Ok(Step::Over)
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
    /// Positions up to `upto` are fixed, as the pull consumer applies in order.
    fn was_sent(&self, slot: &Slot, id: &EventId, txn: &RoTxn<'_>) -> Result<bool, IndexError> {
        let slots = placement::slots(self.index.tables(), txn, id)?;
        let was_sent = |other: &Slot| {
            let (number, seq) = other.split_at(2);
            let Some(stream) = self.streams.iter().find(|stream| stream.number == number) else {
                return false;
            };
            let seq = u64::from_be_bytes(seq.try_into().unwrap_or([0xff; 8]));
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
    fn refill(&mut self, txn: &RoTxn<'_>) -> Result<(), IndexError> {
        while let Some((first, last)) = self.ranges.front_mut() {
            let start = first.as_ref().map(Vec::as_slice);
            let is_empty = match start {
                Bound::Included(key) | Bound::Excluded(key) => key > last.as_slice(),
                Bound::Unbounded => false,
            };
            let mut last_key = Vec::new();
            if !is_empty {
                let range = (start, Bound::Included(last.as_slice()));
                for row in self.table.range(txn, &range)?.take(CHUNK) {
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
                *first = Bound::Excluded(last_key);
            }
            if !self.buffer.is_empty() {
                break;
            }
        }
        Ok(())
    }
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
