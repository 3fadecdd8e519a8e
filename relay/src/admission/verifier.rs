//! The signature workers: a bounded queue and a few threads, so that no socket task ever burns the CPU.

use std::collections::VecDeque;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::refusal::Refusal;
use crate::event::Event;
use crate::metrics::{LimitRule, Metrics, Stage};

/// How many threads, and how many events may wait for them.
#[derive(Debug, Clone, Copy)]
pub struct VerifierOptions {
    /// Threads, at least 1.
    pub threads: usize,
    /// Events in the queue; more are refused.
    pub queue: usize,
}

impl Default for VerifierOptions {
    /// A thread per core, and a queue that such threads empty in well under a second.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            threads,
            queue: 4096,
        }
    }
}

type Rule = Box<dyn FnOnce(&Event) -> Result<(), Refusal> + Send>;

/// What is asked of an event before its signature is looked at, and what after.
pub(super) struct Checks {
    /// Cheap and pure.
    pub(super) before: Rule,
    /// Cheap too, and asked once the id is known to be the event's hash.
    pub(super) identified: Rule,
    /// What only a genuine event may learn.
    pub(super) after: Rule,
}

struct Job {
    json: Bytes,
    checks: Checks,
    queued: Instant,
    reply: oneshot::Sender<Result<Arc<Event>, Refusal>>,
}

/// A handle on the workers; they end when it is dropped.
#[derive(Debug)]
pub(super) struct Verifier {
    queue: Arc<Queue>,
    limit: usize,
}

struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    stopped: bool,
}

impl Verifier {
    pub(super) fn start(options: VerifierOptions, metrics: Arc<Metrics>) -> Self {
        let threads = i64::try_from(options.threads.max(1)).unwrap_or(i64::MAX);
        metrics.verify_workers.set(threads);
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            filled: Condvar::new(),
            metrics,
        });
        for number in 0..options.threads.max(1) {
            let queue = queue.clone();
            let name = format!("verify-{number}");
            if let Err(error) = std::thread::Builder::new()
                .name(name)
                .spawn(move || work(&queue))
            {
                tracing::error!(%error, "cannot start a signature worker");
            }
        }
        Self {
            queue,
            limit: options.queue,
        }
    }

    /// Parses, makes the first checks, then those of the id, the signature, and the last: what is cheap comes first.
    pub(super) async fn run(&self, json: Bytes, checks: Checks) -> Result<Arc<Event>, Refusal> {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.queue.lock();
            if state.jobs.len() >= self.limit {
                let text = "this relay has too many events to check, try again";
                return Err(Refusal::limited(LimitRule::verify_queue, text));
            }
            state.jobs.push_back(Job {
                json,
                checks,
                queued: Instant::now(),
                reply,
            });
        }
        self.queue.filled.notify_one();
        answer
            .await
            .unwrap_or(Err(Refusal::Failed("the event could not be checked")))
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.queue.lock().stopped = true;
        self.queue.filled.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(queue: &Queue) {
    loop {
        let mut state = queue
            .filled
            .wait_while(queue.lock(), |state| {
                state.jobs.is_empty() && !state.stopped
            })
            .unwrap_or_else(PoisonError::into_inner);
        let Some(job) = state.jobs.pop_front() else {
            return;
        };
        drop(state);
        if job.reply.is_closed() {
            continue;
        }
        queue
            .metrics
            .on_stage(Stage::queue, job.queued.elapsed().as_secs_f64());
        let Job {
            json,
            checks,
            reply,
            ..
        } = job;
        // A worker outlives whatever one event does to it; the panic itself is reported by the hook.
        let verified = std::panic::catch_unwind(AssertUnwindSafe(|| verify(&json, checks)));
        // The receiver may be gone by now; then nobody waits for the answer.
        let _ =
            reply.send(verified.unwrap_or(Err(Refusal::Failed("the event could not be checked"))));
    }
}

fn verify(json: &[u8], checks: Checks) -> Result<Arc<Event>, Refusal> {
    let event = Event::parse(json)?;
    (checks.before)(&event)?;
    // Zero bits of an id that its sender made up show no work, so the id is hashed first. A hash costs a small part of a
    // signature check, which is thus still spared for whoever did not do the work.
    event.verify_id()?;
    (checks.identified)(&event)?;
    event.verify_signature()?;
    (checks.after)(&event)?;
    Ok(Arc::new(event))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::event::EventError;

    fn checks(before: impl FnOnce(&Event) -> Result<(), Refusal> + Send + 'static) -> Checks {
        Checks {
            before: Box::new(before),
            identified: Box::new(|_| Ok(())),
            after: Box::new(|_| Ok(())),
        }
    }

    /// Well-formed, with a signature of nobody.
    fn unsigned() -> Bytes {
        let json = serde_json::json!({
            "id": "00".repeat(32), "pubkey": "00".repeat(32), "created_at": 0, "kind": 1, "tags": [],
            "content": "", "sig": "00".repeat(64),
        });
        Bytes::from(json.to_string())
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_the_workers_go_on() {
        let options = VerifierOptions {
            threads: 1,
            queue: 1,
        };
        let verifier = Verifier::start(options, Arc::new(Metrics::new()));
        let (started, has_started) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let blocking = checks(move |_| {
            let _ = started.send(());
            let _ = held.recv();
            Err(Refusal::Duplicate)
        });
        let first = verifier.run(unsigned(), blocking);
        tokio::pin!(first);
        assert!(futures_util::poll!(&mut first).is_pending());
        tokio::task::spawn_blocking(move || has_started.recv())
            .await
            .expect("a thread")
            .expect("the worker is busy");
        let second = verifier.run(unsigned(), checks(|_| Err(Refusal::Duplicate)));
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        let third = verifier.run(unsigned(), checks(|_| Ok(()))).await;
        assert_eq!(
            third.expect_err("the queue is full").rule(),
            Some(LimitRule::verify_queue)
        );
        drop(release);
        assert_eq!(first.await, Err(Refusal::Duplicate));
        assert_eq!(second.await, Err(Refusal::Duplicate));
    }

    #[tokio::test]
    async fn a_worker_survives_a_panic() {
        let options = VerifierOptions {
            threads: 1,
            queue: 9,
        };
        let verifier = Verifier::start(options, Arc::new(Metrics::new()));
        let answer = verifier
            .run(unsigned(), checks(|_| panic!("a defect")))
            .await;
        assert!(matches!(answer, Err(Refusal::Failed(_))));
        let answer = verifier
            .run(unsigned(), checks(|_| Err(Refusal::Duplicate)))
            .await;
        assert_eq!(answer, Err(Refusal::Duplicate));
    }

    #[tokio::test]
    async fn what_the_relay_knows_is_asked_only_of_genuine_events() {
        let verifier = Verifier::start(VerifierOptions::default(), Arc::new(Metrics::new()));
        let checks = Checks {
            before: Box::new(|_| Ok(())),
            identified: Box::new(|_| Ok(())),
            after: Box::new(|_| panic!("asked of a forgery")),
        };
        let answer = verifier.run(unsigned(), checks).await;
        assert!(matches!(answer, Err(Refusal::Event(_))), "{answer:?}");
    }

    /// The id of [`unsigned`] is nothing but zeros, and so would be the work it shows.
    #[tokio::test]
    async fn zero_bits_are_not_counted_in_an_id_that_is_made_up() {
        let verifier = Verifier::start(VerifierOptions::default(), Arc::new(Metrics::new()));
        let checks = Checks {
            before: Box::new(|_| Ok(())),
            identified: Box::new(|_| panic!("asked of a made-up id")),
            after: Box::new(|_| Ok(())),
        };
        let answer = verifier.run(unsigned(), checks).await;
        assert!(
            matches!(answer, Err(Refusal::Event(EventError::IdMismatch { .. }))),
            "{answer:?}"
        );
    }
}
