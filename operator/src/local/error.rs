//! Why a fleet could not be started on this machine. Every message is one line that says what to do.

use std::path::PathBuf;

use super::event::LocalEvent;
use crate::pki::PkiError;
use crate::plan::PlanError;
use crate::validate::FieldError;

/// Why a fleet could not be started, or a change of its file not be applied.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The RelayCluster file cannot be read.
    #[error("{path}: cannot be read: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no valid RelayCluster; at least one field.
    #[error("{}", join(.0, .1))]
    Fields(PathBuf, Vec<FieldError>),
    /// The state folder cannot be used.
    #[error("state folder: {path}: {source}; name another one with --state", path = path.display())]
    StateFolder {
        /// The folder or the file in it.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another copy runs on the same state folder.
    #[error("state folder {path}: a fleet runs on it already{}; stop it first, or name another folder with --state", pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), path = path.display())]
    AlreadyRunning {
        /// The folder.
        path: PathBuf,
        /// The process that holds it, when known.
        pid: Option<u32>,
    },
    /// `fleet.json` is gone while regions are there.
    #[error("{path} is missing although the state folder holds regions; put it back, or use another folder", path = path.display())]
    RecordMissing {
        /// The file.
        path: PathBuf,
    },
    /// `fleet.json` cannot be understood.
    #[error("{path} is damaged ({reason}); put a good copy back, or use another folder", path = path.display())]
    RecordDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A NATS server's part of the log is there and cannot be read.
    #[error("log of a NATS server: {path}: {source}; make it readable: taken for lost, it would begin anew", path = path.display())]
    LogUnreadable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no nats-server.
    #[error("nats-server: {program} not found; install version {oldest} or newer, or set NATS_SERVER to its path", program = program.display())]
    NatsMissing {
        /// What was looked for.
        program: PathBuf,
        /// The oldest version that will do.
        oldest: String,
    },
    /// nats-server cannot be run.
    #[error("nats-server: {path} cannot be used: {reason}", path = path.display())]
    NatsUnusable {
        /// The executable.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// nats-server is too old.
    #[error("nats-server: {path} is version {version}, too old; install {oldest} or newer, or set NATS_SERVER to its path", path = path.display())]
    NatsTooOld {
        /// The executable.
        path: PathBuf,
        /// Its version.
        version: String,
        /// The oldest version that will do.
        oldest: String,
    },
    /// There is no relay.
    #[error("nightjar-relay: {program} not found; build it, or set NIGHTJAR_RELAY to its path", program = program.display())]
    RelayMissing {
        /// What was looked for.
        program: PathBuf,
    },
    /// A port of the fleet is used by somebody else.
    #[error(
        "port {port} ({purpose} port of {process}) is taken by {holder}; stop that, or use another state folder"
    )]
    PortTaken {
        /// The process of the fleet that needs it.
        process: String,
        /// What for.
        purpose: String,
        /// The port.
        port: u16,
        /// Who holds it.
        holder: String,
    },
    /// No port is free.
    #[error("no free port on 127.0.0.1")]
    NoFreePort,
    /// Keys could not be made or read.
    #[error(transparent)]
    Keys(#[from] PkiError),
    /// The fleet could not be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl LocalError {
    /// The error as events: one for each wrong field, else one.
    pub fn events(&self) -> Vec<LocalEvent> {
        match self {
            Self::Fields(path, fields) => fields
                .iter()
                .map(|wrong| LocalEvent::Error {
                    field: (!wrong.field.is_empty()).then(|| wrong.field.clone()),
                    message: if wrong.field.is_empty() {
                        format!("{}: {}", path.display(), wrong.message)
                    } else {
                        wrong.message.clone()
                    },
                })
                .collect(),
            other => vec![LocalEvent::Error {
                field: None,
                message: other.to_string(),
            }],
        }
    }
}

fn join(path: &std::path::Path, fields: &[FieldError]) -> String {
    let lines: Vec<String> = fields
        .iter()
        .map(|wrong| format!("{}: {wrong}", path.display()))
        .collect();
    lines.join("\n")
}
