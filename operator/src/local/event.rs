//! What a running fleet reports: one object an event, the same for the table, for `--json` and for a caller of the library.

use nightjar_envelope::RegionName;
use serde::{Deserialize, Serialize};

use crate::plan::Role;

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// Waits for something before it is started (`reason` says for what), or was just started.
    Starting,
    /// Answers, and is not ready to serve.
    Running,
    /// Serves.
    Ready,
    /// Ended by itself; it is started again after a pause.
    Exited,
    /// Stopped because it is no longer wanted, or the fleet stops.
    Stopped,
}

impl ProcessState {
    /// The state's name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Exited => "exited",
            Self::Stopped => "stopped",
        }
    }
}

/// One process and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its region.
    pub region: RegionName,
    /// Its name, `<region>-<role>-<ordinal>`.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Its process id while it runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<u32>,
    /// Where it stands.
    pub state: ProcessState,
    /// Where it is reached: `ws://...` for a relay, `host:port` for the others.
    pub address: String,
    /// Why it is not ready, when known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// How often it ended by itself since the fleet was started.
    #[serde(default)]
    pub restarts: u32,
}

/// A region and its relays, as clients reach them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionRelays {
    /// The region's name.
    pub name: RegionName,
    /// WebSocket URLs of its relays.
    pub relays: Vec<String>,
}

/// One event of a running fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum LocalEvent {
    /// A process changed its state.
    Process(ProcessStatus),
    /// Every region serves. Sent again after a change of the file, once all regions serve again.
    Ready {
        /// The regions in the order of the file.
        regions: Vec<RegionRelays>,
    },
    /// Something is wrong; the fleet goes on with what it has.
    Error {
        /// The field of the file that is wrong, if it is the file.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        field: Option<String>,
        /// What is wrong and what to do.
        message: String,
    },
    /// Something to know that is not an error.
    Notice {
        /// What happened.
        message: String,
    },
    /// Every process has ended; the last event.
    Stopped,
}
