//! Decides which pod may be restarted now, and why the rest waits. Pure: it sees pods, the health of NATS and the clock as values.
//!
//! One region at a time, in the order of the spec; the first is the canary and soaks. Inside a region hubs come first, then NATS
//! servers, then relays, one pod at a time, and only when everything around it is well. A broken pod with an old template is
//! replaced at once: it serves nobody, and it is how a change that was taken back heals a halted rollout.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::build::restart_hash;
use crate::crd::{RolloutPhase, RolloutStatus};
use crate::plan::Role;
use crate::validate::ValidRollout;

/// A pod that should exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodView {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The hash that it should have been started with.
    pub wanted: String,
    /// The hash that it was started with; `None` while there is no such pod.
    pub hash: Option<String>,
    /// It is ready and not on its way out.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// Why its container cannot start, if that is plain to see: `ImagePullBackOff`, `CrashLoopBackOff` ...
    pub broken: Option<String>,
}

/// Whether a region's NATS servers can lose one more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NatsHealth {
    /// Every replica of every stream is current, every server answers.
    Well,
    /// Something is behind or missing; the text says what.
    Behind(String),
    /// The operator cannot see it.
    Unseen(String),
}

/// What regions wait for whose pods are all ready and whose log is not whole all the same.
pub(super) fn log_waits(views: &[RegionView]) -> impl Iterator<Item = Wait> {
    let ready = views
        .iter()
        .filter(|view| view.pods.iter().all(|pod| pod.ready));
    ready.filter_map(|view| match &view.nats {
        NatsHealth::Well => None,
        NatsHealth::Behind(reason) => Some(log_not_current(view, reason)),
        NatsHealth::Unseen(reason) => Some(region_unseen(view, reason)),
    })
}

fn log_not_current(region: &RegionView, reason: &str) -> Wait {
    Wait {
        what: "LogNotCurrent",
        where_: region.name.clone(),
        unblocked_by: format!("every replica of the region's streams being current; now {reason}"),
    }
}

fn region_unseen(region: &RegionView, reason: &str) -> Wait {
    Wait {
        what: "RegionUnseen",
        where_: region.name.clone(),
        unblocked_by: format!("the operator reaching the NATS servers of the region; now {reason}"),
    }
}

/// A region with its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegionView {
    /// Its name.
    pub name: String,
    /// Its pods: hubs, NATS servers, relays, each by ordinal.
    pub pods: Vec<PodView>,
    /// State of its log.
    pub nats: NatsHealth,
}

/// What a decision is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation<'a> {
    /// Regions in the order in which they move.
    pub regions: &'a [RegionView],
    /// Soak, deadline, settle.
    pub terms: ValidRollout,
    /// No pod may be restarted now.
    pub paused: bool,
    /// What was decided before.
    pub before: Option<&'a RolloutStatus>,
    /// Now.
    pub now: Timestamp,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wait {
    /// A stable word.
    pub what: &'static str,
    /// Region or object.
    pub where_: String,
    /// What ends it.
    pub unblocked_by: String,
}

/// What may happen now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decision {
    /// The pod to restart, if one may be.
    pub restart: Option<String>,
    /// Regions whose pods may get the new template; others keep the old one, also when a pod dies by itself.
    pub released: Vec<String>,
    /// How far the rollout is. `None` if there never was one.
    pub status: Option<RolloutStatus>,
    /// What it waits for.
    pub wait: Option<Wait>,
    /// When to look again although nothing changes.
    pub again_in: Option<Duration>,
}

impl PodView {
    fn outdated(&self) -> bool {
        self.hash.as_ref().is_some_and(|hash| *hash != self.wanted)
    }

    fn done(&self) -> bool {
        self.ready && !self.terminating && self.hash.as_ref() == Some(&self.wanted)
    }
}

impl RegionView {
    fn outdated(&self) -> bool {
        self.pods.iter().any(PodView::outdated)
    }

    fn has_lost_a_pod(&self) -> bool {
        self.pods.iter().any(|pod| !pod.done())
    }

    /// Its pods are through and its log is well.
    fn done(&self) -> bool {
        !self.has_lost_a_pod() && self.nats == NatsHealth::Well
    }
}

/// A pod that was asked to go is asked again only after this.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Decides.
pub(super) fn decide(situation: &Situation<'_>) -> Decision {
    let regions = situation.regions;
    let pods = || regions.iter().flat_map(|region| &region.pods);
    let total = pods().count();
    let outdated = pods().filter(|pod| pod.outdated()).count();
    let revision = revision(regions);
    let same = situation
        .before
        .filter(|before| before.revision == revision);
    let all = || regions.iter().map(|region| region.name.clone()).collect();
    let under_way = same.is_some_and(|before| before.phase != RolloutPhase::Done);
    if outdated == 0 && !under_way {
        // Nothing to move. A first start, and pods that came back by themselves, are no rollouts.
        let mut status = same.cloned();
        if status.is_none() {
            status = situation.before.cloned().map(|before| RolloutStatus {
                revision,
                phase: RolloutPhase::Done,
                message: "every pod runs what was asked for".to_owned(),
                pod: None,
                region: None,
                updated: count(total),
                total: count(total),
                ..before
            });
        }
        return Decision {
            restart: None,
            released: all(),
            status,
            wait: None,
            again_in: None,
        };
    }
    let mut status = same.cloned().unwrap_or_else(|| RolloutStatus {
        revision,
        phase: RolloutPhase::Moving,
        region: None,
        pod: None,
        updated: 0,
        total: 0,
        started_at: Time(situation.now),
        // A change that passes the canary by has nothing to soak there.
        canary_done_at: regions
            .first()
            .filter(|canary| !canary.outdated())
            .and_then(|_| situation.now.checked_sub(situation.terms.soak).ok())
            .map(Time),
        moved_at: None,
        settled_at: None,
        message: String::new(),
    });
    status.total = count(total);
    status.updated = count(total - outdated);
    Mover {
        situation,
        status,
        released: Vec::new(),
    }
    .walk()
}

/// Whether a pod that is not ready may be replaced at once. A NATS server that only fails its probes may still be part of a majority, so
/// it goes only if it cannot run at all, or if all others are there.
fn alone(region: &RegionView, pod: &PodView) -> bool {
    pod.role != Role::Nats
        || pod.broken.is_some()
        || region
            .pods
            .iter()
            .filter(|other| other.role == Role::Nats && other.name != pod.name)
            .all(|other| other.ready && !other.terminating)
}

/// One hash for what all pods are to become.
fn revision(regions: &[RegionView]) -> String {
    let hashes: Vec<&str> = regions
        .iter()
        .flat_map(|region| &region.pods)
        .map(|pod| pod.wanted.as_str())
        .collect();
    restart_hash("fleet", &hashes)
}

struct Mover<'a> {
    situation: &'a Situation<'a>,
    status: RolloutStatus,
    released: Vec<String>,
}

impl<'a> Mover<'a> {
    fn walk(mut self) -> Decision {
        let regions = self.situation.regions;
        self.watch_canary();
        for (index, region) in regions.iter().enumerate() {
            if region.done() {
                self.released.push(region.name.clone());
                continue;
            }
            let Some(earlier) = index.checked_sub(1) else {
                self.released.push(region.name.clone());
                return self.inside(region);
            };
            // A region without outdated pods is not held back by anything but itself.
            if !region.outdated() {
                self.released.push(region.name.clone());
                return self.inside(region);
            }
            if let Some(left) = self.soak_left() {
                return self.soak(&regions[0], &regions[earlier], left);
            }
            self.released.push(region.name.clone());
            return self.inside(region);
        }
        self.status.phase = RolloutPhase::Done;
        self.status.region = None;
        self.status.pod = None;
        self.finish("every pod runs what was asked for".to_owned(), None, None)
    }

    /// A canary that loses a pod while it is watched has not run well: its time begins anew when it is whole again.
    ///
    /// What is behind or not seen for a moment holds the rollout, and is no failure of the change.
    fn watch_canary(&mut self) {
        let failed = self
            .situation
            .regions
            .first()
            .is_some_and(RegionView::has_lost_a_pod);
        let (now, soak) = (self.situation.now, self.situation.terms.soak);
        let watched = self
            .status
            .canary_done_at
            .as_ref()
            .is_some_and(|Time(done)| {
                // A change that passes the canary by was given its time before the rollout began.
                *done >= self.status.started_at.0 && now.duration_since(*done).unsigned_abs() < soak
            });
        if failed && watched {
            self.status.canary_done_at = None;
        }
    }

    /// How long the canary still has to run before the next region may begin.
    fn soak_left(&mut self) -> Option<Duration> {
        let now = self.situation.now;
        let since = self.status.canary_done_at.get_or_insert(Time(now)).0;
        let soaked = now.duration_since(since).unsigned_abs();
        self.situation
            .terms
            .soak
            .checked_sub(soaked)
            .filter(|left| !left.is_zero())
    }

    fn soak(mut self, canary: &RegionView, last: &RegionView, left: Duration) -> Decision {
        if self.situation.paused {
            return self.pause(&last.name);
        }
        self.status.phase = RolloutPhase::Soaking;
        self.status.region = Some(canary.name.clone());
        self.status.pod = None;
        let wait = Wait {
            what: "Soak",
            where_: canary.name.clone(),
            unblocked_by: format!(
                "region {} running well for spec.rollout.soak; nothing to do",
                canary.name
            ),
        };
        let message = format!("region {} has the change and is watched", canary.name);
        self.finish(message, Some(wait), Some(left))
    }

    fn pause(mut self, region: &str) -> Decision {
        self.status.phase = RolloutPhase::Paused;
        self.status.region = Some(region.to_owned());
        let wait = Wait {
            what: "RolloutPaused",
            where_: region.to_owned(),
            unblocked_by:
                "nightjar rollout resume (removes the annotation nightjar.dev/rollout-paused)"
                    .to_owned(),
        };
        self.finish("paused by annotation".to_owned(), Some(wait), None)
    }

    /// The next step inside the region whose turn it is.
    fn inside(mut self, region: &'a RegionView) -> Decision {
        self.status.region = Some(region.name.clone());
        if self.situation.paused && region.outdated() {
            return self.pause(&region.name);
        }
        if let Some(pod) = region
            .pods
            .iter()
            .find(|pod| pod.outdated() && !pod.ready && !pod.terminating && alone(region, pod))
        {
            return self.restart(pod);
        }
        if let Some(pod) = region.pods.iter().find(|pod| !pod.ready || pod.terminating) {
            return self.wait_for(pod);
        }
        let next = region.pods.iter().find(|pod| pod.outdated());
        let moves_nats = next.is_none_or(|pod| pod.role != Role::Relay);
        match &region.nats {
            NatsHealth::Behind(reason) if moves_nats => return self.log_behind(region, reason),
            NatsHealth::Unseen(reason) if moves_nats => return self.log_unseen(region, reason),
            _ => {}
        }
        let Some(pod) = next else {
            return self.finish("the last pods become ready".to_owned(), None, None);
        };
        if let Some(left) = self.settle_left(pod) {
            let message = format!("region {} settles before {} moves", region.name, pod.name);
            self.status.phase = RolloutPhase::Moving;
            return self.finish(message, None, Some(left));
        }
        self.restart(pod)
    }

    /// NATS servers get a pause after each other: replicas that just became current still fill their caches.
    fn settle_left(&mut self, pod: &PodView) -> Option<Duration> {
        let moved = self.status.moved_at.as_ref()?.0;
        let now = self.situation.now;
        let settled = match &self.status.settled_at {
            Some(Time(settled)) if *settled >= moved => *settled,
            _ => {
                self.status.settled_at = Some(Time(now));
                now
            }
        };
        if pod.role == Role::Relay {
            return None;
        }
        let waited = now.duration_since(settled).unsigned_abs();
        self.situation
            .terms
            .settle
            .checked_sub(waited)
            .filter(|left| !left.is_zero())
    }

    fn restart(mut self, pod: &PodView) -> Decision {
        let now = self.situation.now;
        let asked = self
            .status
            .moved_at
            .as_ref()
            .map(|Time(moved)| now.duration_since(*moved).unsigned_abs());
        if self.status.pod.as_ref() == Some(&pod.name)
            && let Some(left) = asked
                .and_then(|asked| ASK_AGAIN.checked_sub(asked))
                .filter(|left| !left.is_zero())
        {
            let message = format!("{} was asked to go", pod.name);
            return self.finish(message, None, Some(left));
        }
        self.status.phase = RolloutPhase::Moving;
        self.status.pod = Some(pod.name.clone());
        self.status.moved_at = Some(Time(self.situation.now));
        self.status.settled_at = None;
        let name = pod.name.clone();
        let mut decision = self.finish(format!("{name} is restarted"), None, None);
        decision.restart = Some(name);
        decision
    }

    fn wait_for(mut self, pod: &PodView) -> Decision {
        let waited = self
            .status
            .moved_at
            .as_ref()
            .map(|Time(moved)| self.situation.now.duration_since(*moved).unsigned_abs());
        let deadline = self.situation.terms.pod_deadline;
        let late = waited.is_some_and(|waited| waited >= deadline);
        let halted = late || pod.broken.is_some();
        self.status.phase = if halted {
            RolloutPhase::Halted
        } else {
            RolloutPhase::Moving
        };
        self.status.pod = Some(pod.name.clone());
        let why = match &pod.broken {
            Some(reason) => format!("{} does not become ready: {reason}", pod.name),
            None if late => format!("{} did not become ready in time", pod.name),
            None => format!("{} becomes ready", pod.name),
        };
        let wait = Wait {
            what: if halted {
                "RolloutHalted"
            } else {
                "PodNotReady"
            },
            where_: format!("pod/{}", pod.name),
            unblocked_by: if halted {
                format!(
                    "{why}: mend its cause, or take the change back; the rollout goes on by itself"
                )
            } else {
                format!(
                    "{} becoming ready; see kubectl describe pod {}",
                    pod.name, pod.name
                )
            },
        };
        let again = waited.and_then(|waited| deadline.checked_sub(waited));
        self.finish(why, Some(wait), again.filter(|left| !left.is_zero()))
    }

    fn log_behind(mut self, region: &RegionView, reason: &str) -> Decision {
        self.status.phase = RolloutPhase::Moving;
        let wait = log_not_current(region, reason);
        self.finish(
            format!("waiting for the log of region {}: {reason}", region.name),
            Some(wait),
            None,
        )
    }

    fn log_unseen(mut self, region: &RegionView, reason: &str) -> Decision {
        self.status.phase = RolloutPhase::Moving;
        let wait = region_unseen(region, reason);
        self.finish(
            format!("region {} cannot be seen: {reason}", region.name),
            Some(wait),
            None,
        )
    }

    fn finish(
        mut self,
        message: String,
        wait: Option<Wait>,
        again_in: Option<Duration>,
    ) -> Decision {
        self.status.message = message;
        Decision {
            restart: None,
            released: self.released,
            status: Some(self.status),
            wait,
            again_in,
        }
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
