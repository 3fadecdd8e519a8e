//! The tail of one stream: pull, open, apply in sequence order, move the position. One task for each stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use nightjar_config::RelayConfig;
use nightjar_envelope::{FleetId, KeyEpoch, Keyring, Route, StreamName};
use tokio_util::sync::CancellationToken;

use super::attempt::shards_of;
use super::connection::Connection;
use super::keys::Keys;
use super::metrics::LogMetrics;
use super::opening::{self, Opened, OpeningError};
use super::pull::{Delivery, PullConsumer, PullError, Pulled};
use super::quarantine::{Quarantine, QuarantineRecord};
use super::readiness::{Readiness, Waiting};
use super::rebuild::Rebuild;
use super::writer::{Write, WriteError, Writer};
use crate::index::{Advance, Applied, Index, LogEntry, LogTime};
use crate::live::{Live, Source};

/// Entries opened and applied together.
const BATCH: usize = 256;
/// A batch of more than this is opened off the async threads.
const INLINE: usize = 8;
/// Pause before a consumer is made again, doubled up to ...
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// ... this.
const RETRY_MOST: Duration = Duration::from_secs(2);
/// A consumer that lived so long has worked, also without entries.
const WORKED: Duration = Duration::from_secs(5);
/// A stream that does not exist is looked for this often.
const LOOK_FOR: Duration = Duration::from_millis(500);
/// Pause before a write that the index refused is tried again.
const REWRITE: Duration = Duration::from_secs(1);

/// What every listener of the log needs.
pub(crate) struct Shared {
    pub(crate) config: Arc<ArcSwap<RelayConfig>>,
    pub(crate) fleet: FleetId,
    pub(crate) keys: Keys,
    pub(crate) index: Index,
    pub(crate) live: Live,
    pub(crate) writer: Writer,
    pub(crate) metrics: LogMetrics,
    pub(crate) readiness: Readiness,
    pub(crate) rebuild: Rebuild,
    pub(crate) quarantine: Quarantine,
}

impl Shared {
    /// Whether the route belongs to a stream of the fleet as it is configured now.
    pub(crate) fn follows(&self, route: &Route) -> bool {
        self.config
            .load()
            .log
            .region(&route.region)
            .is_some_and(|log| {
                log.generation == route.generation && route.shard < shards_of(route.class, log)
            })
    }
}

/// One stream's tail.
pub(crate) struct Tail {
    pub(crate) connection: Connection,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stream: StreamName,
    /// Written in our own region, not a mirror.
    pub(crate) own: bool,
    /// Everything up to here is applied.
    pub(crate) position: u64,
    /// The end of the stream when it was first seen.
    pub(crate) goal: Option<u64>,
}

/// Why a tail pauses.
enum Pause {
    Pull(PullError),
    UnknownEpoch(KeyEpoch),
    NoKeyring,
    Stopped,
}

impl From<PullError> for Pause {
    fn from(error: PullError) -> Self {
        Self::Pull(error)
    }
}

/// What a batch of deliveries became.
struct OpenedBatch {
    entries: Vec<(u64, u64, Opened)>,
    skipped: Vec<(Delivery, OpeningError)>,
    /// The last sequence that was opened or skipped.
    reached: Option<u64>,
    /// The epoch that stopped it.
    unknown: Option<KeyEpoch>,
}

impl Tail {
    /// Follows the stream until stopped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0u32;
        let (name, region) = (self.stream.to_string(), self.stream.region.to_string());
        self.shared.metrics.begin_stream(&name, &region, self.own);
        self.shared.metrics.set_position(&name, self.position);
        while !stop.is_cancelled() {
            let (before, began) = (self.position, Instant::now());
            let Some(pause) = stop.run_until_cancelled(self.follow()).await else {
                break;
            };
            let worked = self.position > before || began.elapsed() > WORKED;
            failures = if worked { 0 } else { failures + 1 };
            stop.run_until_cancelled(self.on_pause(pause, failures))
                .await;
        }
        self.shared.metrics.forget_stream(&name);
        self.shared.readiness.clear(&self.regressed_key());
        self.shared.readiness.clear(&self.epoch_key());
        self.shared.rebuild.on_reached(&self.stream);
    }

    /// One consumer's life. Ends only with a reason to pause.
    async fn follow(&mut self) -> Pause {
        match self.follow_fallible().await {
            Ok(never) => match never {},
            Err(pause) => pause,
        }
    }

    async fn follow_fallible(&mut self) -> Result<std::convert::Infallible, Pause> {
        let name = self.stream.to_string();
        let head = self.head().await?;
        self.shared.metrics.set_head(&name, head);
        let from = self.on_head(head);
        let mut consumer = PullConsumer::create(&self.connection, &name, from).await?;
        if consumer.pending_at_start == 0 {
            self.shared.rebuild.on_reached(&self.stream);
        }
        self.shared
            .metrics
            .set_pending(&name, consumer.pending_at_start);
        loop {
            match consumer.next(BATCH).await? {
                Pulled::Entries(deliveries) => self.on_deliveries(deliveries).await?,
                Pulled::Idle { scanned } => {
                    self.shared.metrics.raise_head(&name, scanned);
                    if scanned > self.position {
                        self.apply(Vec::new(), scanned).await?;
                    }
                    self.shared.metrics.set_pending(&name, 0);
                }
            }
        }
    }

    /// The last sequence that the stream has now.
    async fn head(&self) -> Result<u64, PullError> {
        let stream = self
            .connection
            .jetstream
            .get_stream(self.stream.to_string())
            .await;
        match stream {
            Ok(stream) => Ok(stream.cached_info().state.last_sequence),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Err(PullError::NoStream)
                }
                _ => Err(PullError::NotCreated(error.to_string())),
            },
        }
    }

    /// Notes the end of the stream and says where to read from.
    fn on_head(&mut self, head: u64) -> u64 {
        let goal = *self.goal.get_or_insert(head);
        self.shared
            .rebuild
            .on_progress(&self.stream, self.position, goal);
        if self.position >= goal {
            self.shared.rebuild.on_reached(&self.stream);
        }
        // A mirror that was made anew is behind for a while; our own stream never is, unless it lost entries.
        if !self.own || head >= self.position {
            self.shared.readiness.clear(&self.regressed_key());
            return self.position + 1;
        }
        let waiting = Waiting::StreamRegressed {
            stream: self.stream.to_string(),
            applied: self.position,
            head,
        };
        if self.shared.readiness.set(self.regressed_key(), waiting) {
            tracing::error!(stream = %self.stream, applied = self.position, head,
                "the stream ends before what this relay has applied: its log lost entries; it needs a new generation");
        }
        // Applying twice is harmless, missing what is new is not.
        1
    }

    async fn on_deliveries(&mut self, deliveries: Vec<Delivery>) -> Result<(), Pause> {
        let pending = deliveries.last().map_or(0, |delivery| delivery.pending);
        if let Some(last) = deliveries.last() {
            let head = last.sequence.saturating_add(pending);
            let name = self.stream.to_string();
            self.shared.metrics.raise_head(&name, head);
        }
        let keyring = self.shared.keys.current().ok_or(Pause::NoKeyring)?;
        let batch = self.open(keyring, deliveries).await;
        for (delivery, error) in &batch.skipped {
            self.on_skipped(delivery, error);
        }
        if let Some(reached) = batch.reached {
            self.apply(batch.entries, reached).await?;
        }
        if let Some(epoch) = batch.unknown {
            return Err(Pause::UnknownEpoch(epoch));
        }
        self.shared
            .metrics
            .set_pending(&self.stream.to_string(), pending);
        if pending == 0 {
            self.shared.rebuild.on_reached(&self.stream);
        }
        Ok(())
    }

    async fn open(&self, keyring: Arc<Keyring>, deliveries: Vec<Delivery>) -> OpenedBatch {
        let (fleet, stream) = (self.shared.fleet, self.stream.clone());
        if deliveries.len() <= INLINE {
            return open_batch(&keyring, &fleet, &stream, deliveries);
        }
        let opening =
            tokio::task::spawn_blocking(move || open_batch(&keyring, &fleet, &stream, deliveries));
        opening
            .await
            .unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down: nothing was opened.
                Err(_) => OpenedBatch {
                    entries: Vec::new(),
                    skipped: Vec::new(),
                    reached: None,
                    unknown: None,
                },
            })
    }

    /// Applies entries and moves the position to `reached` in one transaction. An index that refuses is asked again.
    async fn apply(&mut self, opened: Vec<(u64, u64, Opened)>, reached: u64) -> Result<(), Pause> {
        let advance = (reached > self.position).then(|| Advance {
            stream: self.stream.clone(),
            seq: reached,
        });
        let entries: Vec<LogEntry> = opened
            .iter()
            .map(|(sequence, time_ms, opened)| LogEntry {
                content: opened.content.clone(),
                at: Some((self.stream.clone(), *sequence)),
                log_time: LogTime::Nats(*time_ms),
            })
            .collect();
        let spans: Vec<_> = opened
            .iter()
            .filter_map(|(_, _, opened)| {
                opened
                    .trace
                    .map(|trace| crate::telemetry::follow_span(&trace))
            })
            .collect();
        let applied = loop {
            let write = Write {
                entries: entries.clone(),
                advance: advance.clone(),
                source: Source::Consumer,
            };
            match self.shared.writer.write(write).await {
                Ok(applied) => break applied,
                Err(WriteError::Stopped) => return Err(Pause::Stopped),
                Err(WriteError::Index(_)) => tokio::time::sleep(REWRITE).await,
            }
        };
        drop(spans);
        let (now_ms, from) = (super::now_ms(), self.stream.region.to_string());
        for ((_, _, opened), applied) in opened.iter().zip(applied) {
            if applied == Applied::New {
                let age_ms = now_ms.saturating_sub(opened.admitted_ms);
                self.shared
                    .metrics
                    .on_delivery(&from, age_ms as f64 / 1_000.0);
            }
        }
        self.on_position(self.position.max(reached));
        Ok(())
    }

    fn on_position(&mut self, position: u64) {
        self.position = position;
        self.shared
            .metrics
            .set_position(&self.stream.to_string(), position);
        let Some(goal) = self.goal else { return };
        if position >= goal {
            self.shared.rebuild.on_reached(&self.stream);
        } else {
            self.shared
                .rebuild
                .on_progress(&self.stream, position, goal);
        }
    }

    fn on_skipped(&self, delivery: &Delivery, error: &OpeningError) {
        self.shared.metrics.on_skipped(error.label());
        if matches!(error, OpeningError::DestroyedEpoch(_)) {
            return;
        }
        tracing::error!(stream = %self.stream, sequence = delivery.sequence, reason = %error,
            "an entry of the log was skipped and recorded in quarantine");
        self.shared.quarantine.record(&QuarantineRecord {
            seen_ms: super::now_ms(),
            stream: self.stream.to_string(),
            sequence: delivery.sequence,
            subject: delivery.subject.clone(),
            bytes: delivery.payload.len(),
            reason: error.to_string(),
        });
    }

    async fn on_pause(&self, pause: Pause, failures: u32) {
        match pause {
            Pause::Stopped => std::future::pending().await,
            Pause::NoKeyring => self.wait_for_keys(|keyring| keyring.is_some()).await,
            Pause::UnknownEpoch(epoch) => self.on_unknown_epoch(epoch).await,
            Pause::Pull(PullError::NoStream) => self.on_no_stream().await,
            Pause::Pull(error) => {
                tracing::debug!(stream = %self.stream, reason = %error, "the consumer is made again");
                self.shared.metrics.on_restart(&self.stream.to_string());
                self.shared
                    .rebuild
                    .on_unseen(&self.stream, &error.to_string());
                let doublings = failures.saturating_sub(1).min(10);
                tokio::time::sleep(RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MOST))
                    .await;
            }
        }
    }

    async fn on_no_stream(&self) {
        if self.own {
            self.shared
                .rebuild
                .on_unseen(&self.stream, "the stream does not exist yet");
        } else {
            // A region that is being added has no mirror yet; nothing of it can be served anyway.
            self.shared.rebuild.on_reached(&self.stream);
        }
        tokio::time::sleep(LOOK_FOR).await;
    }

    async fn on_unknown_epoch(&self, epoch: KeyEpoch) {
        let name = self.stream.to_string();
        let waiting = Waiting::UnknownEpoch {
            stream: name.clone(),
            epoch: epoch.0,
        };
        if self.shared.readiness.set(self.epoch_key(), waiting) {
            tracing::error!(
                stream = name,
                epoch = epoch.0,
                "the keyring lacks a key epoch: the position of the stream stands until the key arrives"
            );
        }
        self.shared.metrics.set_unknown_epoch(&name, epoch.0, true);
        self.wait_for_keys(|keyring| keyring.is_some_and(|keyring| keyring.state(epoch).is_some()))
            .await;
        self.shared.metrics.set_unknown_epoch(&name, epoch.0, false);
        self.shared.readiness.clear(&self.epoch_key());
        tracing::info!(
            stream = name,
            epoch = epoch.0,
            "the key has arrived, the stream goes on"
        );
    }

    async fn wait_for_keys(&self, enough: impl Fn(Option<&Keyring>) -> bool) {
        loop {
            let changed = self.shared.keys.changed();
            if enough(self.shared.keys.current().as_deref()) {
                return;
            }
            changed.await;
        }
    }

    fn regressed_key(&self) -> String {
        format!("regressed {}", self.stream)
    }

    fn epoch_key(&self) -> String {
        format!("epoch {}", self.stream)
    }
}

fn open_batch(
    keyring: &Keyring,
    fleet: &FleetId,
    stream: &StreamName,
    deliveries: Vec<Delivery>,
) -> OpenedBatch {
    let mut batch = OpenedBatch {
        entries: Vec::with_capacity(deliveries.len()),
        skipped: Vec::new(),
        reached: None,
        unknown: None,
    };
    for delivery in deliveries {
        let route = Route::from_subject(&delivery.subject)
            .ok()
            .filter(|route| route.stream().as_ref() == Some(stream))
            .ok_or(OpeningError::Subject);
        let sequence = delivery.sequence;
        match route.and_then(|route| opening::open(keyring, fleet, &route, &delivery.payload)) {
            Ok(opened) => batch.entries.push((sequence, delivery.time_ms, opened)),
            Err(OpeningError::UnknownEpoch(epoch)) => {
                batch.unknown = Some(epoch);
                break;
            }
            Err(error) => batch.skipped.push((delivery, error)),
        }
        batch.reached = Some(sequence);
    }
    batch
}
