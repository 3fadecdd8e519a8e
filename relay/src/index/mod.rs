//! The index: a cache of the log in LMDB that answers queries and decides what is visible. Nothing else touches LMDB.
//!
//! Synchronous; one writer at a time, readers never wait. Call it from `spawn_blocking` or from a thread of your own.
//! Whatever the order and duplication of entries, relays that applied the same set answer the same (see `rules`).

mod error;
mod types;

pub use error::IndexError;
pub use types::{
    Advance, Applied, Batch, BatchLimits, Found, FreshReason, IndexOptions, IndexStats, Known, LogEntry, LogPosition,
    OpenedAs,
};

use nightjar_envelope::PositionVector;

use crate::event::Event;
use crate::filter::Filter;
use crate::visibility::Readers;

/// The index of one relay. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Index {}

/// A query in progress. Owns what it needs: it can be kept between batches, moved to other threads, and dropped.
#[derive(Debug)]
pub struct Query {}

impl Index {
    /// Opens or makes the index.
    pub fn open(options: &IndexOptions, now_s: u64) -> Result<(Index, OpenedAs), IndexError> {
        let _ = (options, now_s);
        todo!()
    }

    /// Applies entries and positions in one transaction; answers in the order of `entries`.
    pub fn apply(&self, entries: &[LogEntry], advances: &[Advance], now_s: u64) -> Result<Vec<Applied>, IndexError> {
        let _ = (entries, advances, now_s);
        todo!()
    }

    /// What the pull consumer has applied of every stream.
    pub fn position(&self) -> Result<PositionVector, IndexError> {
        todo!()
    }

    /// What is known of an event before it is published again.
    pub fn status_of(&self, event: &Event, now_s: u64) -> Result<Known, IndexError> {
        let _ = (event, now_s);
        todo!()
    }

    /// What `apply` would say, without applying: for hints, which feed live delivery only.
    pub fn check_hint(&self, event: &Event, now_s: u64) -> Result<Applied, IndexError> {
        let _ = (event, now_s);
        todo!()
    }

    /// Starts a query over what these readers may read. Every filter's `limit` is honoured by itself.
    pub fn query(&self, filters: &[Filter], readers: &Readers, now_s: u64) -> Result<Query, IndexError> {
        let _ = (filters, readers, now_s);
        todo!()
    }

    /// Erases at most `max` events past their expiration or retention; answers how many. Call again while it is `max`.
    pub fn sweep_expired(&self, now_s: u64, max: usize) -> Result<usize, IndexError> {
        let _ = (now_s, max);
        todo!()
    }

    /// Entries of state streams that may be removed from the log.
    pub fn superseded(&self, max: usize) -> Result<Vec<LogPosition>, IndexError> {
        let _ = max;
        todo!()
    }

    /// Forgets entries that were removed from the log.
    pub fn swept(&self, removed: &[LogPosition]) -> Result<(), IndexError> {
        let _ = removed;
        todo!()
    }

    /// Where the log has this event, in order; the first is its arrival.
    pub fn positions_of(&self, event: &Event) -> Result<Vec<LogPosition>, IndexError> {
        let _ = event;
        todo!()
    }

    /// Figures for metrics.
    pub fn stats(&self) -> Result<IndexStats, IndexError> {
        todo!()
    }

    /// Syncs to disk and marks the folder clean, so that it survives a reboot. The last thing before the process ends.
    pub fn close(&self) -> Result<(), IndexError> {
        todo!()
    }
}

impl Query {
    /// The next part of the answer. Holds a read transaction only while it runs.
    pub fn next_batch(&mut self, limits: &BatchLimits) -> Result<Batch, IndexError> {
        let _ = limits;
        todo!()
    }
}
