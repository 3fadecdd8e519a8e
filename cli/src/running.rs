//! The fleet that `nightjar up` runs on this machine, as its state folder tells. Reads only; never talks to processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nightjar_client::RelayUrl;
use nightjar_operator::local::{FleetStatus, read_status};
use rustix::fs::{FlockOperation, flock};

use crate::code::Code;
use crate::error::CliError;
use crate::paths;

/// A fleet whose state folder is known; it may have stopped.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    /// What `DIR/status.json` says.
    pub(crate) status: FleetStatus,
    /// The state folder.
    pub(crate) state: PathBuf,
}

impl Running {
    /// The fleet of `state`, or of the last `nightjar up`.
    pub(crate) fn find(state: Option<&Path>) -> Result<Self, CliError> {
        let state = state_folder(state)?;
        let Some(status) = read_status(&state) else {
            let message = format!("no fleet runs on {}", state.display());
            return Err(CliError::new(
                Code::NoFleet,
                message,
                "nightjar up examples/three-regions.yaml",
            ));
        };
        Ok(Self { status, state })
    }

    /// Whether a runner holds the folder's lock. A process id alone may belong to somebody else by now.
    pub(crate) fn is_alive(&self) -> bool {
        let Ok(file) = File::open(self.state.join("lock")) else {
            return false;
        };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// The error that it is not alive.
    pub(crate) fn stopped(&self) -> CliError {
        let message = format!("the fleet of {} is stopped", self.state.display());
        CliError::new(
            Code::NoFleet,
            message,
            format!("nightjar up {}", self.status.file.display()),
        )
    }

    /// All relays, region by region.
    pub(crate) fn relays(&self) -> Result<Vec<RelayUrl>, CliError> {
        self.status
            .regions
            .iter()
            .flat_map(|region| &region.relays)
            .map(|url| relay_url(url))
            .collect()
    }

    /// The relays of one region.
    pub(crate) fn relays_of(&self, region: &str) -> Result<Vec<RelayUrl>, CliError> {
        let regions = &self.status.regions;
        let Some(found) = regions.iter().find(|known| known.name.as_str() == region) else {
            let names: Vec<&str> = regions.iter().map(|known| known.name.as_str()).collect();
            let message = format!(
                "the running fleet has no region `{region}`: it has {}",
                names.join(", ")
            );
            return Err(CliError::new(
                Code::NotPublished,
                message,
                "nightjar status",
            ));
        };
        found.relays.iter().map(|url| relay_url(url)).collect()
    }
}

/// The named state folder, or the one that the last `nightjar up` used.
pub(crate) fn state_folder(named: Option<&Path>) -> Result<PathBuf, CliError> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let remembered = fs::read_to_string(paths::last_up()?).unwrap_or_default();
    let remembered = PathBuf::from(remembered.trim_end());
    if remembered.is_absolute() && remembered.is_dir() {
        return Ok(remembered);
    }
    let next = "nightjar up examples/three-regions.yaml";
    Err(CliError::new(
        Code::NoFleet,
        "no fleet was started on this machine",
        next,
    ))
}

/// Remembers `state` for the commands to come.
pub(crate) fn remember(state: &Path) -> Result<(), CliError> {
    let path = paths::last_up()?;
    let fail = |error: &std::io::Error| CliError::file("write", &path, error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| fail(&error))?;
    }
    fs::write(&path, format!("{}\n", state.display())).map_err(|error| fail(&error))
}

/// A relay address.
pub(crate) fn relay_url(text: &str) -> Result<RelayUrl, CliError> {
    RelayUrl::parse(text).map_err(|_| {
        CliError::bad_value(
            "relay",
            text,
            "wss://host, ws://host:port, or a region of the running fleet",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleet_of_a_named_folder_is_read_and_its_regions_found() {
        let folder = tempfile::tempdir().unwrap();
        let status = r#"{"state": "ready", "fleet": "f", "fleet_id": "000102030405060708090a0b0c0d0e0f",
            "durability": "replicated", "pid": 1, "file": "/f.yaml",
            "regions": [{"name": "a", "relays": ["ws://127.0.0.1:4001"]}], "processes": []}"#;
        fs::write(folder.path().join("status.json"), status).unwrap();
        let running = Running::find(Some(folder.path())).unwrap();
        assert_eq!(running.relays_of("a").unwrap(), running.relays().unwrap());
        let error = running.relays_of("z").unwrap_err();
        assert!(error.message.contains("it has a"), "{}", error.message);
        assert!(!running.is_alive(), "nobody holds the lock");
    }

    #[test]
    fn empty_folder_is_no_fleet() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(
            Running::find(Some(folder.path())).unwrap_err().code,
            Code::NoFleet
        );
    }
}
