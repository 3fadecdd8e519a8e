//! One client connection as Nostr sees it: messages in, answers into the out-queue. Knows no socket.
//!
//! `on_text` takes messages in order. AUTH is finished before the next message is read, so that what follows it counts as
//! authenticated; EVENTs are answered as they become durable, REQs, COUNTs and NEG-OPENs as they are
//! read. What waits for a policy program does so on a task of its own.

mod count;
mod event;
mod open;
pub mod outbox;
mod read;
mod reconciliation;
mod req;
mod sync;
#[cfg(test)]
mod tests;
mod turns;

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use nightjar_config::{Limits, RelayConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, ConnectionAdmission, Refusal};
use crate::cursor::Cursors;
use crate::event::Event;
use crate::index::Index;
use crate::live::{Live, SharedReaders};
use crate::log::{PublishContext, PublishError, Published, Readiness};
use crate::management::record::SignedChange;
use crate::message::{self, About, ClientMessage, MessageError, MessageLimits};
use crate::metrics::{AuthStep, LimitRule, Metrics};
use crate::plugin::Plugins;
use crate::visibility::Readers;
use open::{Open, SharedOpen};
use outbox::Outbox;
pub use read::{Lane, ReadBounds, ReadPool};
use reconciliation::SyncRoom;
use turns::ReadTurns;

/// Most keys that may authenticate on one connection.
const MAX_READERS: usize = 64;

/// What makes an event durable and visible. The relay's is the log's publisher.
pub trait Publish: Send + Sync + 'static {
    /// Resolves when the event is durable and visible on this relay, or when that failed.
    fn publish(
        &self,
        event: Arc<Event>,
        context: PublishContext,
    ) -> BoxFuture<'_, Result<Published, PublishError>>;

    /// The same for a change of the fleet's lists; answers whether it stands against the changes known by then.
    fn publish_change(
        &self,
        change: Arc<SignedChange>,
        context: PublishContext,
    ) -> BoxFuture<'_, Result<bool, PublishError>>;
}

/// What every session of a relay shares.
pub struct Services {
    /// The configuration in force; replaced when the file is read again.
    pub config: Arc<ArcSwap<RelayConfig>>,
    /// Stored reads, and what is known of an event.
    pub index: Index,
    /// Live reads.
    pub live: Live,
    /// Writes.
    pub publisher: Arc<dyn Publish>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Whether stored reads may be answered.
    pub readiness: Readiness,
    /// Rates, rules and signatures.
    pub admission: Arc<Admission>,
    /// Makes and opens cursors.
    pub cursors: Cursors,
    /// Policy programs.
    pub plugins: Plugins,
    /// Threads of stored reads.
    pub reads: ReadPool,
    /// What one read may cost.
    pub bounds: ReadBounds,
    /// Room for the sets of open reconciliations.
    sync_room: SyncRoom,
    /// Cancelled when the relay begins to drain.
    pub drain: CancellationToken,
}

/// The parts that a server hands to its sessions.
pub struct Parts {
    /// See [`Services::config`].
    pub config: Arc<ArcSwap<RelayConfig>>,
    /// See [`Services::index`].
    pub index: Index,
    /// See [`Services::live`].
    pub live: Live,
    /// See [`Services::publisher`].
    pub publisher: Arc<dyn Publish>,
    /// See [`Services::metrics`].
    pub metrics: Arc<Metrics>,
    /// See [`Services::readiness`].
    pub readiness: Readiness,
    /// See [`Services::admission`].
    pub admission: Arc<Admission>,
    /// See [`Services::cursors`].
    pub cursors: Cursors,
    /// See [`Services::plugins`].
    pub plugins: Plugins,
}

impl Services {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Arc<Self> {
        Self::within(parts, ReadBounds::default())
    }

    /// The same with other bounds on what a read may cost.
    pub fn within(parts: Parts, bounds: ReadBounds) -> Arc<Self> {
        let Parts {
            config,
            index,
            live,
            publisher,
            metrics,
            readiness,
            admission,
            cursors,
            plugins,
        } = parts;
        let sync_room = SyncRoom::new(bounds.relay_sync_events, metrics.clone());
        Arc::new(Self {
            sync_room,
            config,
            index,
            live,
            publisher,
            metrics,
            readiness,
            admission,
            cursors,
            plugins,
            reads: ReadPool::for_this_machine(),
            bounds,
            drain: CancellationToken::new(),
        })
    }

    fn limits(&self) -> Limits {
        self.config.load().limits.clone()
    }
}

/// One connection.
pub struct Session {
    services: Arc<Services>,
    admission: Arc<ConnectionAdmission>,
    outbox: Outbox,
    readers: SharedReaders,
    challenge: String,
    open: SharedOpen,
    /// Reads of a connection take turns: who asks for many at once waits for its own, not others for it.
    turns: ReadTurns,
    /// Publishes that have not been answered yet.
    publishes: TaskTracker,
}

impl Session {
    /// Begins a session: the challenge (NIP-42) goes out first.
    pub fn begin(services: Arc<Services>, admission: ConnectionAdmission, outbox: Outbox) -> Self {
        let challenge = hex::encode(rand::random::<[u8; 16]>());
        outbox.push_text(message::auth(&challenge));
        services.metrics.on_auth(AuthStep::challenged);
        Self {
            services,
            admission: Arc::new(admission),
            outbox,
            readers: Arc::new(ArcSwap::from_pointee(Readers::anonymous())),
            challenge,
            open: SharedOpen::default(),
            turns: ReadTurns::new(),
            publishes: TaskTracker::new(),
        }
    }

    /// Takes one text message. Returns when the next one may be taken.
    pub async fn on_text(&mut self, text: Bytes) {
        let limits = self.services.limits();
        self.services.metrics.bytes_in.inc_by(text.len() as u64);
        let shape = MessageLimits {
            max_filters: limits.max_filters,
            max_subid_length: limits.max_subid_length,
        };
        let longest = limits.max_message_length;
        let parsed = match std::str::from_utf8(&text) {
            Ok(text) if text.len() > longest => Err(message::too_long(text, longest, &shape)),
            Ok(text) => message::parse(text, &shape),
            // The socket gives text only; anything else is answered as bad input too.
            Err(_) => Err(message::Problem::NotAnArray("not UTF-8".to_owned()).into()),
        };
        match parsed {
            Ok(ClientMessage::Event(raw)) => {
                self.on_event(text.slice_ref(raw.get().as_bytes()), raw)
            }
            Ok(ClientMessage::Req {
                subscription,
                filters,
            }) => {
                self.on_req(&subscription, &filters, &limits);
            }
            Ok(ClientMessage::Count { query, filters }) => {
                self.on_count(&query, &filters, &limits);
            }
            Ok(ClientMessage::NegOpen {
                sync,
                filter,
                message,
            }) => self.on_neg_open(&sync, filter, message, &limits),
            Ok(ClientMessage::NegMessage { sync, message }) => {
                self.on_neg_message(&sync, message).await;
            }
            Ok(ClientMessage::NegClose { sync }) => self.on_neg_close(&sync).await,
            Ok(ClientMessage::Close { subscription }) => self.on_close(&subscription).await,
            Ok(ClientMessage::Auth(raw)) => {
                let json = text.slice_ref(raw.get().as_bytes());
                self.on_auth(json, message::claimed_id(raw)).await;
            }
            Err(error) => self.on_bad_message(&error).await,
        }
    }

    /// Takes a binary message: NIP-01 knows none.
    pub async fn on_binary(&mut self, len: usize) {
        self.notice(&format!(
            "invalid: messages are text, this one is binary ({len} bytes)"
        ))
        .await;
    }

    async fn on_bad_message(&mut self, error: &MessageError) {
        let reason = format!("invalid: {error}");
        let answer = match &error.about {
            About::Nothing => return self.notice(&reason).await,
            // What is refused also ends what it would have replaced.
            About::Subscription(id) => {
                let replaced = self.lock().take_subscription(id);
                drop(replaced);
                message::closed(id, &reason)
            }
            About::Count(id) => {
                self.lock().counts.remove(id);
                message::closed(id, &reason)
            }
            About::Sync(id) => {
                self.lock().syncs.remove(id);
                message::neg_error(id, &reason)
            }
        };
        self.outbox.push_text(answer);
        self.services.metrics.bad_messages.inc();
        self.pause().await;
    }

    async fn notice(&mut self, text: &str) {
        self.services.metrics.bad_messages.inc();
        self.outbox.push_text(message::notice(text));
        self.pause().await;
    }

    async fn on_close(&mut self, subscription: &str) {
        let (ended, given_up) = {
            let mut open = self.lock();
            (
                open.take_subscription(subscription),
                open.counts.remove(subscription),
            )
        };
        // Whoever opened it has paid with its REQ; only a CLOSE of nothing is noise.
        if ended.is_none() && given_up.is_none() {
            self.pause().await;
        }
    }

    /// Cheap messages cost the relay too: whoever sends many is read more slowly.
    async fn pause(&self) {
        while let Some(wait) = self.admission.rates.pause_after_other() {
            self.services.admission.on_limit(LimitRule::bad_messages);
            tokio::time::sleep(wait).await;
        }
    }

    async fn on_auth(&mut self, json: Bytes, claimed: Option<String>) {
        let answer = self.authenticate(json).await;
        let step = match &answer {
            Ok(_) => AuthStep::ok,
            Err(refusal) if refusal.rule().is_some() => AuthStep::limited,
            Err(_) => AuthStep::failed,
        };
        self.services.metrics.on_auth(step);
        match (answer, claimed) {
            (Ok(event), _) => self
                .outbox
                .push_text(message::ok(&event.id_hex(), true, "")),
            (Err(refusal), Some(id)) => {
                self.outbox
                    .push_text(message::ok(&id, false, &refusal.to_string()));
            }
            (Err(refusal), None) => self.notice(&refusal.to_string()).await,
        }
    }

    async fn authenticate(&self, json: Bytes) -> Result<Arc<Event>, Refusal> {
        let admission = &self.services.admission;
        admission.admit_auth(&self.admission)?;
        let event = admission
            .verify_auth(json, self.challenge.clone(), unix_seconds())
            .await?;
        let known = self.readers.load();
        if known.iter().count() >= MAX_READERS && !known.contains(&event.pubkey) {
            return Err(Refusal::TooManyReaders { limit: MAX_READERS });
        }
        let mut readers = Readers::clone(&known);
        readers.insert(event.pubkey);
        self.readers.store(Arc::new(readers));
        Ok(event)
    }

    /// Called now and then while the connection is open.
    pub fn tidy(&self) {
        let now = Instant::now();
        for entry in self.lock().subscriptions.values() {
            entry.open.subscription().forget_stored(now);
        }
    }

    /// Ends the session for a drain: waits for publishes under way, so that what was made durable gets its OK, then closes
    /// every subscription with a reason.
    pub async fn drain(&mut self, publishes_within: Duration) {
        self.publishes.close();
        // In doubt after that; the client sends again elsewhere.
        let _ = tokio::time::timeout(publishes_within, self.publishes.wait()).await;
        const REASON: &str = "error: this relay is going away";
        let ended = std::mem::take(&mut *self.lock());
        let asked = ended.asking.keys().chain(ended.counts.keys());
        for id in ended.subscriptions.keys().chain(asked) {
            self.outbox.push_text(message::closed(id, REASON));
        }
        for id in ended.syncs.keys() {
            self.outbox.push_text(message::neg_error(id, REASON));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        open::lock(&self.open)
    }
}

impl Drop for Session {
    /// Reads under way hold what is open too, so it would not end by itself.
    fn drop(&mut self) {
        let ended = std::mem::take(&mut *self.lock());
        drop(ended);
    }
}

pub(crate) fn unix_millis() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn unix_seconds() -> u64 {
    unix_millis() / 1000
}
