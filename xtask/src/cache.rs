//! The user's cache folder: all that xtask installs lies there, one folder for each pinned content.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// `$XDG_CACHE_HOME/nightjar` or `~/.cache/nightjar`, made if absent.
pub(crate) fn dir() -> Result<PathBuf> {
    let base =
        match std::env::var_os("XDG_CACHE_HOME").filter(|dir| Path::new(dir).is_absolute()) {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(std::env::var_os("HOME").context(
                "HOME is not set: set it, or XDG_CACHE_HOME, to a folder you may write to",
            )?)
            .join(".cache"),
        };
    let dir = base.join("nightjar");
    fs::create_dir_all(&dir)
        .with_context(|| format!("cannot make the cache folder {}", dir.display()))?;
    Ok(dir)
}

/// `<cache>/<name>-<hash of the pins>`, filled by `fill` into a folder of its own that is renamed when complete, so an install
/// that was interrupted is never taken for a whole one.
pub(crate) fn filled(
    name: &str,
    pins: &[u8],
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    pins.hash(&mut hasher);
    let dir = dir()?.join(format!("{name}-{:016x}", hasher.finish()));
    if dir.is_dir() {
        return Ok(dir);
    }
    let partial = dir.with_extension(format!("partial-{}", std::process::id()));
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    match fill(&partial) {
        Ok(()) => {
            // Somebody else may have been quicker; theirs has the same pins.
            if fs::rename(&partial, &dir).is_err() && !dir.is_dir() {
                anyhow::bail!("cannot rename {} to {}", partial.display(), dir.display());
            }
            Ok(dir)
        }
        Err(error) => {
            fs::remove_dir_all(&partial).ok();
            Err(error)
        }
    }
}
