//! COUNT (NIP-45): how many stored events match and may be read, one number for all filters together.
//!
//! It passes the same gate and walks the same query as a REQ, so it counts what a REQ would send. A filter's own `limit`
//! bounds what it adds; the relay's limits on answers do not. No HyperLogLog: it would make each answer 512 characters longer
//! for the sake of public counts over many relays, which is not what this relay is for.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use nightjar_config::Limits;
use serde_json::value::RawValue;
use tracing::Instrument;

use super::open::{self, SharedOpen, Unanswered};
use super::outbox::Outbox;
use super::read::{Ended, Lane, value_count};
use super::turns::ReadTurns;
use super::{Services, Session, unix_seconds};
use crate::filter::Filter;
use crate::index::{IndexError, Query};
use crate::message;
use crate::metrics::Door;
use crate::plugin::{Source, Verb};
use crate::visibility::Readers;

impl Session {
    /// Takes a COUNT. It goes on by itself and is answered when it is done.
    pub(super) fn on_count(&mut self, query: &str, raw: &[&RawValue], limits: &Limits) {
        let started = Instant::now();
        // Asked again under the same id: only the new question is answered.
        self.lock().counts.remove(query);
        let readers = self.readers.load_full();
        let filters = match self.check_read(raw, &readers, limits, Door::count) {
            Ok(filters) => filters,
            Err(reason) => {
                self.outbox.push_text(message::closed(query, &reason));
                return;
            }
        };
        let mut open = self.lock();
        let serial = open.next_serial();
        let values = value_count(&filters);
        let counting = Counting {
            services: self.services.clone(),
            open: self.open.clone(),
            turns: self.turns.clone(),
            outbox: self.outbox.clone(),
            source: self.admission.source.clone(),
            query: query.to_owned(),
            serial,
            started,
        };
        // Spawned under the lock: a count that ends at once must find its entry.
        let span = tracing::debug_span!("session", verb = "COUNT", filters = filters.len());
        let task = tokio::spawn(counting.run(filters, readers).instrument(span)).abort_handle();
        let count = Unanswered {
            task,
            values,
            serial,
        };
        open.counts.insert(query.to_owned(), count);
    }
}

/// One COUNT under way.
struct Counting {
    services: Arc<Services>,
    open: SharedOpen,
    turns: ReadTurns,
    outbox: Outbox,
    source: Source,
    query: String,
    serial: u64,
    started: Instant,
}

impl Counting {
    async fn run(self, filters: Vec<Filter>, readers: Arc<Readers>) {
        let answer = match self.count(filters, readers).await {
            Ok(answer) => answer,
            Err(Ended::Abandoned) => self.closed("error: the count was given up, ask again"),
            Err(Ended::Failed(error)) => {
                tracing::warn!(%error, "a count failed");
                self.closed("error: the index could not be read, ask again")
            }
        };
        let mut open = open::lock(&self.open);
        let is_this = open
            .counts
            .get(&self.query)
            .is_some_and(|count| count.serial == self.serial);
        if is_this {
            open.counts.remove(&self.query);
            self.outbox.push_text(answer);
        }
    }

    async fn count(&self, filters: Vec<Filter>, readers: Arc<Readers>) -> Result<Bytes, Ended> {
        let (plugins, source) = (&self.services.plugins, &self.source);
        let asked = plugins.may_read(Verb::Count, &filters, source, &readers, unix_seconds());
        if let Err(reason) = asked.await {
            return Ok(self.closed(&reason));
        }
        let bounds = self.services.bounds;
        let index = self.services.index.clone();
        // It begins within the first slice: a small count waits for a thread once.
        let mut go_on: Box<dyn FnOnce() -> Result<Query, IndexError> + Send> =
            Box::new(move || index.query(&filters, &readers, unix_seconds()));
        let (mut total, mut lane) = (0, Lane::First);
        loop {
            let slice = self.turns.run(&self.services, lane, move || {
                let mut query = go_on()?;
                let batch = query.count_batch(bounds.slice_in(lane))?;
                Ok((query, batch))
            });
            let (query, batch) = slice.await?.map_err(Ended::Failed)?;
            total += batch.events;
            if batch.done {
                let seconds = self.started.elapsed().as_secs_f64();
                self.services.metrics.count_seconds.observe(seconds);
                return Ok(message::count(&self.query, total));
            }
            if query.looked_at() >= bounds.looked_at {
                // Part of a count is no count, and nobody could tell how far it is off.
                return Ok(self.closed(&format!(
                    "blocked: this count would look at more than {} events; narrow its filters (authors, since) or give them a limit",
                    bounds.looked_at
                )));
            }
            (go_on, lane) = (Box::new(move || Ok(query)), Lane::Further);
        }
    }

    fn closed(&self, reason: &str) -> Bytes {
        message::closed(&self.query, reason)
    }
}
