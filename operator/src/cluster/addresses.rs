//! Where a fleet's processes are in Kubernetes: DNS names of pods, mounted files. Pure; the plan asks it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use nightjar_envelope::RegionName;

use super::names::{
    CONFIG_DIR, DATA_DIR, KEYS_DIR, MONITOR_PORT, Names, PUBLIC_TLS_DIR, RUN_DIR, TLS_CERTIFICATE,
    TLS_DIR, TLS_KEY, USER_DIR, port_number,
};
use crate::plan::{
    Addresses, FileRef, HostPort, Issuer, Port, ProcessId, Role, SeedForm, ServerOptions,
};
use crate::validate::ValidFleet;

/// The addresses of a fleet in a cluster.
#[derive(Debug, Clone)]
pub struct ClusterAddresses {
    names: Names,
    ports: BTreeMap<RegionName, i32>,
    relay_tls: bool,
}

impl ClusterAddresses {
    /// Of a fleet in a namespace, with the ports of the regions' Services.
    pub fn new(names: Names, ports: BTreeMap<RegionName, i32>) -> Self {
        Self {
            names,
            ports,
            relay_tls: false,
        }
    }

    /// Of a fleet as it is asked for.
    pub(crate) fn of(names: &Names, fleet: &ValidFleet) -> Self {
        let ports = fleet
            .regions
            .iter()
            .map(|region| (region.name.clone(), region.asked.service.port));
        Self {
            relay_tls: fleet.relay_tls_secret.is_some(),
            ..Self::new(names.clone(), ports.collect())
        }
    }
}

/// File name of a certificate or key of a process. Pods of one role share a Secret, so the process is part of it.
pub(super) fn certificate_key(process: &ProcessId, issuer: &Issuer, extension: &str) -> String {
    let link = match issuer {
        Issuer::Region(_) => "region",
        Issuer::Gateways => "gateway",
    };
    format!("{process}.{link}.{extension}")
}

/// File name of an authority's certificate.
pub(super) fn authority_key(issuer: &Issuer) -> &'static str {
    match issuer {
        Issuer::Region(_) => "region-ca.crt",
        Issuer::Gateways => "gateway-ca.crt",
    }
}

/// File name of a configuration; a pod finds its own by its name.
pub(super) fn config_key(names: &Names, process: &ProcessId) -> String {
    let extension = match process.role {
        Role::Nats | Role::Hub => "conf",
        Role::Relay => "yaml",
    };
    format!("{}.{extension}", names.pod(process))
}

/// File name of a seed.
pub(super) fn seed_key(form: SeedForm) -> &'static str {
    match form {
        SeedForm::Plain => "seed",
        SeedForm::NatsVariable => "seed.conf",
    }
}

impl Addresses for ClusterAddresses {
    fn server_options(&self) -> ServerOptions {
        ServerOptions {
            client_tls: true,
            monitor: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, MONITOR_PORT))),
            pid_file: Some(Path::new(RUN_DIR).join("nats.pid")),
        }
    }

    fn relay_tls(&self) -> bool {
        self.relay_tls
    }

    fn listen(&self, _: &ProcessId, port: Port) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port_number(port)))
    }

    fn connect(&self, process: &ProcessId, port: Port) -> HostPort {
        HostPort {
            host: self.names.host(process),
            port: port_number(port),
        }
    }

    fn relay_url(&self, process: &ProcessId) -> String {
        // Clients use the Service; it decides which relay serves them.
        let host = self.names.service_host(&process.region);
        let (scheme, usual) = if self.relay_tls {
            ("wss", 443)
        } else {
            ("ws", 80)
        };
        match self.ports.get(&process.region) {
            Some(port) if *port != usual => format!("{scheme}://{host}:{port}"),
            _ => format!("{scheme}://{host}"),
        }
    }

    fn path(&self, process: &ProcessId, file: &FileRef) -> PathBuf {
        let (dir, name) = match file {
            FileRef::Config => (CONFIG_DIR, config_key(&self.names, process)),
            FileRef::Store => (DATA_DIR, "jetstream".to_owned()),
            FileRef::Index => (DATA_DIR, "index".to_owned()),
            FileRef::Keyring => (KEYS_DIR, "keyring.json".to_owned()),
            FileRef::Seed(_, form) => (USER_DIR, seed_key(*form).to_owned()),
            // Relays only need the authority, which is no secret, so it comes with their configuration.
            FileRef::Authority(issuer) if process.role == Role::Relay => {
                (CONFIG_DIR, authority_key(issuer).to_owned())
            }
            FileRef::Authority(issuer) => (TLS_DIR, authority_key(issuer).to_owned()),
            FileRef::Certificate(issuer) => (TLS_DIR, certificate_key(process, issuer, "crt")),
            FileRef::PrivateKey(issuer) => (TLS_DIR, certificate_key(process, issuer, "key")),
            FileRef::PublicCertificate => (PUBLIC_TLS_DIR, TLS_CERTIFICATE.to_owned()),
            FileRef::PublicKey => (PUBLIC_TLS_DIR, TLS_KEY.to_owned()),
        };
        Path::new(dir).join(name)
    }
}
