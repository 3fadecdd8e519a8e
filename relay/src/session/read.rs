//! What a REQ, a COUNT and a NEG-OPEN share: the checks before anything is looked at, the threads that read, and the bounds of a read.

use std::sync::Arc;
use std::time::Duration;

use nightjar_config::Limits;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

use super::Session;
use crate::admission::Refusal;
use crate::filter::Filter;
use crate::index::IndexError;
use crate::metrics::{Door, LimitRule};
use crate::visibility::{FilterGate, Readers, gate_filter};

/// Most values in the filters of all that is open on one connection. Each costs some 200 bytes while it is open.
const MAX_FILTER_VALUES: usize = 20_000;

/// What one read may cost.
#[derive(Debug, Clone, Copy)]
pub struct ReadBounds {
    /// Most time that the first slice of a read takes a thread: enough for small ones.
    pub first_slice: Duration,
    /// The same for each further slice. Then it goes to the back of the queue: a big query never delays a small one.
    pub slice: Duration,
    /// Events that one COUNT or NEG-OPEN may look at.
    pub looked_at: u64,
    /// Events in all open reconciliations of one connection. Each costs 40 bytes.
    pub sync_events: usize,
    /// The same for the whole relay.
    pub relay_sync_events: usize,
    /// How long a reconciliation stays open without a NEG-MSG.
    pub sync_idle: Duration,
}

impl Default for ReadBounds {
    fn default() -> Self {
        Self {
            first_slice: Duration::from_millis(2),
            slice: Duration::from_millis(10),
            looked_at: 250_000,
            sync_events: 100_000,
            relay_sync_events: 1_000_000,
            sync_idle: Duration::from_secs(60),
        }
    }
}

impl ReadBounds {
    /// Most time of a slice.
    pub(super) fn slice_in(&self, lane: Lane) -> Duration {
        match lane {
            Lane::First => self.first_slice,
            Lane::Further => self.slice,
        }
    }
}

/// Where a slice of a read waits for a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The first of its read. Most reads have no other.
    First,
    /// A read that went on for a whole slice already goes on.
    Further,
}

/// A few threads for index reads, given out first come, first served. One of them is for first slices only, so that a small read finds a thread
/// and a core whatever big ones are under way.
#[derive(Debug, Clone)]
pub struct ReadPool {
    threads: Arc<Semaphore>,
    further: Arc<Semaphore>,
}

impl ReadPool {
    /// As many threads as the machine has cores, at least 2, as an LMDB read may wait for the disk.
    pub fn for_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let threads = cores.max(2);
        Self {
            threads: Arc::new(Semaphore::new(threads)),
            further: Arc::new(Semaphore::new(threads - 1)),
        }
    }

    /// Threads that nobody reads with now.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.threads.available_permits()
    }

    /// Runs a short read. The semaphores are fair, so waiting reads take turns.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // Never closed; without a permit the read would only be less fair.
        let further = match lane {
            Lane::First => None,
            Lane::Further => self.further.clone().acquire_owned().await.ok(),
        };
        let permit = self.threads.clone().acquire_owned().await.ok();
        tokio::task::spawn_blocking(move || {
            let result = read();
            drop((permit, further));
            result
        })
        .await
    }
}

/// Why a read ended without an answer.
pub(super) enum Ended {
    /// What asked for it is gone, or the runtime stops.
    Abandoned,
    /// The index failed: the client is told.
    Failed(IndexError),
}

impl From<JoinError> for Ended {
    /// A read that panicked, or a runtime that stops.
    fn from(_: JoinError) -> Self {
        Self::Abandoned
    }
}

impl Session {
    /// The filters of a question, or the reason why it is refused. Depends on the filters, on who authenticated and on what
    /// this connection has open, never on what is stored.
    pub(super) fn check_read(
        &self,
        raw: &[&RawValue],
        readers: &Readers,
        limits: &Limits,
        door: Door,
    ) -> Result<Vec<Filter>, String> {
        let services = &self.services;
        services
            .admission
            .admit_req(&self.admission, readers)
            .map_err(|refusal: Refusal| refusal.to_string())?;
        let (open, open_values) = {
            let open = self.lock();
            (open.len(), open.values())
        };
        if open >= limits.max_subscriptions {
            services.admission.on_limit(LimitRule::subscriptions);
            let limit = limits.max_subscriptions;
            return Err(format!(
                "rate-limited: {limit} subscriptions are open, counts and reconciliations among them, the limit (max_subscriptions)"
            ));
        }
        let mut filters = Vec::with_capacity(raw.len());
        for filter in raw {
            filters.push(Filter::parse(filter).map_err(|error| {
                services.metrics.bad_messages.inc();
                error.to_string()
            })?);
        }
        if door != Door::req && filters.iter().any(|filter| filter.cursor.is_some()) {
            services.metrics.bad_messages.inc();
            return Err("invalid: filter field cursor is for a REQ only".to_owned());
        }
        let values = open_values + value_count(&filters);
        if values > MAX_FILTER_VALUES {
            services.admission.on_limit(LimitRule::subscriptions);
            return Err(format!(
                "rate-limited: the filters of this connection would have {values} values, the limit is {MAX_FILTER_VALUES}"
            ));
        }
        if gate_filter(&filters, readers) == FilterGate::AuthRequired {
            services.metrics.on_read_refused(door);
            return Err(
                "auth-required: gift wraps are served to their authenticated recipients only"
                    .to_owned(),
            );
        }
        // While the index is rebuilt, an answer from half of it would be a lie.
        services.readiness.refuses_reads().map_or(Ok(filters), Err)
    }
}

pub(super) fn value_count(filters: &[Filter]) -> usize {
    filters.iter().map(Filter::value_count).sum()
}
