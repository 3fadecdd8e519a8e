//! `DIR/fleet.json`: what the fleet must remember between starts. Written by rename before anything acts on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nightjar_envelope::{FleetId, RegionName, StreamName};
use serde::{Deserialize, Serialize};

use super::LocalError;
use super::addresses::PortMap;

const VERSION: u32 = 1;

/// What the fleet remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FleetRecord {
    version: u32,
    /// Random, for ever: envelopes are bound to it.
    pub(crate) fleet_id: FleetId,
    /// True from before the first stream was made. From then on a missing keyring is never replaced by a new one.
    pub(crate) streams_made: bool,
    /// Every region that was ever part of the fleet.
    pub(crate) regions: BTreeMap<RegionName, RegionRecord>,
    /// Process name to purpose to port, chosen once.
    pub(crate) ports: PortMap,
}

/// What is remembered of a region, also after it left the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegionRecord {
    /// Incarnation of its streams; grows when they are made anew.
    pub(crate) generation: u32,
    /// NATS servers it was made with: a log made by one server is not found again by three, nor the other way round.
    pub(crate) nats_replicas: u8,
    /// Its streams of this generation that were made. They are never made a second time.
    pub(crate) streams: BTreeSet<StreamName>,
}

/// The record and where it is kept.
#[derive(Debug)]
pub(crate) struct RecordFile {
    path: PathBuf,
    pub(crate) record: FleetRecord,
}

impl RecordFile {
    /// Reads the record of a state folder, or begins one if the folder holds no regions yet.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, LocalError> {
        let path = state_dir.join("fleet.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if state_dir.join("regions").exists() {
                    return Err(LocalError::RecordMissing { path });
                }
                let record = FleetRecord {
                    version: VERSION,
                    fleet_id: FleetId::from_bytes(rand::random()),
                    streams_made: false,
                    regions: BTreeMap::new(),
                    ports: BTreeMap::new(),
                };
                return Ok(Self { path, record });
            }
            Err(source) => return Err(LocalError::StateFolder { path, source }),
        };
        let record: FleetRecord =
            serde_json::from_str(&text).map_err(|error| LocalError::RecordDamaged {
                path: path.clone(),
                reason: error.to_string(),
            })?;
        if record.version != VERSION {
            let reason = format!("version {} instead of {VERSION}", record.version);
            return Err(LocalError::RecordDamaged { path, reason });
        }
        Ok(Self { path, record })
    }

    /// Writes a new record to disk, then takes it over.
    pub(crate) fn replace(&mut self, record: FleetRecord) -> Result<(), LocalError> {
        self.record = record;
        self.save()
    }

    fn save(&self) -> Result<(), LocalError> {
        let text = serde_json::to_string_pretty(&self.record).map_err(|error| {
            LocalError::StateFolder {
                path: self.path.clone(),
                source: std::io::Error::other(error),
            }
        })?;
        Ok(crate::pki::write_private(&self.path, text.as_bytes())?)
    }
}
