//! The publisher: an event becomes a sealed entry of the log, and OK follows its commit to the index.
//!
//! The home shard has 300 ms; then the next shard is tried while the first stays pending, and the first acknowledgement
//! wins, for 5 s in all. A timeout, "no responders" and error 10158 leave an attempt in doubt: it may still become
//! durable. That is harmless, because the event id decides what is the same, not the place in the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nightjar_config::RelayConfig;
use nightjar_envelope::{
    Body, BodyKind, BucketLabel, Class, Keyring, Route, SealError, StreamName,
};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant as TokioInstant, sleep_until, timeout_at};

use super::attempt::{self, AttemptEnd};
use super::connection::Connection;
use super::ephemeral::Replays;
use super::keys::Keys;
use super::metrics::{Attempt, LogMetrics};
use super::writer::{Write, WriteError, Writer};
use crate::event::{Event, EventId};
use crate::index::{Applied, LogEntry, LogTime, Logged};
use crate::live::{Live, Source};
use crate::management::record::SignedChange;

/// A shard that has not answered by then is joined by the next one.
const SPILL_AFTER: Duration = Duration::from_millis(300);
/// After an immediate refusal the next shard is tried this soon, doubled with every further refusal up to the above.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// An ephemeral message is handed to NATS within this or not at all.
const HAND_OVER: Duration = Duration::from_secs(1);

/// What goes with an event from the session to the publisher.
#[derive(Clone, Copy, Debug)]
pub struct PublishContext {
    /// When the event was admitted, in milliseconds since the epoch.
    pub admitted_ms: u64,
}

/// How a publish ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Durable, and visible on this relay.
    Stored,
    /// Durable, and hidden by a deletion or expiration that came first: `OK true "duplicate: ..."`, like everything known.
    Duplicate,
    /// An ephemeral event was handed to NATS.
    HandedOver,
}

/// Why an event was not published. The text says what the client can do; [`PublishError::prefix`] is its NIP-01 prefix.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PublishError {
    /// No acknowledgement in time. The event may still become durable: sending it again is safe.
    #[error("not durable in time, send it again")]
    NotDurableInTime,
    /// No NATS server took the ephemeral event in time. It may still be delivered.
    #[error("not handed on in time, send it again")]
    NotHandedOn,
    /// The event does not fit into the largest envelope.
    #[error("the event has {len} bytes, the limit is {limit} bytes")]
    TooLarge {
        /// The largest event in bytes.
        limit: usize,
        /// This event in bytes.
        len: usize,
    },
    /// Too many bytes wait for their acknowledgement on this relay.
    #[error("the relay has {limit} bytes of events in flight, slow down and send it again")]
    Overloaded {
        /// The bound in bytes.
        limit: usize,
    },
    /// The relay has no key to seal with.
    #[error("the relay has no sealing key yet, send it again later")]
    NoKey,
    /// The index takes no entries.
    #[error("the relay's index takes no entries now, send it again later")]
    IndexUnavailable,
    /// The log of the region is full.
    #[error("the log of this region is full, send it again later")]
    LogFull,
    /// The relay stops.
    #[error("the relay stops, send it again to another relay")]
    Stopping,
}

impl PublishError {
    /// The machine-readable NIP-01 prefix of the OK message, without the colon.
    pub fn prefix(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "invalid",
            Self::Overloaded { .. } => "rate-limited",
            _ => "error",
        }
    }
}

/// Publishes events. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

/// What the publisher works with.
pub(crate) struct PublisherParts {
    pub(crate) config: Arc<ArcSwap<RelayConfig>>,
    pub(crate) connection: Connection,
    pub(crate) keys: Keys,
    pub(crate) writer: Writer,
    pub(crate) live: Live,
    pub(crate) replays: Replays,
    pub(crate) metrics: LogMetrics,
}

struct Inner {
    parts: PublisherParts,
    in_flight: Arc<Semaphore>,
    in_flight_limit: usize,
}

/// Bytes that count as in flight until dropped.
struct InFlight {
    bytes: i64,
    metrics: LogMetrics,
    _permit: OwnedSemaphorePermit,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight_bytes.dec_by(self.bytes);
    }
}

impl Publisher {
    pub(crate) fn new(parts: PublisherParts) -> Self {
        // A limit below one event would refuse everything.
        let configured = parts.config.load().limits.in_flight_publish_bytes_per_relay;
        let in_flight_limit = configured.clamp(
            nightjar_envelope::MAX_ENVELOPE_BYTES,
            Semaphore::MAX_PERMITS,
        );
        Self {
            inner: Arc::new(Inner {
                in_flight: Arc::new(Semaphore::new(in_flight_limit)),
                in_flight_limit,
                parts,
            }),
        }
    }

    /// Publishes one verified event. When it returns [`Published::Stored`], the event is durable and a query to this relay's
    /// index finds it.
    #[tracing::instrument(name = "publish", level = "debug", skip_all, fields(event.kind = event.kind))]
    pub async fn publish(
        &self,
        event: Arc<Event>,
        context: PublishContext,
    ) -> Result<Published, PublishError> {
        let parts = &self.inner.parts;
        let keyring = parts.keys.current().ok_or(PublishError::NoKey)?;
        if parts.writer.is_failing() {
            // Nothing may be acknowledged, so nothing more goes into the log. The follower's entries try the index again.
            return Err(PublishError::IndexUnavailable);
        }
        let _in_flight = self.take_in_flight(event.json().len())?;
        let route = self.home(event.class(), bucket_of(&keyring, &event))?;
        let sealer = Sealer {
            keyring: &keyring,
            id: event.id,
            kind: BodyKind::Event,
            json: event.json(),
            admitted_ms: context.admitted_ms,
            publisher: &self.inner,
        };
        if route.class == Class::Ephemeral {
            return self.hand_over(&event, &sealer, &route).await;
        }
        let at = self.append_in_time(&sealer, &route).await?;
        let is_private = event.is_private();
        match self.commit(event.into(), at, context).await? {
            // The follower may have been faster with the same entry: `Duplicate` is ours too. Whoever publishes again what
            // was known before is answered by the session, which asks the index first. A ban that came in between hides it.
            Applied::New | Applied::Duplicate | Applied::Superseded | Applied::Banned => {
                Ok(Published::Stored)
            }
            // The sender of a wrap learns nothing of what its recipient deleted.
            Applied::Deleted | Applied::Expired if is_private => Ok(Published::Stored),
            Applied::Deleted | Applied::Expired => Ok(Published::Duplicate),
        }
    }

    /// Publishes one change of the fleet's lists, signed by an administrator. Answers whether it stands; if it does not, a later change
    /// of the same lists was faster. It is durable then all the same, and in force on this relay.
    #[tracing::instrument(name = "publish_change", level = "debug", skip_all)]
    pub async fn publish_change(
        &self,
        change: Arc<SignedChange>,
        context: PublishContext,
    ) -> Result<bool, PublishError> {
        let parts = &self.inner.parts;
        let keyring = parts.keys.current().ok_or(PublishError::NoKey)?;
        if parts.writer.is_failing() {
            return Err(PublishError::IndexUnavailable);
        }
        let _in_flight = self.take_in_flight(change.json().len())?;
        let bucket = keyring.bucket(BucketLabel::Author, &change.signer);
        let route = self.home(Class::State, bucket)?;
        let sealer = Sealer {
            keyring: &keyring,
            id: *change.id(),
            kind: BodyKind::Management,
            json: change.json(),
            admitted_ms: context.admitted_ms,
            publisher: &self.inner,
        };
        let at = self.append_in_time(&sealer, &route).await?;
        let applied = self
            .commit(Logged::Change(change.clone()), at, context)
            .await?;
        Ok(matches!(applied, Applied::New | Applied::Duplicate))
    }

    /// Appends within `publish_deadline_ms`.
    async fn append_in_time(
        &self,
        sealer: &Sealer<'_>,
        route: &Route,
    ) -> Result<(StreamName, u64), PublishError> {
        let parts = &self.inner.parts;
        let began = Instant::now();
        let deadline =
            began + Duration::from_millis(parts.config.load().limits.publish_deadline_ms);
        let at = self.append(sealer, route, deadline.into()).await?;
        parts
            .metrics
            .on_puback(&at.0.to_string(), began.elapsed().as_secs_f64());
        Ok(at)
    }

    fn take_in_flight(&self, bytes: usize) -> Result<InFlight, PublishError> {
        let limit = self.inner.in_flight_limit;
        let permits = u32::try_from(bytes.clamp(1, limit)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.inner.in_flight)
            .try_acquire_many_owned(permits)
            .map_err(|_| PublishError::Overloaded { limit })?;
        let metrics = self.inner.parts.metrics.clone();
        metrics.in_flight_bytes.inc_by(i64::from(permits));
        Ok(InFlight {
            bytes: i64::from(permits),
            metrics,
            _permit: permit,
        })
    }

    /// Where an entry belongs. A region without a log of its own cannot write.
    fn home(&self, class: Class, bucket: u8) -> Result<Route, PublishError> {
        let config = self.inner.parts.config.load();
        let own = config
            .log
            .region(&config.region)
            .ok_or(PublishError::NotDurableInTime)?;
        let route = Route::home(config.region.clone(), own.generation, class, bucket);
        Ok(match attempt::shards_of(class, own) {
            0 => route,
            shards => route.on_shard(bucket % shards),
        })
    }

    /// Tries shard after shard until one acknowledges.
    async fn append(
        &self,
        sealer: &Sealer<'_>,
        home: &Route,
        deadline: TokioInstant,
    ) -> Result<(StreamName, u64), PublishError> {
        let parts = &self.inner.parts;
        let shards = {
            let config = parts.config.load();
            let own = config.log.region(&home.region);
            own.map_or(1, |own| attempt::shards_of(home.class, own).max(1))
        };
        let mut pending = FuturesUnordered::new();
        let mut full = vec![false; usize::from(shards)];
        let (mut attempts, mut refusals) = (0u32, 0u32);
        let mut next_at = TokioInstant::now();
        while TokioInstant::now() < deadline {
            let now = TokioInstant::now();
            if now >= next_at && (attempts == 0 || parts.connection.is_connected()) {
                let shard = attempt::shard_of_attempt(home.shard, attempts, shards);
                pending.push(sealer.attempt(&home.on_shard(shard), deadline)?);
                attempts += 1;
                next_at = now + SPILL_AFTER;
            } else if now >= next_at {
                // What is sent now would only pile up until there is a connection.
                next_at = now + RETRY_FIRST;
            }
            let end = tokio::select! {
                Some(end) = pending.next(), if !pending.is_empty() => end,
                () = sleep_until(next_at.min(deadline)) => continue,
            };
            match end {
                (_, AttemptEnd::Stored { stream, sequence }) => {
                    let at_home = home.stream().as_ref() == Some(&stream);
                    parts.metrics.on_attempt(if at_home {
                        Attempt::home
                    } else {
                        Attempt::spilled
                    });
                    return Ok((stream, sequence));
                }
                (shard, AttemptEnd::Full) => {
                    parts.metrics.on_attempt(Attempt::full);
                    full[usize::from(shard)] = true;
                    if full.iter().all(|full| *full) {
                        return Err(PublishError::LogFull);
                    }
                    next_at = TokioInstant::now();
                }
                (_, AttemptEnd::InDoubt) => {
                    parts.metrics.on_attempt(Attempt::in_doubt);
                    let pause = RETRY_FIRST.saturating_mul(1 << refusals.min(4));
                    refusals += 1;
                    next_at = next_at.min(TokioInstant::now() + pause.min(SPILL_AFTER));
                }
            }
        }
        parts.metrics.on_attempt(Attempt::not_in_time);
        Err(PublishError::NotDurableInTime)
    }

    async fn commit(
        &self,
        content: Logged,
        at: (StreamName, u64),
        context: PublishContext,
    ) -> Result<Applied, PublishError> {
        let entry = LogEntry {
            content,
            at: Some(at),
            log_time: LogTime::Provisional(context.admitted_ms),
        };
        let write = Write {
            entries: vec![entry],
            advance: None,
            source: Source::Publisher,
        };
        let applied = self
            .inner
            .parts
            .writer
            .write(write)
            .await
            .map_err(|error| match error {
                WriteError::Index(_) => PublishError::IndexUnavailable,
                WriteError::Stopped => PublishError::Stopping,
            })?;
        let applied = applied.first().copied();
        applied.ok_or(PublishError::IndexUnavailable)
    }

    async fn hand_over(
        &self,
        event: &Arc<Event>,
        sealer: &Sealer<'_>,
        route: &Route,
    ) -> Result<Published, PublishError> {
        let parts = &self.inner.parts;
        let envelope = sealer.seal(route)?;
        // Known before it is sent: our own subscription hears it too.
        if !parts.replays.is_new(event.id) {
            return Ok(Published::HandedOver);
        }
        let client = &parts.connection.client;
        let until = TokioInstant::now() + HAND_OVER;
        let handed = async {
            client
                .publish(route.subject(), envelope.into())
                .await
                .map_err(|_| ())?;
            client.flush().await.map_err(|_| ())
        };
        let handed = timeout_at(until, handed).await;
        if !matches!(handed, Ok(Ok(()))) {
            parts.replays.forget(&event.id);
            return Err(PublishError::NotHandedOn);
        }
        parts.live.deliver(event, Source::Ephemeral);
        Ok(Published::HandedOver)
    }
}

/// The mailbox of a gift wrap's recipient, or the author of anything else.
fn bucket_of(keyring: &Keyring, event: &Event) -> u8 {
    let recipient = if event.is_private() {
        event.recipients().next()
    } else {
        None
    };
    match recipient {
        Some(recipient) => keyring.bucket(BucketLabel::Mailbox, &recipient),
        None => keyring.bucket(BucketLabel::Author, &event.pubkey),
    }
}

/// Seals one entry for whatever shard is tried.
struct Sealer<'a> {
    keyring: &'a Keyring,
    id: EventId,
    kind: BodyKind,
    json: &'a [u8],
    admitted_ms: u64,
    publisher: &'a Inner,
}

impl Sealer<'_> {
    fn seal(&self, route: &Route) -> Result<Vec<u8>, PublishError> {
        let body = Body {
            admitted_ms: self.admitted_ms,
            trace: crate::telemetry::current_trace(),
            kind: self.kind,
            json: self.json,
        };
        let fleet = self.publisher.parts.config.load().fleet.id;
        nightjar_envelope::seal(self.keyring, &fleet, route, &body).map_err(|error| match error {
            SealError::TooLarge { limit, len } => PublishError::TooLarge { limit, len },
            SealError::Random => PublishError::NoKey,
        })
    }

    fn attempt(
        &self,
        route: &Route,
        deadline: TokioInstant,
    ) -> Result<impl Future<Output = (u8, AttemptEnd)> + use<>, PublishError> {
        let envelope = self.seal(route)?;
        let message_id = self.keyring.msg_id(&self.id);
        let client = self.publisher.parts.connection.client.clone();
        let (shard, route) = (route.shard, route.clone());
        Ok(async move {
            (
                shard,
                attempt::send(client, &route, envelope, message_id, deadline).await,
            )
        })
    }
}
