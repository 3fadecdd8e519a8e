//! The follower: one tail for each stream of the fleet, as the configuration names them now.

use std::collections::BTreeMap;
use std::sync::Arc;

use nightjar_config::RelayConfig;
use nightjar_envelope::{Class, StreamName};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::attempt::shards_of;
use super::connection::Connection;
use super::tail::{Shared, Tail};

/// Every stream of the fleet: our own and the mirrors of the others.
pub(crate) fn streams_of(config: &RelayConfig) -> impl Iterator<Item = StreamName> + '_ {
    config.log.regions.iter().flat_map(|log| {
        [Class::State, Class::Messages]
            .into_iter()
            .flat_map(move |class| {
                (0..shards_of(class, log)).filter_map(move |shard| {
                    StreamName::new(class, log.region.clone(), log.generation, shard)
                })
            })
    })
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts and stops tails.
pub(crate) struct Follower {
    connection: Connection,
    shared: Arc<Shared>,
    running: BTreeMap<StreamName, Running>,
}

impl Follower {
    pub(crate) fn new(connection: Connection, shared: Arc<Shared>) -> Self {
        Self {
            connection,
            shared,
            running: BTreeMap::new(),
        }
    }

    /// Follows what the configuration names, again after each of its changes, until stopped.
    pub(crate) async fn run(mut self, mut reloads: watch::Receiver<u64>, stop: CancellationToken) {
        loop {
            self.on_config(&stop).await;
            let changed = stop.run_until_cancelled(reloads.changed()).await;
            match changed {
                Some(Ok(())) => {}
                // Nobody reloads any more: go on as it is.
                Some(Err(_)) => stop.cancelled().await,
                None => break,
            }
            if stop.is_cancelled() {
                break;
            }
        }
        for running in std::mem::take(&mut self.running).into_values() {
            running.stop.cancel();
            drop(running.task.await);
        }
    }

    async fn on_config(&mut self, stop: &CancellationToken) {
        let config = self.shared.config.load_full();
        let wanted: Vec<StreamName> = streams_of(&config).collect();
        let gone: Vec<StreamName> = self
            .running
            .keys()
            .filter(|stream| !wanted.contains(stream))
            .cloned()
            .collect();
        for stream in gone {
            if let Some(running) = self.running.remove(&stream) {
                tracing::info!(%stream, "no longer followed");
                running.stop.cancel();
                drop(running.task.await);
            }
            if !wanted.iter().any(|other| other.region == stream.region) {
                let region = stream.region.to_string();
                self.shared.metrics.forget_region(&region);
            }
        }
        let new: Vec<StreamName> = wanted
            .into_iter()
            .filter(|stream| !self.running.contains_key(stream))
            .collect();
        if new.is_empty() {
            return;
        }
        let position = match self.shared.index.position() {
            Ok(position) => position,
            Err(error) => {
                // Reading from the beginning is slower and never wrong.
                tracing::error!(%error, "the index does not tell its position");
                Default::default()
            }
        };
        for stream in new {
            let stop = stop.child_token();
            let tail = Tail {
                connection: self.connection.clone(),
                shared: Arc::clone(&self.shared),
                own: stream.region == config.region,
                position: position.get(&stream),
                goal: None,
                stream: stream.clone(),
            };
            let task = tokio::spawn(tail.run(stop.clone()));
            self.running.insert(stream, Running { stop, task });
        }
    }
}
