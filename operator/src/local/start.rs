//! Starting a fleet: everything that can be wrong is found before the first process is started.

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::LocalError;
use super::event::LocalEvent;
use super::fleet::{Control, Fleet, FleetParts, Inboxes};
use super::lock::StateLock;
use super::members::{Members, Programs, log_file};
use super::placement::Placement;
use super::record::RecordFile;
use super::spawner::Spawner;
use super::{leftovers, nats_server, ports, source, status};
use crate::pki::{Custody, KeyFolder};
use crate::plan::FleetPlan;
use crate::validate::ValidFleet;

/// Events that may wait for a reader; more are dropped.
const EVENT_QUEUE: usize = 4096;
const REPORT_QUEUE: usize = 256;

/// What to start, and where.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// The RelayCluster file. It is watched.
    pub file: PathBuf,
    /// The state folder; made when absent.
    pub state_dir: PathBuf,
    /// The nats-server executable: a path, or a name to look up in PATH.
    pub nats_server: PathBuf,
    /// The nightjar-relay executable: a path, or a name to look up in PATH.
    pub relay_bin: PathBuf,
}

impl LocalOptions {
    /// Options with the executables that the environment names (`NATS_SERVER`, `NIGHTJAR_RELAY`), else nats-server in PATH and
    /// nightjar-relay beside this executable.
    pub fn new(file: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Self {
        let named = |variable| {
            std::env::var_os(variable)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let beside = || {
            let sibling = std::env::current_exe()
                .ok()?
                .with_file_name("nightjar-relay");
            sibling.is_file().then_some(sibling)
        };
        Self {
            file: file.into(),
            state_dir: state_dir.into(),
            nats_server: named("NATS_SERVER").unwrap_or_else(|| "nats-server".into()),
            relay_bin: named("NIGHTJAR_RELAY")
                .or_else(beside)
                .unwrap_or_else(|| "nightjar-relay".into()),
        }
    }
}

/// A fleet that was started. Dropping it kills every process.
#[derive(Debug)]
pub struct LocalFleet {
    /// What happens. Ends after [`LocalEvent::Stopped`].
    pub events: mpsc::Receiver<LocalEvent>,
    handle: LocalHandle,
    tasks: [JoinHandle<()>; 2],
}

/// A way to end a fleet from elsewhere. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalHandle {
    control: mpsc::Sender<Control>,
}

impl LocalHandle {
    /// Asks the fleet to drain its relays and stop. [`LocalEvent::Stopped`] says when it has.
    pub async fn shutdown(&self) {
        // A fleet that is gone has stopped.
        let _ = self.control.send(Control::Shutdown).await;
    }

    /// Kills every process at once.
    pub async fn kill(&self) {
        let _ = self.control.send(Control::Kill).await;
    }
}

impl LocalFleet {
    /// A way to end the fleet while its events are being read.
    pub fn handle(&self) -> LocalHandle {
        self.handle.clone()
    }

    /// Drains the relays, stops everything, and returns when everything has ended. Events that nobody reads are dropped.
    pub async fn shutdown(mut self) {
        self.handle.shutdown().await;
        while self.events.recv().await.is_some() {}
    }

    /// Kills every process, and returns when the fleet has ended.
    pub async fn kill(mut self) {
        self.handle.kill().await;
        while self.events.recv().await.is_some() {}
    }
}

impl Drop for LocalFleet {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Checks everything, then starts the fleet. On an error nothing was started.
///
/// Call it within a tokio runtime that lives as long as the fleet.
pub async fn start(options: LocalOptions) -> Result<LocalFleet, LocalError> {
    let prepared = tokio::task::spawn_blocking(move || prepare(options))
        .await
        .map_err(|error| LocalError::Thread(std::io::Error::other(error)))??;
    let spawner = Spawner::start().map_err(LocalError::Thread)?;
    let (events, receiver) = mpsc::channel(EVENT_QUEUE);
    let (control, control_inbox) = mpsc::channel(4);
    let (process_reports, process_inbox) = mpsc::channel(REPORT_QUEUE);
    let (region_reports, region_inbox) = mpsc::channel(REPORT_QUEUE);
    let (file_changes, file_inbox) = mpsc::channel(1);
    for message in prepared.notices {
        // The queue is empty: there is room.
        let _ = events.try_send(LocalEvent::Notice { message });
    }
    let members = Members::new(
        &prepared.placement.state_dir,
        prepared.programs,
        spawner,
        process_reports,
    );
    let watching = tokio::spawn(source::watch(
        prepared.file.clone(),
        prepared.mark,
        file_changes,
    ));
    let fleet = Fleet::new(FleetParts {
        file: prepared.file,
        valid: prepared.fleet,
        placement: prepared.placement,
        plan: prepared.plan,
        members,
        events,
        region_reports,
        lock: prepared.lock,
    });
    let inboxes = Inboxes {
        control: control_inbox,
        processes: process_inbox,
        regions: region_inbox,
        file: file_inbox,
    };
    let running = tokio::spawn(Box::pin(fleet.run(inboxes)));
    Ok(LocalFleet {
        events: receiver,
        handle: LocalHandle { control },
        tasks: [running, watching],
    })
}

struct Prepared {
    file: PathBuf,
    mark: Option<source::Mark>,
    fleet: ValidFleet,
    programs: Programs,
    lock: StateLock,
    placement: Placement,
    plan: FleetPlan,
    notices: Vec<String>,
}

/// Everything before the first process, in the order in which a refusal costs least.
fn prepare(options: LocalOptions) -> Result<Prepared, LocalError> {
    // Marked before it is read: a change from now on is seen by the watch.
    let mark = source::mark(&options.file);
    let fleet = source::load(&options.file)?;
    let programs = Programs {
        nats_server: nats_server::check(&options.nats_server)?,
        relay: nats_server::find(&options.relay_bin).ok_or(LocalError::RelayMissing {
            program: options.relay_bin,
        })?,
    };
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|source| LocalError::StateFolder {
            path: path.to_owned(),
            source,
        })
    };
    let (file, state_dir) = (absolute(&options.file)?, absolute(&options.state_dir)?);
    let lock = StateLock::take(&state_dir)?;
    let mut placement = Placement {
        file: file.clone(),
        record: RecordFile::open(&state_dir)?,
        keys: KeyFolder::open(&state_dir.join("keys"))?,
        state_dir,
    };
    let mut notices = end_leftovers(&placement.state_dir);
    if fleet.relay_tls_secret.is_some() {
        notices.push(
            "spec.relay.tls is for Kubernetes: there are no Secrets here, and the relays speak ws:// on loopback"
                .to_owned(),
        );
    }
    let mut plan = placement.plan(&fleet)?;
    for process in plan.processes() {
        for listener in &process.listeners {
            let purpose = format!("{:?}", listener.port).to_lowercase();
            ports::prove_free(&process.name(), &purpose, listener.listen.port())?;
        }
    }
    // Last of all checks: a start that is refused for another reason gives up no log, whose disk may be back by the next.
    let lost = placement.notice_lost_logs(&fleet)?;
    if !lost.is_empty() {
        plan = placement.plan(&fleet)?;
        notices.extend(lost);
    }
    take_custody(&mut placement)?;
    for process in plan.processes() {
        let log = log_file(&placement.state_dir, &process.id);
        // Each run of the fleet begins its logs anew and keeps those of the run before; none may be there yet.
        let _ = std::fs::rename(&log, log.with_extension("log.1"));
    }
    Ok(Prepared {
        file,
        mark,
        fleet,
        programs,
        lock,
        placement,
        plan,
        notices,
    })
}

/// The first keyring is on disk before the first stream can be; a later one is never made.
fn take_custody(placement: &mut Placement) -> Result<(), LocalError> {
    let made = placement.record.record.streams_made;
    if let Custody::Missing = placement.keys.keyring(made)? {
        // Not an error of the start: the loop says so, and goes on when the file is put back.
        return Ok(());
    }
    if !made {
        let mut record = placement.record.record.clone();
        record.streams_made = true;
        placement.record.replace(record)?;
    }
    Ok(())
}

fn end_leftovers(state_dir: &Path) -> Vec<String> {
    let recorded: Vec<(u32, u64)> = status::read(state_dir)
        .into_iter()
        .flat_map(|status| status.processes)
        .filter_map(|process| Some((process.status.pid?, process.started?)))
        .collect();
    let ended = leftovers::end(&recorded, state_dir);
    if ended.is_empty() {
        return Vec::new();
    }
    let ids: Vec<String> = ended.iter().map(ToString::to_string).collect();
    vec![format!(
        "ended processes of an earlier run: {}",
        ids.join(", ")
    )]
}
