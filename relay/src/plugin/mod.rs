//! Policy programs: an operator's own rules, in any language, over JSON lines. A write policy is asked for each event, in the form of
//! strfry's event sifters; a read policy for each REQ, COUNT and NEG-OPEN.
//!
//! They can refuse, and nothing else: what is invalid never reaches them, and what they let through still passes the read
//! door (`visibility.rs`). What they see is in `disclosure.rs`. A question takes `timeout_ms` at most, with the wait before it, and a
//! program that fails is what `on_failure` says; the relay's readiness does not depend on it.

mod answer;
mod disclosure;
mod keeper;
mod metrics;
mod pending;
mod program;
mod question;
mod source;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nightjar_config::{OnFailure, Plugin};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use answer::{Line, Verdict};
pub(crate) use keeper::Pace;
pub use metrics::PluginMetrics;
pub use question::Verb;
pub use source::Source;

use crate::admission::Refusal;
use crate::event::Event;
use crate::filter::Filter;
use crate::metrics::{PluginAnswer, PluginFailure, PluginName};
use crate::visibility::Readers;
use keeper::{Keeper, Question};
use metrics::OfPlugin;
use question::Asker;

/// For each question before a program so many may wait for their turn.
const WAITING_PER_TURN: usize = 10;

/// The policy programs of a relay. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Plugins {
    write: Option<Arc<Handle>>,
    read: Option<Arc<Handle>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What a write policy lets happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// The event is published.
    Publish,
    /// Its client is told so, and it is dropped.
    Pretend,
}

impl Plugins {
    /// Starts the programs that are configured. They are started again whenever they end, until [`Plugins::stop`].
    pub fn start(config: &nightjar_config::Plugins, metrics: &PluginMetrics) -> Self {
        Self::start_at(config, metrics, Pace::default())
    }

    /// The same with other clocks.
    pub(crate) fn start_at(
        config: &nightjar_config::Plugins,
        metrics: &PluginMetrics,
        pace: Pace,
    ) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let start = |name, settings: &Plugin| {
            let (sender, inbox) = mpsc::channel(settings.max_in_flight);
            let metrics = metrics.of(name);
            let keeper = Keeper {
                name,
                settings: settings.clone(),
                pace,
                inbox,
                metrics: metrics.clone(),
                stop: stop.clone(),
            };
            tasks.spawn(keeper.run());
            let turns = settings.max_in_flight;
            Arc::new(Handle {
                name,
                inbox: sender,
                room: Arc::new(Semaphore::new(turns * (1 + WAITING_PER_TURN))),
                turns: Arc::new(Semaphore::new(turns)),
                timeout: Duration::from_millis(settings.timeout_ms),
                on_failure: settings.on_failure,
                give_address: settings.give_address,
                serial: AtomicU64::new(0),
                metrics,
            })
        };
        let (write, read) = (&config.write, &config.read);
        let plugins = Self {
            write: write
                .as_ref()
                .map(|plugin| start(PluginName::write, plugin)),
            read: read.as_ref().map(|plugin| start(PluginName::read, plugin)),
            stop: stop.clone(),
            tasks: tasks.clone(),
        };
        plugins.tasks.close();
        plugins
    }

    /// Ends the programs. Their stdin ends first; what is still there half a second later is killed.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// Whether reads are asked for at all.
    pub fn ask_reads(&self) -> bool {
        self.read.is_some()
    }

    /// Asks the write policy, if there is one, for a genuine event that is not known yet. `received_at` is a Unix time in seconds.
    ///
    /// # Errors
    /// The policy refused, or failed and fails closed.
    pub async fn may_write(
        &self,
        event: &Event,
        source: &Source,
        readers: &Readers,
        received_at: u64,
    ) -> Result<Write, Refusal> {
        let Some(handle) = &self.write else {
            return Ok(Write::Publish);
        };
        let asker = handle.asker(source, readers, received_at);
        let question = || question::write_question(event, &asker);
        match handle.ask(event.id_hex(), question).await {
            Ok(Verdict::Accept) => Ok(Write::Publish),
            Ok(Verdict::ShadowReject) => Ok(Write::Pretend),
            Ok(Verdict::Reject(text)) => Err(Refusal::Policy {
                result: answer::result_of(&text),
                text,
            }),
            Err(_) if handle.on_failure == OnFailure::Accept => Ok(Write::Publish),
            Err(_) => Err(Refusal::PolicyFailed),
        }
    }

    /// Asks the read policy, if there is one, for a question that passed all other checks.
    ///
    /// # Errors
    /// The reason for the client, with its prefix: the policy refused, or failed and fails closed.
    pub async fn may_read(
        &self,
        verb: Verb,
        filters: &[Filter],
        source: &Source,
        readers: &Readers,
        received_at: u64,
    ) -> Result<(), String> {
        let Some(handle) = &self.read else {
            return Ok(());
        };
        let id = format!("read-{}", handle.serial.fetch_add(1, Ordering::Relaxed));
        let asker = handle.asker(source, readers, received_at);
        let question = || question::read_question(&id, verb, filters, &asker);
        match handle.ask(id.clone(), question).await {
            Ok(Verdict::Reject(reason)) => Err(reason),
            Ok(Verdict::Accept) => Ok(()),
            _ if handle.on_failure == OnFailure::Accept => Ok(()),
            _ => Err("error: the read policy does not answer, try again later".to_owned()),
        }
    }
}

/// The way to one program.
#[derive(Debug)]
struct Handle {
    name: PluginName,
    inbox: mpsc::Sender<Question>,
    /// Places of questions, with those that wait for their turn.
    room: Arc<Semaphore>,
    /// Places of questions before the program.
    turns: Arc<Semaphore>,
    timeout: Duration,
    on_failure: OnFailure,
    give_address: bool,
    serial: AtomicU64,
    metrics: OfPlugin,
}

impl Handle {
    fn asker<'a>(&self, source: &'a Source, readers: &'a Readers, received_at: u64) -> Asker<'a> {
        Asker {
            received_at,
            source,
            give_address: self.give_address,
            readers,
        }
    }

    /// Asks, and counts what comes of it.
    async fn ask(
        &self,
        id: String,
        line: impl FnOnce() -> Bytes,
    ) -> Result<Verdict, PluginFailure> {
        self.metrics.on_asked();
        let began = Instant::now();
        let deadline = began + self.timeout;
        let answered = timeout_at(deadline, self.ask_until(deadline, id, line)).await;
        let answered = answered.unwrap_or(Err(PluginFailure::timeout));
        let verdict = answered.and_then(|verdict| match verdict {
            // A read has no answer that would look like one and be none.
            Verdict::ShadowReject if self.name == PluginName::read => Err(PluginFailure::nonsense),
            verdict => Ok(verdict),
        });
        match &verdict {
            Ok(verdict) => {
                let answer = match verdict {
                    Verdict::Accept => PluginAnswer::accepted,
                    Verdict::Reject(_) => PluginAnswer::rejected,
                    Verdict::ShadowReject => PluginAnswer::shadow_rejected,
                };
                self.metrics
                    .on_answer(answer, began.elapsed().as_secs_f64());
            }
            Err(reason) => self.metrics.on_failure(*reason),
        }
        verdict
    }

    async fn ask_until(
        &self,
        deadline: Instant,
        id: String,
        line: impl FnOnce() -> Bytes,
    ) -> Result<Verdict, PluginFailure> {
        let _place = self.room.try_acquire().map_err(|_| PluginFailure::full)?;
        let turns = Arc::clone(&self.turns);
        // Never closed.
        let turn = turns
            .acquire_owned()
            .await
            .map_err(|_| PluginFailure::down)?;
        let (reply, answer) = oneshot::channel();
        let question = Question {
            id,
            // Made now: what waits for its turn costs no second copy.
            line: line(),
            deadline,
            reply,
            turn,
        };
        // As many fit as there are turns.
        self.inbox
            .try_send(question)
            .map_err(|_| PluginFailure::down)?;
        answer.await.unwrap_or(Err(PluginFailure::down))
    }
}
