//! From a valid fleet to a plan on this machine: generations, ports and keys are made here, and remembered before anything uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::LocalError;
use super::addresses::{Loopback, choose_ports, process_dir};
use super::record::{RecordFile, RegionRecord};
use crate::pki::KeyFolder;
use crate::plan::{FleetFacts, FleetPlan, ProcessId, ProcessPlan, RegionFacts, Role, plan};
use crate::validate::{FieldError, ValidFleet, ValidRegion};

/// Plans of one state folder.
#[derive(Debug)]
pub(crate) struct Placement {
    pub(crate) file: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) keys: KeyFolder,
    pub(crate) record: RecordFile,
}

impl Placement {
    /// Plans a fleet, makes the keys and certificates it needs, and remembers what must stay.
    pub(crate) fn plan(&mut self, fleet: &ValidFleet) -> Result<FleetPlan, LocalError> {
        let mut record = self.record.record.clone();
        for (index, region) in fleet.regions.iter().enumerate() {
            let known = record
                .regions
                .entry(region.name.clone())
                .or_insert(RegionRecord {
                    generation: 1,
                    nats_replicas: region.nats_replicas,
                    streams: BTreeSet::new(),
                });
            check_replicas(&self.file, index, region, known)?;
        }
        choose_ports(fleet, &mut record.ports)?;
        if record != self.record.record {
            self.record.replace(record)?;
        }
        let mut regions = BTreeMap::new();
        for region in &fleet.regions {
            let facts = RegionFacts {
                generation: self.record.record.regions[&region.name].generation,
                nkeys: self.keys.users(&region.name)?,
            };
            regions.insert(region.name.clone(), facts);
        }
        let facts = FleetFacts {
            fleet_id: self.record.record.fleet_id,
            regions,
        };
        let addresses = Loopback::new(&self.state_dir, &self.keys, &self.record.record.ports);
        let plan = plan(fleet, &facts, &addresses)?;
        for process in plan.processes() {
            self.prepare(process)?;
        }
        Ok(plan)
    }

    /// Keys and certificates of one process.
    fn prepare(&self, process: &ProcessPlan) -> Result<(), LocalError> {
        let now = SystemTime::now();
        for certificate in &process.certificates {
            self.keys.ensure_certificate(certificate, now)?;
        }
        for seed in &process.seeds {
            self.keys.ensure_seed(&process.id.region, seed)?;
        }
        Ok(())
    }

    /// A region whose servers all lost their store begins a new generation: its streams would count from 1 again.
    pub(crate) fn notice_lost_logs(&mut self) -> Result<Vec<String>, LocalError> {
        let mut record = self.record.record.clone();
        let mut notices = Vec::new();
        for (name, region) in &mut record.regions {
            let has_store = (0..u32::from(region.nats_replicas)).any(|ordinal| {
                let id = ProcessId {
                    region: name.clone(),
                    role: Role::Nats,
                    ordinal,
                };
                holds_anything(&process_dir(&self.state_dir, &id).join("data"))
            });
            if !region.streams.is_empty() && !has_store {
                region.generation += 1;
                region.streams.clear();
                notices.push(format!(
                    "region {name}: the data of its NATS servers is gone; its log begins anew as generation {}",
                    region.generation
                ));
            }
        }
        if !notices.is_empty() {
            self.record.replace(record)?;
        }
        Ok(notices)
    }
}

fn holds_anything(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// A log made by one server is not found again by three, nor the other way round.
fn check_replicas(
    file: &Path,
    index: usize,
    region: &ValidRegion,
    known: &RegionRecord,
) -> Result<(), LocalError> {
    if known.nats_replicas == region.nats_replicas {
        return Ok(());
    }
    Err(LocalError::Fields(
        file.to_owned(),
        vec![FieldError {
            field: format!("spec.regions[{index}].nats.replicas"),
            message: format!(
                "region {} was made with {}; it cannot change to {} in place: use another state folder or another region name",
                region.name, known.nats_replicas, region.nats_replicas
            ),
        }],
    ))
}
