//! Keeps one policy program running and its questions apart: hands them over as they come, several at once, matches answers by
//! id, gives up what takes too long, and starts the program anew when it ended, hangs, talks nonsense, or was replaced.

use std::time::Duration;

use bytes::Bytes;
use nightjar_config::Plugin;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::answer::{Line, Verdict};
use super::metrics::OfPlugin;
use super::pending::Pending;
use super::program::{MAX_LINE_BYTES, Output, Program, Stamps, Untold};
use crate::metrics::{PluginFailure, PluginName};

/// So many lines in a row that are no answer end a program: it speaks another protocol.
const MAX_NONSENSE: u32 = 100;

/// The clocks of a keeper.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Pause before a program that ended is started again; doubled each time.
    pub(crate) least_pause: Duration,
    /// The longest such pause. A program that ran this long is started again after the least.
    pub(crate) longest_pause: Duration,
    /// A program that has never answered is not taken for one that hangs before this time: interpreters start slowly.
    pub(crate) start_within: Duration,
    /// How often its files are looked at.
    pub(crate) look_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            least_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            start_within: Duration::from_secs(30),
            look_every: Duration::from_secs(1),
        }
    }
}

/// A question on its way. Without `Debug`: what a client wrote stays out of logs.
pub(super) struct Question {
    pub(super) id: String,
    pub(super) line: Bytes,
    /// Until when it may take.
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<Verdict, PluginFailure>>,
    /// Its place before the program; free again when it was answered or given up.
    pub(super) turn: OwnedSemaphorePermit,
}

/// A question that the program has.
#[derive(Debug)]
struct Asked {
    reply: oneshot::Sender<Result<Verdict, PluginFailure>>,
    at: Instant,
    _turn: OwnedSemaphorePermit,
}

impl Asked {
    fn answer(self, answer: Result<Verdict, PluginFailure>) {
        // Whoever asked may be gone.
        let _ = self.reply.send(answer);
    }
}

/// Why a run of the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// The relay stops.
    Stopped,
    /// Its files have changed, and nothing is open with it.
    Replaced,
    /// It closed its pipes, as it does when it exits.
    Exited,
    /// A question was not answered in time, and nothing else was meanwhile.
    Hung,
    /// It wrote a line beyond the limit, or no answers for many lines.
    Nonsense,
}

/// The task of one program.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) name: PluginName,
    pub(super) settings: Plugin,
    pub(super) pace: Pace,
    pub(super) inbox: mpsc::Receiver<Question>,
    pub(super) metrics: OfPlugin,
    pub(super) stop: CancellationToken,
}

impl Keeper {
    /// Until the relay stops, or nobody can ask any more.
    pub(super) async fn run(mut self) {
        let name = self.name;
        let mut pause = Pause::new(self.pace);
        loop {
            let stamps = Stamps::of(&self.settings).await;
            let started = Instant::now();
            let settings = self.settings.clone();
            // The system may wait for a disk before it runs the program.
            let program = spawn_blocking(move || Program::start(name, &settings)).await;
            let ended = match program.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
                Ok(program) => self.serve(program, &stamps).await,
                Err(error) => {
                    let program = &self.settings.command[0];
                    tracing::error!(plugin = ?name, program, %error, "the plugin cannot be started");
                    Ended::Exited
                }
            };
            match ended {
                Ended::Stopped => return,
                Ended::Replaced => pause.forget(),
                Ended::Exited | Ended::Hung | Ended::Nonsense => {
                    let wait = pause.next(started.elapsed());
                    match self.wait(wait, &stamps).await {
                        Ended::Stopped => return,
                        Ended::Replaced => pause.forget(),
                        _ => {}
                    }
                }
            }
            self.metrics.on_respawn();
        }
    }

    /// One run of the program.
    async fn serve(&mut self, program: Program, stamps: &Stamps) -> Ended {
        tracing::info!(plugin = ?self.name, "the plugin was started");
        self.metrics.set_running(true);
        let mut run = Run {
            program,
            pending: Pending::default(),
            answered: None,
            began: Instant::now(),
            start_within: self.pace.start_within,
            timeout: Duration::from_millis(self.settings.timeout_ms),
            nonsense: 0,
        };
        let ended = self.until_end(&mut run, stamps).await;
        self.metrics.set_running(false);
        for asked in run.pending.drain() {
            asked.answer(Err(PluginFailure::exit));
        }
        self.metrics.set_in_flight(0);
        let status = run.program.end().await;
        let status = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
        match ended {
            Ended::Stopped | Ended::Replaced => {
                tracing::info!(plugin = ?self.name, reason = ?ended, status, "the plugin was ended");
            }
            Ended::Exited | Ended::Hung | Ended::Nonsense => {
                tracing::error!(plugin = ?self.name, reason = ?ended, status, "the plugin has failed");
            }
        }
        ended
    }

    async fn until_end(&mut self, run: &mut Run, stamps: &Stamps) -> Ended {
        let mut looks = interval(self.pace.look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut replaced = false;
        loop {
            self.metrics.set_in_flight(run.pending.len());
            if replaced && run.pending.len() == 0 {
                return Ended::Replaced;
            }
            let deadline = run.pending.next_deadline();
            let ended = tokio::select! {
                () = self.stop.cancelled() => Some(Ended::Stopped),
                output = run.program.next() => run.on_output(self.name, output),
                // A program that was replaced gets no more questions; they wait for the new one.
                question = self.inbox.recv(), if !replaced => match question {
                    Some(question) => run.on_question(question),
                    None => Some(Ended::Stopped),
                },
                () = until(deadline) => run.on_deadline(Instant::now()),
                _ = looks.tick() => {
                    replaced = replaced || Stamps::of(&self.settings).await != *stamps;
                    None
                }
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    /// Waits before the next start: shorter when the program's files change. What is asked meanwhile fails at once.
    async fn wait(&mut self, pause: Duration, stamps: &Stamps) -> Ended {
        let until = Instant::now() + pause;
        let mut looks = interval(self.pace.look_every);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ended::Stopped,
                () = sleep_until(until) => return Ended::Exited,
                question = self.inbox.recv() => match question {
                    Some(question) => {
                        let _ = question.reply.send(Err(PluginFailure::down));
                    }
                    None => return Ended::Stopped,
                },
                _ = looks.tick() => {
                    if Stamps::of(&self.settings).await != *stamps {
                        return Ended::Replaced;
                    }
                }
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What is known of one run of the program.
struct Run {
    program: Program,
    pending: Pending<Asked>,
    /// When it answered last.
    answered: Option<Instant>,
    began: Instant,
    start_within: Duration,
    timeout: Duration,
    /// Lines in a row that were no answer.
    nonsense: u32,
}

impl Run {
    fn on_question(&mut self, question: Question) -> Option<Ended> {
        let Question {
            id,
            line,
            deadline,
            reply,
            turn,
        } = question;
        let now = Instant::now();
        if deadline <= now || reply.is_closed() {
            return None;
        }
        let asked = Asked {
            reply,
            at: now,
            _turn: turn,
        };
        match self.program.tell(line) {
            Ok(()) => {
                self.pending.add(id, deadline, asked);
                None
            }
            // Full of what was given up long ago.
            Err(Untold::Full) => {
                asked.answer(Err(PluginFailure::full));
                let silent_for = now.duration_since(self.answered.unwrap_or(self.began));
                (silent_for >= self.patience()).then_some(Ended::Hung)
            }
            Err(Untold::Gone) => {
                asked.answer(Err(PluginFailure::exit));
                Some(Ended::Exited)
            }
        }
    }

    /// How long the program may be silent while something is asked: interpreters start slowly.
    fn patience(&self) -> Duration {
        if self.answered.is_some() {
            self.timeout
        } else {
            self.start_within
        }
    }

    fn on_output(&mut self, name: PluginName, output: Option<Output>) -> Option<Ended> {
        let line = match output {
            None => return Some(Ended::Exited),
            Some(Output::TooLong) => {
                tracing::error!(plugin = ?name, limit = MAX_LINE_BYTES, "a line of the plugin is too long");
                return Some(Ended::Nonsense);
            }
            Some(Output::Line(line)) => line,
        };
        let problem = match Line::parse(&line) {
            Line::Answer(id, verdict) => match self.pending.take(&id) {
                Some(asked) => {
                    asked.answer(Ok(verdict));
                    self.answered = Some(Instant::now());
                    self.nonsense = 0;
                    return None;
                }
                None if self.pending.was_late(&id) => {
                    self.answered = Some(Instant::now());
                    return None;
                }
                None => "answers a question that was not asked",
            },
            Line::Undecided(id) => {
                if let Some(asked) = self.pending.take(&id) {
                    asked.answer(Err(PluginFailure::nonsense));
                }
                "answers with another action than accept, reject and shadowReject"
            }
            Line::Nonsense => "is no JSON object with id and action",
        };
        self.nonsense += 1;
        // The first of a row is enough: a program that prints its notes to stdout would fill the log.
        if self.nonsense == 1 {
            tracing::warn!(plugin = ?name, bytes = line.len(), problem, "a line of the plugin is ignored");
        }
        (self.nonsense >= MAX_NONSENSE).then_some(Ended::Nonsense)
    }

    /// Gives up what takes too long. A program that answers others meanwhile is slow, and stays; one that does not, hangs.
    fn on_deadline(&mut self, now: Instant) -> Option<Ended> {
        let mut hangs = false;
        for asked in self.pending.expire(now) {
            hangs |= match self.answered {
                // What waited for its turn had little time left before the program.
                Some(answered) => {
                    answered < asked.at && now.duration_since(asked.at) >= self.timeout / 2
                }
                None => now.duration_since(self.began) >= self.start_within,
            };
            asked.answer(Err(PluginFailure::timeout));
        }
        hangs.then_some(Ended::Hung)
    }
}

/// The pause before the next start.
#[derive(Debug)]
struct Pause {
    pace: Pace,
    next: Duration,
}

impl Pause {
    fn new(pace: Pace) -> Self {
        Self {
            next: pace.least_pause,
            pace,
        }
    }

    /// After a run of this length.
    fn next(&mut self, ran: Duration) -> Duration {
        if ran >= self.pace.longest_pause {
            self.forget();
        }
        let pause = self.next;
        self.next = (pause * 2).min(self.pace.longest_pause);
        pause
    }

    fn forget(&mut self) {
        self.next = self.pace.least_pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_a_long_run_starts_over() {
        let mut pause = Pause::new(Pace::default());
        let short = Duration::from_secs(59);
        let seconds: Vec<u64> = (0..8).map(|_| pause.next(short).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause.next(Duration::from_secs(60)).as_secs(), 1);
        assert_eq!(pause.next(short).as_secs(), 2);
        pause.forget();
        assert_eq!(pause.next(short).as_secs(), 1);
    }
}
