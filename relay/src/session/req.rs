//! REQ: the read gate, the read policy if there is one, the live subscription, then the stored read, then EOSE.
//!
//! The policy is asked before anything is opened, so that what it lets through begins as if there were none: live first, then stored,
//! and nothing in between is missed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use nightjar_config::Limits;
use nightjar_envelope::PositionVector;
use serde_json::value::RawValue;
use tracing::Instrument;

use super::open::{self, Entry, Open, SharedOpen, Unanswered};
use super::read::{Ended, Lane, ReadBounds, value_count};
use super::turns::ReadTurns;
use super::{Services, Session, unix_seconds};
use crate::cursor::{CursorRefusal, Resume};
use crate::filter::Filter;
use crate::index::{ArrivalQuery, Batch, BatchLimits, Index, IndexError, Query};
use crate::live::{SharedReaders, StoredEnd, Subscription};
use crate::message;
use crate::metrics::Door;
use crate::plugin::{Source, Verb};
use crate::session::outbox::Outbox;
use crate::visibility::Readers;

/// Most events of one slice.
const READ_EVENTS: usize = 500;

impl Session {
    /// Takes a REQ. Live events flow from the moment it is let through; the stored read goes on by itself.
    pub(super) fn on_req(&mut self, id: &str, raw: &[&RawValue], limits: &Limits) {
        let started = Instant::now();
        // A REQ under a known id ends the old subscription, also if the new one is refused.
        let replaced = self.lock().take_subscription(id);
        drop(replaced);
        let readers = self.readers.load_full();
        let (filters, resume) = match self.check_req(raw, &readers, limits) {
            Ok(checked) => checked,
            Err(reason) => {
                self.outbox.push_text(message::closed(id, &reason));
                return;
            }
        };
        let opening = Opening {
            services: self.services.clone(),
            open: self.open.clone(),
            readers: self.readers.clone(),
            outbox: self.outbox.clone(),
            turns: self.turns.clone(),
            id: id.to_owned(),
            resume,
            started,
        };
        let mut open = self.lock();
        if !self.services.plugins.ask_reads() {
            opening.begin(&mut open, filters, readers);
            return;
        }
        let (serial, values) = (open.next_serial(), value_count(&filters));
        let source = self.admission.source.clone();
        // Spawned under the lock: what is answered at once must find its entry.
        let task = tokio::spawn(opening.ask(serial, source, filters, readers)).abort_handle();
        let asking = Unanswered {
            task,
            values,
            serial,
        };
        open.asking.insert(id.to_owned(), asking);
    }

    /// The filters, with a limit each, and what they ask for by a cursor, or the reason for a CLOSED.
    fn check_req(
        &self,
        raw: &[&RawValue],
        readers: &Readers,
        limits: &Limits,
    ) -> Result<(Vec<Filter>, Option<Arc<Resume>>), String> {
        let mut filters = self.check_read(raw, readers, limits, Door::req)?;
        for filter in &mut filters {
            filter.cap_limit(limits.default_limit, limits.max_limit);
        }
        let resume = self.take_cursor(&mut filters, readers).map_err(|refusal| {
            match refusal {
                CursorRefusal::Readers => self.services.metrics.on_read_refused(Door::arrival),
                _ => {
                    self.services.metrics.bad_messages.inc();
                }
            }
            refusal.to_string()
        })?;
        Ok((filters, resume.map(Arc::new)))
    }

    /// Takes the cursor out of the filters: it is about the whole REQ.
    fn take_cursor(
        &self,
        filters: &mut [Filter],
        readers: &Readers,
    ) -> Result<Option<Resume>, CursorRefusal> {
        let mut texts: Vec<String> = filters
            .iter_mut()
            .filter_map(|filter| filter.cursor.take())
            .collect();
        texts.dedup();
        match &texts[..] {
            [] => Ok(None),
            [text] => {
                let services = &self.services;
                let retention_s = services.config.load().log.message_retention_seconds;
                let is_private = filters.iter().any(Filter::may_match_private);
                let now_s = unix_seconds();
                services
                    .cursors
                    .take(text, readers, is_private, retention_s, now_s)
                    .map(Some)
            }
            _ => Err(CursorRefusal::Differ),
        }
    }
}

/// One REQ that passed the checks.
struct Opening {
    services: Arc<Services>,
    open: SharedOpen,
    readers: SharedReaders,
    outbox: Outbox,
    turns: ReadTurns,
    id: String,
    resume: Option<Arc<Resume>>,
    started: Instant,
}

impl Opening {
    /// Asks the read policy, then begins, or tells why not.
    async fn ask(self, serial: u64, source: Source, filters: Vec<Filter>, readers: Arc<Readers>) {
        let plugins = &self.services.plugins;
        let asked = plugins.may_read(Verb::Req, &filters, &source, &readers, unix_seconds());
        let answer = asked.await;
        let shared = self.open.clone();
        let mut open = open::lock(&shared);
        // Dropping the entry ends this task at its next pause, and there is none.
        let Some(_asking) = open.take_asking(&self.id, serial) else {
            return;
        };
        match answer {
            Ok(()) => self.begin(&mut open, filters, readers),
            Err(reason) => {
                let closed = message::closed(&self.id, &reason);
                self.outbox.push_text(closed);
            }
        }
    }

    /// Opens the live subscription and starts the stored read. Under the lock: a read that fails at once must find its
    /// subscription to close it.
    fn begin(self, open: &mut Open, filters: Vec<Filter>, readers: Arc<Readers>) {
        let values = value_count(&filters);
        let live = self.services.live.open(
            &self.id,
            filters.clone(),
            self.readers,
            self.outbox.clone(),
            self.resume.clone(),
        );
        let read = StoredRead {
            services: self.services,
            subscription: live.subscription().clone(),
            open: self.open,
            outbox: self.outbox,
            turns: self.turns,
            id: self.id.clone(),
            resume: self.resume,
            started: self.started,
        };
        let span = tracing::debug_span!("session", verb = "REQ", filters = filters.len());
        let task = tokio::spawn(read.run(filters, readers).instrument(span));
        let entry = Entry {
            open: live,
            read: Some(task.abort_handle()),
            values,
        };
        open.subscriptions.insert(self.id, entry);
    }
}

/// The stored half of one REQ.
struct StoredRead {
    services: Arc<Services>,
    subscription: Arc<Subscription>,
    open: SharedOpen,
    outbox: Outbox,
    turns: ReadTurns,
    id: String,
    resume: Option<Arc<Resume>>,
    started: Instant,
}

/// A stored read in progress.
enum Stored {
    /// Newest first; a cursor that was asked for stands at this position.
    Newest(Query, PositionVector),
    /// What arrived after a cursor.
    Arrivals(ArrivalQuery),
}

impl Stored {
    fn begin(
        index: &Index,
        filters: &[Filter],
        readers: &Readers,
        resume: Option<&Resume>,
        bounds: ReadBounds,
    ) -> Result<Self, IndexError> {
        let now_s = unix_seconds();
        let Some(resume) = resume else {
            let query = index.query(filters, readers, now_s)?;
            return Ok(Self::Newest(query, PositionVector::new()));
        };
        if let Some(after) = resume.after() {
            let after = after.clone();
            let query = index.query_arrivals(filters, readers, after, bounds.looked_at, now_s)?;
            return Ok(Self::Arrivals(query));
        }
        // Before the query begins: what it does not find arrived later.
        let position = index.position()?;
        let query = index.query(filters, readers, now_s)?;
        Ok(Self::Newest(query, position))
    }

    fn next_batch(&mut self, limits: &BatchLimits) -> Result<Batch, IndexError> {
        match self {
            Self::Newest(query, _) => query.next_batch(limits),
            Self::Arrivals(query) => query.next_batch(limits),
        }
    }

    /// What a cursor speaks of, once everything was sent. What a limit left out of [`Stored::Newest`] was not asked for; a page of
    /// [`Stored::Arrivals`] that ended early goes on from its position, and live events are beyond that.
    fn end(&self, batch: &Batch) -> StoredEnd {
        match self {
            Self::Newest(_, position) => StoredEnd {
                position: position.clone(),
                live: true,
            },
            Self::Arrivals(query) => StoredEnd {
                position: query.position(),
                live: batch.complete,
            },
        }
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
        let (index, bounds) = (self.services.index.clone(), self.services.bounds);
        let resume = self.resume.clone();
        // It begins within the first slice: a small read waits for a thread once.
        let mut go_on: Box<dyn FnOnce() -> Result<Stored, IndexError> + Send> =
            Box::new(move || Stored::begin(&index, &filters, &readers, resume.as_deref(), bounds));
        let mut lane = Lane::First;
        loop {
            // A client that reads slowly is read for slowly; its queue is not filled for it.
            let Some(room) = self.outbox.room().await else {
                return Err(Ended::Abandoned);
            };
            let limits = BatchLimits {
                events: READ_EVENTS,
                bytes: room.bytes().max(1),
                time: self.services.bounds.slice_in(lane),
            };
            let slice = self.turns.run(&self.services, lane, move || {
                let mut query = go_on()?;
                let batch = query.next_batch(&limits)?;
                Ok((query, batch))
            });
            let (query, batch) = slice.await?.map_err(Ended::Failed)?;
            let end = batch.done.then(|| query.end(&batch));
            let sent = self
                .subscription
                .send_stored(&batch, end)
                .ok_or(Ended::Abandoned)?;
            drop(room);
            self.services.metrics.stored_sent.inc_by(sent as u64);
            if batch.done {
                return Ok(());
            }
            (go_on, lane) = (Box::new(move || Ok(query)), Lane::Further);
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
        let mut open = open::lock(&self.open);
        let is_this = open
            .subscriptions
            .get(&self.id)
            .is_some_and(|entry| Arc::ptr_eq(entry.open.subscription(), &self.subscription));
        if is_this {
            act(&mut open.subscriptions);
        }
    }
}
