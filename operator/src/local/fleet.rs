//! The loop of a running fleet: one inbox for each source of news, one short `on_` method for each piece.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use nightjar_envelope::RegionName;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::LocalError;
use super::event::{LocalEvent, ProcessState, ProcessStatus, RegionRelays};
use super::hold::held;
use super::leftovers::start_time;
use super::lock::StateLock;
use super::members::Members;
use super::placement::Placement;
use super::region::{RegionReport, RegionSeeds, RegionTask};
use super::status::{FleetState, FleetStatus, ProcessEntry};
use super::supervisor::Report;
use crate::plan::{Credential, FleetPlan, Role};
use crate::validate::ValidFleet;

/// How often the keyring, holds and relays that wait are looked at, and the status is written if it changed.
const TICK: Duration = Duration::from_millis(100);
/// NATS servers start once their hubs listen, or after this long.
const HUB_PATIENCE: Duration = Duration::from_secs(2);
/// Relays of a fresh region wait for the mirrors of the others, but not for ever: one region may be down.
const MIRROR_PATIENCE: Duration = Duration::from_secs(10);

/// What a handle may ask of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Drain the relays, then stop everything.
    Shutdown,
    /// Kill everything at once.
    Kill,
}

/// Sources of news.
pub(crate) struct Inboxes {
    pub(crate) control: mpsc::Receiver<Control>,
    pub(crate) processes: mpsc::Receiver<Report>,
    pub(crate) regions: mpsc::Receiver<RegionReport>,
    pub(crate) file: mpsc::Receiver<Result<ValidFleet, LocalError>>,
}

/// One region's log, as far as the loop cares.
#[derive(Debug)]
struct RegionLog {
    task: RegionTask,
    /// Own streams are there, since then.
    written: Option<Instant>,
    /// Mirrors too.
    settled: bool,
}

/// A running fleet.
pub(crate) struct Fleet {
    pub(crate) file: PathBuf,
    /// What the plan was made of.
    valid: ValidFleet,
    pub(crate) placement: Placement,
    pub(crate) plan: FleetPlan,
    pub(crate) members: Members,
    pub(crate) events: mpsc::Sender<LocalEvent>,
    pub(crate) region_reports: mpsc::Sender<RegionReport>,
    /// Held until the last process has ended.
    pub(crate) _lock: StateLock,
    regions: BTreeMap<RegionName, RegionLog>,
    written: watch::Sender<BTreeSet<RegionName>>,
    held: BTreeSet<RegionName>,
    keys_missing: bool,
    /// `ready` was sent for this plan.
    announced: bool,
    /// `ready` was sent at all.
    served: bool,
    status_due: bool,
    /// When the plan was put in place.
    placed: Instant,
}

/// What a fleet is made of when it starts.
pub(crate) struct FleetParts {
    pub(crate) file: PathBuf,
    pub(crate) valid: ValidFleet,
    pub(crate) placement: Placement,
    pub(crate) plan: FleetPlan,
    pub(crate) members: Members,
    pub(crate) events: mpsc::Sender<LocalEvent>,
    pub(crate) region_reports: mpsc::Sender<RegionReport>,
    pub(crate) lock: StateLock,
}

impl Fleet {
    pub(crate) fn new(parts: FleetParts) -> Self {
        Self {
            file: parts.file,
            valid: parts.valid,
            placement: parts.placement,
            plan: parts.plan,
            members: parts.members,
            events: parts.events,
            region_reports: parts.region_reports,
            _lock: parts.lock,
            regions: BTreeMap::new(),
            written: watch::Sender::new(BTreeSet::new()),
            held: BTreeSet::new(),
            keys_missing: false,
            announced: false,
            served: false,
            status_due: true,
            placed: Instant::now(),
        }
    }

    /// Runs until it is told to end and everything has ended.
    pub(crate) async fn run(mut self, mut inboxes: Inboxes) {
        self.place(self.plan.clone()).await;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                control = inboxes.control.recv() => match control {
                    Some(Control::Shutdown) => return self.on_shutdown(inboxes).await,
                    Some(Control::Kill) | None => return self.on_kill(),
                },
                Some(report) = inboxes.processes.recv() => self.on_process(report).await,
                Some(report) = inboxes.regions.recv() => self.on_region(report).await,
                Some(change) = inboxes.file.recv() => self.on_file(change).await,
                _ = ticks.tick() => self.on_tick().await,
            }
        }
    }

    async fn on_process(&mut self, report: Report) {
        if let Some(status) = self.members.on_report(report) {
            self.tell_process(status);
        }
        self.start_members().await;
        self.members.roll().await;
        self.announce_if_ready();
    }

    async fn on_region(&mut self, report: RegionReport) {
        match report {
            RegionReport::Written(region, streams) => {
                let mut record = self.placement.record.record.clone();
                if let Some(known) = record.regions.get_mut(&region) {
                    known.streams.extend(streams);
                }
                if record != self.placement.record.record
                    && let Err(error) = self.placement.record.replace(record)
                {
                    self.tell_error(&error);
                }
                if let Some(log) = self.regions.get_mut(&region) {
                    log.written.get_or_insert_with(Instant::now);
                    self.written
                        .send_if_modified(|written| written.insert(region));
                }
            }
            RegionReport::Settled(region) => {
                if let Some(log) = self.regions.get_mut(&region) {
                    log.settled = true;
                }
            }
            RegionReport::Healthy(region, asked) => {
                self.members.on_healthy(region, asked);
                self.members.roll().await;
            }
            RegionReport::Problem(message) => {
                self.tell(LocalEvent::Error {
                    field: None,
                    message,
                });
            }
            RegionReport::Corrected(message) => self.tell(LocalEvent::Notice { message }),
        }
        self.start_members().await;
        self.announce_if_ready();
    }

    async fn on_file(&mut self, change: Result<ValidFleet, LocalError>) {
        let planned = change.and_then(|fleet| {
            let refused = self.valid.check_change(&fleet);
            if !refused.is_empty() {
                return Err(LocalError::Fields(self.file.clone(), refused));
            }
            Ok((self.placement.plan(&fleet)?, fleet))
        });
        match planned {
            Ok((plan, fleet)) => {
                self.valid = fleet;
                if plan != self.plan {
                    self.place(plan).await;
                }
            }
            Err(error) => {
                self.tell_error(&error);
                let message = "the file was not applied: the fleet goes on as it was".to_owned();
                self.tell(LocalEvent::Notice { message });
            }
        }
    }

    async fn on_tick(&mut self) {
        self.look_for_keyring();
        let held = held(&self.placement.state_dir, self.regions.keys());
        if held != self.held {
            self.held = held;
        }
        self.start_members().await;
        self.announce_if_ready();
        if std::mem::take(&mut self.status_due) {
            self.write_status(self.state());
        }
    }

    /// Stops relays, then everything else. A second request kills.
    async fn on_shutdown(mut self, mut inboxes: Inboxes) {
        self.write_status(FleetState::Stopping);
        for roles in [&[Role::Relay][..], &[Role::Nats, Role::Hub][..]] {
            if roles.contains(&Role::Nats) {
                self.regions.clear();
            }
            self.members.stop(roles).await;
            while !self.members.stopped(roles) {
                tokio::select! {
                    control = inboxes.control.recv() => {
                        if matches!(control, Some(Control::Kill) | None) {
                            return self.on_kill();
                        }
                    }
                    Some(report) = inboxes.processes.recv() => {
                        if let Some(status) = self.members.on_report(report) {
                            self.tell_process(status);
                        }
                    }
                }
            }
        }
        self.write_status(FleetState::Stopped);
        self.tell(LocalEvent::Stopped);
    }

    /// Dropping the members kills their processes.
    fn on_kill(mut self) {
        self.members.forget_processes();
        self.write_status(FleetState::Stopped);
        self.tell(LocalEvent::Stopped);
    }

    /// Puts a plan in place.
    async fn place(&mut self, plan: FleetPlan) {
        let kept: BTreeSet<RegionName> = plan
            .regions
            .iter()
            .map(|region| region.name.clone())
            .collect();
        for region in self.regions.keys().filter(|name| !kept.contains(*name)) {
            let folder = super::addresses::region_dir(&self.placement.state_dir, region.as_str());
            let message = format!(
                "region {region} is no longer in the file: its processes stop, its data stays in {}",
                folder.display()
            );
            self.tell(LocalEvent::Notice { message });
        }
        self.regions.retain(|name, _| kept.contains(name));
        self.written
            .send_modify(|written| written.retain(|name| kept.contains(name)));
        self.plan = plan;
        self.announced = false;
        self.placed = Instant::now();
        for status in self.members.replan(&self.plan).await {
            self.tell_process(status);
        }
        self.look_after_regions();
        self.start_members().await;
        self.members.roll().await;
        self.status_due = true;
        self.announce_if_ready();
    }

    fn look_after_regions(&mut self) {
        for region in self.plan.regions.clone() {
            if let Some(log) = self.regions.get_mut(&region.name) {
                if log.task.replan(&region) {
                    log.settled = false;
                }
                continue;
            }
            let seed = |credential| self.placement.keys.seed(&region.name, credential);
            let seeds = seed(Credential::Admin).and_then(|admin| {
                Ok(RegionSeeds {
                    admin,
                    system: seed(Credential::System)?,
                })
            });
            let seeds = match seeds {
                Ok(seeds) => seeds,
                Err(error) => {
                    self.tell_error(&error.into());
                    continue;
                }
            };
            let made = &self.placement.record.record.regions;
            let made = made
                .get(&region.name)
                .map(|known| known.streams.clone())
                .unwrap_or_default();
            let name = region.name.clone();
            let task = RegionTask::start(
                region,
                seeds,
                made,
                self.written.subscribe(),
                self.region_reports.clone(),
            );
            self.regions.insert(
                name,
                RegionLog {
                    task,
                    written: None,
                    settled: false,
                },
            );
        }
    }

    async fn start_members(&mut self) {
        let known = &self.placement.record.record.regions;
        let regions = &self.regions;
        let hubs_had_time = self.placed.elapsed() > HUB_PATIENCE;
        let linkable: BTreeSet<RegionName> = regions
            .keys()
            .filter(|region| hubs_had_time || self.members.hubs_ready(region))
            .cloned()
            .collect();
        self.members
            .start(&self.held, |id| match id.role {
                Role::Hub => true,
                // A leaf link that is refused is tried again only after a second.
                Role::Nats => linkable.contains(&id.region),
                Role::Relay => regions.get(&id.region).is_some_and(|log| {
                    let made_before = known
                        .get(&id.region)
                        .is_some_and(|known| !known.streams.is_empty());
                    let waited = log
                        .written
                        .is_some_and(|since| since.elapsed() > MIRROR_PATIENCE);
                    log.settled || waited || (made_before && log.written.is_none())
                }),
            })
            .await;
    }

    /// Keys are data: a keyring that is gone is waited for, never replaced.
    fn look_for_keyring(&mut self) {
        let path = self.placement.keys.keyring_path();
        let missing = !path.exists();
        if missing == std::mem::replace(&mut self.keys_missing, missing) {
            return;
        }
        self.status_due = true;
        let path = path.display();
        self.tell(if missing {
            LocalEvent::Error {
                field: None,
                message: format!("keys-missing: {path} is gone, and the log cannot be read without it; nothing new is generated: put it back, or import your export of it"),
            }
        } else {
            LocalEvent::Notice { message: format!("{path} is back: the fleet goes on") }
        });
    }

    fn announce_if_ready(&mut self) {
        if self.announced || !self.all_ready() {
            return;
        }
        self.announced = true;
        self.served = true;
        self.status_due = true;
        self.tell(LocalEvent::Ready {
            regions: self.relays(),
        });
    }

    fn all_ready(&self) -> bool {
        !self.keys_missing
            && self.members.all_ready()
            && self.regions.values().all(|log| log.settled)
    }

    fn state(&self) -> FleetState {
        if self.keys_missing {
            FleetState::KeysMissing
        } else if self.all_ready() {
            FleetState::Ready
        } else if self.served {
            FleetState::Degraded
        } else {
            FleetState::Starting
        }
    }

    fn relays(&self) -> Vec<RegionRelays> {
        self.plan
            .regions
            .iter()
            .map(|region| RegionRelays {
                name: region.name.clone(),
                relays: region.relay_urls.clone(),
            })
            .collect()
    }

    fn tell_process(&mut self, status: ProcessStatus) {
        self.status_due = true;
        self.tell(LocalEvent::Process(status));
    }

    fn tell_error(&self, error: &LocalError) {
        for event in error.events() {
            self.tell(event);
        }
    }

    /// A caller that does not read its events misses some; the status file has the state.
    fn tell(&self, event: LocalEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("an event was dropped: nobody reads them");
        }
    }

    fn write_status(&self, state: FleetState) {
        let ended = state == FleetState::Stopped;
        let status = FleetStatus {
            state,
            fleet: self.plan.name.clone(),
            fleet_id: self.plan.fleet_id,
            durability: self.plan.durability,
            pid: std::process::id(),
            file: self.file.clone(),
            regions: self.relays(),
            processes: self
                .members
                .statuses()
                .map(|(status, log)| entry(status, log, ended))
                .collect(),
        };
        if let Err(error) = super::status::write(&self.placement.state_dir, &status) {
            tracing::warn!(%error, "status.json not written");
        }
    }
}

fn entry(status: &ProcessStatus, log: PathBuf, ended: bool) -> ProcessEntry {
    let mut status = status.clone();
    if ended {
        status.pid = None;
        status.state = ProcessState::Stopped;
    }
    ProcessEntry {
        started: status.pid.and_then(start_time),
        status,
        log,
    }
}
