//! Reload of the configuration: on SIGHUP, or when the file has changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nightjar_config::{ConfigError, RelayConfig};
use thiserror::Error;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The file is looked at this often.
const POLL: Duration = Duration::from_secs(1);

/// Why the configuration file cannot be used. One line, with the file and the field.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The content is not a configuration.
    #[error("{}: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
}

/// Reads the configuration.
pub fn load(path: &Path) -> Result<RelayConfig, LoadError> {
    let text = std::fs::read_to_string(path).map_err(|source| LoadError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    RelayConfig::from_yaml(&text).map_err(|source| LoadError::Invalid {
        path: path.to_owned(),
        source,
    })
}

/// Keeps `config` like the file until stopped. `reloads` grows with each change that took effect. `hangups` are caught from
/// the first moment of the process, because uncaught they end it.
pub async fn watch(
    path: PathBuf,
    config: Arc<ArcSwap<RelayConfig>>,
    reloads: watch::Sender<u64>,
    mut hangups: Signal,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(POLL);
    let mut seen = stamp(&path);
    loop {
        let asked = tokio::select! {
            _ = ticks.tick() => false,
            _ = hangups.recv() => true,
            () = stop.cancelled() => return,
        };
        let now = stamp(&path);
        if (now == seen || now.is_none()) && !asked {
            continue;
        }
        seen = now;
        if on_change(&path, &config) {
            reloads.send_modify(|reloads| *reloads += 1);
        }
    }
}

/// Takes over what may change while running. Says whether anything did.
fn on_change(path: &Path, config: &ArcSwap<RelayConfig>) -> bool {
    let new = match load(path) {
        Ok(new) => new,
        Err(error) => {
            tracing::error!(%error, "the configuration stays as it is");
            return false;
        }
    };
    let old = config.load_full();
    if *old == new {
        return false;
    }
    if RelayConfig::restart_required(&old, &new) {
        tracing::warn!(
            "the configuration file has changes that need a restart; the regions of the log, info and limits are taken over now"
        );
    }
    let mut merged = RelayConfig::clone(&old);
    // Our own streams' generation is part of what needs a restart: acknowledged positions would change their meaning.
    let own = old.log.region(&old.region).cloned();
    merged.log.regions = new.log.regions;
    for log in &mut merged.log.regions {
        if let Some(own) = own.as_ref().filter(|own| own.region == log.region) {
            log.clone_from(own);
        }
    }
    merged.info = new.info;
    merged.limits = new.limits;
    if *old == merged {
        return false;
    }
    config.store(Arc::new(merged));
    tracing::info!("the configuration was reloaded");
    true
}

type Stamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}
