//! The index: a cache of the log in LMDB that answers queries and decides what is visible. Nothing else touches LMDB.
//!
//! Synchronous; one writer at a time, readers never wait. Call it from `spawn_blocking` or from a thread of your own.
//! Whatever the order and duplication of entries, relays that applied the same set answer the same (see `rules`).

mod apply;
mod arrival;
mod arrival_query;
mod error;
mod folder;
mod gather;
mod keys;
mod lists;
mod placement;
mod plan;
mod query;
mod recipients;
mod record;
mod rules;
mod scan;
mod sight;
mod store;
mod sweep;
mod tables;
#[cfg(test)]
mod tests;
mod types;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use heed::{Env, EnvFlags, EnvOpenOptions, RoTxn, WithoutTls};
use nightjar_envelope::{Class, PositionVector};

pub use arrival_query::ArrivalQuery;
pub use error::IndexError;
pub use lists::{Listed, Lists};
pub use query::Query;
pub use types::{
    Advance, Applied, Batch, BatchLimits, CountBatch, Found, FreshReason, IndexOptions, IndexStats,
    Known, LogEntry, LogPosition, LogTime, Logged, OpenedAs, PlaceBatch,
};

use self::apply::Writer;
use self::folder::Folder;
use self::placement::StreamNames;
use self::record::Subject;
use self::rules::{Clock, judge};
use self::tables::Tables;
use crate::event::{Event, kind};
use crate::filter::Filter;
use crate::visibility::Readers;

/// Queries that may run at the same moment. A waiting query holds no slot.
const MAX_READERS: u32 = 512;

/// The index of one relay. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Index {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    env: Env<WithoutTls>,
    tables: Tables,
    /// Whether the index is closed; held while writing.
    writer: Mutex<bool>,
    max_bytes: u64,
    retention_ms: u64,
    door_violations: AtomicU64,
    folder: Folder,
}

impl Index {
    /// Opens the index, or makes an empty one where there is none that can be trusted.
    pub fn open(options: &IndexOptions) -> Result<(Index, OpenedAs), IndexError> {
        let folder = Folder::open(options)?;
        if let Some(reason) = folder.distrust() {
            return Ok((Index::make(folder, options)?, OpenedAs::Fresh(reason)));
        }
        folder.mark(false)?;
        match open_database(&folder, options) {
            Ok((env, tables)) => Ok((Index::with(env, tables, folder, options), OpenedAs::Resumed)),
            Err(error) => {
                let reason = FreshReason::Unreadable(error.to_string());
                Ok((Index::make(folder, options)?, OpenedAs::Fresh(reason)))
            }
        }
    }

    fn make(folder: Folder, options: &IndexOptions) -> Result<Index, IndexError> {
        folder.wipe()?;
        folder.mark(false)?;
        let (env, tables) = open_database(&folder, options)?;
        Ok(Index::with(env, tables, folder, options))
    }

    fn with(env: Env<WithoutTls>, tables: Tables, folder: Folder, options: &IndexOptions) -> Index {
        let retention_ms = u64::try_from(options.message_retention.as_millis()).unwrap_or(u64::MAX);
        let inner = Inner {
            env,
            tables,
            writer: Mutex::new(false),
            max_bytes: options.max_bytes,
            retention_ms,
            door_violations: AtomicU64::new(0),
            folder,
        };
        Index {
            inner: Arc::new(inner),
        }
    }

    /// Applies entries and positions in one transaction; answers in the order of `entries`.
    ///
    /// `advances` are given by the pull consumer alone, with or after the entries they cover. On an error nothing of the
    /// call was applied.
    pub fn apply(
        &self,
        entries: &[LogEntry],
        advances: &[Advance],
        now_s: u64,
    ) -> Result<Vec<Applied>, IndexError> {
        let _writing = self.lock_writer()?;
        let txn = self
            .inner
            .env
            .write_txn()
            .map_err(|error| self.write_error(error.into()))?;
        let mut writer = Writer {
            tables: &self.inner.tables,
            txn,
            clock: self.clock(now_s),
        };
        if !entries.is_empty() && self.inner.tables.used_bytes(&writer.txn)? >= self.inner.max_bytes
        {
            return Err(IndexError::Full {
                max_bytes: self.inner.max_bytes,
            });
        }
        let applied: Result<Vec<Applied>, IndexError> =
            entries.iter().map(|entry| writer.apply(entry)).collect();
        let applied = applied.map_err(|error| self.write_error(error))?;
        for advance in advances {
            writer
                .advance(advance)
                .map_err(|error| self.write_error(error))?;
        }
        writer
            .txn
            .commit()
            .map_err(|error| self.write_error(error.into()))?;
        Ok(applied)
    }

    /// What the pull consumer has applied of every stream.
    pub fn position(&self) -> Result<PositionVector, IndexError> {
        placement::read_position(&self.inner.tables, &*self.read_txn()?)
    }

    /// What is known of an event before it is published again.
    pub fn status_of(&self, event: &Event, now_s: u64) -> Result<Known, IndexError> {
        let (txn, clock, tables) = (self.read_txn()?, self.clock(now_s), &self.inner.tables);
        if store::is_stored(tables, &txn, &event.id)? {
            let aged_out = clock.is_aged_out(placement::log_time(tables, &txn, &event.id)?);
            return Ok(match (clock.is_expired(event.expiration()), aged_out) {
                (true, _) => Known::Expired,
                (false, true) => Known::Unknown,
                (false, false) => Known::Present,
            });
        }
        let subject = Subject::of(event);
        Ok(match judge(tables, &txn, &subject, None, &clock)? {
            // Hidden by a request to vanish and never applied: its sender must not learn of that request.
            Applied::Deleted
                if subject.kind == kind::GIFT_WRAP
                    && !rules::has_tombstone(tables, &txn, &subject)? =>
            {
                Known::Unknown
            }
            Applied::Deleted => Known::Deleted,
            Applied::Expired => Known::Expired,
            Applied::Superseded => Known::Superseded,
            Applied::New | Applied::Duplicate | Applied::Banned => Known::Unknown,
        })
    }

    /// What `apply` would say, without applying: for hints, which feed live delivery only. `admitted_ms` stands for the
    /// NATS timestamp, which a hint does not have: an old one that is sent again is past its retention all the same.
    pub fn check_hint(
        &self,
        event: &Event,
        admitted_ms: u64,
        now_s: u64,
    ) -> Result<Applied, IndexError> {
        let txn = self.read_txn()?;
        let (class, tables) = (event.class(), &self.inner.tables);
        if class != Class::Ephemeral && store::is_stored(tables, &txn, &event.id)? {
            return Ok(Applied::Duplicate);
        }
        let subject = Subject::of(event);
        let log_time_ms = (class == Class::Messages).then_some(admitted_ms);
        let verdict = judge(tables, &txn, &subject, log_time_ms, &self.clock(now_s))?;
        if verdict == Applied::New && is_banned(tables, &txn, &subject)? {
            return Ok(Applied::Banned);
        }
        Ok(verdict)
    }

    /// Whether a ban of an administrator hides this event.
    pub fn is_banned(&self, event: &Event) -> Result<bool, IndexError> {
        is_banned(&self.inner.tables, &*self.read_txn()?, &Subject::of(event))
    }

    /// The fleet's lists of keys, events and kinds (NIP-86), as they are now.
    pub fn lists(&self) -> Result<Lists<'_>, IndexError> {
        Ok(Lists {
            tables: &self.inner.tables,
            txn: self.read_txn()?,
        })
    }

    /// Starts a query over what these readers may read. Every filter's `limit` is honoured by itself.
    pub fn query(
        &self,
        filters: &[Filter],
        readers: &Readers,
        now_s: u64,
    ) -> Result<Query, IndexError> {
        Query::new(self.clone(), filters, readers, self.clock(now_s))
    }

    /// Starts a query over what arrived after a position and these readers may read, in the order of this relay's log positions.
    /// It looks at no more than about `most_looked_at` events: where few rows of the index lead to what the filters may match, at those
    /// alone.
    pub fn query_arrivals(
        &self,
        filters: &[Filter],
        readers: &Readers,
        after: PositionVector,
        most_looked_at: u64,
        now_s: u64,
    ) -> Result<ArrivalQuery, IndexError> {
        let clock = self.clock(now_s);
        let budget = gather::budget;
        ArrivalQuery::new(self, filters, readers, after, most_looked_at, clock, budget)
    }

    /// Erases at most `max` events past their expiration or retention; answers how many. Call again while it is `max`.
    pub fn sweep_expired(&self, now_s: u64, max: usize) -> Result<usize, IndexError> {
        let _writing = self.lock_writer()?;
        let mut txn = self
            .inner
            .env
            .write_txn()
            .map_err(|error| self.write_error(error.into()))?;
        let erased = sweep::erase_expired(&self.inner.tables, &mut txn, &self.clock(now_s), max)
            .map_err(|error| self.write_error(error))?;
        txn.commit()
            .map_err(|error| self.write_error(error.into()))?;
        Ok(erased)
    }

    /// At most `max` entries of state streams that may be removed from the log: a newer version of what they hold is in
    /// the log, and both have passed this relay's pull consumer.
    pub fn superseded(&self, max: usize) -> Result<Vec<LogPosition>, IndexError> {
        sweep::removable(&self.inner.tables, &*self.read_txn()?, max)
    }

    /// Forgets entries that were removed from the log.
    pub fn swept(&self, removed: &[LogPosition]) -> Result<(), IndexError> {
        let _writing = self.lock_writer()?;
        let mut txn = self
            .inner
            .env
            .write_txn()
            .map_err(|error| self.write_error(error.into()))?;
        sweep::forget_removed(&self.inner.tables, &mut txn, removed)
            .map_err(|error| self.write_error(error))?;
        txn.commit().map_err(|error| self.write_error(error.into()))
    }

    /// Where the log has this event, in order; the first is its arrival. Empty if the event is not kept.
    pub fn positions_of(&self, event: &Event) -> Result<Vec<LogPosition>, IndexError> {
        let (txn, tables) = (self.read_txn()?, &self.inner.tables);
        let names = StreamNames::read(tables, &txn)?;
        let slots = placement::slots(tables, &txn, &event.id)?;
        let mut positions = slots
            .iter()
            .map(|slot| names.position(slot))
            .collect::<Result<Vec<_>, _>>()?;
        positions.sort_unstable();
        Ok(positions)
    }

    /// Figures for metrics.
    pub fn stats(&self) -> Result<IndexStats, IndexError> {
        let (txn, tables) = (self.read_txn()?, &self.inner.tables);
        Ok(IndexStats {
            public_events: tables.events.len(&txn)?,
            private_events: tables.private_events.len(&txn)?,
            tombstones: tables.tombstones.len(&txn)?,
            coordinates: tables.floors.len(&txn)?,
            superseded_entries: tables.superseded.len(&txn)?,
            used_bytes: tables.used_bytes(&txn)?,
            max_bytes: self.inner.max_bytes,
            door_violations: self.inner.door_violations.load(Ordering::Relaxed),
            position: placement::read_position(tables, &txn)?,
        })
    }

    /// Syncs to disk and marks the folder clean, so that it survives a reboot. The last thing before the process ends:
    /// later writes get [`IndexError::Closed`].
    pub fn close(&self) -> Result<(), IndexError> {
        let mut closed = self.lock_writer()?;
        self.inner.env.force_sync()?;
        self.inner.folder.mark(true)?;
        *closed = true;
        Ok(())
    }

    /// Waits for other writers. A writer that panicked rolled its transaction back, so its lock is still good.
    fn lock_writer(&self) -> Result<MutexGuard<'_, bool>, IndexError> {
        let writer = self
            .inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *writer {
            Err(IndexError::Closed)
        } else {
            Ok(writer)
        }
    }

    fn write_error(&self, error: IndexError) -> IndexError {
        match error {
            IndexError::Database(heed::Error::Mdb(heed::MdbError::MapFull)) => IndexError::Full {
                max_bytes: self.inner.max_bytes,
            },
            other => other,
        }
    }

    fn clock(&self, now_s: u64) -> Clock {
        Clock {
            now_s,
            retention_ms: self.inner.retention_ms,
        }
    }

    fn inner(&self) -> &Inner {
        &self.inner
    }

    fn tables(&self) -> &Tables {
        &self.inner.tables
    }

    fn read_txn(&self) -> Result<RoTxn<'_, WithoutTls>, IndexError> {
        Ok(self.inner.env.read_txn()?)
    }
}

fn is_banned(tables: &Tables, txn: &RoTxn<'_>, subject: &Subject) -> Result<bool, IndexError> {
    lists::hides(tables, txn, &subject.id, &subject.pubkey, &subject.audience)
}

fn open_database(
    folder: &Folder,
    options: &IndexOptions,
) -> Result<(Env<WithoutTls>, Tables), IndexError> {
    let mut open = EnvOpenOptions::new().read_txn_without_tls();
    open.map_size(map_size(options.max_bytes))
        .max_dbs(tables::count())
        .max_readers(MAX_READERS);
    // SAFETY: the folder is locked for this process, which opens it once; nothing else changes its files while it is
    // open. Without WRITEMAP and with the process's pages only read through the map, NO_SYNC risks what is on disk after
    // the machine goes down, and such a folder is wiped before it is opened again (see `folder`).
    #[allow(unsafe_code, reason = "memory-mapped files; see SAFETY")]
    let env = unsafe { open.flags(EnvFlags::NO_SYNC).open(folder.path())? };
    let tables = Tables::create(&env)?;
    Ok((env, tables))
}

/// Whole pages, and an eighth more than may be in use: erasing copies pages, so a full map could not even erase.
fn map_size(max_bytes: u64) -> usize {
    const PAGE: u64 = 64 * 1024;
    let bytes = max_bytes.saturating_add(max_bytes / 8);
    usize::try_from(bytes.div_ceil(PAGE).clamp(16, u64::MAX / PAGE) * PAGE).unwrap_or(usize::MAX)
}
