//! The relays that an identity named in `nightjar relays set`, kept so that later commands need no `--via`. Public data; the
//! signed list on the relays (kind 10050) is what others go by.

use std::fs;

use nightjar_client::{PublicKey, RelayUrl};

use crate::error::CliError;
use crate::paths;

/// The relays kept for `who`; none when nothing is kept or readable.
pub(crate) fn of(who: &PublicKey) -> Vec<RelayUrl> {
    let text = paths::relays_of(&who.to_hex())
        .ok()
        .and_then(|path| fs::read_to_string(path).ok());
    text.unwrap_or_default()
        .lines()
        .filter_map(|line| RelayUrl::parse(line.trim()).ok())
        .collect()
}

/// Keeps `relays` for `who`.
pub(crate) fn keep(who: &PublicKey, relays: &[RelayUrl]) -> Result<(), CliError> {
    let path = paths::relays_of(&who.to_hex())?;
    let fail = |error: &std::io::Error| CliError::file("write", &path, error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| fail(&error))?;
    }
    let text: String = relays.iter().map(|url| format!("{url}\n")).collect();
    fs::write(&path, text).map_err(|error| fail(&error))
}
