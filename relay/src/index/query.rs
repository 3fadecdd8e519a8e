//! Answering filters: all scans of all filters merged in the order of the answer, in batches that give up their read
//! transaction.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use heed::RoTxn;
use nightjar_envelope::Class;

use super::keys::Place;
use super::placement;
use super::plan::plan;
use super::record::Record;
use super::rules::Clock;
use super::scan::Scan;
use super::{Batch, BatchLimits, Found, Index, IndexError};
use crate::event::{EventId, class_of};
use crate::filter::Filter;
use crate::visibility::{Permit, Readers, may_read_audience};

/// A query in progress. Owns what it needs: it can be kept between batches, moved to other threads, and dropped.
///
/// Filters share one walk: an event that several match comes once, and counts towards the limit of each.
#[derive(Debug)]
pub struct Query {
    index: Index,
    readers: Readers,
    clock: Clock,
    /// Each filter and how many events it may still answer with.
    filters: Vec<(Filter, usize)>,
    scans: Vec<Scan>,
    /// Scans below this number are in the heap, or done.
    primed: usize,
    heap: BinaryHeap<Reverse<(Place, usize)>>,
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
            clock,
            filters,
            scans,
            primed: 0,
            heap: BinaryHeap::new(),
        })
    }

    /// The next part of the answer. Holds a read transaction only while it runs; always makes some progress.
    pub fn next_batch(&mut self, limits: &BatchLimits) -> Result<Batch, IndexError> {
        let started = Instant::now();
        let index = self.index.clone();
        let txn = index.read_txn()?;
        let mut batch = Batch::default();
        let mut bytes = 0;
        loop {
            let more = self.prime_one(&txn)? || self.visit_next(&txn, &mut batch, &mut bytes)?;
            if !more {
                batch.done = true;
                return Ok(batch);
            }
            if batch.events.len() >= limits.events
                || bytes >= limits.bytes
                || started.elapsed() >= limits.time
            {
                return Ok(batch);
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

    /// Looks at the next place in the answer's order; `false` when there is none.
    fn visit_next(
        &mut self,
        txn: &RoTxn<'_>,
        batch: &mut Batch,
        bytes: &mut usize,
    ) -> Result<bool, IndexError> {
        let Some(Reverse((place, _))) = self.heap.peek().copied() else {
            return Ok(false);
        };
        let mut here = Vec::new();
        while let Some(Reverse((other, number))) = self.heap.peek().copied() {
            if other != place {
                break;
            }
            self.heap.pop();
            here.push(number);
        }
        if let Some(found) = self.answer(&here, place, txn)? {
            *bytes += found.json.len();
            batch.events.push(found);
        }
        for number in here {
            let scan = &mut self.scans[number];
            scan.step();
            if self.filters[scan.filter].1 > 0 {
                self.push(number, txn)?;
            }
        }
        Ok(true)
    }

    /// The event at a place, if one of the filters that lead to it wants it and its readers may read it.
    fn answer(
        &mut self,
        scans: &[usize],
        place: Place,
        txn: &RoTxn<'_>,
    ) -> Result<Option<Found>, IndexError> {
        let wanted = scans
            .iter()
            .copied()
            .filter(|number| self.filters[self.scans[*number].filter].1 > 0);
        let wanted: Vec<usize> = wanted.collect();
        let Some(first) = wanted.first() else {
            return Ok(None);
        };
        let Some(record) = self.scans[*first]
            .space
            .load(self.index.tables(), txn, &place.id)?
        else {
            return Ok(None); // erased since the key was read
        };
        if !self.is_visible(&record, &place.id, txn)? {
            return Ok(None);
        }
        let Some(permit) = may_read_audience(&record.audience, &self.readers) else {
            self.index
                .inner()
                .door_violations
                .fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        if self.count_matches(&wanted, &record, &place.id)? {
            Ok(Some(found(permit, place.id, &record)))
        } else {
            Ok(None)
        }
    }

    fn is_visible(
        &self,
        record: &Record<'_>,
        id: &EventId,
        txn: &RoTxn<'_>,
    ) -> Result<bool, IndexError> {
        if self.clock.is_expired(record.expiration) {
            return Ok(false);
        }
        if class_of(record.kind) != Class::Messages {
            return Ok(true);
        }
        let log_time_ms = placement::log_time(self.index.tables(), txn, id)?;
        Ok(!self.clock.is_aged_out(log_time_ms))
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

/// Copies an event out of the database. The permit is the proof that the read door was asked.
fn found(_permit: Permit, id: EventId, record: &Record<'_>) -> Found {
    Found {
        id,
        json: Bytes::copy_from_slice(record.json),
    }
}
