//! The seam between a plan and its placement: names of processes, their ports and files, and who says where they are.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use nightjar_envelope::RegionName;
use serde::{Deserialize, Serialize};

use super::process::SeedForm;

/// What a process of the fleet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A nats-server with JetStream: part of the region's log.
    Nats,
    /// A nats-server without JetStream that joins its region to the others.
    Hub,
    /// A Nostr relay.
    Relay,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nats => "nats",
            Self::Hub => "hub",
            Self::Relay => "relay",
        })
    }
}

/// Which process: `<region>-<role>-<ordinal>`, for example `a-nats-0`. Also the server name of a NATS server, which is
/// never used again with another store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// The region it belongs to.
    pub region: RegionName,
    /// What it is.
    pub role: Role,
    /// Counted from 0 within region and role.
    pub ordinal: u32,
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.region, self.role, self.ordinal)
    }
}

/// A listener of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Port {
    /// NATS clients (roles nats and hub): relays and the operator, by nkey.
    Client,
    /// NATS cluster routes (roles nats and hub), by certificate of the region.
    Route,
    /// Leaf links from the region's NATS servers (role hub), by certificate of the region and nkey.
    Leaf,
    /// Gateways from other regions (role hub), by certificate of the fleet's gateways.
    Gateway,
    /// Nostr clients: WebSocket and NIP-11 (role relay).
    Relay,
    /// `/healthz`, `/readyz`, `/metrics` (role relay).
    Admin,
}

impl Port {
    /// The listeners that a process of this role has.
    pub fn of(role: Role) -> &'static [Self] {
        match role {
            Role::Nats => &[Self::Client, Self::Route],
            Role::Hub => &[Self::Client, Self::Route, Self::Leaf, Self::Gateway],
            Role::Relay => &[Self::Relay, Self::Admin],
        }
    }
}

/// A host (name or address literal, IPv6 without brackets) and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// A DNS name or an address literal.
    pub host: String,
    /// From 1 to 65535.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A secret nkey seed that a process or the operator reads from a file; the plan only ever sees its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Credential {
    /// [`super::RegionKeys::relay`]
    Relay,
    /// [`super::RegionKeys::admin`]
    Admin,
    /// [`super::RegionKeys::system`]
    System,
    /// [`super::RegionKeys::leaf`]
    Leaf,
}

/// Who signs a certificate. A listener trusts exactly one issuer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Issuer {
    /// The authority of one region: routes and leafs.
    Region(RegionName),
    /// The authority of the fleet's gateways.
    Gateways,
}

/// A file or folder of a process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileRef {
    /// The process's configuration file: `nats.conf`, `hub.conf` or `relay.yaml`.
    Config,
    /// JetStream's store (role nats), a folder.
    Store,
    /// The relay's index (role relay), a folder.
    Index,
    /// The fleet's keyring (role relay).
    Keyring,
    /// A seed file of the process's region, mode 0600.
    Seed(Credential, SeedForm),
    /// Certificate of an authority, PEM.
    Authority(Issuer),
    /// The process's certificate under that issuer, PEM.
    Certificate(Issuer),
    /// Its private key, PEM, mode 0600.
    PrivateKey(Issuer),
    /// The certificate that a relay serves to clients (role relay), PEM.
    PublicCertificate,
    /// Its private key, PEM, mode 0600.
    PublicKey,
}

/// What a placement wants of every NATS server, besides its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerOptions {
    /// Clients (relays and the operator) speak TLS, under the authority of the region. Loopback needs none.
    pub client_tls: bool,
    /// Where the server answers probes (`/healthz`) over HTTP. It shows nothing secret, and is not for the public.
    pub monitor: Option<SocketAddr>,
    /// File for the process id, so that a program beside it can ask the server to leave (lame duck).
    pub pid_file: Option<PathBuf>,
}

/// Where a placement puts things. Answers must not change while the placement lives.
pub trait Addresses {
    /// What the placement wants of every NATS server. On one machine nothing.
    fn server_options(&self) -> ServerOptions {
        ServerOptions::default()
    }
    /// Whether relays serve TLS, with [`FileRef::PublicCertificate`]. On one machine never.
    fn relay_tls(&self) -> bool {
        false
    }
    /// The address a process binds. Loopback with the same port as [`Self::connect`] on one machine, `0.0.0.0` in a pod.
    fn listen(&self, process: &ProcessId, port: Port) -> SocketAddr;
    /// The address under which the fleet's other processes reach it; also a name in its certificates.
    fn connect(&self, process: &ProcessId, port: Port) -> HostPort;
    /// The URL under which clients of this placement reach a relay when the region has no public one.
    fn relay_url(&self, process: &ProcessId) -> String;
    /// An absolute path, as the process sees it.
    fn path(&self, process: &ProcessId, file: &FileRef) -> PathBuf;
}
