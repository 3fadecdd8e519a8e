//! REQ: the read gate, the live subscription, then the stored read, then EOSE.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use nightjar_config::Limits;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::task::JoinError;
use tracing::Instrument;

use super::{Entry, MAX_FILTER_VALUES, Services, Session, Subscriptions, unix_seconds};
use crate::admission::Refusal;
use crate::filter::Filter;
use crate::index::{BatchLimits, IndexError};
use crate::live::Subscription;
use crate::message;
use crate::metrics::{Door, LimitRule};
use crate::session::outbox::Outbox;
use crate::visibility::{FilterGate, Readers, gate_filter};

/// Most time one read takes a thread before it goes to the back of the queue: a big query never delays a small one.
const READ_SLICE: Duration = Duration::from_millis(10);
/// Most events of one slice.
const READ_EVENTS: usize = 500;

/// A few threads for index reads, given out first come, first served.
#[derive(Debug, Clone)]
pub struct ReadPool {
    threads: Arc<Semaphore>,
}

impl ReadPool {
    /// As many threads as the machine has cores, at least 2: an LMDB read may wait for the disk.
    pub fn for_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            threads: Arc::new(Semaphore::new(cores.max(2))),
        }
    }

    /// Runs a short read. The semaphore is fair, so waiting reads take turns.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // The semaphore is never closed; without a permit the read would only be less fair.
        let permit = self.threads.clone().acquire_owned().await.ok();
        tokio::task::spawn_blocking(move || {
            let result = read();
            drop(permit);
            result
        })
        .await
    }
}

impl Session {
    /// Takes a REQ. Live events flow from now on; the stored read goes on by itself.
    pub(super) async fn on_req(&mut self, id: &str, raw: &[&RawValue], limits: &Limits) {
        let started = Instant::now();
        // A REQ under a known id ends the old subscription, also if the new one is refused.
        let replaced = self.lock().remove(id);
        drop(replaced);
        let readers = self.readers.load_full();
        let filters = match self.check_req(raw, &readers, limits) {
            Ok(filters) => filters,
            Err(reason) => {
                self.outbox.push_text(message::closed(id, &reason));
                return;
            }
        };
        let values = value_count(&filters);
        let open = self.services.live.open(
            id,
            filters.clone(),
            self.readers.clone(),
            self.outbox.clone(),
        );
        let read = StoredRead {
            services: self.services.clone(),
            subscription: open.subscription().clone(),
            subscriptions: self.subscriptions.clone(),
            outbox: self.outbox.clone(),
            id: id.to_owned(),
            started,
        };
        let mut subscriptions = self.lock();
        // Spawned under the lock: a read that fails at once must find its subscription to close it.
        let span = tracing::debug_span!("session", verb = "REQ", filters = filters.len());
        let task = tokio::spawn(read.run(filters, readers).instrument(span));
        subscriptions.insert(
            id.to_owned(),
            Entry {
                open,
                read: Some(task.abort_handle()),
                values,
            },
        );
    }

    /// The filters, or the reason for a CLOSED.
    fn check_req(
        &self,
        raw: &[&RawValue],
        readers: &Readers,
        limits: &Limits,
    ) -> Result<Vec<Filter>, String> {
        let services = &self.services;
        services
            .admission
            .admit_req(&self.admission)
            .map_err(|refusal: Refusal| refusal.to_string())?;
        if self.lock().len() >= limits.max_subscriptions {
            services.admission.on_limit(LimitRule::subscriptions);
            let limit = limits.max_subscriptions;
            return Err(format!(
                "rate-limited: {limit} subscriptions are open, the limit (max_subscriptions)"
            ));
        }
        let mut filters = Vec::with_capacity(raw.len());
        for filter in raw {
            let mut filter = Filter::parse(filter).map_err(|error| {
                services.metrics.bad_messages.inc();
                error.to_string()
            })?;
            filter.cap_limit(limits.default_limit, limits.max_limit);
            filters.push(filter);
        }
        let open: usize = self.lock().values().map(|entry| entry.values).sum();
        let values = open + value_count(&filters);
        if values > MAX_FILTER_VALUES {
            services.admission.on_limit(LimitRule::subscriptions);
            return Err(format!(
                "rate-limited: the filters of this connection would have {values} values, the limit is {MAX_FILTER_VALUES}"
            ));
        }
        if gate_filter(&filters, readers) == FilterGate::AuthRequired {
            services.metrics.on_read_refused(Door::req);
            return Err(
                "auth-required: gift wraps are served to their authenticated recipients only"
                    .to_owned(),
            );
        }
        // While the index is rebuilt, an EOSE over half of it would be a lie.
        services.readiness.refuses_reads().map_or(Ok(filters), Err)
    }
}

fn value_count(filters: &[Filter]) -> usize {
    filters.iter().map(Filter::value_count).sum()
}

/// The stored half of one REQ.
struct StoredRead {
    services: Arc<Services>,
    subscription: Arc<Subscription>,
    subscriptions: Subscriptions,
    outbox: Outbox,
    id: String,
    started: Instant,
}

/// Why a stored read ended without EOSE.
enum Ended {
    /// The subscription or the connection is gone: nobody waits for an answer.
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

impl StoredRead {
    async fn run(self, filters: Vec<Filter>, readers: Arc<Readers>) {
        match self.read(filters, readers).await {
            Ok(()) => {
                let seconds = self.started.elapsed().as_secs_f64();
                self.services.metrics.eose_seconds.observe(seconds);
                // The handle would keep this task's memory for as long as the subscription is open.
                self.with_entry(|subscriptions| {
                    if let Some(entry) = subscriptions.get_mut(&self.id) {
                        entry.read = None;
                    }
                });
            }
            Err(Ended::Abandoned) => self.close("error: the read was given up, ask again"),
            Err(Ended::Failed(error)) => {
                tracing::warn!(%error, "a stored read failed");
                self.close("error: the index could not be read, ask again");
            }
        }
    }

    async fn read(&self, filters: Vec<Filter>, readers: Arc<Readers>) -> Result<(), Ended> {
        let index = self.services.index.clone();
        let mut query = self
            .services
            .reads
            .run(move || index.query(&filters, &readers, unix_seconds()))
            .await?
            .map_err(Ended::Failed)?;
        loop {
            // A client that reads slowly is read for slowly; its queue is not filled for it.
            let Some(room) = self.outbox.room().await else {
                return Err(Ended::Abandoned);
            };
            let limits = BatchLimits {
                events: READ_EVENTS,
                bytes: room.bytes().max(1),
                time: READ_SLICE,
            };
            let (resumed, batch) = self
                .services
                .reads
                .run(move || {
                    let batch = query.next_batch(&limits);
                    (query, batch)
                })
                .await?;
            query = resumed;
            let batch = batch.map_err(Ended::Failed)?;
            let sent = self
                .subscription
                .send_stored(&batch.events, batch.done)
                .ok_or(Ended::Abandoned)?;
            drop(room);
            self.services.metrics.stored_sent.inc_by(sent as u64);
            if batch.done {
                return Ok(());
            }
        }
    }

    /// Tells the client that its subscription is over.
    fn close(&self, reason: &str) {
        self.with_entry(|subscriptions| {
            subscriptions.remove(&self.id);
            self.outbox.push_text(message::closed(&self.id, reason));
        });
    }

    /// Calls `act` if this still is the subscription under its id.
    fn with_entry(&self, act: impl FnOnce(&mut HashMap<String, Entry>)) {
        let mut subscriptions = self
            .subscriptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_this = subscriptions
            .get(&self.id)
            .is_some_and(|entry| Arc::ptr_eq(entry.open.subscription(), &self.subscription));
        if is_this {
            act(&mut subscriptions);
        }
    }
}
