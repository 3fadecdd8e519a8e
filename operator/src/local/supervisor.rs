//! Keeps one process running: writes its files, starts it, asks whether it serves, starts it again when it dies.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::event::ProcessState;
use super::probe::{self, Answer};
use super::spawner::{Program, Spawner};
use crate::pki::{make_private_dir, write_private};
use crate::plan::{ProcessId, ProcessPlan};

/// First pause before a process that died is started again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A process that ran this long starts from the first pause again.
const SETTLED: Duration = Duration::from_secs(30);
/// How often a process is asked until it serves, and afterwards.
const ASK_SOON: Duration = Duration::from_millis(50);
const ASK_LATER: Duration = Duration::from_secs(1);
/// A restart for a new configuration gives a relay time to drain.
const RESTART_GRACE: Duration = Duration::from_secs(9);

/// What a supervisor is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Stop, with the new plan start again.
    Restart(Box<ProcessPlan>),
    /// Write the new plan's files and let the process read them again.
    Reload(Box<ProcessPlan>),
    /// Stop for good: ask, and kill after this long.
    Stop(Duration),
}

/// What a supervisor reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) id: ProcessId,
    pub(crate) pid: Option<u32>,
    pub(crate) state: ProcessState,
    pub(crate) reason: Option<String>,
    pub(crate) restarts: u32,
}

/// A handle to one supervisor. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Supervisor {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Starts supervising. Reports go to the fleet.
    pub(crate) fn start(
        plan: ProcessPlan,
        program: Program,
        spawner: Spawner,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let (orders, inbox) = mpsc::channel(8);
        let run = Run {
            plan,
            program,
            spawner,
            orders: inbox,
            reports,
            restarts: 0,
            last: None,
        };
        Self {
            orders,
            task: tokio::spawn(run.supervise()),
        }
    }

    /// Gives an order. Those of a supervisor that has ended are void.
    pub(crate) async fn order(&self, order: Order) {
        let _ = self.orders.send(order).await;
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The child is killed with the task that holds it.
        self.task.abort();
    }
}

struct Run {
    plan: ProcessPlan,
    program: Program,
    spawner: Spawner,
    orders: mpsc::Receiver<Order>,
    reports: mpsc::Sender<Report>,
    restarts: u32,
    last: Option<Report>,
}

/// Why a process no longer runs.
enum End {
    /// By itself.
    Died(String),
    /// To be started again at once.
    Restart,
    /// For good.
    Stopped,
}

impl Run {
    async fn supervise(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let end = match self.start().await {
                Ok(child) => self.attend(child).await,
                Err(reason) => End::Died(reason),
            };
            match end {
                End::Stopped => return self.report(None, ProcessState::Stopped, None).await,
                End::Restart => pause = FIRST_PAUSE,
                End::Died(reason) => {
                    self.restarts += 1;
                    self.report(None, ProcessState::Exited, Some(reason)).await;
                    if began.elapsed() > SETTLED {
                        pause = FIRST_PAUSE;
                    }
                    if !self.wait(pause).await {
                        return self.report(None, ProcessState::Stopped, None).await;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Waits before the next start; false if there is none.
    async fn wait(&mut self, pause: Duration) -> bool {
        match tokio::time::timeout(pause, self.orders.recv()).await {
            Err(_) => true,
            Ok(Some(Order::Restart(plan) | Order::Reload(plan))) => {
                self.plan = *plan;
                true
            }
            Ok(Some(Order::Stop(_)) | None) => false,
        }
    }

    async fn start(&mut self) -> Result<Child, String> {
        write_files(&self.plan)?;
        let child = self.spawner.spawn(self.program.clone()).await;
        let child = child.map_err(|error| format!("{}: {error}", self.program.path.display()))?;
        self.report(child.id(), ProcessState::Starting, None).await;
        Ok(child)
    }

    /// Stays with a running process until it ends.
    async fn attend(&mut self, mut child: Child) -> End {
        let mut ask_at = Instant::now();
        loop {
            tokio::select! {
                status = child.wait() => {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    return End::Died(explain(&status, &self.program.log));
                }
                order = self.orders.recv() => match order {
                    Some(Order::Reload(plan)) => {
                        self.plan = *plan;
                        if let Err(reason) = write_files(&self.plan) {
                            tracing::warn!(process = %self.plan.id, reason, "configuration not written");
                        }
                        send(&child, Signal::HUP);
                        ask_at = Instant::now();
                    }
                    Some(Order::Restart(plan)) => {
                        self.plan = *plan;
                        return self.give_way(child).await;
                    }
                    Some(Order::Stop(grace)) => {
                        stop(&mut child, grace).await;
                        return End::Stopped;
                    }
                    None => return End::Stopped,
                },
                // An order does not wait for the answer of a process that hangs.
                answer = ask_after(ask_at, &self.plan) => {
                    let ready = self.on_answer(answer, child.id()).await;
                    ask_at = Instant::now() + if ready { ASK_LATER } else { ASK_SOON };
                }
            }
        }
    }

    /// Stops a process that is to start again, and hears orders meanwhile: the fleet may stop before it has drained.
    async fn give_way(&mut self, mut child: Child) -> End {
        send(&child, Signal::TERM);
        let mut deadline = Instant::now() + RESTART_GRACE;
        let mut end = End::Restart;
        loop {
            tokio::select! {
                _ = child.wait() => return end,
                () = tokio::time::sleep_until(deadline) => {
                    kill(&mut child).await;
                    return end;
                }
                order = self.orders.recv() => match order {
                    Some(Order::Restart(plan) | Order::Reload(plan)) => self.plan = *plan,
                    Some(Order::Stop(grace)) => {
                        deadline = deadline.min(Instant::now() + grace);
                        end = End::Stopped;
                    }
                    // The child is killed as it is dropped.
                    None => return End::Stopped,
                },
            }
        }
    }

    /// Reports a change, and answers whether the process serves.
    async fn on_answer(&mut self, answer: Answer, pid: Option<u32>) -> bool {
        match answer {
            Answer::Ready => self.report(pid, ProcessState::Ready, None).await,
            Answer::Waiting(reason) => {
                self.report(pid, ProcessState::Running, Some(reason)).await;
                return false;
            }
            // One that served and does not answer in time is busy; it is dead when it ends.
            Answer::Silent => return false,
        }
        true
    }

    async fn report(&mut self, pid: Option<u32>, state: ProcessState, reason: Option<String>) {
        let report = Report {
            id: self.plan.id.clone(),
            pid,
            state,
            reason,
            restarts: self.restarts,
        };
        if self.last.as_ref() != Some(&report) {
            self.last = Some(report.clone());
            // The fleet is gone only when everything ends.
            let _ = self.reports.send(report).await;
        }
    }
}

/// Writes the planned files and folders where they are not there already.
pub(crate) fn write_files(plan: &ProcessPlan) -> Result<(), String> {
    for folder in &plan.folders {
        make_private_dir(folder).map_err(|error| error.to_string())?;
    }
    for file in &plan.files {
        if std::fs::read_to_string(&file.path).ok().as_deref() == Some(file.text.as_str()) {
            continue;
        }
        if let Some(folder) = file.path.parent() {
            make_private_dir(folder).map_err(|error| error.to_string())?;
        }
        write_private(&file.path, file.text.as_bytes()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

async fn ask_after(time: Instant, plan: &ProcessPlan) -> Answer {
    tokio::time::sleep_until(time).await;
    probe::ask(plan).await
}

async fn stop(child: &mut Child, grace: Duration) {
    send(child, Signal::TERM);
    if tokio::time::timeout(grace, child.wait()).await.is_err() {
        kill(child).await;
    }
}

async fn kill(child: &mut Child) {
    tracing::warn!(pid = child.id(), "killed: it did not end in time");
    // Killing fails only when it has ended meanwhile.
    let _ = child.kill().await;
}

fn send(child: &Child, signal: Signal) {
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself meanwhile; that is noticed elsewhere.
        let _ = kill_process(pid, signal);
    }
}

/// How a process ended, and the last thing it said.
fn explain(status: &str, log: &Path) -> String {
    match last_line(log) {
        Some(line) => format!("ended ({status}): {line}"),
        None => format!("ended ({status})"),
    }
}

fn last_line(log: &Path) -> Option<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096)))
        .ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{HostPort, Listener, PlannedFile, Port, Role};

    /// A program that ignores SIGTERM and says when it does, with the plan of a NATS server at that port.
    fn stubborn(dir: &Path, port: u16) -> (ProcessPlan, Program) {
        let config = dir.join("nats.conf");
        let plan = ProcessPlan {
            id: ProcessId {
                region: "a".parse().unwrap(),
                role: Role::Nats,
                ordinal: 0,
            },
            config: config.clone(),
            files: vec![PlannedFile {
                path: config,
                text: String::new(),
            }],
            folders: Vec::new(),
            certificates: Vec::new(),
            seeds: Vec::new(),
            listeners: vec![Listener {
                port: Port::Client,
                listen: ([127, 0, 0, 1], port).into(),
                connect: HostPort {
                    host: "127.0.0.1".to_owned(),
                    port,
                },
            }],
            restart_hash: String::new(),
            reload_hash: String::new(),
        };
        let program = Program {
            path: "/bin/sh".into(),
            arguments: vec![
                "-c".into(),
                "trap '' TERM; : > deaf; while :; do sleep 1; done".into(),
            ],
            folder: dir.to_owned(),
            log: dir.join("sh.log"),
            state_dir: dir.to_owned(),
        };
        (plan, program)
    }

    /// How long a stubborn process lives after these orders, with a grace of nothing. Its port accepts and never answers.
    async fn time_to_stop(before: Option<fn(ProcessPlan) -> Order>) -> Duration {
        let dir = tempfile::tempdir().unwrap();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (plan, program) = stubborn(dir.path(), silent.local_addr().unwrap().port());
        let (reports, mut inbox) = mpsc::channel(16);
        let spawner = Spawner::start().unwrap();
        let supervisor = Supervisor::start(plan.clone(), program, spawner, reports);
        while !dir.path().join("deaf").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Some(order) = before {
            supervisor.order(order(plan)).await;
        }
        let began = Instant::now();
        supervisor.order(Order::Stop(Duration::ZERO)).await;
        while inbox.recv().await.expect("a supervisor").state != ProcessState::Stopped {}
        began.elapsed()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stop_does_not_wait_for_a_restart_that_is_under_way() {
        let took = time_to_stop(Some(|plan| Order::Restart(Box::new(plan)))).await;
        assert!(took < RESTART_GRACE / 2, "{took:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stop_does_not_wait_for_a_process_that_hangs() {
        let took = time_to_stop(None).await;
        assert!(took < Duration::from_millis(700), "{took:?}");
    }
}
