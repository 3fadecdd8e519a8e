//! Whether the relay is ready and what it waits for, and which keys it holds: in `/metrics`, read when they are asked for.

use std::fmt;

use nightjar_envelope::KeyState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::log::{Keys, Readiness, Waiting};

/// Reads the readiness at each scrape.
#[derive(Debug)]
pub(crate) struct ReadinessMetrics(pub(crate) Readiness);

impl Collector for ReadinessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let report = self.0.report();
        let waits = |name: &str| {
            let of_name = report.waiting_for.iter().filter(|w| w.name() == name);
            i64::try_from(of_name.count()).unwrap_or(i64::MAX)
        };
        let help = "1 while the relay takes and answers everything (/readyz is 200)";
        one(&mut encoder, "ready", help, i64::from(report.ready))?;
        let help = "1 while the relay closes its connections and will stop";
        one(&mut encoder, "draining", help, waits("draining"))?;
        let mut metric = encoder.encode_descriptor(
            "waiting_for",
            "How many things of a sort keep the relay from being ready, as /readyz names them",
            None,
            MetricType::Gauge,
        )?;
        for name in Waiting::NAMES {
            let labels = [("state", name)];
            let series = metric.encode_family(&labels)?;
            ConstGauge::new(waits(name)).encode(series)?;
        }
        Ok(())
    }
}

/// Reads at each scrape which keys are loaded.
#[derive(Debug)]
pub(crate) struct KeyMetrics(pub(crate) Keys);

impl Collector for KeyMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let keyring = self.0.current();
        let mut figures = KeyFigures::default();
        if let Some(keyring) = keyring {
            figures.seal = keyring.seal_epoch().0;
            for (_, state) in keyring.epochs() {
                match state {
                    KeyState::Active => figures.active += 1,
                    KeyState::Destroyed => figures.destroyed += 1,
                }
            }
        }
        figures.encode(encoder)
    }
}

/// Numbers of epochs, never a key.
#[derive(Debug, Default)]
pub(crate) struct KeyFigures {
    seal: u32,
    active: i64,
    destroyed: i64,
}

impl Collector for KeyFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Key epoch that seals; 0 while there is no keyring";
        one(&mut encoder, "keyring_seal_epoch", help, self.seal.into())?;
        let mut metric = encoder.encode_descriptor(
            "keyring_epochs",
            "Key epochs of the keyring, by what is left of their keys",
            None,
            MetricType::Gauge,
        )?;
        for (state, count) in [("active", self.active), ("destroyed", self.destroyed)] {
            let labels = [("state", state)];
            let series = metric.encode_family(&labels)?;
            ConstGauge::new(count).encode(series)?;
        }
        Ok(())
    }
}

fn one(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: i64,
) -> Result<(), fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn what_is_waited_for_is_counted_by_its_name() {
        let readiness = Readiness::default();
        let metrics = Metrics::new();
        let collector = Box::new(ReadinessMetrics(readiness.clone()));
        metrics.register(|registry| registry.register_collector(collector));
        let has = |line: &str| {
            let text = metrics.encode().expect("text");
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        };
        has("nj_ready 1");
        has("nj_waiting_for{state=\"unknown-epoch\"} 0");
        for stream in ["EV_a_1_0", "EV_a_1_1"] {
            let stream = stream.to_owned();
            readiness.set(stream.clone(), Waiting::UnknownEpoch { stream, epoch: 2 });
        }
        readiness.set("drain", Waiting::Draining);
        has("nj_ready 0");
        has("nj_draining 1");
        has("nj_waiting_for{state=\"unknown-epoch\"} 2");
    }
}
