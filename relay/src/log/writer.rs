//! The one writer of the index: gathers what publisher and followers bring into transactions, then tells `live`.
//!
//! A thread of its own, because LMDB blocks. Under load one transaction carries many entries; alone, an entry waits for
//! nobody. What failed together is tried one by one, so that a follower's bad entry never costs a publisher its OK.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::metrics::LogMetrics;
use super::readiness::{Readiness, Waiting};
use crate::index::{Advance, Applied, Index, IndexError, LogEntry, Logged};
use crate::live::{Live, Source};

/// Jobs that may wait. A follower has one under way for each stream, a publisher one for each unanswered event.
const QUEUE: usize = 4_096;
/// Entries of one transaction; a transaction with so many takes tens of milliseconds.
const MOST_ENTRIES: usize = 2_048;
const READINESS_KEY: &str = "index";

/// Why entries were not written. Nothing of the job is in the index then.
#[derive(Clone, Debug, Error)]
pub(crate) enum WriteError {
    /// The index refused.
    #[error("{0}")]
    Index(Arc<IndexError>),
    /// The relay stops.
    #[error("the writer has stopped")]
    Stopped,
}

/// Entries that belong into one transaction.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) entries: Vec<LogEntry>,
    /// Only ever given by the pull consumer.
    pub(crate) advance: Option<Advance>,
    pub(crate) source: Source,
}

#[derive(Debug)]
struct Job {
    write: Write,
    done: oneshot::Sender<Result<Vec<Applied>, WriteError>>,
}

#[derive(Debug)]
enum Inbox {
    Job(Job),
    Stop,
}

/// A handle on the writer.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    inbox: mpsc::Sender<Inbox>,
    failing: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(
        index: Index,
        live: Live,
        metrics: LogMetrics,
        readiness: Readiness,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (inbox, queue) = mpsc::channel(QUEUE);
        let failing = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            failing: Arc::clone(&failing),
            index,
            live,
            metrics,
            readiness,
        };
        let thread = std::thread::Builder::new()
            .name("index-writer".into())
            .spawn(move || worker.run(queue))?;
        Ok((Self { inbox, failing }, thread))
    }

    /// Writes, and returns what became of each entry once it is committed and offered to `live`.
    pub(crate) async fn write(&self, write: Write) -> Result<Vec<Applied>, WriteError> {
        let (done, result) = oneshot::channel();
        self.inbox
            .send(Inbox::Job(Job { write, done }))
            .await
            .map_err(|_| WriteError::Stopped)?;
        result.await.map_err(|_| WriteError::Stopped)?
    }

    /// Whether the last transaction was refused by the index.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Ends the thread after what is queued already.
    pub(crate) async fn stop(&self) {
        drop(self.inbox.send(Inbox::Stop).await);
    }
}

struct Worker {
    failing: Arc<AtomicBool>,
    index: Index,
    live: Live,
    metrics: LogMetrics,
    readiness: Readiness,
}

impl Worker {
    fn run(self, mut queue: mpsc::Receiver<Inbox>) {
        let mut stopping = false;
        while !stopping {
            let mut next = queue.blocking_recv();
            let mut entries = 0;
            let mut jobs = Vec::new();
            while let Some(Inbox::Job(job)) = next {
                entries += job.write.entries.len();
                jobs.push(job);
                next = if entries < MOST_ENTRIES {
                    queue.try_recv().ok()
                } else {
                    None
                };
                if next.is_none() {
                    break;
                }
            }
            // Stop, or no handle is left and nothing was waiting.
            stopping = matches!(next, Some(Inbox::Stop)) || jobs.is_empty();
            if !jobs.is_empty() {
                self.on_jobs(jobs);
            }
        }
    }

    fn on_jobs(&self, jobs: Vec<Job>) {
        let advances: Vec<Advance> = jobs
            .iter()
            .filter_map(|job| job.write.advance.clone())
            .collect();
        let committed = self.write_jobs(jobs);
        // Only what is committed for good; with one that failed, the next batch tells.
        if committed {
            let advances = advances
                .iter()
                .map(|advance| (&advance.stream, advance.seq));
            self.live.advance(advances);
        }
    }

    /// Whether everything was committed.
    fn write_jobs(&self, jobs: Vec<Job>) -> bool {
        let writes: Vec<&Write> = jobs.iter().map(|job| &job.write).collect();
        match self.commit(writes) {
            Ok(mut results) => {
                for job in jobs {
                    let rest = results.split_off(job.write.entries.len().min(results.len()));
                    self.on_committed(job, std::mem::replace(&mut results, rest));
                }
                true
            }
            Err(error) if jobs.len() == 1 => {
                jobs.into_iter().for_each(|job| fail(job, &error));
                false
            }
            Err(_) => {
                let mut all = true;
                for job in jobs {
                    match self.commit(vec![&job.write]) {
                        Ok(results) => self.on_committed(job, results),
                        Err(error) => {
                            fail(job, &error);
                            all = false;
                        }
                    }
                }
                all
            }
        }
    }

    fn commit(&self, writes: Vec<&Write>) -> Result<Vec<Applied>, WriteError> {
        let mut entries = Vec::new();
        let mut advances = Vec::new();
        for write in &writes {
            entries.extend(write.entries.iter().cloned());
            advances.extend(write.advance.clone());
        }
        let began = Instant::now();
        let result = self.index.apply(&entries, &advances, super::now_s());
        self.metrics
            .commit_seconds
            .observe(began.elapsed().as_secs_f64());
        self.metrics.commit_entries.observe(entries.len() as f64);
        self.failing.store(result.is_err(), Ordering::Relaxed);
        match result {
            Ok(applied) => {
                if self.readiness.clear(READINESS_KEY) {
                    tracing::info!("the index takes entries again");
                }
                Ok(applied)
            }
            Err(error) => {
                let problem = error.to_string();
                if self.readiness.set(
                    READINESS_KEY,
                    Waiting::IndexFailed {
                        problem: problem.clone(),
                    },
                ) {
                    tracing::error!(
                        problem,
                        "the index refuses entries; nothing is acknowledged"
                    );
                }
                Err(WriteError::Index(Arc::new(error)))
            }
        }
    }

    fn on_committed(&self, job: Job, applied: Vec<Applied>) {
        let Job { write, done } = job;
        for (entry, applied) in write.entries.iter().zip(&applied) {
            if let (Logged::Event(event), Applied::New) = (&entry.content, applied) {
                self.live.deliver_at(event, write.source, entry.at.as_ref());
            }
        }
        // The one who asked may have gone; the entries are in all the same.
        drop(done.send(Ok(applied)));
    }
}

fn fail(job: Job, error: &WriteError) {
    drop(job.done.send(Err(error.clone())));
}
