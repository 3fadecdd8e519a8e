//! Figures of the index in `/metrics`, read when they are asked for.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::index::{Index, IndexStats};

/// Reads the index's figures at each scrape.
#[derive(Debug)]
pub(crate) struct IndexMetrics {
    pub(crate) index: Index,
}

impl Collector for IndexMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        match self.index.stats() {
            Ok(stats) => IndexFigures(stats).encode(encoder),
            Err(error) => {
                tracing::warn!(%error, "no figures of the index");
                Ok(())
            }
        }
    }
}

/// The figures as they were at one moment.
#[derive(Debug)]
pub(crate) struct IndexFigures(pub(crate) IndexStats);

impl Collector for IndexFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = &self.0;
        let gauges = [
            (
                "index_public_events",
                "Public events in the index",
                stats.public_events,
            ),
            (
                "index_private_rows",
                "Rows in private keyspaces",
                stats.private_events,
            ),
            ("index_tombstones", "Deletions remembered", stats.tombstones),
            (
                "index_coordinates",
                "Coordinates with a floor",
                stats.coordinates,
            ),
            (
                "index_superseded_entries",
                "Log entries that may be removed",
                stats.superseded_entries,
            ),
            (
                "index_used_bytes",
                "Bytes of the index in use",
                stats.used_bytes,
            ),
            (
                "index_max_bytes",
                "Bytes that the index may use (index.max_bytes)",
                stats.max_bytes,
            ),
        ];
        for (name, help, value) in gauges {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        let metric = encoder.encode_descriptor(
            "index_door_violations",
            "Private events found outside of their readers' keyspace; must be 0",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(stats.door_violations).encode(metric)
    }
}
