//! Where the processes of a fleet are on this machine: ports on loopback, files in the state folder.

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::LocalError;
use super::ports::PortChooser;
use crate::pki::KeyFolder;
use crate::plan::{Addresses, FileRef, HUBS_PER_REGION, HostPort, Port, ProcessId, Role};
use crate::validate::ValidFleet;

/// Process name to listener to port, as `fleet.json` keeps them.
pub(crate) type PortMap = BTreeMap<String, BTreeMap<Port, u16>>;

/// The placement of a plan on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Loopback {
    state_dir: PathBuf,
    keys: KeyFolder,
    ports: PortMap,
}

impl Loopback {
    /// A placement that knows a port for every listener of the fleet.
    pub(crate) fn new(state_dir: &Path, keys: &KeyFolder, ports: &PortMap) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            keys: keys.clone(),
            ports: ports.clone(),
        }
    }

    fn port(&self, process: &ProcessId, port: Port) -> u16 {
        let known = self
            .ports
            .get(&process.to_string())
            .and_then(|ports| ports.get(&port));
        debug_assert!(
            known.is_some(),
            "{process} was planned before its ports were chosen"
        );
        known.copied().unwrap_or_default()
    }
}

impl Addresses for Loopback {
    fn listen(&self, process: &ProcessId, port: Port) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port(process, port)).into()
    }

    fn connect(&self, process: &ProcessId, port: Port) -> HostPort {
        HostPort {
            host: Ipv4Addr::LOCALHOST.to_string(),
            port: self.port(process, port),
        }
    }

    fn relay_url(&self, process: &ProcessId) -> String {
        format!("ws://{}", self.listen(process, Port::Relay))
    }

    fn path(&self, process: &ProcessId, file: &FileRef) -> PathBuf {
        let folder = process_dir(&self.state_dir, process);
        match file {
            FileRef::Config => folder.join(match process.role {
                Role::Nats => "nats.conf",
                Role::Hub => "hub.conf",
                Role::Relay => "relay.yaml",
            }),
            FileRef::Store => folder.join("data"),
            FileRef::Index => folder.join("index"),
            key => self.keys.path(process, key).unwrap_or(folder),
        }
    }
}

/// `DIR/regions/<region>`.
pub(crate) fn region_dir(state_dir: &Path, region: &str) -> PathBuf {
    state_dir.join("regions").join(region)
}

/// `DIR/regions/<region>/<process>`.
pub(crate) fn process_dir(state_dir: &Path, process: &ProcessId) -> PathBuf {
    region_dir(state_dir, process.region.as_str()).join(process.to_string())
}

/// Chooses a port for every listener that has none yet.
pub(crate) fn choose_ports(fleet: &ValidFleet, ports: &mut PortMap) -> Result<(), LocalError> {
    let used: HashSet<u16> = ports.values().flat_map(BTreeMap::values).copied().collect();
    let mut chooser = PortChooser::new(used);
    for region in &fleet.regions {
        let roles = [
            (Role::Nats, u32::from(region.nats_replicas)),
            (Role::Hub, HUBS_PER_REGION),
            (Role::Relay, region.relay_replicas),
        ];
        for (role, count) in roles {
            for ordinal in 0..count {
                let id = ProcessId {
                    region: region.name.clone(),
                    role,
                    ordinal,
                };
                let known = ports.entry(id.to_string()).or_default();
                for port in Port::of(role) {
                    if !known.contains_key(port) {
                        known.insert(*port, chooser.choose()?);
                    }
                }
            }
        }
    }
    Ok(())
}
