//! The nats-server executable: found, and new enough.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::LocalError;

/// Oldest version with group commit in `sync_interval: always`, without which every publish waits for a flush of its own.
pub(crate) const OLDEST: Version = Version(2, 15, 1);

/// A released version: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Finds a program: a path is taken as it is, a bare name is looked up in PATH.
pub(crate) fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program
            .is_file()
            .then(|| std::path::absolute(program).ok())?;
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// Finds nats-server and proves that it is new enough.
pub(crate) fn check(program: &Path) -> Result<PathBuf, LocalError> {
    let missing = || LocalError::NatsMissing {
        program: program.to_owned(),
        oldest: OLDEST.to_string(),
    };
    let path = find(program).ok_or_else(missing)?;
    let output = Command::new(&path)
        .arg("--version")
        .output()
        .map_err(|source| LocalError::NatsUnusable {
            path: path.clone(),
            reason: source.to_string(),
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_version(&text).ok_or_else(|| LocalError::NatsUnusable {
        path: path.clone(),
        reason: "its answer to --version names no version".to_owned(),
    })?;
    if version < OLDEST {
        return Err(LocalError::NatsTooOld {
            path,
            version: version.to_string(),
            oldest: OLDEST.to_string(),
        });
    }
    Ok(path)
}

/// Reads `nats-server: v2.15.1`; a pre-release such as `v2.16.0-dev` counts as its release.
fn parse_version(text: &str) -> Option<Version> {
    let number = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix('v'))?;
    let mut parts = number.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some(Version(parts.next()??, parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some(OLDEST));
        assert!(parse_version("nats-server: v2.9.10").unwrap() < OLDEST);
        assert!(parse_version("nats-server: v2.16.0-dev").unwrap() > OLDEST);
        assert_eq!(parse_version("command not found"), None);
    }

    #[test]
    fn a_missing_server_is_named_with_the_version_that_is_needed() {
        let message = check(Path::new("/nowhere/nats-server"))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("/nowhere/nats-server") && message.contains("2.15.1"),
            "{message}"
        );
    }
}
