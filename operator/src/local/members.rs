//! The processes of a running fleet: which should run, which may start, which must restart next. Decides; starts through the supervisors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nightjar_envelope::RegionName;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::addresses::process_dir;
use super::event::{ProcessState, ProcessStatus};
use super::spawner::{Program, Spawner};
use super::supervisor::{Order, Report, Supervisor};
use crate::plan::{FleetPlan, Port, ProcessId, ProcessPlan, RegionPlan, Role};

/// A relay drains its clients; with the NATS servers after it, everything ends within 10 s.
const RELAY_GRACE: Duration = Duration::from_millis(7_500);
/// A NATS server only writes what it holds.
const NATS_GRACE: Duration = Duration::from_millis(1_800);

/// Health that was found earlier than this after a restart may be that of before.
const SETTLE: Duration = Duration::from_secs(2);

/// Executables of the fleet.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) nats_server: PathBuf,
    pub(crate) relay: PathBuf,
}

/// One process of the fleet.
#[derive(Debug)]
struct Member {
    plan: ProcessPlan,
    status: ProcessStatus,
    supervisor: Option<Supervisor>,
    stopping: bool,
    /// No longer in the plan: forgotten once it has stopped.
    leaving: bool,
    /// Must restart for its new plan, when its turn comes.
    restart_due: bool,
    /// When it was last restarted for a new plan.
    restarted: Option<Instant>,
}

/// All processes of the fleet.
#[derive(Debug)]
pub(crate) struct Members {
    state_dir: PathBuf,
    programs: Programs,
    spawner: Spawner,
    reports: mpsc::Sender<Report>,
    members: BTreeMap<ProcessId, Member>,
    /// When all JetStream servers of a region were last found well.
    healthy: BTreeMap<RegionName, Instant>,
}

impl Members {
    pub(crate) fn new(
        state_dir: &Path,
        programs: Programs,
        spawner: Spawner,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            programs,
            spawner,
            reports,
            members: BTreeMap::new(),
            healthy: BTreeMap::new(),
        }
    }

    /// Takes over a plan: new processes wait for [`Self::start`], those that are gone stop, changed ones reload or wait for
    /// their turn to restart. Answers the statuses that are new.
    pub(crate) async fn replan(&mut self, plan: &FleetPlan) -> Vec<ProcessStatus> {
        let mut fresh = Vec::new();
        let mut wanted = BTreeSet::new();
        for region in &plan.regions {
            for process in region.processes() {
                wanted.insert(process.id.clone());
                match self.members.get_mut(&process.id) {
                    Some(member) => member.replan(process).await,
                    None => {
                        let status = status(region, process);
                        fresh.push(status.clone());
                        self.members
                            .insert(process.id.clone(), Member::new(process, status));
                    }
                }
            }
        }
        for (id, member) in &mut self.members {
            if !wanted.contains(id) {
                member.leaving = true;
                member.stop().await;
            }
        }
        let gone = |member: &Member| member.leaving && member.supervisor.is_none();
        self.members.retain(|_, member| !gone(member));
        fresh
    }

    /// Starts every process that does not run and may; stops those of held regions.
    pub(crate) async fn start(
        &mut self,
        held: &BTreeSet<RegionName>,
        may_start: impl Fn(&ProcessId) -> bool,
    ) {
        for (id, member) in &mut self.members {
            if held.contains(&id.region) {
                member.stop().await;
            } else if member.supervisor.is_none() && !member.leaving && may_start(id) {
                let program = program(&self.state_dir, &self.programs, &member.plan);
                member.stopping = false;
                member.restart_due = false;
                member.supervisor = Some(Supervisor::start(
                    member.plan.clone(),
                    program,
                    self.spawner.clone(),
                    self.reports.clone(),
                ));
            }
        }
    }

    /// All JetStream servers of a region were well when they were asked at that time.
    pub(crate) fn on_healthy(&mut self, region: RegionName, asked: Instant) {
        self.healthy.insert(region, asked);
    }

    /// Restarts what is due, one process of a role and region at a time, and only while its fellows serve: of JetStream servers,
    /// only once the last one to restart has caught up, so that the majority is never broken.
    pub(crate) async fn roll(&mut self) {
        let mut busy: BTreeSet<(RegionName, Role)> = BTreeSet::new();
        for (id, member) in &self.members {
            let serves = member.status.state == ProcessState::Ready;
            let caught_up = id.role != Role::Nats
                || member.restarted.is_none_or(|restarted| {
                    self.healthy
                        .get(&id.region)
                        .is_some_and(|asked| *asked > restarted + SETTLE)
                });
            let may_lose_another = serves && caught_up;
            if !member.restart_due && !may_lose_another {
                busy.insert((id.region.clone(), id.role));
            }
        }
        // One that does not serve loses nothing by a restart, so it goes first.
        let mut due: Vec<&mut Member> = self
            .members
            .values_mut()
            .filter(|member| member.restart_due)
            .collect();
        due.sort_by_key(|member| member.status.state == ProcessState::Ready);
        for member in due {
            let group = (member.plan.id.region.clone(), member.plan.id.role);
            if busy.insert(group) {
                member.restart().await;
            }
        }
    }

    /// Takes in a report; answers the changed status, if it is one of ours.
    pub(crate) fn on_report(&mut self, report: Report) -> Option<ProcessStatus> {
        let member = self.members.get_mut(&report.id)?;
        member.status.pid = report.pid;
        member.status.state = report.state;
        member.status.reason = report.reason;
        member.status.restarts = report.restarts;
        let status = member.status.clone();
        if report.state == ProcessState::Stopped {
            member.supervisor = None;
            member.stopping = false;
            if member.leaving {
                self.members.remove(&report.id);
            }
        }
        Some(status)
    }

    /// Asks every process of the roles to stop.
    pub(crate) async fn stop(&mut self, roles: &[Role]) {
        for (id, member) in &mut self.members {
            if roles.contains(&id.role) {
                member.stop().await;
            }
        }
    }

    /// Kills every process at once, by letting go of it.
    pub(crate) fn forget_processes(&mut self) {
        for member in self.members.values_mut() {
            member.supervisor = None;
        }
    }

    /// True when every hub of a region serves.
    pub(crate) fn hubs_ready(&self, region: &RegionName) -> bool {
        self.members
            .iter()
            .filter(|(id, _)| id.role == Role::Hub && id.region == *region)
            .all(|(_, member)| member.status.state == ProcessState::Ready)
    }

    /// True when no process of the roles runs.
    pub(crate) fn stopped(&self, roles: &[Role]) -> bool {
        self.members
            .iter()
            .all(|(id, member)| !roles.contains(&id.role) || member.supervisor.is_none())
    }

    /// True when every process of the plan serves and none has to restart or leave.
    pub(crate) fn all_ready(&self) -> bool {
        self.members.values().all(|member| {
            member.status.state == ProcessState::Ready
                && !member.restart_due
                && !member.leaving
                && !member.stopping
        })
    }

    /// Where every process stands, with its log file.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = (&ProcessStatus, PathBuf)> {
        self.members
            .iter()
            .map(|(id, member)| (&member.status, log_file(&self.state_dir, id)))
    }
}

impl Member {
    fn new(plan: &ProcessPlan, status: ProcessStatus) -> Self {
        Self {
            plan: plan.clone(),
            status,
            supervisor: None,
            stopping: false,
            leaving: false,
            restart_due: false,
            restarted: None,
        }
    }

    async fn replan(&mut self, plan: &ProcessPlan) {
        self.leaving = false;
        if self.plan.restart_hash != plan.restart_hash {
            self.restart_due = self.supervisor.is_some();
        } else if self.plan.reload_hash != plan.reload_hash
            && !self.restart_due
            && let Some(supervisor) = &self.supervisor
        {
            supervisor
                .order(Order::Reload(Box::new(plan.clone())))
                .await;
        }
        self.plan = plan.clone();
    }

    async fn restart(&mut self) {
        self.restart_due = false;
        if let Some(supervisor) = &self.supervisor {
            // Until it reports, it must not count as serving: its fellows would restart at the same time.
            self.status.state = ProcessState::Starting;
            self.restarted = Some(Instant::now());
            supervisor
                .order(Order::Restart(Box::new(self.plan.clone())))
                .await;
        }
    }

    async fn stop(&mut self) {
        if let Some(supervisor) = &self.supervisor
            && !self.stopping
        {
            self.stopping = true;
            let grace = match self.plan.id.role {
                Role::Relay => RELAY_GRACE,
                Role::Nats | Role::Hub => NATS_GRACE,
            };
            supervisor.order(Order::Stop(grace)).await;
        }
    }
}

fn status(region: &RegionPlan, process: &ProcessPlan) -> ProcessStatus {
    let ordinal = usize::try_from(process.id.ordinal).unwrap_or(usize::MAX);
    let address = match process.id.role {
        Role::Relay => region.relay_urls.get(ordinal).cloned(),
        Role::Nats | Role::Hub => process
            .listener(Port::Client)
            .map(|listener| listener.connect.to_string()),
    };
    ProcessStatus {
        region: region.name.clone(),
        name: process.name(),
        role: process.id.role,
        pid: None,
        state: ProcessState::Starting,
        address: address.unwrap_or_default(),
        reason: None,
        restarts: 0,
    }
}

fn program(state_dir: &Path, programs: &Programs, plan: &ProcessPlan) -> Program {
    let path = match plan.id.role {
        Role::Nats | Role::Hub => &programs.nats_server,
        Role::Relay => &programs.relay,
    };
    Program {
        path: path.clone(),
        arguments: vec!["--config".into(), plan.config.clone().into()],
        folder: process_dir(state_dir, &plan.id),
        log: log_file(state_dir, &plan.id),
        state_dir: state_dir.to_owned(),
    }
}

/// `DIR/regions/<region>/<process>/<process>.log`.
pub(crate) fn log_file(state_dir: &Path, id: &ProcessId) -> PathBuf {
    process_dir(state_dir, id).join(format!("{id}.log"))
}
