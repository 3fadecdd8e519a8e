//! Metrics of the log side, added to the relay's registry (prefix `nj_`).

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// How one attempt to publish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub(crate) enum Attempt {
    /// The home shard acknowledged.
    home,
    /// Another shard acknowledged.
    spilled,
    /// No answer, no responders, or an error that leaves it open: in doubt.
    in_doubt,
    /// The shard is full.
    full,
    /// No shard acknowledged in time; the client was told to send again.
    not_in_time,
}

/// What became of a hint or an ephemeral message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
pub(crate) enum Heard {
    /// Offered to live subscriptions.
    delivered,
    /// Known already, deleted, superseded or expired.
    stale,
    /// Could not be opened or is no event.
    refused,
    /// Older than 60 s or seen before (ephemeral only).
    replayed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    result: Attempt,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HeardLabels {
    result: Heard,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabels {
    stream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EpochLabels {
    stream: String,
    epoch: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FromLabels {
    from: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Everything the log side counts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogMetrics {
    attempts: Family<AttemptLabels, Counter>,
    hints: Family<HeardLabels, Counter>,
    ephemeral: Family<HeardLabels, Counter>,
    spending: Family<HeardLabels, Counter>,
    skipped: Family<ReasonLabels, Counter>,
    restarts: Family<StreamLabels, Counter>,
    position: Family<StreamLabels, Gauge>,
    head: Family<StreamLabels, Gauge>,
    pending: Family<StreamLabels, Gauge>,
    caught_up: Family<StreamLabels, Gauge<f64, AtomicU64>>,
    unknown_epoch: Family<EpochLabels, Gauge>,
    puback_seconds: Histograms<StreamLabels>,
    delivery_seconds: Histograms<FromLabels>,
    /// Connections made to NATS.
    pub(crate) nats_connects: Counter,
    /// Seconds of one index transaction.
    pub(crate) commit_seconds: Histogram,
    /// Entries of one index transaction.
    pub(crate) commit_entries: Histogram,
    /// Entries that the sweeper removed from the log.
    pub(crate) swept: Counter,
    /// Bytes sent to NATS and not acknowledged.
    pub(crate) in_flight_bytes: Gauge,
}

impl LogMetrics {
    /// Makes the metrics and adds them to the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            attempts: Family::default(),
            hints: Family::default(),
            ephemeral: Family::default(),
            spending: Family::default(),
            skipped: Family::default(),
            restarts: Family::default(),
            position: Family::default(),
            head: Family::default(),
            pending: Family::default(),
            caught_up: Family::default(),
            unknown_epoch: Family::default(),
            puback_seconds: Family::new_with_constructor(answer_seconds),
            delivery_seconds: Family::new_with_constructor(delivery_seconds),
            nats_connects: Counter::default(),
            commit_seconds: answer_seconds(),
            commit_entries: Histogram::new((0..13).map(|power| f64::from(1u32 << power))),
            swept: Counter::default(),
            in_flight_bytes: Gauge::default(),
        };
        metrics.zero();
        metrics.add_to(registry);
        metrics
    }

    fn zero(&self) {
        use Attempt::{full, home, in_doubt, not_in_time, spilled};
        for result in [home, spilled, in_doubt, full, not_in_time] {
            drop(self.attempts.get_or_create(&AttemptLabels { result }));
        }
        for result in [
            Heard::delivered,
            Heard::stale,
            Heard::refused,
            Heard::replayed,
        ] {
            drop(self.hints.get_or_create(&HeardLabels { result }));
            drop(self.ephemeral.get_or_create(&HeardLabels { result }));
            drop(self.spending.get_or_create(&HeardLabels { result }));
        }
        for reason in [
            "destroyed-epoch",
            "subject",
            "damaged",
            "version",
            "event",
            "class",
            "call",
        ] {
            drop(self.skipped.get_or_create(&reason_labels(reason)));
        }
    }

    #[rustfmt::skip] // A table.
    fn add_to(&self, registry: &mut Registry) {
        let r = registry;
        r.register("publish_attempts", "Attempts to publish to a shard, by how they ended; spilled: another shard than the home", self.attempts.clone());
        r.register("publish_unacked_bytes", "Bytes sent to NATS and not acknowledged yet", self.in_flight_bytes.clone());
        r.register("puback_seconds", "From the first send to the acknowledgement, by the stream (one for each shard) that gave it", self.puback_seconds.clone());
        r.register("delivery_seconds", "From admission in a region to the index here, of entries that were new here", self.delivery_seconds.clone());
        r.register("log_hints", "Hints heard, by what became of them", self.hints.clone());
        r.register("log_ephemeral", "Ephemeral messages heard, by what became of them", self.ephemeral.clone());
        r.register("log_spending", "Messages of other relays about budgets of keys, by what became of them", self.spending.clone());
        r.register("log_skipped_entries", "Log entries that could not be opened, by reason", self.skipped.clone());
        r.register("log_consumer_restarts", "Pull consumers made again", self.restarts.clone());
        r.register("log_position", "Last sequence of the stream that is applied here", self.position.clone());
        r.register("log_head", "Last sequence of the stream that this relay has heard of", self.head.clone());
        r.register("log_pending", "Entries of the stream not yet delivered to this relay", self.pending.clone());
        r.register("log_caught_up_timestamp_seconds", "Unix time when this relay last had everything of the stream; 0 if never since the start", self.caught_up.clone());
        r.register("log_unknown_epoch", "1 while the stream's position stands for a key epoch that the keyring lacks; no series else", self.unknown_epoch.clone());
        r.register("log_swept_entries", "Superseded entries removed from the log", self.swept.clone());
        r.register("nats_connects", "Connections made to NATS", self.nats_connects.clone());
        r.register("index_commit_seconds", "Duration of an index transaction", self.commit_seconds.clone());
        r.register("index_commit_entries", "Entries of an index transaction", self.commit_entries.clone());
    }

    /// A stream that is followed has its series, at zero, before anything of it is heard. Only our own region's streams are
    /// published to.
    pub(crate) fn begin_stream(&self, stream: &str, region: &str, own: bool) {
        let labels = stream_labels(stream);
        for gauges in [&self.position, &self.head, &self.pending] {
            drop(gauges.get_or_create(&labels));
        }
        drop(self.restarts.get_or_create(&labels));
        drop(self.caught_up.get_or_create(&labels));
        if own {
            drop(self.puback_seconds.get_or_create(&labels));
        }
        drop(self.delivery_seconds.get_or_create(&from_labels(region)));
    }

    /// One series of everything, for the reference page.
    pub(crate) fn show_all(&self) {
        self.begin_stream("EV_a_1_0", "a", true);
        self.set_unknown_epoch("EV_a_1_0", 2, true);
    }

    pub(crate) fn on_attempt(&self, result: Attempt) {
        self.attempts.get_or_create(&AttemptLabels { result }).inc();
    }

    pub(crate) fn on_hint(&self, result: Heard) {
        self.hints.get_or_create(&HeardLabels { result }).inc();
    }

    pub(crate) fn on_spending(&self, result: Heard) {
        self.spending.get_or_create(&HeardLabels { result }).inc();
    }

    pub(crate) fn on_ephemeral(&self, result: Heard) {
        self.ephemeral.get_or_create(&HeardLabels { result }).inc();
    }

    pub(crate) fn on_skipped(&self, reason: &str) {
        self.skipped.get_or_create(&reason_labels(reason)).inc();
    }

    /// Entries skipped so far for `reason`.
    pub fn skipped(&self, reason: &str) -> u64 {
        self.skipped.get_or_create(&reason_labels(reason)).get()
    }

    pub(crate) fn on_restart(&self, stream: &str) {
        self.restarts.get_or_create(&stream_labels(stream)).inc();
    }

    pub(crate) fn set_position(&self, stream: &str, sequence: u64) {
        let value = i64::try_from(sequence).unwrap_or(i64::MAX);
        self.position
            .get_or_create(&stream_labels(stream))
            .set(value);
    }

    /// How many entries are still to come; with none, the relay has everything of the stream now.
    pub(crate) fn set_pending(&self, stream: &str, pending: u64) {
        let value = i64::try_from(pending).unwrap_or(i64::MAX);
        let labels = stream_labels(stream);
        self.pending.get_or_create(&labels).set(value);
        if pending == 0 {
            let now = super::now_ms() as f64 / 1_000.0;
            self.caught_up.get_or_create(&labels).set(now);
        }
    }

    /// The last sequence that the stream has, as the server said.
    pub(crate) fn set_head(&self, stream: &str, head: u64) {
        let value = i64::try_from(head).unwrap_or(i64::MAX);
        self.head.get_or_create(&stream_labels(stream)).set(value);
    }

    /// The stream has at least this sequence.
    pub(crate) fn raise_head(&self, stream: &str, at_least: u64) {
        let value = i64::try_from(at_least).unwrap_or(i64::MAX);
        let head = self.head.get_or_create_owned(&stream_labels(stream));
        head.inner().fetch_max(value, Ordering::Relaxed);
    }

    /// A publish was acknowledged by `stream`.
    pub(crate) fn on_puback(&self, stream: &str, seconds: f64) {
        self.puback_seconds
            .get_or_create(&stream_labels(stream))
            .observe(seconds);
    }

    /// An entry that was admitted in the region `from` is new in the index here.
    pub(crate) fn on_delivery(&self, from: &str, seconds: f64) {
        self.delivery_seconds
            .get_or_create(&from_labels(from))
            .observe(seconds);
    }

    pub(crate) fn set_unknown_epoch(&self, stream: &str, epoch: u32, missing: bool) {
        let labels = EpochLabels {
            stream: stream.to_owned(),
            epoch,
        };
        if missing {
            self.unknown_epoch.get_or_create(&labels).set(1);
        } else {
            self.unknown_epoch.remove(&labels);
        }
    }

    /// A stream that this relay no longer follows has no series.
    pub(crate) fn forget_stream(&self, stream: &str) {
        let labels = stream_labels(stream);
        for gauges in [&self.position, &self.head, &self.pending] {
            gauges.remove(&labels);
        }
        self.restarts.remove(&labels);
        self.caught_up.remove(&labels);
        self.puback_seconds.remove(&labels);
    }

    /// Nor has a region of which it follows nothing.
    pub(crate) fn forget_region(&self, region: &str) {
        self.delivery_seconds.remove(&from_labels(region));
    }
}

fn reason_labels(reason: &str) -> ReasonLabels {
    ReasonLabels {
        reason: reason.to_owned(),
    }
}

/// Seconds from 0.25 ms to some 16 s, doubling.
fn answer_seconds() -> Histogram {
    Histogram::new((0..17).map(|power| 0.000_25 * f64::from(1_u32 << power)))
}

/// Seconds from 1 ms to some 65 s, doubling: the way between regions, and what waited for a broken link.
fn delivery_seconds() -> Histogram {
    Histogram::new((0..17).map(|power| 0.001 * f64::from(1_u32 << power)))
}

fn from_labels(region: &str) -> FromLabels {
    FromLabels {
        from: region.to_owned(),
    }
}

fn stream_labels(stream: &str) -> StreamLabels {
    StreamLabels {
        stream: stream.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_from_the_start_and_streams_come_and_go() {
        let mut registry = Registry::with_prefix("nj");
        let metrics = LogMetrics::register(&mut registry);
        metrics.begin_stream("EV_a_1_0", "b", true);
        metrics.set_position("EV_a_1_0", 7);
        metrics.set_head("EV_a_1_0", 9);
        metrics.raise_head("EV_a_1_0", 8);
        metrics.set_unknown_epoch("EV_a_1_0", 9, true);
        let text = encode(&registry);
        for line in [
            "nj_publish_attempts_total{result=\"in_doubt\"} 0",
            "nj_log_head{stream=\"EV_a_1_0\"} 9",
            "nj_log_caught_up_timestamp_seconds{stream=\"EV_a_1_0\"} 0.0",
            "nj_puback_seconds_count{stream=\"EV_a_1_0\"} 0",
            "nj_delivery_seconds_count{from=\"b\"} 0",
            "nj_log_skipped_entries_total{reason=\"damaged\"} 0",
            "nj_log_position{stream=\"EV_a_1_0\"} 7",
            "nj_log_unknown_epoch{stream=\"EV_a_1_0\",epoch=\"9\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        metrics.set_unknown_epoch("EV_a_1_0", 9, false);
        metrics.forget_stream("EV_a_1_0");
        metrics.forget_region("b");
        assert!(!encode(&registry).contains("from=\"b\""));
        assert!(!encode(&registry).contains("EV_a_1_0"));
    }

    fn encode(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).expect("text");
        text
    }
}
