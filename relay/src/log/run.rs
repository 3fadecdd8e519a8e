//! Starts the log side of a relay in order, and stops it in reverse.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use nightjar_config::RelayConfig;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, Connection, ConnectionError};
use super::ephemeral::{self, Replays};
use super::follower::{Follower, streams_of};
use super::keys::{KeyWatch, Keys};
use super::metrics::LogMetrics;
use super::publisher::{Publisher, PublisherParts};
use super::quarantine::Quarantine;
use super::readiness::Readiness;
use super::rebuild::Rebuild;
use super::spending::SharedSpending;
use super::tail::Shared;
use super::writer::Writer;
use super::{hints, spending, sweeper};
use crate::admission::KeyBudgets;
use crate::index::Index;
use crate::live::Live;

/// What the log side needs from the rest of the relay.
#[derive(Debug)]
pub struct LogOptions {
    /// The configuration as it is now.
    pub config: Arc<ArcSwap<RelayConfig>>,
    /// Grows after each reload of the configuration.
    pub reloads: watch::Receiver<u64>,
    /// The open index.
    pub index: Index,
    /// The index was empty when it was opened.
    pub fresh: bool,
    /// Budgets of keys, shared with the other relays.
    pub budgets: KeyBudgets,
    /// Fan-out to subscriptions.
    pub live: Live,
    /// What the relay waits for.
    pub readiness: Readiness,
    /// Where to count.
    pub metrics: LogMetrics,
}

/// Why the log side did not start.
#[derive(Debug, Error)]
pub enum LogError {
    /// The NATS settings cannot be used.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The index folder or a thread was refused by the system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The running log side.
#[derive(Debug)]
pub struct Log {
    publisher: Publisher,
    keys: Keys,
    writer: Writer,
    writer_thread: JoinHandle<()>,
    client: async_nats::Client,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Log {
    /// Reads the keys, connects in the background, and follows the log. Returns before any of it has arrived.
    pub async fn start(options: LogOptions) -> Result<Self, LogError> {
        let config = options.config.load_full();
        let system = |what: String| move |source| LogError::System { what, source };
        let (key_watch, keys) = KeyWatch::open(&config.keyring_file, options.readiness.clone());
        let rebuild = Rebuild::begin(
            &config.index.dir,
            options.fresh,
            streams_of(&config),
            options.readiness.clone(),
        )
        .map_err(system(format!(
            "index folder {}",
            config.index.dir.display()
        )))?;
        let connection = connection::connect(
            &config.nats,
            &config.name,
            options.readiness.clone(),
            options.metrics.nats_connects.clone(),
        )
        .await?;
        let (writer, writer_thread) = Writer::start(
            options.index.clone(),
            options.live.clone(),
            options.metrics.clone(),
            options.readiness.clone(),
        )
        .map_err(system("the writer's thread".into()))?;
        let replays = Replays::default();
        let publisher = Publisher::new(PublisherParts {
            config: Arc::clone(&options.config),
            connection: connection.clone(),
            keys: keys.clone(),
            writer: writer.clone(),
            live: options.live.clone(),
            replays: replays.clone(),
            metrics: options.metrics.clone(),
        });
        let shared = Arc::new(Shared {
            fleet: config.fleet.id,
            keys: keys.clone(),
            index: options.index.clone(),
            live: options.live,
            writer: writer.clone(),
            metrics: options.metrics,
            readiness: options.readiness,
            rebuild,
            quarantine: Quarantine::new(&config.index.dir),
            config: options.config,
        });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(key_watch.run(stop.clone()));
        let follower = Follower::new(connection.clone(), Arc::clone(&shared));
        tasks.spawn(follower.run(options.reloads, stop.clone()));
        let spent = SharedSpending::new(options.budgets);
        spawn_live(&tasks, &connection, &shared, replays, spent, &stop);
        tasks.spawn(sweeper::expire(options.index, stop.clone()));
        if config.sweeper {
            tasks.spawn(sweeper::sweep(connection.clone(), shared, stop.clone()));
        }
        tasks.close();
        Ok(Self {
            publisher,
            keys,
            writer,
            writer_thread,
            client: connection.client,
            stop,
            tasks,
        })
    }

    /// The publisher.
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// The keys as they are loaded now.
    pub fn keys(&self) -> Keys {
        self.keys.clone()
    }

    /// Stops following, writes what is queued, and lets the writer go. Gives up after `within`.
    pub async fn stop(self, within: Duration) {
        self.stop.cancel();
        let stopped = tokio::time::timeout(within, async {
            self.tasks.wait().await;
            self.writer.stop().await;
            let joined = tokio::task::spawn_blocking(move || self.writer_thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the index writer ended badly");
            }
            drop(self.client.drain().await);
        });
        if stopped.await.is_err() {
            tracing::warn!(
                seconds = within.as_secs_f64(),
                "the log side did not stop in time"
            );
        }
    }
}

/// What goes over core NATS and is lost if nobody listens.
fn spawn_live(
    tasks: &TaskTracker,
    connection: &Connection,
    shared: &Arc<Shared>,
    replays: Replays,
    spent: SharedSpending,
    stop: &CancellationToken,
) {
    let parts = || (connection.clone(), Arc::clone(shared));
    let (of_hints, of_ephemeral, of_spending) = (parts(), parts(), parts());
    tasks.spawn(hints::run(of_hints.0, of_hints.1, stop.clone()));
    tasks.spawn(ephemeral::run(
        of_ephemeral.0,
        of_ephemeral.1,
        replays,
        spent.clone(),
        stop.clone(),
    ));
    tasks.spawn(spending::tell(
        of_spending.0,
        of_spending.1,
        spent,
        stop.clone(),
    ));
}
