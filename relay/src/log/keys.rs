//! The keyring file: read, watched, and swapped without a restart. Nothing here makes a key.
//!
//! What was loaded stays in memory when the file goes away or goes bad: the relay is not ready and says so, and goes on
//! when the file is back. A relay that starts without the file waits for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use nightjar_envelope::Keyring;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::private_file::{self, FileStamp};
use super::readiness::{Readiness, Waiting};

/// The file is looked at this often.
const POLL: Duration = Duration::from_millis(500);
const READINESS_KEY: &str = "keyring";

/// A handle on the keys that are loaded now.
#[derive(Clone, Debug)]
pub struct Keys {
    current: Arc<ArcSwapOption<Keyring>>,
    changes: watch::Receiver<u64>,
}

impl Keys {
    /// Keys that never change, for a relay that has them from elsewhere than a file.
    pub fn fixed(keyring: Keyring) -> Self {
        Self {
            current: Arc::new(ArcSwapOption::from_pointee(keyring)),
            changes: watch::channel(0).1,
        }
    }

    /// The keyring, if one was ever loaded.
    pub fn current(&self) -> Option<Arc<Keyring>> {
        self.current.load_full()
    }

    /// Waits until the keys change after this call.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        async move {
            // An error means that the watcher has stopped: then nothing changes any more.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Watches the keyring file.
#[derive(Debug)]
pub struct KeyWatch {
    path: PathBuf,
    seen: Option<FileStamp>,
    current: Arc<ArcSwapOption<Keyring>>,
    changes: watch::Sender<u64>,
    readiness: Readiness,
}

impl KeyWatch {
    /// Reads the file once. A missing or bad file is a state of `readiness`, not an error.
    pub fn open(path: &Path, readiness: Readiness) -> (Self, Keys) {
        let current = Arc::new(ArcSwapOption::empty());
        let (changes, receiver) = watch::channel(0);
        let keys = Keys {
            current: Arc::clone(&current),
            changes: receiver,
        };
        let mut watch = Self {
            path: path.to_owned(),
            seen: None,
            current,
            changes,
            readiness,
        };
        watch.load();
        (watch, keys)
    }

    /// Looks at the file until cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if self.seen.is_none() || private_file::stamp(&self.path) != self.seen {
                self.load();
            }
        }
    }

    fn load(&mut self) {
        match self.read() {
            Ok((keyring, stamp)) => {
                let epochs: Vec<u32> = keyring.epochs().map(|(epoch, _)| epoch.0).collect();
                tracing::info!(keys.seal = keyring.seal_epoch().0, keys.epochs = ?epochs, "keyring loaded");
                self.seen = Some(stamp);
                self.current.store(Some(Arc::new(keyring)));
                self.changes.send_modify(|changes| *changes += 1);
                self.readiness.clear(READINESS_KEY);
            }
            Err(problem) => self.on_unusable(problem),
        }
    }

    fn read(&self) -> Result<(Keyring, FileStamp), String> {
        let (bytes, stamp) = private_file::read(&self.path).map_err(|error| error.to_string())?;
        let keyring =
            Keyring::parse(&bytes).map_err(|error| format!("{}: {error}", self.path.display()))?;
        Ok((keyring, stamp))
    }

    fn on_unusable(&mut self, problem: String) {
        let waiting = Waiting::KeyringUnavailable {
            file: self.path.display().to_string(),
            problem: problem.clone(),
        };
        if self.readiness.set(READINESS_KEY, waiting) {
            tracing::error!(
                problem,
                "no usable keyring file; keys that are loaded stay in use, nothing is generated"
            );
        }
        self.seen = None;
    }
}
