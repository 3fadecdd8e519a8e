//! Checks a `RelayCluster` beyond its schema and turns it into values that the plan can use as they are.

use std::fmt;
use std::time::Duration;

use nightjar_config::{Limits, RelayInfo, TracingConfig};
use nightjar_envelope::RegionName;

/// A `RelayCluster` that can be planned: every name parsed, every size in bytes, every default in place.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidFleet {
    /// `metadata.name`.
    pub name: String,
    /// The regions in the order of the file.
    pub regions: Vec<ValidRegion>,
    /// Upper limit of one region's streams together, in bytes.
    pub max_bytes_per_region: u64,
    /// How long messages are kept.
    pub message_retention: Duration,
    /// What the relays say of themselves.
    pub info: RelayInfo,
    /// What clients may ask of a relay.
    pub limits: Limits,
    /// Where relays send traces.
    pub tracing: Option<TracingConfig>,
}

/// One region of a [`ValidFleet`].
#[derive(Debug, Clone, PartialEq)]
pub struct ValidRegion {
    /// Its name.
    pub name: RegionName,
    /// How many relays.
    pub relay_replicas: u32,
    /// How many NATS servers: 1 or 3.
    pub nats_replicas: u8,
    /// JetStream's share of each NATS server's disk, in bytes.
    pub nats_storage: u64,
    /// Where clients reach the region, if not at the addresses of the placement.
    pub public_url: Option<String>,
}

/// One thing wrong with a `RelayCluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The path of the field, for example `spec.regions[1].name`; empty when the document as a whole is wrong.
    pub field: String,
    /// What is wrong with it, the limit, and what was found.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

impl std::error::Error for FieldError {}
