//! What is counted of the policy programs. Every series is there from the start, also of a program that is not configured.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::metrics::{PluginAnswer, PluginFailure, PluginName, answer_seconds};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    plugin: PluginName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    plugin: PluginName,
    answer: PluginAnswer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    plugin: PluginName,
    reason: PluginFailure,
}

/// Everything that is counted of the policy programs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PluginMetrics {
    asked: Family<NameLabels, Counter>,
    answers: Family<AnswerLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    respawns: Family<NameLabels, Counter>,
    running: Family<NameLabels, Gauge>,
    in_flight: Family<NameLabels, Gauge>,
    seconds: Family<NameLabels, Histogram, fn() -> Histogram>,
}

impl PluginMetrics {
    /// Makes the metrics and adds them to the registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            asked: Family::default(),
            answers: Family::default(),
            failures: Family::default(),
            respawns: Family::default(),
            running: Family::default(),
            in_flight: Family::default(),
            seconds: Family::new_with_constructor(answer_seconds),
        };
        metrics.zero();
        metrics.add_to(registry);
        metrics
    }

    fn zero(&self) {
        for plugin in PluginName::ALL.iter().copied() {
            let labels = NameLabels { plugin };
            for counters in [&self.asked, &self.respawns] {
                drop(counters.get_or_create(&labels));
            }
            for gauges in [&self.running, &self.in_flight] {
                drop(gauges.get_or_create(&labels));
            }
            drop(self.seconds.get_or_create(&labels));
            for answer in PluginAnswer::ALL.iter().copied() {
                drop(self.answers.get_or_create(&AnswerLabels { plugin, answer }));
            }
            for reason in PluginFailure::ALL.iter().copied() {
                drop(
                    self.failures
                        .get_or_create(&FailureLabels { plugin, reason }),
                );
            }
        }
    }

    #[rustfmt::skip] // A table.
    fn add_to(&self, registry: &mut Registry) {
        let r = registry;
        r.register("plugin_asked", "Questions to a policy program", self.asked.clone());
        r.register("plugin_answers", "Answers of a policy program, by what it decided", self.answers.clone());
        r.register("plugin_failures", "Questions that a policy program did not answer; on_failure decided on them", self.failures.clone());
        r.register("plugin_respawns", "Starts of a policy program after its first, whatever the reason", self.respawns.clone());
        r.register("plugin_running", "1 while a policy program runs", self.running.clone());
        r.register("plugin_in_flight", "Questions before a policy program", self.in_flight.clone());
        r.register("plugin_seconds", "From a question to its answer, with the wait for room before the program; failures are not in it", self.seconds.clone());
    }

    /// The metrics of one program.
    pub(super) fn of(&self, plugin: PluginName) -> OfPlugin {
        OfPlugin {
            plugin,
            all: self.clone(),
        }
    }
}

/// The metrics of one program.
#[derive(Debug, Clone)]
pub(super) struct OfPlugin {
    plugin: PluginName,
    all: PluginMetrics,
}

impl OfPlugin {
    fn labels(&self) -> NameLabels {
        NameLabels {
            plugin: self.plugin,
        }
    }

    pub(super) fn on_asked(&self) {
        self.all.asked.get_or_create(&self.labels()).inc();
    }

    pub(super) fn on_answer(&self, answer: PluginAnswer, seconds: f64) {
        let plugin = self.plugin;
        let labels = AnswerLabels { plugin, answer };
        self.all.answers.get_or_create(&labels).inc();
        self.all
            .seconds
            .get_or_create(&self.labels())
            .observe(seconds);
    }

    pub(super) fn on_failure(&self, reason: PluginFailure) {
        let plugin = self.plugin;
        let labels = FailureLabels { plugin, reason };
        self.all.failures.get_or_create(&labels).inc();
    }

    pub(super) fn on_respawn(&self) {
        self.all.respawns.get_or_create(&self.labels()).inc();
    }

    pub(super) fn set_running(&self, running: bool) {
        let gauge = self.all.running.get_or_create(&self.labels());
        gauge.set(running.into());
    }

    pub(super) fn set_in_flight(&self, questions: usize) {
        let gauge = self.all.in_flight.get_or_create(&self.labels());
        gauge.set(i64::try_from(questions).unwrap_or(i64::MAX));
    }
}
