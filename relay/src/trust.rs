//! Computes the web of trust: from the roots along the lists of follows (kind 3) in the index, again and again, and hands the set to
//! admission. It reads what anyone may read, in short turns among the other reads.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admission::{TrustGate, Trusted};
use crate::event::{Event, PublicKey, kind};
use crate::filter::Filter;
use crate::index::{BatchLimits, Index, IndexError};
use crate::log::{Readiness, now_s};
use crate::metrics::Metrics;
use crate::session::{Lane, ReadPool, Services};
use crate::visibility::Readers;

/// Most keys in a web; the nearest to the roots come first. 32 bytes each are kept, some 100 while it is computed.
const MAX_KEYS: usize = 1_000_000;
/// Lists asked for at once.
const AUTHORS: usize = 500;
/// Wait while the index cannot answer.
const RETRY: Duration = Duration::from_secs(1);

/// What the task works with.
#[derive(Debug)]
pub(crate) struct TrustTask {
    /// Where the lists are.
    index: Index,
    /// Whether the index is whole.
    readiness: Readiness,
    /// Threads of reads.
    reads: ReadPool,
    /// Where to tell size and age.
    metrics: Arc<Metrics>,
}

/// Why a web was not computed.
#[derive(Debug, Error)]
enum TrustError {
    #[error("the index is being rebuilt")]
    Rebuilding,
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A read panicked, or the runtime stops.
    #[error(transparent)]
    Abandoned(#[from] JoinError),
}

impl TrustTask {
    /// A task that reads as the sessions of this relay do.
    pub(crate) fn of(services: &Services) -> Self {
        Self {
            index: services.index.clone(),
            readiness: services.readiness.clone(),
            reads: services.reads.clone(),
            metrics: Arc::clone(&services.metrics),
        }
    }

    /// Keeps the set of the gate in force up to date, as the configuration makes them, until stopped.
    pub(crate) async fn run(
        self,
        mut gates: watch::Receiver<Option<Arc<TrustGate>>>,
        stop: CancellationToken,
    ) {
        loop {
            let gate = gates.borrow_and_update().clone();
            let work = async {
                match gate {
                    Some(gate) => self.refresh(&gate).await,
                    None => {
                        self.metrics.on_trust(0, 0);
                        std::future::pending().await
                    }
                }
            };
            tokio::select! {
                () = work => {}
                // What is computed for a gate that is no longer in force is of no use.
                changed = gates.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Computes the set of a gate, and waits until that is to be done again.
    async fn refresh(&self, gate: &TrustGate) {
        let started = Instant::now();
        match self.compute(gate).await {
            Ok(trusted) => {
                self.metrics.on_trust(trusted.count(), now_s());
                gate.set(trusted);
                tokio::time::sleep_until(started + gate.refresh()).await;
            }
            Err(error) => {
                if !matches!(error, TrustError::Rebuilding) {
                    tracing::warn!(%error, "the web of trust stays as it was");
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn compute(&self, gate: &TrustGate) -> Result<Trusted, TrustError> {
        let mut web = Web::of(gate.roots(), MAX_KEYS);
        for _ in 0..gate.depth() {
            for authors in web.next_step().chunks(AUTHORS) {
                // Half an index would shut out whoever is in the other half.
                if self.readiness.refuses_reads().is_some() {
                    return Err(TrustError::Rebuilding);
                }
                web = self.follow(web, authors).await?;
            }
        }
        Ok(web.keys.into_iter().collect())
    }

    /// Adds whom these authors follow.
    async fn follow(&self, mut web: Web, authors: &[PublicKey]) -> Result<Web, TrustError> {
        let lists = Filter {
            authors: Some(authors.to_vec()),
            kinds: Some(vec![kind::FOLLOWS]),
            ..Filter::default()
        };
        let index = self.index.clone();
        let mut query = self
            .reads
            .run(Lane::Further, move || {
                index.query(&[lists], &Readers::anonymous(), now_s())
            })
            .await??;
        loop {
            let (next_web, next_query, is_done) = self
                .reads
                .run(Lane::Further, move || {
                    let batch = query.next_batch(&BatchLimits::default())?;
                    for found in &batch.events {
                        web.add_list(&found.json);
                    }
                    Ok::<_, IndexError>((web, query, batch.done))
                })
                .await??;
            (web, query) = (next_web, next_query);
            if is_done {
                return Ok(web);
            }
        }
    }
}

/// The keys found so far.
struct Web {
    keys: HashSet<PublicKey>,
    most: usize,
    /// Those whose lists have not been asked for.
    outer: Vec<PublicKey>,
}

impl Web {
    fn of(roots: &[PublicKey], most: usize) -> Self {
        Self {
            keys: roots.iter().copied().collect(),
            most,
            outer: roots.to_vec(),
        }
    }

    /// Those that were found by the last step.
    fn next_step(&mut self) -> Vec<PublicKey> {
        std::mem::take(&mut self.outer)
    }

    /// Adds the keys in the `p` tags of a list of follows.
    fn add_list(&mut self, json: &[u8]) {
        // The index holds events that were parsed before.
        let Ok(list) = Event::parse(json) else {
            return;
        };
        for key in list.recipients() {
            if self.keys.len() >= self.most {
                return;
            }
            if self.keys.insert(key) {
                self.outer.push(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(follows: &[PublicKey]) -> Vec<u8> {
        let tags: Vec<_> = follows
            .iter()
            .map(|key| json!(["p", hex::encode(key)]))
            .chain([json!(["p", "nobody"]), json!(["t", "x"])])
            .collect();
        let event = json!({
            "id": "00".repeat(32), "pubkey": "11".repeat(32), "created_at": 1, "kind": 3, "tags": tags,
            "content": "", "sig": "00".repeat(64),
        });
        event.to_string().into_bytes()
    }

    #[test]
    fn a_web_grows_by_new_keys_up_to_its_bound() {
        let mut web = Web::of(&[[1; 32]], 4);
        assert_eq!(web.next_step(), [[1; 32]]);
        web.add_list(&list(&[[2; 32], [1; 32], [3; 32], [2; 32]]));
        assert_eq!(web.next_step(), [[2; 32], [3; 32]]);
        web.add_list(&list(&[[3; 32], [4; 32], [5; 32]]));
        assert_eq!(web.next_step(), [[4; 32]]);
        assert_eq!(web.keys.len(), 4);
        web.add_list(b"no event");
    }
}
