//! Answering filters: all scans of all filters merged in the order of the answer, in batches that give up their read
//! transaction.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use heed::RoTxn;

use super::keys::Place;
use super::plan::plan;
use super::record::Record;
use super::rules::Clock;
use super::scan::Scan;
use super::sight::Sight;
use super::{Batch, BatchLimits, CountBatch, Found, Index, IndexError, PlaceBatch};
use crate::event::EventId;
use crate::filter::Filter;
use crate::visibility::{Permit, Readers, may_read_audience};

/// A query in progress. Owns what it needs: it can be kept between batches, moved to other threads, and dropped.
///
/// Filters share one walk: an event that several match comes once, and counts towards the limit of each.
#[derive(Debug)]
pub struct Query {
    index: Index,
    readers: Readers,
    sight: Sight,
    /// Each filter and how many events it may still answer with.
    filters: Vec<(Filter, usize)>,
    scans: Vec<Scan>,
    /// Scans below this number are in the heap, or done.
    primed: usize,
    heap: BinaryHeap<Reverse<(Place, usize)>>,
    /// Places looked at so far, whether they matched or not.
    looked_at: u64,
}

/// One move of a query.
enum Step<'t> {
    /// Nothing is left.
    End,
    /// Something was looked at that is no part of the answer.
    Nothing,
    /// An event of the answer.
    Match(Permit, Place, Record<'t>),
}

impl Query {
    pub(super) fn new(
        index: Index,
        filters: &[Filter],
        readers: &Readers,
        clock: Clock,
    ) -> Result<Query, IndexError> {
        let mut scans = Vec::new();
        {
            let txn = index.read_txn()?;
            for (number, filter) in filters.iter().enumerate() {
                scans.extend(plan(number, filter, readers, index.tables(), &txn)?);
            }
        }
        let filters = filters
            .iter()
            .map(|filter| (filter.clone(), filter.limit.unwrap_or(usize::MAX)))
            .collect();
        Ok(Query {
            index,
            readers: readers.clone(),
            sight: Sight::new(clock),
            filters,
            scans,
            primed: 0,
            heap: BinaryHeap::new(),
            looked_at: 0,
        })
    }

    /// The next part of the answer. Holds a read transaction only while it runs; always makes some progress.
    pub fn next_batch(&mut self, limits: &BatchLimits) -> Result<Batch, IndexError> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        batch.done = self.walk(limits.time, |permit, place, record| {
            let found = found(permit, place.id, record);
            bytes += found.json.len();
            batch.events.push(found);
            if batch.events.len() >= limits.events || bytes >= limits.bytes {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        batch.complete = batch.done && self.is_complete();
        Ok(batch)
    }

    /// No filter was stopped by its limit, or none can match more than that.
    fn is_complete(&self) -> bool {
        self.filters.iter().all(|(filter, left)| {
            let is_all = filter
                .limit
                .zip(filter.most_matches())
                .is_some_and(|(limit, most)| most <= limit);
            *left > 0 || is_all
        })
    }

    /// Counts the next part of the answer, for at most `time`; as [`Query::next_batch`] otherwise.
    pub fn count_batch(&mut self, time: Duration) -> Result<CountBatch, IndexError> {
        let mut events = 0;
        let done = self.walk(time, |_permit, _, _| {
            events += 1;
            ControlFlow::Continue(())
        })?;
        Ok(CountBatch { events, done })
    }

    /// Time and id of the events in the next part of the answer; as [`Query::count_batch`] otherwise.
    pub fn place_batch(&mut self, time: Duration) -> Result<PlaceBatch, IndexError> {
        let mut places = Vec::new();
        let done = self.walk(time, |permit, place, _| {
            places.push(place_of(permit, place));
            ControlFlow::Continue(())
        })?;
        Ok(PlaceBatch { places, done })
    }

    /// How many places it has looked at in all its batches: what it cost. Only what its readers may read, or might but for a ban, is ever
    /// looked at, so that this tells nothing of anything else.
    pub fn looked_at(&self) -> u64 {
        self.looked_at
    }

    /// Calls `on_match` for every event of the answer, until it breaks or time is up. Answers whether nothing is left.
    fn walk(
        &mut self,
        time: Duration,
        mut on_match: impl FnMut(Permit, Place, &Record<'_>) -> ControlFlow<()>,
    ) -> Result<bool, IndexError> {
        let started = Instant::now();
        let index = self.index.clone();
        let txn = index.read_txn()?;
        self.sight.begin(index.tables(), &txn)?;
        loop {
            let step = if self.prime_one(&txn)? {
                Step::Nothing
            } else {
                self.visit_next(&txn)?
            };
            let flow = match step {
                Step::End => return Ok(true),
                Step::Nothing => ControlFlow::Continue(()),
                Step::Match(permit, place, record) => on_match(permit, place, &record),
            };
            if flow.is_break() || started.elapsed() >= time {
                return Ok(false);
            }
        }
    }

    /// Puts one more scan into the heap. The merge may begin only when all are there.
    fn prime_one(&mut self, txn: &RoTxn<'_>) -> Result<bool, IndexError> {
        if self.primed == self.scans.len() {
            return Ok(false);
        }
        self.push(self.primed, txn)?;
        self.primed += 1;
        Ok(true)
    }

    fn push(&mut self, number: usize, txn: &RoTxn<'_>) -> Result<(), IndexError> {
        if let Some(place) = self.scans[number].peek(self.index.tables(), txn)? {
            self.heap.push(Reverse((place, number)));
        }
        Ok(())
    }

    /// Looks at the next place in the answer's order.
    fn visit_next<'t>(&mut self, txn: &'t RoTxn<'_>) -> Result<Step<'t>, IndexError> {
        let Some(Reverse((place, _))) = self.heap.peek().copied() else {
            return Ok(Step::End);
        };
        self.looked_at += 1;
        let mut here = Vec::new();
        while let Some(Reverse((other, number))) = self.heap.peek().copied() {
            if other != place {
                break;
            }
            self.heap.pop();
            here.push(number);
        }
        let step = self.answer(&here, place, txn)?;
        for number in here {
            let scan = &mut self.scans[number];
            scan.step();
            if self.filters[scan.filter].1 > 0 {
                self.push(number, txn)?;
            }
        }
        Ok(step)
    }

    /// The event at a place, if one of the filters that lead to it wants it and its readers may read it.
    fn answer<'t>(
        &mut self,
        scans: &[usize],
        place: Place,
        txn: &'t RoTxn<'_>,
    ) -> Result<Step<'t>, IndexError> {
        let wanted = scans
            .iter()
            .copied()
            .filter(|number| self.filters[self.scans[*number].filter].1 > 0);
        let wanted: Vec<usize> = wanted.collect();
        let Some(first) = wanted.first() else {
            return Ok(Step::Nothing);
        };
        let Some(record) = self.scans[*first]
            .space
            .load(self.index.tables(), txn, &place.id)?
        else {
            return Ok(Step::Nothing); // erased since the key was read
        };
        if !self
            .sight
            .shows(self.index.tables(), txn, &place.id, &record)?
        {
            return Ok(Step::Nothing);
        }
        let Some(permit) = may_read_audience(&record.audience, &self.readers) else {
            self.index
                .inner()
                .door_violations
                .fetch_add(1, Ordering::Relaxed);
            return Ok(Step::Nothing);
        };
        if self.count_matches(&wanted, &record, &place.id)? {
            Ok(Step::Match(permit, place, record))
        } else {
            Ok(Step::Nothing)
        }
    }

    /// Counts an event towards every filter that matches it, once each.
    fn count_matches(
        &mut self,
        scans: &[usize],
        record: &Record<'_>,
        id: &EventId,
    ) -> Result<bool, IndexError> {
        let mut tags = None;
        let mut counted: Vec<usize> = Vec::new();
        for number in scans {
            let (filter_number, check_tags) =
                (self.scans[*number].filter, self.scans[*number].check_tags);
            if counted.contains(&filter_number) {
                continue;
            }
            let (filter, left) = &mut self.filters[filter_number];
            if !filter.matches_head(id, &record.pubkey, record.created_at, record.kind) {
                continue;
            }
            if check_tags {
                let tags = match &tags {
                    Some(tags) => tags,
                    None => tags.insert(record.tags()?),
                };
                if !filter.matches_tags(tags) {
                    continue;
                }
            }
            *left -= 1;
            counted.push(filter_number);
        }
        Ok(!counted.is_empty())
    }
}

/// Tells where an event is. The permit is the proof that the read door was asked.
fn place_of(_permit: Permit, place: Place) -> (u64, EventId) {
    (place.created_at(), place.id)
}

/// Copies an event out of the database. The permit is the proof that the read door was asked.
pub(super) fn found(_permit: Permit, id: EventId, record: &Record<'_>) -> Found {
    Found {
        id,
        json: Bytes::copy_from_slice(record.json),
    }
}
