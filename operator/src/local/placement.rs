//! From a valid fleet to a plan on this machine: generations, ports and keys are made here, and remembered before anything uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nightjar_envelope::RegionName;

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
            former: Default::default(),
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
    ///
    /// Where all that is left cannot be read, nothing is lost yet: that refuses the start, unless the region is not in the file.
    pub(crate) fn notice_lost_logs(
        &mut self,
        fleet: &ValidFleet,
    ) -> Result<Vec<String>, LocalError> {
        let mut record = self.record.record.clone();
        let mut notices = Vec::new();
        for (name, region) in &mut record.regions {
            if region.streams.is_empty() {
                continue;
            }
            let lost = lost_stores(&self.state_dir, name, region.nats_replicas);
            let lost = match lost {
                Ok(lost) => lost,
                Err(_) if !fleet.regions.iter().any(|known| known.name == *name) => continue,
                Err(error) => return Err(error),
            };
            if lost {
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

/// True when the stores of all servers of a region are gone. (One that is left gives its log to the others.)
fn lost_stores(state_dir: &Path, region: &RegionName, servers: u8) -> Result<bool, LocalError> {
    let mut unreadable = None;
    for ordinal in 0..u32::from(servers) {
        let id = ProcessId {
            region: region.clone(),
            role: Role::Nats,
            ordinal,
        };
        let path = process_dir(state_dir, &id).join("data");
        match holds_anything(&path) {
            Ok(true) => return Ok(false),
            Ok(false) => {}
            Err(source) => unreadable = Some(LocalError::LogUnreadable { path, source }),
        }
    }
    unreadable.map_or(Ok(true), Err)
}

/// Absent is empty. What is there and cannot be read is not, nor what lies behind a link to a disk that is not mounted.
fn holds_anything(dir: &Path) -> std::io::Result<bool> {
    let behind_dead_link = || {
        dir.ancestors()
            .any(|part| part.is_symlink() && !part.exists())
    };
    match std::fs::read_dir(dir) {
        Ok(mut entries) => entries.next().transpose().map(|entry| entry.is_some()),
        Err(error) if error.kind() == ErrorKind::NotFound && !behind_dead_link() => Ok(false),
        Err(error) => Err(error),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        _dir: tempfile::TempDir,
        placement: Placement,
        fleet: ValidFleet,
    }

    /// A region that has made its streams, with data on all its servers.
    fn case(servers: u8) -> Case {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {{name: t}}\nspec: {{regions: [{{name: a, nats: {{replicas: {servers}}}}}]}}\n"
        );
        let fleet = crate::validate::from_yaml(&text).unwrap();
        let mut placement = Placement {
            file: dir.path().join("fleet.yaml"),
            keys: KeyFolder::open(&dir.path().join("keys")).unwrap(),
            record: RecordFile::open(dir.path()).unwrap(),
            state_dir: dir.path().to_owned(),
        };
        let mut record = placement.record.record.clone();
        let known = RegionRecord {
            generation: 1,
            nats_replicas: servers,
            streams: BTreeSet::from(["EV_a_1_0".parse().unwrap()]),
        };
        record.regions.insert("a".parse().unwrap(), known);
        placement.record.replace(record).unwrap();
        for server in 0..servers {
            std::fs::create_dir_all(store(&placement, server).join("jetstream")).unwrap();
        }
        Case {
            _dir: dir,
            placement,
            fleet,
        }
    }

    fn store(placement: &Placement, server: u8) -> PathBuf {
        let server = format!("regions/a/a-nats-{server}/data");
        placement.state_dir.join(server)
    }

    impl Case {
        fn lose(&self, server: u8) {
            std::fs::remove_dir_all(store(&self.placement, server)).unwrap();
        }

        fn generation_after(&mut self) -> Result<u32, String> {
            let noticed = self.placement.notice_lost_logs(&self.fleet);
            noticed.map_err(|error| error.to_string())?;
            let regions = &self.placement.record.record.regions;
            Ok(regions.values().next().unwrap().generation)
        }
    }

    #[test]
    fn a_log_that_cannot_be_read_now_is_not_taken_for_lost() {
        let mut case = case(3);
        let data = store(&case.placement, 0);
        case.lose(0);
        std::os::unix::fs::symlink("/nowhere/disk", &data).unwrap();
        assert_eq!(case.generation_after(), Ok(1));
        case.lose(1);
        case.lose(2);
        let refusal = case.generation_after().unwrap_err();
        assert!(refusal.contains("a-nats-0/data"), "{refusal}");
        std::fs::remove_file(&data).unwrap();
        std::fs::write(&data, "no folder").unwrap();
        case.generation_after().unwrap_err();
        std::fs::remove_file(&data).unwrap();
        assert_eq!(case.generation_after(), Ok(2));
    }

    #[test]
    fn a_log_of_which_one_copy_is_left_is_not_lost() {
        let mut case = case(3);
        case.lose(0);
        case.lose(2);
        assert_eq!(case.generation_after(), Ok(1));
        case.lose(1);
        assert_eq!(case.generation_after(), Ok(2));
    }

    #[test]
    fn a_region_that_is_not_in_the_file_refuses_no_start() {
        let mut case = case(1);
        case.lose(0);
        std::os::unix::fs::symlink("/nowhere/disk", store(&case.placement, 0)).unwrap();
        case.fleet.regions[0].name = "b".parse().unwrap();
        assert_eq!(case.generation_after(), Ok(1));
    }
}
