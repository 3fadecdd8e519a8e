//! Where things of this user live (XDG base directories).

use std::path::PathBuf;

use crate::code::Code;
use crate::error::CliError;

/// Folder of key files: `$XDG_CONFIG_HOME/nightjar/keys`, usually `~/.config/nightjar/keys`.
pub(crate) fn keys() -> Result<PathBuf, CliError> {
    Ok(base("XDG_CONFIG_HOME", ".config")?.join("nightjar/keys"))
}

/// File that remembers the state folder of the last `nightjar up`: `$XDG_STATE_HOME/nightjar/last-up`.
pub(crate) fn last_up() -> Result<PathBuf, CliError> {
    Ok(base("XDG_STATE_HOME", ".local/state")?.join("nightjar/last-up"))
}

/// File with the relays of one identity: `$XDG_STATE_HOME/nightjar/relays/HEX`.
pub(crate) fn relays_of(public_key: &str) -> Result<PathBuf, CliError> {
    Ok(base("XDG_STATE_HOME", ".local/state")?
        .join("nightjar/relays")
        .join(public_key))
}

/// State folder of `up` when none is named: `$XDG_STATE_HOME/nightjar/fleets/NAME`.
pub(crate) fn fleet(name: &str) -> Result<PathBuf, CliError> {
    Ok(base("XDG_STATE_HOME", ".local/state")?
        .join("nightjar/fleets")
        .join(name))
}

fn base(variable: &str, below_home: &str) -> Result<PathBuf, CliError> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute(variable)
        .or_else(|| absolute("HOME").map(|home| home.join(below_home)))
        .ok_or_else(|| {
            CliError::new(
                Code::File,
                format!("neither {variable} nor HOME names a folder"),
                "export HOME=/home/you",
            )
        })
}
