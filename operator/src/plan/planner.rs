//! Puts the plan together: regions, processes, streams, order. The texts themselves are made in `nats` and `relay`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use nightjar_config::TlsFiles;
use nightjar_envelope::RegionName;
use sha2::{Digest, Sha256};

use super::{
    Addresses, CertificatePlan, Credential, Durability, FileRef, FleetFacts, FleetPlan,
    HUBS_PER_REGION, HostPort, Issuer, Listener, PlanError, PlannedFile, Port, ProcessId,
    ProcessPlan, RegionFacts, RegionKeys, RegionPlan, Role, SeedForm, SeedPlan, ServerOptions,
    StartStep, nats, relay, stream,
};
use crate::validate::{ValidFleet, ValidRegion};

/// What every part of the plan may ask.
pub(super) struct Planner<'a> {
    pub(super) fleet: &'a ValidFleet,
    pub(super) facts: &'a FleetFacts,
    regions: BTreeMap<&'a RegionName, PlannedRegion<'a>>,
    addresses: &'a dyn Addresses,
    options: ServerOptions,
}

/// One region: what was asked for, and what is known.
#[derive(Clone, Copy)]
pub(super) struct PlannedRegion<'a> {
    pub(super) spec: &'a ValidRegion,
    pub(super) generation: u32,
    pub(super) keys: &'a RegionKeys,
}

/// A text that a process reads, and the part of it whose change needs a restart.
pub(super) struct ProcessText {
    pub(super) full: String,
    pub(super) restart: String,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        fleet: &'a ValidFleet,
        facts: &'a FleetFacts,
        addresses: &'a dyn Addresses,
    ) -> Result<Self, PlanError> {
        let mut regions = BTreeMap::new();
        for spec in &fleet.regions {
            let RegionFacts { generation, nkeys } = facts
                .regions
                .get(&spec.name)
                .ok_or_else(|| PlanError::UnknownRegion(spec.name.clone()))?;
            regions.insert(
                &spec.name,
                PlannedRegion {
                    spec,
                    generation: *generation,
                    keys: nkeys,
                },
            );
        }
        Ok(Self {
            fleet,
            facts,
            regions,
            addresses,
            options: addresses.server_options(),
        })
    }

    pub(super) fn plan(&self) -> FleetPlan {
        let regions: Vec<RegionPlan> = self
            .fleet
            .regions
            .iter()
            .map(|spec| self.plan_region(spec))
            .collect();
        let start_order = start_order(&regions);
        FleetPlan {
            fleet_id: self.facts.fleet_id,
            name: self.fleet.name.clone(),
            durability: self.fleet.durability(),
            regions,
            start_order,
        }
    }

    /// Regions are joined by hubs as soon as there are two.
    pub(super) fn has_hubs(&self) -> bool {
        self.regions.len() > 1
    }

    /// A region of the fleet; the constructor has seen to it that it is known.
    pub(super) fn region(&self, name: &RegionName) -> PlannedRegion<'a> {
        self.regions[name]
    }

    /// All regions with their generations, by name.
    pub(super) fn generations(&self) -> Vec<(RegionName, u32)> {
        self.regions
            .iter()
            .map(|(name, region)| ((*name).clone(), region.generation))
            .collect()
    }

    /// All regions whose streams are read, with their generations, by name: also those that left.
    pub(super) fn logs(&self) -> Vec<(RegionName, u32)> {
        let mut logs = self.facts.former.clone();
        logs.extend(self.generations());
        logs.into_iter().collect()
    }

    pub(super) fn options(&self) -> &ServerOptions {
        &self.options
    }

    pub(super) fn listen(&self, id: &ProcessId, port: Port) -> SocketAddr {
        self.addresses.listen(id, port)
    }

    pub(super) fn connect(&self, id: &ProcessId, port: Port) -> HostPort {
        self.addresses.connect(id, port)
    }

    pub(super) fn path(&self, id: &ProcessId, file: &FileRef) -> PathBuf {
        self.addresses.path(id, file)
    }

    /// The files with which a relay serves TLS, if it does.
    pub(super) fn relay_tls(&self, id: &ProcessId) -> Option<TlsFiles> {
        self.addresses.relay_tls().then(|| TlsFiles {
            cert_file: self.path(id, &FileRef::PublicCertificate),
            key_file: self.path(id, &FileRef::PublicKey),
        })
    }

    pub(super) fn relay_url(&self, id: &ProcessId) -> String {
        self.addresses.relay_url(id)
    }

    /// `nats://host:port` of a region's JetStream servers.
    pub(super) fn nats_urls(&self, region: &RegionName) -> Vec<String> {
        let servers = u32::from(self.region(region).spec.nats_replicas);
        ids(region, Role::Nats, servers)
            .map(|id| {
                let scheme = if self.options.client_tls {
                    "tls"
                } else {
                    "nats"
                };
                format!("{scheme}://{}", self.connect(&id, Port::Client))
            })
            .collect()
    }

    fn plan_region(&self, spec: &ValidRegion) -> RegionPlan {
        let hubs = if self.has_hubs() { HUBS_PER_REGION } else { 0 };
        let processes = |role, count| {
            ids(&spec.name, role, count)
                .map(|id| self.plan_process(id))
                .collect()
        };
        RegionPlan {
            name: spec.name.clone(),
            generation: self.region(&spec.name).generation,
            nats: processes(Role::Nats, spec.nats_replicas.into()),
            hubs: processes(Role::Hub, hubs),
            relays: processes(Role::Relay, spec.relay_replicas),
            streams: stream::streams(self, spec),
            nats_urls: self.nats_urls(&spec.name),
            relay_urls: ids(&spec.name, Role::Relay, spec.relay_replicas)
                .map(|id| self.relay_url(&id))
                .collect(),
        }
    }

    fn plan_process(&self, id: ProcessId) -> ProcessPlan {
        let text = match id.role {
            Role::Nats => nats::jetstream(self, &id),
            Role::Hub => nats::hub(self, &id),
            Role::Relay => relay::config(self, &id),
        };
        let certificates = self.certificates(&id);
        let seeds = self.seeds(&id);
        let config = self.path(&id, &FileRef::Config);
        ProcessPlan {
            restart_hash: hash([id.to_string().as_str(), &text.restart]),
            reload_hash: hash([id.to_string().as_str(), &text.full]),
            files: vec![PlannedFile {
                path: config.clone(),
                text: text.full,
            }],
            config,
            folders: match id.role {
                Role::Nats => vec![self.path(&id, &FileRef::Store)],
                Role::Hub => Vec::new(),
                Role::Relay => vec![self.path(&id, &FileRef::Index)],
            },
            certificates,
            seeds,
            listeners: self.listeners(&id),
            id,
        }
    }

    /// The listeners that the process has in this fleet: a lone server has no routes.
    fn listeners(&self, id: &ProcessId) -> Vec<Listener> {
        let alone = id.role == Role::Nats && self.region(&id.region).spec.nats_replicas == 1;
        Port::of(id.role)
            .iter()
            .filter(|port| !(alone && **port == Port::Route))
            .map(|port| Listener {
                port: *port,
                listen: self.listen(id, *port),
                connect: self.connect(id, *port),
            })
            .collect()
    }

    fn certificates(&self, id: &ProcessId) -> Vec<CertificatePlan> {
        let client_tls = self.options.client_tls;
        let region = (
            Issuer::Region(id.region.clone()),
            if client_tls {
                [Port::Client, Port::Route, Port::Leaf].as_slice()
            } else {
                [Port::Route, Port::Leaf].as_slice()
            },
        );
        let gateways = (Issuer::Gateways, [Port::Gateway].as_slice());
        let issuers = match id.role {
            Role::Nats
                if client_tls
                    || self.has_hubs()
                    || self.region(&id.region).spec.nats_replicas > 1 =>
            {
                vec![region]
            }
            Role::Hub => vec![region, gateways],
            Role::Nats | Role::Relay => Vec::new(),
        };
        issuers
            .into_iter()
            .map(|(issuer, ports)| self.certificate(id, issuer, ports))
            .collect()
    }

    fn certificate(&self, id: &ProcessId, issuer: Issuer, ports: &[Port]) -> CertificatePlan {
        let mut hosts: Vec<String> = Vec::new();
        for port in Port::of(id.role).iter().filter(|port| ports.contains(port)) {
            let bound = self.listen(id, *port).ip();
            let bound = Some(bound)
                .filter(|ip| !IpAddr::is_unspecified(ip))
                .map(|ip| ip.to_string());
            for host in [Some(self.connect(id, *port).host), bound]
                .into_iter()
                .flatten()
            {
                if !hosts.contains(&host) {
                    hosts.push(host);
                }
            }
        }
        CertificatePlan {
            hosts,
            authority: self.path(id, &FileRef::Authority(issuer.clone())),
            certificate: self.path(id, &FileRef::Certificate(issuer.clone())),
            private_key: self.path(id, &FileRef::PrivateKey(issuer.clone())),
            issuer,
        }
    }

    fn seeds(&self, id: &ProcessId) -> Vec<SeedPlan> {
        let wanted = match id.role {
            Role::Nats if self.has_hubs() => Some((Credential::Leaf, SeedForm::NatsVariable)),
            Role::Relay => Some((Credential::Relay, SeedForm::Plain)),
            Role::Nats | Role::Hub => None,
        };
        let seed = |(credential, form)| SeedPlan {
            credential,
            form,
            path: self.path(id, &FileRef::Seed(credential, form)),
        };
        wanted.map(seed).into_iter().collect()
    }
}

/// The processes of one role in a region.
pub(super) fn ids(
    region: &RegionName,
    role: Role,
    count: u32,
) -> impl Iterator<Item = ProcessId> + '_ {
    (0..count).map(move |ordinal| ProcessId {
        region: region.clone(),
        role,
        ordinal,
    })
}

fn start_order(regions: &[RegionPlan]) -> Vec<StartStep> {
    let all = |processes: fn(&RegionPlan) -> &Vec<ProcessPlan>| {
        regions
            .iter()
            .flat_map(move |region| processes(region).iter().map(|process| process.id.clone()))
    };
    let servers = all(|region| &region.hubs)
        .chain(all(|region| &region.nats))
        .collect();
    let relays = all(|region| &region.relays).collect();
    vec![
        StartStep::Processes(servers),
        StartStep::Links,
        StartStep::Streams,
        StartStep::Processes(relays),
    ]
}

/// SHA-256 over length-prefixed parts, in hex.
pub(super) fn hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hex::encode(hasher.finalize())
}

impl ValidFleet {
    /// The weakest durability of any region.
    pub fn durability(&self) -> Durability {
        if self.regions.iter().all(|region| region.nats_replicas > 1) {
            Durability::Replicated
        } else {
            Durability::Development
        }
    }
}
