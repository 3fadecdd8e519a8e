//! NEG-OPEN, NEG-MSG, NEG-CLOSE (NIP-77): a client learns which events it lacks, and which this relay lacks.
//!
//! The relay's set is what a REQ with the same filter would send to the same readers, as it was at the NEG-OPEN: nobody's
//! set holds an event that they may not read, so no fingerprint tells of one. It is bounded in events, for each connection
//! and for the relay, and goes when the client is silent.

use std::sync::Arc;

use bytes::Bytes;
use nightjar_config::Limits;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::Instrument;

use super::open::{self, OpenSync, SharedOpen};
use super::outbox::Outbox;
use super::read::{Ended, Lane, value_count};
use super::reconciliation::{NoRoom, Set, Side};
use super::turns::ReadTurns;
use super::{Services, Session, unix_seconds};
use crate::filter::Filter;
use crate::message;
use crate::metrics::{Door, LimitRule};
use crate::plugin::{Source, Verb};
use crate::visibility::Readers;

/// Most bytes of an answer on the wire, where `max_message_length` and the out-queue allow that many: more in one frame would
/// only make it harder to read for a slow client.
const ANSWER_BYTES: usize = 128 * 1024;

impl Session {
    /// Takes a NEG-OPEN. It goes on by itself and is answered when the relay's set is there.
    pub(super) fn on_neg_open(
        &mut self,
        id: &str,
        raw: &RawValue,
        message: Vec<u8>,
        limits: &Limits,
    ) {
        // A NEG-OPEN under a known id ends the old one, also if the new one is refused.
        self.lock().syncs.remove(id);
        let readers = self.readers.load_full();
        let filters = match self.check_read(&[raw], &readers, limits, Door::neg) {
            Ok(filters) => filters,
            Err(reason) => {
                self.outbox.push_text(message::neg_error(id, &reason));
                return;
            }
        };
        let mut open = self.lock();
        let serial = open.next_serial();
        let values = value_count(&filters);
        let frame = message::neg_message(id, &[]).len();
        let longest = ANSWER_BYTES
            .min(limits.max_message_length)
            .min(limits.out_queue_bytes / 4);
        let opening = Opening {
            services: self.services.clone(),
            open: self.open.clone(),
            turns: self.turns.clone(),
            outbox: self.outbox.clone(),
            source: self.admission.source.clone(),
            id: id.to_owned(),
            serial,
            // Two hex digits for each byte.
            answer_bytes: longest.saturating_sub(frame) / 2,
        };
        // Spawned under the lock: what ends at once must find its entry.
        let span = tracing::debug_span!("session", verb = "NEG-OPEN");
        let run = opening.run(filters, readers, message).instrument(span);
        let sync = OpenSync {
            task: tokio::spawn(run).abort_handle(),
            values,
            serial,
            events: 0,
            side: None,
            heard: Instant::now(),
        };
        open.syncs.insert(id.to_owned(), sync);
    }

    /// Takes a NEG-MSG and answers it before the next message is read.
    pub(super) async fn on_neg_message(&mut self, id: &str, message: Vec<u8>) {
        // It costs a walk over the set. Whoever sends many is read more slowly.
        while let Some(wait) = self.admission.rates.pause_before_read() {
            tokio::time::sleep(wait).await;
        }
        let found = {
            let mut open = self.lock();
            open.syncs.get_mut(id).map(|sync| {
                sync.heard = Instant::now();
                (sync.serial, sync.side.take())
            })
        };
        let Some((serial, side)) = found else {
            let reason = "closed: nothing is open under this id (any more); begin with NEG-OPEN";
            self.outbox.push_text(message::neg_error(id, reason));
            return self.pause().await;
        };
        let Some(side) = side else {
            self.lock().syncs.remove(id);
            let reason = "invalid: a NEG-MSG comes after the answer to the one before";
            self.outbox.push_text(message::neg_error(id, reason));
            return self.pause().await;
        };
        // A client that reads slowly is answered slowly; its queue is not filled for it.
        let Some(_room) = self.outbox.room().await else {
            return;
        };
        let answered = answer(&self.services, &self.turns, side, message).await;
        let mut open = self.lock();
        let Some(sync) = open.sync(id, serial) else {
            return;
        };
        match answered {
            Ok((side, answer)) => {
                sync.side = Some(side);
                sync.heard = Instant::now();
                self.outbox.push_text(message::neg_message(id, &answer));
            }
            Err(reason) => {
                open.syncs.remove(id);
                self.outbox.push_text(message::neg_error(id, &reason));
            }
        }
    }

    /// Takes a NEG-CLOSE, which has no answer.
    pub(super) async fn on_neg_close(&mut self, id: &str) {
        let ended = self.lock().syncs.remove(id);
        // Whoever opened it has paid; only a NEG-CLOSE of nothing is noise.
        if ended.is_none() {
            self.pause().await;
        }
    }
}

/// Answers on a thread of the readers; gives the side back with the answer, or the reason for a NEG-ERR.
async fn answer(
    services: &Services,
    turns: &ReadTurns,
    mut side: Side,
    message: Vec<u8>,
) -> Result<(Side, Vec<u8>), String> {
    let answered = turns.run(services, Lane::First, move || {
        let answer = side.answer(&message)?;
        Ok::<_, negentropy::Error>((side, answer))
    });
    match answered.await {
        Ok(Ok(answered)) => Ok(answered),
        Ok(Err(error)) => {
            services.metrics.bad_messages.inc();
            Err(format!(
                "invalid: this is no message of the negentropy protocol, version 1 ({error})"
            ))
        }
        Err(_) => Err("error: the reconciliation was given up, begin again".to_owned()),
    }
}

/// One reconciliation from its NEG-OPEN on.
struct Opening {
    services: Arc<Services>,
    open: SharedOpen,
    turns: ReadTurns,
    outbox: Outbox,
    source: Source,
    id: String,
    serial: u64,
    /// Most bytes of one answer, before they become hex.
    answer_bytes: usize,
}

impl Opening {
    /// Builds the set, answers the first message, and stays until the client is silent for too long.
    async fn run(self, filters: Vec<Filter>, readers: Arc<Readers>, message: Vec<u8>) {
        let opened = match self.collect(filters, readers).await {
            Ok(side) => answer(&self.services, &self.turns, side, message).await,
            Err(reason) => Err(reason),
        };
        let Some(room) = self.outbox.room().await else {
            return;
        };
        match opened {
            Ok((side, answer)) => {
                self.begin(side, message::neg_message(&self.id, &answer));
                drop(room);
                self.watch().await;
            }
            Err(reason) => self.end(&reason),
        }
    }

    /// The relay's side, or the reason for a NEG-ERR.
    async fn collect(&self, filters: Vec<Filter>, readers: Arc<Readers>) -> Result<Side, String> {
        let (plugins, source) = (&self.services.plugins, &self.source);
        let asked = plugins.may_read(Verb::NegOpen, &filters, source, &readers, unix_seconds());
        asked.await?;
        let (bounds, index) = (self.services.bounds, self.services.index.clone());
        let begin = move || index.query(&filters, &readers, unix_seconds());
        let mut query = self
            .turns
            .run(&self.services, Lane::First, begin)
            .await
            .map_err(|error| failed(error.into()))?
            .map_err(|error| failed(Ended::Failed(error)))?;
        let mut set = Set::new(&self.services.sync_room);
        let mut lane = Lane::First;
        loop {
            let (resumed, batch) = self
                .turns
                .run(&self.services, lane, move || {
                    let batch = query.place_batch(bounds.slice_in(lane));
                    (query, batch)
                })
                .await
                .map_err(|error| failed(error.into()))?;
            (query, lane) = (resumed, Lane::Further);
            let batch = batch.map_err(|error| failed(Ended::Failed(error)))?;
            self.check_size(set.len() + batch.places.len())?;
            set.add(&batch.places).map_err(|NoRoom| {
                self.services
                    .admission
                    .on_limit(LimitRule::reconciled_events);
                "rate-limited: this relay reconciles as much as it can, try again in a minute"
                    .to_owned()
            })?;
            if batch.done {
                break;
            }
            if query.looked_at() >= bounds.looked_at {
                return Err(format!(
                    "blocked: this query is too big: it would look at more than {} events; narrow its filter (authors, since, until)",
                    bounds.looked_at
                ));
            }
        }
        // Sorts the set.
        let answer_bytes = self.answer_bytes;
        self.turns
            .run(&self.services, lane, move || set.seal(answer_bytes))
            .await
            .map_err(|error| failed(error.into()))?
            .map_err(|error| format!("error: {error}"))
    }

    fn check_size(&self, events: usize) -> Result<(), String> {
        let limit = self.services.bounds.sync_events;
        let mut open = open::lock(&self.open);
        // If it has been closed, this task has been told to end.
        if let Some(sync) = open.sync(&self.id, self.serial) {
            sync.events = events;
        }
        if open.sync_events() <= limit {
            return Ok(());
        }
        self.services
            .admission
            .on_limit(LimitRule::reconciled_events);
        Err(format!(
            "blocked: this query is too big: the reconciliations open on one connection may have {limit} events; narrow the filter (since, until), or close others"
        ))
    }

    fn begin(&self, side: Side, answer: Bytes) {
        let mut open = open::lock(&self.open);
        if let Some(sync) = open.sync(&self.id, self.serial) {
            sync.side = Some(side);
            sync.heard = Instant::now();
            self.outbox.push_text(answer);
        }
    }

    /// Until the client has said nothing for too long.
    async fn watch(&self) {
        let idle = self.services.bounds.sync_idle;
        loop {
            let Some(heard) = open::lock(&self.open)
                .sync(&self.id, self.serial)
                .map(|sync| sync.heard)
            else {
                return;
            };
            if heard.elapsed() >= idle {
                let seconds = idle.as_secs();
                return self.end(&format!(
                    "closed: no NEG-MSG came for {seconds} s, begin again with NEG-OPEN"
                ));
            }
            tokio::time::sleep_until(heard + idle).await;
        }
    }

    fn end(&self, reason: &str) {
        let mut open = open::lock(&self.open);
        if open.sync(&self.id, self.serial).is_some() {
            open.syncs.remove(&self.id);
            self.outbox.push_text(message::neg_error(&self.id, reason));
        }
    }
}

/// The reason for a NEG-ERR when the index was not read.
fn failed(ended: Ended) -> String {
    match ended {
        Ended::Abandoned => "error: the reconciliation was given up, begin again".to_owned(),
        Ended::Failed(error) => {
            tracing::warn!(%error, "the set of a reconciliation could not be read");
            "error: the index could not be read, begin again".to_owned()
        }
    }
}
