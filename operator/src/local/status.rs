//! `DIR/status.json`: where every process stands, for `nightjar status`, `nightjar down` and the next start.

use std::path::{Path, PathBuf};

use nightjar_envelope::FleetId;
use serde::{Deserialize, Serialize};

use super::event::{ProcessStatus, RegionRelays};
use crate::plan::Durability;

/// Where the fleet as a whole stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FleetState {
    /// Not every region serves yet.
    Starting,
    /// Every region serves.
    Ready,
    /// Something that served does not.
    Degraded,
    /// The keyring is missing although streams were made.
    KeysMissing,
    /// It is being stopped.
    Stopping,
    /// Nothing runs.
    Stopped,
}

/// The content of `DIR/status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// Where the fleet stands.
    pub state: FleetState,
    /// `metadata.name`.
    pub fleet: String,
    /// The fleet's identity.
    pub fleet_id: FleetId,
    /// What an acknowledged event survives.
    pub durability: Durability,
    /// Process id of the runner.
    pub pid: u32,
    /// The RelayCluster file, absolute.
    pub file: PathBuf,
    /// Regions and their relays, in the order of the file.
    pub regions: Vec<RegionRelays>,
    /// Every process.
    pub processes: Vec<ProcessEntry>,
}

/// A process in [`FleetStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEntry {
    /// Where it stands.
    #[serde(flatten)]
    pub status: ProcessStatus,
    /// When it began, in clock ticks since boot: with the id it names one process.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started: Option<u64>,
    /// Its log file.
    pub log: PathBuf,
}

/// Reads the status of a state folder, if there is one that can be read.
pub fn read(state_dir: &Path) -> Option<FleetStatus> {
    serde_json::from_slice(&std::fs::read(state_dir.join("status.json")).ok()?).ok()
}

/// Replaces the status by rename, so that a reader never sees half of it.
pub(crate) fn write(state_dir: &Path, status: &FleetStatus) -> std::io::Result<()> {
    let path = state_dir.join("status.json");
    let temporary = state_dir.join("status.json.new");
    std::fs::write(&temporary, serde_json::to_vec_pretty(status)?)?;
    std::fs::rename(temporary, path)
}
