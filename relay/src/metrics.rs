//! The relay's metrics: one registry, names `nj_*`, closed label sets, every series present from the start at zero.

mod labels;
pub mod reference;
pub(crate) mod state;

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::management::call;
use labels::{
    AuthLabels, CallLabels, CloseLabels, DoorLabels, EventLabels, HandshakeLabels, LimitLabels,
    SliLabels, SourceLabels, StageLabels,
};
pub use labels::{
    AuthStep, CallOutcome, Close, Door, EventResult, Handshake, LimitRule, LiveSource,
    PluginAnswer, PluginFailure, PluginName, Sli, Stage,
};

/// The method of a management call that was refused before its method was read, or that has none the relay knows.
const NO_METHOD: &str = "none";

/// A family of counters over one closed label.
#[derive(Debug, Clone)]
struct Counters<L: Clone + Eq + std::hash::Hash>(Family<L, Counter>);

macro_rules! counters {
    ($registry:expr, $name:literal, $help:literal, $set:ident, $label:ident, $values:ident) => {{
        let family = Family::<$set, Counter>::default();
        for value in $values::ALL {
            drop(family.get_or_create(&$set { $label: *value }));
        }
        $registry.register($name, $help, family.clone());
        Counters(family)
    }};
}

fn closes(registry: &mut Registry) -> Counters<CloseLabels> {
    let family = Family::<CloseLabels, Counter>::default();
    for reason in Close::ALL {
        drop(family.get_or_create(&CloseLabels::from(*reason)));
    }
    registry.register(
        "ws_closes",
        "WebSocket connections that ended, by the close code their client was sent and by reason",
        family.clone(),
    );
    Counters(family)
}

/// A registry that says what runs, and since when.
fn about_the_process() -> Registry {
    let mut registry = Registry::with_prefix("nj");
    let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("build", "Version of this relay", build);
    registry.register(
        "start_timestamp_seconds",
        "Unix time when the process started",
        ConstGauge::new(unix_seconds()),
    );
    registry
}

fn calls(registry: &mut Registry) -> Counters<CallLabels> {
    let family = Family::<CallLabels, Counter>::default();
    for method in call::methods().chain([NO_METHOD]) {
        for outcome in CallOutcome::ALL {
            let outcome = *outcome;
            drop(family.get_or_create(&CallLabels { method, outcome }));
        }
    }
    registry.register(
        "management_calls",
        "Calls of the management API (NIP-86), by method and by the prefix of their error; none: before the method was read",
        family.clone(),
    );
    Counters(family)
}

/// Seconds from 0.25 ms to some 16 s, doubling: answers of the relay.
pub(crate) fn answer_seconds() -> Histogram {
    Histogram::new((0..17).map(|power| 0.000_25 * f64::from(1_u32 << power)))
}

/// Everything the client side of the relay counts, and the registry that other parts add theirs to.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Open WebSocket connections.
    pub connections: Gauge,
    /// Most WebSocket connections that may be open.
    pub connections_limit: Gauge,
    /// Files that this process may have open.
    pub open_files_limit: Gauge,
    /// Files that it has open when all connections that may be open are.
    pub open_files_wanted: Gauge,
    /// Connections that the system could not accept.
    pub accept_failures: Counter,
    /// Bytes waiting in all out-queues.
    pub out_queue_bytes: Gauge,
    /// Open subscriptions.
    pub subscriptions: Gauge,
    /// Filters of the open subscriptions.
    pub filters: Gauge,
    /// Events in the sets of open reconciliations.
    pub reconciled_events: Gauge,
    trust_keys: Gauge,
    trust_read: Gauge,
    /// Bytes of events between admission and their answer.
    pub in_flight_publish_bytes: Gauge,
    /// Seconds a closed connection had lived.
    pub connection_age: Histogram,
    /// Threads that check signatures.
    pub verify_workers: Gauge,
    /// Seconds from a REQ's arrival to its EOSE.
    pub eose_seconds: Histogram,
    /// Seconds from a COUNT's arrival to its answer.
    pub count_seconds: Histogram,
    /// Events sent to subscribers from the index.
    pub stored_sent: Counter,
    /// Bytes of messages from clients.
    pub bytes_in: Counter,
    /// Bytes of messages to clients.
    pub bytes_out: Counter,
    /// Messages that were no valid request.
    pub bad_messages: Counter,
    /// Slices of stored reads that waited, since their connection had read for long enough.
    pub reads_paced: Counter,
    /// Live events left out because this subscription already had them.
    pub live_repeats: Counter,
    labelled: Labelled,
    ok_seconds: Family<EventLabels, Histogram, fn() -> Histogram>,
    stages: Family<StageLabels, Histogram, fn() -> Histogram>,
}

/// The counters with a closed label.
struct Labelled {
    handshakes: Counters<HandshakeLabels>,
    closes: Counters<CloseLabels>,
    auth: Counters<AuthLabels>,
    events: Counters<EventLabels>,
    limits: Counters<LimitLabels>,
    doors: Counters<DoorLabels>,
    live_offered: Counters<SourceLabels>,
    live_sent: Counters<SourceLabels>,
    sends: Counters<SliLabels>,
    calls: Counters<CallLabels>,
}

impl Labelled {
    fn register(r: &mut Registry) -> Self {
        Self {
            handshakes: counters!(
                r,
                "ws_handshakes",
                "WebSocket handshakes, by how they ended",
                HandshakeLabels,
                result,
                Handshake
            ),
            closes: closes(r),
            auth: counters!(
                r,
                "auth",
                "Steps of NIP-42 authentication",
                AuthLabels,
                step,
                AuthStep
            ),
            events: counters!(
                r,
                "events_in",
                "Answers to EVENT, by the prefix of their OK",
                EventLabels,
                result,
                EventResult
            ),
            limits: counters!(
                r,
                "limit_refusals",
                "Refusals for a rate or an amount, by the rule",
                LimitLabels,
                rule,
                LimitRule
            ),
            doors: counters!(
                r,
                "reads_refused",
                "Private reads refused or left out, by where; stored must stay 0",
                DoorLabels,
                door,
                Door
            ),
            live_offered: counters!(
                r,
                "live_offered",
                "Events offered to live subscriptions, by where they came from",
                SourceLabels,
                source,
                LiveSource
            ),
            live_sent: counters!(
                r,
                "live_sent",
                "Events sent to live subscriptions, by where they came from",
                SourceLabels,
                source,
                LiveSource
            ),
            sends: counters!(
                r,
                "sli_send",
                "EVENTs by kept promise; bad: the relay failed its client",
                SliLabels,
                result,
                Sli
            ),
            calls: calls(r),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with every metric of the client side in it.
    pub fn new() -> Self {
        let mut registry = about_the_process();
        let r = &mut registry;
        let mut metrics = Self {
            connections: gauge(r, "ws_connections", "Open WebSocket connections"),
            connections_limit: gauge(
                r,
                "ws_connections_limit",
                "WebSocket connections that may be open (limits.max_connections)",
            ),
            open_files_limit: gauge(
                r,
                "open_files_limit",
                "Files that this process may have open; less than nj_open_files_wanted is too few",
            ),
            open_files_wanted: gauge(
                r,
                "open_files_wanted",
                "Files that are open when as many clients are connected as may be (limits.max_connections)",
            ),
            accept_failures: counter(
                r,
                "accept_failures",
                "Attempts to accept a connection that the system refused, as with too many open files",
            ),
            out_queue_bytes: gauge(r, "ws_out_queue_bytes", "Bytes waiting in all out-queues"),
            subscriptions: gauge(r, "subscriptions", "Open subscriptions"),
            filters: gauge(r, "filters", "Filters of the open subscriptions"),
            reconciled_events: gauge(
                r,
                "reconciled_events",
                "Events in the sets of open reconciliations (NEG-OPEN)",
            ),
            trust_keys: gauge(
                r,
                "trust_keys",
                "Keys in the web of trust (admission.trust), at most 1,000,000; 0 where none is asked for or before it was read",
            ),
            trust_read: gauge(
                r,
                "trust_read_timestamp_seconds",
                "Unix time at which the web of trust was read last; 0 if it was not",
            ),
            in_flight_publish_bytes: gauge(
                r,
                "in_flight_publish_bytes",
                "Bytes of events not yet answered",
            ),
            connection_age: connection_age(r),
            verify_workers: gauge(
                r,
                "verify_workers",
                "Threads that check events; their busy share is the rate of the verify stage's sum divided by this",
            ),
            ok_seconds: answers(r),
            eose_seconds: seconds(r, "req_eose_seconds", "From a REQ's arrival to its EOSE"),
            count_seconds: seconds(r, "count_seconds", "From a COUNT's arrival to its answer"),
            stored_sent: counter(r, "stored_events_sent", "Events sent from the index"),
            bytes_in: counter(r, "ws_in_bytes", "Bytes of messages from clients"),
            bytes_out: counter(r, "ws_out_bytes", "Bytes of messages to clients"),
            bad_messages: counter(r, "bad_messages", "Messages that were no valid request"),
            reads_paced: counter(
                r,
                "reads_paced",
                "Slices of stored reads that waited because their connection had taken its part of a core",
            ),
            live_repeats: counter(
                r,
                "live_repeats",
                "Live events left out because the subscription had them",
            ),
            labelled: Labelled::register(r),
            stages: stages(r),
            registry: Mutex::new(Registry::default()),
        };
        metrics.registry = Mutex::new(registry);
        metrics
    }

    /// Lets another part of the relay add its metrics. The prefix `nj_` is added to every name.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// The OpenMetrics text of all metrics.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let registry = self
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    /// Tells the size of the web of trust, and the Unix time in seconds at which it was read.
    pub fn on_trust(&self, keys: usize, at: u64) {
        self.trust_keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.trust_read.set(i64::try_from(at).unwrap_or(i64::MAX));
    }

    /// Counts a handshake.
    pub fn on_handshake(&self, result: Handshake) {
        self.labelled
            .handshakes
            .0
            .get_or_create(&HandshakeLabels { result })
            .inc();
    }

    /// Counts the end of a connection.
    pub fn on_close(&self, reason: Close) {
        self.labelled
            .closes
            .0
            .get_or_create(&CloseLabels::from(reason))
            .inc();
    }

    /// Connections closed so far for `reason`.
    pub fn closes(&self, reason: Close) -> u64 {
        self.labelled
            .closes
            .0
            .get_or_create(&CloseLabels::from(reason))
            .get()
    }

    /// Counts a step of authentication.
    pub fn on_auth(&self, step: AuthStep) {
        self.labelled
            .auth
            .0
            .get_or_create(&AuthLabels { step })
            .inc();
    }

    /// Counts the answer to an EVENT and the seconds since it came. Only the relay's own failures count against the service
    /// level.
    pub fn on_event(&self, result: EventResult, seconds: f64) {
        self.ok_seconds
            .get_or_create(&EventLabels { result })
            .observe(seconds);
        self.labelled
            .events
            .0
            .get_or_create(&EventLabels { result })
            .inc();
        let sli = if result == EventResult::error {
            Sli::bad
        } else {
            Sli::good
        };
        self.labelled
            .sends
            .0
            .get_or_create(&SliLabels { result: sli })
            .inc();
    }

    /// Counts a refusal by rate or amount.
    pub fn on_limit(&self, rule: LimitRule) {
        self.labelled
            .limits
            .0
            .get_or_create(&LimitLabels { rule })
            .inc();
    }

    /// Counts a private read that was refused or left out.
    pub fn on_read_refused(&self, door: Door) {
        self.labelled
            .doors
            .0
            .get_or_create(&DoorLabels { door })
            .inc();
    }

    /// Private reads refused or left out so far at `door`.
    pub fn reads_refused(&self, door: Door) -> u64 {
        self.labelled
            .doors
            .0
            .get_or_create(&DoorLabels { door })
            .get()
    }

    /// Counts a management call.
    pub fn on_call(&self, method: Option<&'static str>, outcome: CallOutcome) {
        let method = method.unwrap_or(NO_METHOD);
        self.labelled
            .calls
            .0
            .get_or_create(&CallLabels { method, outcome })
            .inc();
    }

    /// Counts an event offered to the live subscriptions and how many it was sent to.
    pub fn on_live(&self, source: LiveSource, sent: u64) {
        self.labelled
            .live_offered
            .0
            .get_or_create(&SourceLabels { source })
            .inc();
        self.labelled
            .live_sent
            .0
            .get_or_create(&SourceLabels { source })
            .inc_by(sent);
    }

    /// Notes the seconds an event spent in a stage of admission.
    pub fn on_stage(&self, stage: Stage, seconds: f64) {
        self.stages
            .get_or_create(&StageLabels { stage })
            .observe(seconds);
    }
}

fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::<u64, AtomicU64>::default();
    registry.register(name, help, counter.clone());
    counter
}

fn seconds(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    let histogram = answer_seconds();
    registry.register(name, help, histogram.clone());
    histogram
}

fn connection_age(registry: &mut Registry) -> Histogram {
    let histogram = Histogram::new([1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0]);
    registry.register(
        "ws_age_seconds",
        "Age of WebSocket connections when they ended",
        histogram.clone(),
    );
    histogram
}

fn answers(registry: &mut Registry) -> Family<EventLabels, Histogram, fn() -> Histogram> {
    let family: Family<EventLabels, Histogram, fn() -> Histogram> =
        Family::new_with_constructor(answer_seconds);
    for result in EventResult::ALL {
        drop(family.get_or_create(&EventLabels { result: *result }));
    }
    registry.register(
        "ok_seconds",
        "From an EVENT's arrival to its OK, by the prefix of the OK; ok is durable and visible",
        family.clone(),
    );
    family
}

fn stages(registry: &mut Registry) -> Family<StageLabels, Histogram, fn() -> Histogram> {
    let family: Family<StageLabels, Histogram, fn() -> Histogram> =
        Family::new_with_constructor(answer_seconds);
    for stage in Stage::ALL {
        drop(family.get_or_create(&StageLabels { stage: *stage }));
    }
    registry.register(
        "admission_stage_seconds",
        "Time of an EVENT in each stage: waiting for a worker, checks, publish",
        family.clone(),
    );
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_from_the_start() {
        let text = Metrics::new().encode().unwrap();
        for line in [
            "nj_ws_connections 0",
            "nj_ws_closes_total{code=\"1008\",reason=\"slow_reader\"} 0",
            "nj_ok_seconds_count{result=\"ok\"} 0",
            "nj_reads_refused_total{door=\"stored\"} 0",
            "nj_events_in_total{result=\"rate_limited\"} 0",
            "nj_sli_send_total{result=\"bad\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("nj_build_info{"));
    }

    #[test]
    fn other_parts_share_the_registry_and_its_prefix() {
        let metrics = Metrics::new();
        let spills = Counter::<u64>::default();
        metrics.register(|registry| {
            registry.register("spills", "Spills to another shard", spills.clone())
        });
        spills.inc();
        assert!(metrics.encode().unwrap().contains("nj_spills_total 1"));
    }
}
