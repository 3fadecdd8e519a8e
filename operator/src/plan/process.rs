//! One planned process: its files, keys, listeners, and the two hashes that say what a change of them costs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Credential, HostPort, Issuer, Port, ProcessId};

/// Everything a placement needs to run one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessPlan {
    /// Which process; its `Display` is its name.
    pub id: ProcessId,
    /// Path of the configuration to start it with; one of `files`.
    pub config: PathBuf,
    /// Files to write before it starts, none of them secret.
    pub files: Vec<PlannedFile>,
    /// Folders that must exist, mode 0700, and are kept as long as the region.
    pub folders: Vec<PathBuf>,
    /// Certificates it needs, with their keys and the authority it trusts.
    pub certificates: Vec<CertificatePlan>,
    /// Seeds it reads.
    pub seeds: Vec<SeedPlan>,
    /// What it binds.
    pub listeners: Vec<Listener>,
    /// Changes when a running process cannot take over the new files: restart it. Lowercase hex.
    pub restart_hash: String,
    /// Changes with any file. Where only this one changed, write the files and send SIGHUP. Lowercase hex.
    pub reload_hash: String,
}

impl ProcessPlan {
    /// `<region>-<role>-<ordinal>`.
    pub fn name(&self) -> String {
        self.id.to_string()
    }

    /// The listener of that kind, if the process has it.
    pub fn listener(&self, port: Port) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.port == port)
    }
}

/// A file with its exact content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedFile {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub text: String,
}

impl PlannedFile {
    /// The last part of the path, for messages.
    pub fn name(&self) -> &str {
        Path::file_name(&self.path)
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }
}

/// A certificate to issue: for servers and clients alike, since routes and gateways are both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificatePlan {
    /// Who signs it.
    pub issuer: Issuer,
    /// Subject alternative names: DNS names and address literals.
    pub hosts: Vec<String>,
    /// Where the issuer's own certificate goes.
    pub authority: PathBuf,
    /// Where the certificate goes.
    pub certificate: PathBuf,
    /// Where its private key goes, mode 0600.
    pub private_key: PathBuf,
}

/// A seed file that must be there, mode 0600.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedPlan {
    /// Which seed, of the process's region.
    pub credential: Credential,
    /// How it stands in the file.
    pub form: SeedForm,
    /// Where.
    pub path: PathBuf,
}

/// A listener of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// What for.
    pub port: Port,
    /// What it binds.
    pub listen: SocketAddr,
    /// Where others reach it.
    pub connect: HostPort,
}

/// How a seed stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SeedForm {
    /// One line: the seed `SU...`. What NATS clients read.
    Plain,
    /// One line `LEAF_SEED: "SU..."`. What a server configuration includes, so that the seed is not in its text.
    NatsVariable,
}

impl SeedForm {
    /// The content of the file for a seed. Keep it in memory that is wiped.
    pub fn text(self, seed: &str) -> String {
        match self {
            Self::Plain => format!("{seed}\n"),
            Self::NatsVariable => format!("LEAF_SEED: \"{seed}\"\n"),
        }
    }
}
