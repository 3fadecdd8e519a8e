//! Metrics of the log side, added to the relay's registry (prefix `nj_`).

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

/// Everything the log side counts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogMetrics {
    attempts: Family<AttemptLabels, Counter>,
    hints: Family<HeardLabels, Counter>,
    ephemeral: Family<HeardLabels, Counter>,
    skipped: Family<ReasonLabels, Counter>,
    restarts: Family<StreamLabels, Counter>,
    position: Family<StreamLabels, Gauge>,
    pending: Family<StreamLabels, Gauge>,
    unknown_epoch: Family<EpochLabels, Gauge>,
    /// Seconds from the first send to the first acknowledgement.
    pub(crate) ack_seconds: Histogram,
    /// Seconds of one index transaction.
    pub(crate) commit_seconds: Histogram,
    /// Entries of one index transaction.
    pub(crate) commit_entries: Histogram,
    /// Seconds from admission anywhere in the fleet to the index here, of entries that were new here.
    pub(crate) arrival_seconds: Histogram,
    /// Entries that the sweeper removed from the log.
    pub(crate) swept: Counter,
    /// Bytes sent to NATS and not acknowledged.
    pub(crate) in_flight_bytes: Gauge,
}

impl LogMetrics {
    /// Makes the metrics and adds them to the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let seconds = || Histogram::new((0..17).map(|power| 0.000_25 * f64::from(1u32 << power)));
        let metrics = Self {
            attempts: Family::default(),
            hints: Family::default(),
            ephemeral: Family::default(),
            skipped: Family::default(),
            restarts: Family::default(),
            position: Family::default(),
            pending: Family::default(),
            unknown_epoch: Family::default(),
            ack_seconds: seconds(),
            commit_seconds: seconds(),
            commit_entries: Histogram::new((0..13).map(|power| f64::from(1u32 << power))),
            arrival_seconds: seconds(),
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
        }
        for reason in [
            "destroyed-epoch",
            "subject",
            "damaged",
            "version",
            "event",
            "class",
        ] {
            drop(self.skipped.get_or_create(&reason_labels(reason)));
        }
    }

    fn add_to(&self, registry: &mut Registry) {
        registry.register(
            "log_publish_attempts",
            "Attempts to publish to a shard, by end",
            self.attempts.clone(),
        );
        registry.register("log_hints", "Hints heard", self.hints.clone());
        registry.register(
            "log_ephemeral",
            "Ephemeral messages heard",
            self.ephemeral.clone(),
        );
        registry.register(
            "log_skipped_entries",
            "Log entries skipped because they could not be opened",
            self.skipped.clone(),
        );
        registry.register(
            "log_consumer_restarts",
            "Pull consumers made again",
            self.restarts.clone(),
        );
        registry.register(
            "log_position",
            "Last sequence applied",
            self.position.clone(),
        );
        registry.register(
            "log_pending",
            "Entries of the stream not yet delivered to this relay",
            self.pending.clone(),
        );
        registry.register(
            "log_unknown_epoch",
            "1 while the stream's position stands for a key epoch that the keyring lacks",
            self.unknown_epoch.clone(),
        );
        registry.register(
            "log_ack_seconds",
            "From the first send to the first acknowledgement",
            self.ack_seconds.clone(),
        );
        registry.register(
            "log_commit_seconds",
            "Duration of an index transaction",
            self.commit_seconds.clone(),
        );
        registry.register(
            "log_commit_entries",
            "Entries of an index transaction",
            self.commit_entries.clone(),
        );
        registry.register(
            "log_arrival_seconds",
            "From admission anywhere to the index here",
            self.arrival_seconds.clone(),
        );
        registry.register(
            "log_swept_entries",
            "Superseded entries removed from the log",
            self.swept.clone(),
        );
        registry.register(
            "log_in_flight_bytes",
            "Bytes sent to NATS and not acknowledged",
            self.in_flight_bytes.clone(),
        );
    }

    pub(crate) fn on_attempt(&self, result: Attempt) {
        self.attempts.get_or_create(&AttemptLabels { result }).inc();
    }

    pub(crate) fn on_hint(&self, result: Heard) {
        self.hints.get_or_create(&HeardLabels { result }).inc();
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

    pub(crate) fn set_pending(&self, stream: &str, pending: u64) {
        let value = i64::try_from(pending).unwrap_or(i64::MAX);
        self.pending
            .get_or_create(&stream_labels(stream))
            .set(value);
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
        self.position.remove(&labels);
        self.pending.remove(&labels);
        self.restarts.remove(&labels);
    }
}

fn reason_labels(reason: &str) -> ReasonLabels {
    ReasonLabels {
        reason: reason.to_owned(),
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
        metrics.set_position("EV_a_1_0", 7);
        metrics.set_unknown_epoch("EV_a_1_0", 9, true);
        let text = encode(&registry);
        for line in [
            "nj_log_publish_attempts_total{result=\"in_doubt\"} 0",
            "nj_log_skipped_entries_total{reason=\"damaged\"} 0",
            "nj_log_position{stream=\"EV_a_1_0\"} 7",
            "nj_log_unknown_epoch{stream=\"EV_a_1_0\",epoch=\"9\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        metrics.set_unknown_epoch("EV_a_1_0", 9, false);
        metrics.forget_stream("EV_a_1_0");
        assert!(!encode(&registry).contains("EV_a_1_0"));
    }

    fn encode(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).expect("text");
        text
    }
}
