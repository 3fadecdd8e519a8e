//! What a valid fleet means, in full: every file of every process, every stream, and the order in which things start.
//!
//! Pure and deterministic: the same fleet, facts and addresses give the same plan, byte for byte. A placement (child
//! processes on a laptop, StatefulSets in a cluster) brings the [`Addresses`] and puts the plan in place; it decides nothing.

mod address;
mod conf;
mod nats;
mod planner;
mod process;
mod relay;
mod stream;
mod subjects;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use nightjar_envelope::{FleetId, RegionName};

use crate::validate::ValidFleet;
use planner::Planner;

pub use address::{
    Addresses, Credential, FileRef, HostPort, Issuer, Port, ProcessId, Role, ServerOptions,
};
pub use process::{CertificatePlan, Listener, PlannedFile, ProcessPlan, SeedForm, SeedPlan};
pub use stream::{StreamKind, StreamPlan};
pub(crate) use subjects::own_streams;

/// Hubs of a region in a fleet of several: one can restart while the other carries on.
pub const HUBS_PER_REGION: u32 = 2;

/// Plans a fleet.
///
/// # Errors
/// [`PlanError::UnknownRegion`] when the facts lack a region of the fleet: its generation and keys are made before its plan.
pub fn plan(
    fleet: &ValidFleet,
    facts: &FleetFacts,
    addresses: &dyn Addresses,
) -> Result<FleetPlan, PlanError> {
    Ok(Planner::new(fleet, facts, addresses)?.plan())
}

/// Why a fleet could not be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The facts lack a region.
    #[error("region {0} has no generation and keys yet")]
    UnknownRegion(RegionName),
}

/// What the plan cannot know from the `RelayCluster` file and must stay the same between plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetFacts {
    /// The fleet's identity, made once.
    pub fleet_id: FleetId,
    /// Per region of the file: generation and public keys. A region without facts cannot be planned.
    pub regions: BTreeMap<RegionName, RegionFacts>,
    /// Regions that left the fleet, with the generation of their streams. Their copies in the other regions are read on.
    pub former: BTreeMap<RegionName, u32>,
}

impl FleetFacts {
    /// Facts of a fleet whose identity and keys do not matter: the same each time, so that plans can be compared.
    pub(crate) fn stand_in<'a>(regions: impl IntoIterator<Item = &'a RegionName>) -> Self {
        let facts = |region: &RegionName| {
            let key = |role: &str| format!("U-{role}-{region}");
            let nkeys = RegionKeys {
                relay: key("relay"),
                admin: key("admin"),
                system: key("system"),
                leaf: key("leaf"),
            };
            RegionFacts {
                generation: 1,
                nkeys,
            }
        };
        let regions = regions.into_iter();
        Self {
            fleet_id: FleetId::from_bytes([0xab; 16]),
            regions: regions.map(|name| (name.clone(), facts(name))).collect(),
            former: BTreeMap::new(),
        }
    }
}

/// What is known of one region besides its spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionFacts {
    /// The incarnation of the region's streams, from 1; grows when streams are made anew.
    pub generation: u32,
    /// Public user nkeys (`U...`) of the region; their seeds are referred to by [`Credential`].
    pub nkeys: RegionKeys,
}

/// Public user nkeys (`U` and 55 characters of base32) that a region's NATS servers and hubs let in. Each is of this region only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionKeys {
    /// Relays of the region, in account `RELAY`, limited to what a relay does.
    pub relay: String,
    /// The operator in account `RELAY`: makes and watches streams.
    pub admin: String,
    /// The operator in account `SYS`: asks servers for their state.
    pub system: String,
    /// The region's NATS servers when they connect to its hubs.
    pub leaf: String,
}

/// Whether an acknowledged event survives the loss of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Three NATS servers in every region, each entry flushed to disk on a majority before it is acknowledged.
    Replicated,
    /// At least one region has a single NATS server: survives a crash of the process, not power loss.
    Development,
}

/// Everything that must run for one fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetPlan {
    /// The fleet's identity, from the facts.
    pub fleet_id: FleetId,
    /// `metadata.name` of the `RelayCluster`.
    pub name: String,
    /// The weakest durability of any region.
    pub durability: Durability,
    /// The regions in the order of the file.
    pub regions: Vec<RegionPlan>,
    /// What starts when. Stopping is the same list backwards.
    pub start_order: Vec<StartStep>,
}

/// Everything of one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionPlan {
    /// The region.
    pub name: RegionName,
    /// The incarnation of its streams.
    pub generation: u32,
    /// JetStream servers, by ordinal: 1 or 3.
    pub nats: Vec<ProcessPlan>,
    /// Hubs, by ordinal: 2, or none in a fleet of one region.
    pub hubs: Vec<ProcessPlan>,
    /// Relays, by ordinal.
    pub relays: Vec<ProcessPlan>,
    /// Streams that the region's JetStream holds: its own first, then the mirrors.
    pub streams: Vec<StreamPlan>,
    /// `nats://host:port` of the region's JetStream servers, for the relays and the operator.
    pub nats_urls: Vec<String>,
    /// Where clients reach each relay, by ordinal (`ws://` or `wss://`).
    pub relay_urls: Vec<String>,
}

/// One step of the start; a step begins when the one before is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartStep {
    /// Start these processes, all at once, and wait until they answer.
    Processes(Vec<ProcessId>),
    /// Wait until every JetStream server has its leaf link and every hub reaches every other region (a mirror made
    /// earlier backs off for minutes).
    Links,
    /// Make or correct the streams of all regions, at the same time.
    Streams,
}

impl FleetPlan {
    /// All processes, region by region: NATS servers, hubs, relays.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessPlan> {
        self.regions.iter().flat_map(RegionPlan::processes)
    }
}

impl RegionPlan {
    /// All processes of the region: NATS servers, hubs, relays.
    pub fn processes(&self) -> impl Iterator<Item = &ProcessPlan> {
        self.nats.iter().chain(&self.hubs).chain(&self.relays)
    }
}
