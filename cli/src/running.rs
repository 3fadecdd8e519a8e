//! The fleet that `nightjar up` runs on this machine, as its state folder tells. Reads only; never talks to processes.

use std::fs;
use std::path::{Path, PathBuf};

use nightjar_client::RelayUrl;
use serde::Deserialize;

use crate::code::Code;
use crate::error::CliError;
use crate::paths;

/// What `DIR/status.json` says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Running {
    /// Process id of the runner.
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    /// Regions and the relays in them.
    #[serde(default)]
    pub(crate) regions: Vec<Region>,
    /// Each process of the fleet.
    #[serde(default)]
    pub(crate) processes: Vec<Process>,
    /// The state folder it was read from.
    #[serde(skip)]
    pub(crate) state: PathBuf,
}

/// A region and its relays.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Region {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) relays: Vec<String>,
}

/// A process as last seen.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Process {
    #[serde(default)]
    pub(crate) region: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) role: String,
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) address: Option<String>,
}

impl Running {
    /// The fleet of `state`, or of the last `nightjar up`.
    pub(crate) fn find(state: Option<&Path>) -> Result<Self, CliError> {
        let state = state_folder(state)?;
        let path = state.join("status.json");
        let text = fs::read_to_string(&path).map_err(|error| no_fleet(&state).because(error))?;
        let mut running: Self =
            serde_json::from_str(&text).map_err(|error| no_fleet(&state).because(error))?;
        running.state = state;
        Ok(running)
    }

    /// Whether the runner still lives.
    pub(crate) fn is_alive(&self) -> bool {
        self.pid.is_some_and(is_alive)
    }

    /// All relays, region by region.
    pub(crate) fn relays(&self) -> Result<Vec<RelayUrl>, CliError> {
        self.regions
            .iter()
            .flat_map(|region| &region.relays)
            .map(|url| relay_url(url))
            .collect()
    }

    /// The relays of one region.
    pub(crate) fn relays_of(&self, region: &str) -> Result<Vec<RelayUrl>, CliError> {
        let Some(found) = self.regions.iter().find(|known| known.name == region) else {
            let names: Vec<&str> = self
                .regions
                .iter()
                .map(|known| known.name.as_str())
                .collect();
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

/// Whether a process of this id exists.
pub(crate) fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| {
        !matches!(
            rustix::process::test_kill_process(pid),
            Err(rustix::io::Errno::SRCH)
        )
    })
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
    Err(CliError::new(
        Code::NoFleet,
        "no fleet was started on this machine",
        "nightjar up examples/three-regions.yaml",
    ))
}

/// Remembers `state` for the commands to come. That it cannot be remembered is no reason to stop.
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

fn no_fleet(state: &Path) -> CliError {
    let message = format!("no fleet runs on {}", state.display());
    CliError::new(
        Code::NoFleet,
        message,
        "nightjar up examples/three-regions.yaml",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fleet_of_a_named_folder_is_read_and_its_regions_found() {
        let folder = tempfile::tempdir().unwrap();
        let status = r#"{"pid": 1, "regions": [{"name": "a", "relays": ["ws://127.0.0.1:4001"]}],
            "processes": [{"region": "a", "name": "a-nats-0", "state": "ready", "later": true}]}"#;
        fs::write(folder.path().join("status.json"), status).unwrap();
        let running = Running::find(Some(folder.path())).unwrap();
        assert_eq!(running.relays_of("a").unwrap(), running.relays().unwrap());
        let error = running.relays_of("z").unwrap_err();
        assert!(error.message.contains("it has a"), "{}", error.message);
        assert!(running.is_alive());
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
