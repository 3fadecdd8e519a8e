//! Metrics of the operator and of what it sees of fleets, under the names of [`TABLE`]. No label carries a key, an id or an address.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::apply::Change;
use super::build::Kind;
use super::metrics_table::TABLE;
use super::names::Names;
use super::pass::{HealthOf, Pass, Scope};
use crate::crd::{ConditionType, RelayClusterStatus};
use crate::plan::Role;

/// Samples of this one hold a time; what is told is how long ago that was.
const WAITING: &str = "nj_fleet_waiting_for";

type Labels = Vec<(&'static str, String)>;
/// Name, labels and value.
type Sample = (&'static str, Labels, f64);

/// All metrics of one operator.
#[derive(Debug)]
pub(super) struct Metrics {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    version: String,
    leader: AtomicBool,
    seconds: Histogram,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    counters: BTreeMap<(&'static str, Labels), u64>,
    fleets: BTreeMap<(String, String), Vec<Sample>>,
    leaders: BTreeMap<Labels, String>,
    succeeded: BTreeMap<(String, String), f64>,
}

impl Metrics {
    /// Of an operator of that version.
    pub(super) fn new(version: &str) -> Self {
        let buckets = [
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ];
        let mut inner = Inner::default();
        for outcome in ["applied", "unchanged", "waiting", "failed"] {
            let labels = vec![("outcome", outcome.to_owned())];
            inner
                .counters
                .insert(("nj_operator_reconciles_total", labels), 0);
        }
        Self {
            state: Arc::new(State {
                version: version.to_owned(),
                leader: AtomicBool::new(false),
                seconds: Histogram::new(buckets),
                inner: Mutex::new(inner),
            }),
        }
    }

    /// The text that Prometheus reads.
    pub(super) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Figures(Arc::clone(&self.state))));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    pub(super) fn lead(&self, leading: bool) {
        self.state.leader.store(leading, Ordering::Relaxed);
        if !leading {
            // Another operator tells of the fleets now.
            let mut inner = self.inner();
            inner.fleets.clear();
            inner.succeeded.clear();
        }
    }

    pub(super) fn reconciled(&self, outcome: &str, took: Duration, names: &Names) {
        self.state.seconds.observe(took.as_secs_f64());
        let mut inner = self.inner();
        inner.count(
            "nj_operator_reconciles_total",
            vec![("outcome", outcome.to_owned())],
        );
        if outcome != "failed" {
            let key = (names.namespace.clone(), names.fleet.clone());
            inner.succeeded.insert(key, since_epoch(SystemTime::now()));
        }
    }

    pub(super) fn wrote(&self, kind: Kind, change: &Change) {
        let verb = match change {
            Change::Created | Change::Updated => "apply",
            Change::PutBack(_) => "putback",
            Change::Recreated => "recreate",
            Change::Removed => "delete",
        };
        let kind = kind.resource().kind;
        self.inner().count(
            "nj_operator_api_writes_total",
            vec![("kind", kind), ("verb", verb.to_owned())],
        );
    }

    pub(super) fn forget(&self, namespace: &str, fleet: &str) {
        let key = (namespace.to_owned(), fleet.to_owned());
        let mut inner = self.inner();
        inner.fleets.remove(&key);
        inner.succeeded.remove(&key);
    }

    /// What a status says, when nothing else was seen.
    pub(super) fn status(&self, scope: &Scope<'_>, status: &RelayClusterStatus) {
        let mut figures = Samples::new(&scope.names);
        figures.status(status);
        self.store(scope, figures);
    }

    /// Everything that was seen of a fleet.
    pub(super) fn fleet(
        &self,
        scope: &Scope<'_>,
        status: &RelayClusterStatus,
        pass: &Pass,
        health: &HealthOf,
    ) {
        let mut figures = Samples::new(&scope.names);
        figures.status(status);
        figures.keys(pass);
        figures.pods(pass);
        figures.regions(pass, health);
        self.count_leaders(&figures);
        self.store(scope, figures);
    }

    fn store(&self, scope: &Scope<'_>, figures: Samples) {
        let key = (scope.names.namespace.clone(), scope.names.fleet.clone());
        self.inner().fleets.insert(key, figures.samples);
    }

    fn count_leaders(&self, figures: &Samples) {
        let mut inner = self.inner();
        for (name, labels, _) in &figures.samples {
            if *name != "nj_stream_leader" {
                continue;
            }
            let stream: Labels = labels
                .iter()
                .filter(|(key, _)| *key != "server")
                .cloned()
                .collect();
            let server = labels
                .last()
                .map(|(_, server)| server.clone())
                .unwrap_or_default();
            let key = ("nj_stream_leader_changes_total", stream.clone());
            inner.counters.entry(key).or_insert(0);
            let old = inner.leaders.insert(stream.clone(), server.clone());
            if old.is_some_and(|old| old != server) {
                inner.count("nj_stream_leader_changes_total", stream);
            }
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.state
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn count(&mut self, name: &'static str, labels: Labels) {
        *self.counters.entry((name, labels)).or_insert(0) += 1;
    }
}

fn since_epoch(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Samples of one fleet.
struct Samples {
    base: Labels,
    samples: Vec<Sample>,
}

impl Samples {
    fn new(names: &Names) -> Self {
        Self {
            base: vec![
                ("namespace", names.namespace.clone()),
                ("fleet", names.fleet.clone()),
            ],
            samples: Vec::new(),
        }
    }

    fn add(&mut self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        let mut all = self.base.clone();
        all.extend(
            labels
                .iter()
                .map(|(key, value)| (*key, (*value).to_owned())),
        );
        self.samples.push((name, all, value));
    }

    fn status(&mut self, status: &RelayClusterStatus) {
        for of in ConditionType::ALL {
            let value = match status
                .condition(of)
                .map(|condition| condition.status.as_str())
            {
                Some("True") => 1.0,
                Some("False") => 0.0,
                _ => -1.0,
            };
            self.add("nj_fleet_condition", &[("type", of.name())], value);
        }
        // One series for each word and region: the longest wait of them.
        let mut oldest: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        for wait in &status.waiting_for {
            let region = status
                .regions
                .iter()
                .map(|region| region.name.as_str())
                .find(|region| concerns(&wait.where_, region))
                .unwrap_or_default();
            let since = wait.since.0.as_second();
            oldest
                .entry((wait.what.as_str(), region))
                .and_modify(|known| *known = since.min(*known))
                .or_insert(since);
        }
        for ((what, region), since) in oldest {
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
            let since = since as f64;
            self.add(WAITING, &[("what", what), ("region", region)], since);
        }
    }

    fn keys(&mut self, pass: &Pass) {
        if let super::material::Keys::Present(keyring) = &pass.keys {
            let mut states: BTreeMap<String, f64> = BTreeMap::new();
            for (_, state) in keyring.epochs() {
                *states
                    .entry(format!("{state:?}").to_lowercase())
                    .or_insert(0.0) += 1.0;
            }
            for (state, number) in states {
                self.add("nj_fleet_key_epochs", &[("state", &state)], number);
            }
        }
        for ((region, issuer), until) in &pass.certificates.expiry {
            let labels = [("region", region.as_str()), ("issuer", *issuer)];
            let name = "nj_fleet_certificate_expiry_timestamp_seconds";
            self.add(name, &labels, since_epoch(*until));
        }
    }

    fn pods(&mut self, pass: &Pass) {
        for view in &pass.views {
            for role in [Role::Nats, Role::Hub, Role::Relay] {
                let of = || view.pods.iter().filter(|pod| pod.role == role);
                let role = role.to_string();
                for (state, number) in [
                    ("wanted", of().count()),
                    ("ready", of().filter(|pod| pod.ready).count()),
                    (
                        "outdated",
                        of().filter(|pod| {
                            pod.hash.as_ref().is_some_and(|hash| *hash != pod.wanted)
                        })
                        .count(),
                    ),
                ] {
                    let labels = [
                        ("region", view.name.as_str()),
                        ("role", &role),
                        ("state", state),
                    ];
                    self.add("nj_fleet_pods", &labels, to_f64(number as u64));
                }
            }
        }
    }

    fn regions(&mut self, pass: &Pass, health: &HealthOf) {
        for region in &pass.plan.regions {
            let name = region.name.as_str();
            let seen = health.get(&region.name);
            let reachable = seen.is_some_and(|seen| seen.unreachable.is_none());
            self.add(
                "nj_region_reachable",
                &[("region", name)],
                f64::from(u8::from(reachable)),
            );
            for (role, processes) in [("nats", &region.nats), ("hub", &region.hubs)] {
                let views = || {
                    processes
                        .iter()
                        .filter_map(|process| seen?.servers.get(&process.name()))
                };
                for (state, number) in [
                    ("wanted", processes.len()),
                    ("answering", views().count()),
                    ("healthy", views().filter(|server| server.healthy).count()),
                ] {
                    let labels = [("region", name), ("role", role), ("state", state)];
                    self.add("nj_nats_servers", &labels, to_f64(number as u64));
                }
            }
            let Some(seen) = seen else { continue };
            for (server, view) in &seen.servers {
                let labels = [("region", name), ("server", server.as_str())];
                self.add("nj_nats_leafs", &labels, to_f64(view.leafs as u64));
                if server.contains("-hub-") {
                    self.add(
                        "nj_nats_gateways",
                        &labels,
                        to_f64(view.gateways.len() as u64),
                    );
                } else {
                    self.add(
                        "nj_jetstream_storage_used_bytes",
                        &labels,
                        to_f64(view.storage.0),
                    );
                    self.add(
                        "nj_jetstream_storage_max_bytes",
                        &labels,
                        to_f64(view.storage.1),
                    );
                }
            }
            for plan in &region.streams {
                let Some(stream) = seen.streams.get(&plan.name) else {
                    continue;
                };
                self.stream(name, stream, plan.max_bytes);
            }
        }
    }

    fn stream(
        &mut self,
        region: &str,
        stream: &super::region_watch::StreamView,
        max_bytes: Option<u64>,
    ) {
        let id = stream.name.to_string();
        let base = [("region", region), ("stream", id.as_str())];
        self.add("nj_stream_messages", &base, to_f64(stream.messages));
        self.add("nj_stream_bytes", &base, to_f64(stream.bytes));
        self.add(
            "nj_stream_last_sequence",
            &base,
            to_f64(stream.last_sequence),
        );
        if let Some(max) = max_bytes {
            self.add("nj_stream_max_bytes", &base, to_f64(max));
        }
        if let Some(leader) = &stream.leader {
            self.add(
                "nj_stream_leader",
                &[base[0], base[1], ("server", leader)],
                1.0,
            );
        }
        for (server, current, lag) in &stream.replicas {
            let labels = [base[0], base[1], ("server", server.as_str())];
            self.add(
                "nj_stream_replica_current",
                &labels,
                f64::from(u8::from(*current)),
            );
            self.add("nj_stream_replica_lag", &labels, to_f64(*lag));
        }
        if let Some(of) = &stream.mirror_of {
            let labels = [base[0], base[1], ("of", of.as_str())];
            self.add("nj_mirror_lag", &labels, to_f64(stream.lag));
            if let Some(silent) = stream.silent_for {
                self.add("nj_mirror_silence_seconds", &labels, silent.as_secs_f64());
            }
        }
    }
}

/// Whether the place of a wait is in that region: the region itself, one of its streams, or one of its objects.
fn concerns(place: &str, region: &str) -> bool {
    place == region
        || place.starts_with(&format!("{region}/"))
        || place.contains(&format!("-{region}-"))
}

#[expect(clippy::cast_precision_loss, reason = "figures for a graph")]
fn to_f64(number: u64) -> f64 {
    number as f64
}

#[derive(Debug)]
struct Figures(Arc<State>);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let inner = self.0.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, kind, _, meaning) in TABLE {
            // The library adds the suffix of counters by itself.
            let bare = name.strip_suffix("_total").unwrap_or(name);
            let metric_type = match *kind {
                "counter" => MetricType::Counter,
                "histogram" => MetricType::Histogram,
                _ => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(bare, meaning, None, metric_type)?;
            match *name {
                "nj_operator_build_info" => metric
                    .encode_family(&vec![("version", self.0.version.clone())])?
                    .encode_gauge(&1_i64)?,
                "nj_operator_leader" => {
                    metric.encode_gauge(&i64::from(self.0.leader.load(Ordering::Relaxed)))?;
                }
                "nj_operator_fleets" => {
                    metric.encode_gauge(&i64::try_from(inner.fleets.len()).unwrap_or(0))?;
                }
                "nj_operator_reconcile_seconds" => self.0.seconds.encode(metric)?,
                "nj_operator_last_success_timestamp_seconds" => {
                    for ((namespace, fleet), at) in &inner.succeeded {
                        let labels =
                            vec![("namespace", namespace.clone()), ("fleet", fleet.clone())];
                        metric.encode_family(&labels)?.encode_gauge(at)?;
                    }
                }
                _ if *kind == "counter" => {
                    for ((_, labels), value) in inner
                        .counters
                        .iter()
                        .filter(|((known, _), _)| known == name)
                    {
                        metric
                            .encode_family(labels)?
                            .encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(
                                value, None,
                            )?;
                    }
                }
                _ => {
                    let now = since_epoch(SystemTime::now());
                    let samples = inner.fleets.values().flatten();
                    for (_, labels, value) in samples.filter(|(known, _, _)| known == name) {
                        let value = if *name == WAITING {
                            (now - value).max(0.0)
                        } else {
                            *value
                        };
                        metric.encode_family(labels)?.encode_gauge(&value)?;
                    }
                }
            }
        }
        Ok(())
    }
}
