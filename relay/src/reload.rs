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
pub(crate) fn on_change(path: &Path, config: &ArcSwap<RelayConfig>) -> bool {
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
            "the configuration file has changes that need a restart; the regions of the log, info, limits, trusted proxies, allowed origins, admission and management are taken over now"
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
    merged.trusted_proxies = new.trusted_proxies;
    merged.allowed_origins = new.allowed_origins;
    merged.admission = new.admission;
    merged.management = new.management;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> RelayConfig {
        let text = "\
fleet: {id: 00112233445566778899aabbccddeeff, name: tests}
region: a
name: a-relay-0
listen: 127.0.0.1:4001
admin: 127.0.0.1:4002
public_urls: ['ws://127.0.0.1:4001']
nats: {servers: ['nats://127.0.0.1:4222'], nkey_seed_file: /seed}
keyring_file: /keyring.json
index: {dir: /index, max_bytes: 16777216}
log:
  replicas: 1
  message_retention_seconds: 7776000
  regions: [{region: a, generation: 1}]
";
        RelayConfig::from_yaml(text).expect("settings")
    }

    /// What is in force after the file has changed, and whether anything was taken over.
    fn after(change: impl FnOnce(&mut RelayConfig)) -> (RelayConfig, bool) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("relay.yaml");
        let config = ArcSwap::from_pointee(settings());
        let mut new = settings();
        change(&mut new);
        std::fs::write(&path, new.to_yaml()).expect("written");
        let changed = on_change(&path, &config);
        (RelayConfig::clone(&config.load()), changed)
    }

    #[test]
    fn what_may_change_live_does_and_what_needs_a_restart_waits() {
        let (now, changed) = after(|new| {
            new.limits.max_subscriptions = 7;
            new.info.name = Some("new".into());
            new.admission.auth_required = nightjar_config::AuthRequired::Writes;
            new.management.admins = vec!["0".repeat(64)];
            new.admission.deny_kinds = vec![1];
            new.index.max_bytes *= 2;
            new.trusted_proxies = vec!["10.0.0.0/8".parse().expect("a network")];
            new.allowed_origins = vec!["https://chat.example.org".to_owned()];
            new.tls = Some(nightjar_config::TlsFiles {
                cert_file: "/tls.crt".into(),
                key_file: "/tls.key".into(),
            });
        });
        assert!(changed);
        assert_eq!(
            (now.trusted_proxies.len(), now.allowed_origins.len()),
            (1, 1)
        );
        assert_eq!(now.tls, None);
        assert_eq!(now.limits.max_subscriptions, 7);
        assert_eq!(now.info.name.as_deref(), Some("new"));
        assert_eq!(
            now.admission.auth_required,
            nightjar_config::AuthRequired::Writes
        );
        assert_eq!(now.management.admins.len(), 1);
        assert_eq!(now.admission.deny_kinds, [1]);
        assert_eq!(now.index.max_bytes, settings().index.max_bytes);
    }

    #[test]
    fn our_own_generation_waits_for_a_restart_while_other_regions_come() {
        let (now, changed) = after(|new| {
            new.log.regions[0].generation = 2;
            let mut other = new.log.regions[0].clone();
            other.region = "b".parse().expect("a name");
            new.log.regions.insert(0, other);
        });
        assert!(changed);
        let generations: Vec<(String, u32)> = now
            .log
            .regions
            .iter()
            .map(|log| (log.region.to_string(), log.generation))
            .collect();
        assert_eq!(generations, [("b".to_owned(), 2), ("a".to_owned(), 1)]);
    }

    #[test]
    fn a_file_that_says_the_same_or_cannot_be_read_changes_nothing() {
        assert!(!after(|_| {}).1);
        let config = ArcSwap::from_pointee(settings());
        assert!(!on_change(Path::new("/nonexistent/relay.yaml"), &config));
        assert_eq!(**config.load(), settings());
    }

    /// A ConfigMap volume of a pod: `relay.yaml` -> `..data/relay.yaml`, `..data` -> the version, swapped by a rename.
    #[tokio::test]
    async fn a_swapped_symlink_of_a_config_volume_is_noticed() {
        let dir = tempfile::tempdir().expect("a folder");
        let version = |name: &str, config: &RelayConfig| {
            std::fs::create_dir(dir.path().join(name)).expect("a folder");
            std::fs::write(dir.path().join(name).join("relay.yaml"), config.to_yaml())
                .expect("written");
            std::os::unix::fs::symlink(name, dir.path().join("..data_tmp")).expect("a link");
            std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data"))
                .expect("swapped");
        };
        version("..1", &settings());
        let path = dir.path().join("relay.yaml");
        std::os::unix::fs::symlink("..data/relay.yaml", &path).expect("a link");
        let config = Arc::new(ArcSwap::from_pointee(load(&path).expect("settings")));
        let (reloads, mut reloaded) = watch::channel(0);
        let stop = CancellationToken::new();
        let hangups = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup());
        let watching = tokio::spawn(super::watch(
            path,
            Arc::clone(&config),
            reloads,
            hangups.expect("a signal"),
            stop.clone(),
        ));
        // The watcher takes its first stamp before its first tick; a change before that would be none.
        tokio::task::yield_now().await;
        let mut new = settings();
        new.limits.max_subscriptions = 7;
        version("..2", &new);
        tokio::time::timeout(Duration::from_secs(20), reloaded.changed())
            .await
            .expect("noticed in time")
            .expect("watched");
        assert_eq!(config.load().limits.max_subscriptions, 7);
        stop.cancel();
        watching.await.expect("its end");
    }
}
