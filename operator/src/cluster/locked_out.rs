//! The way back into a region whose servers refuse the operator. Pure.
//!
//! Somebody removed the Secret with the operator's own users. New ones are made and are in the configurations, but a server loads its
//! configuration when the operator asks, and it refuses to be asked. One server of each cluster that was started with the new users is
//! enough: through it the others are seen and told to load theirs. So one pod is restarted, judged by the readiness of all others, as
//! nothing else can be seen.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tokio::time::Instant;

use super::names::OPERATOR_USERS;
use super::region_watch::RegionHealth;
use super::rollout::{Decision, PodView, RegionView, Wait};
use crate::crd::RolloutPhase;
use crate::plan::Role;

/// Servers must have been ready without a change for so long: what they copy from each other after a start cannot be seen here.
const CALM: Duration = Duration::from_secs(60);

/// A region as far as it can be known without its servers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Locked<'a> {
    /// Its pods.
    pub view: &'a RegionView,
    /// The last look at it.
    pub seen: &'a RegionHealth,
    /// Since when the servers run that are ready now.
    pub servers_since: Option<Instant>,
    /// What the annotation of a pod says that knows the operator's users of today.
    pub users: &'a str,
    /// All pods.
    pub pods: &'a BTreeMap<String, Pod>,
    /// No pod may be restarted now.
    pub paused: bool,
    /// Now.
    pub now: Instant,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// This pod may be restarted.
    Restart(String),
    /// Not yet, or not by the operator; the text says what for.
    Wait(String),
}

impl<'a> Locked<'a> {
    /// The step towards the region; `None` if its servers do not refuse the operator.
    pub(super) fn step(&self) -> Option<Step> {
        let refused = self.seen.refused?;
        let Some(pod) = self.older_users(refused) else {
            let text = "the servers taking the operator's users: they were started with those of today, so see the logs of their pods";
            return Some(Step::Wait(text.to_owned()));
        };
        if self.paused {
            let text = "nightjar rollout resume; then one server is restarted, so that it takes the operator's new users";
            return Some(Step::Wait(text.to_owned()));
        }
        if let Some(missing) = self.servers().find(|pod| !pod.ready || pod.terminating) {
            return Some(Step::Wait(format!(
                "{} becoming ready; then {} is restarted, so that it takes the operator's new users",
                missing.name, pod.name
            )));
        }
        if !self.is_calm() {
            return Some(Step::Wait(format!(
                "every server being ready for {} s; then {} is restarted, so that it takes the operator's new users",
                CALM.as_secs(),
                pod.name
            )));
        }
        Some(Step::Restart(pod.name.clone()))
    }

    fn servers(&self) -> impl Iterator<Item = &'a PodView> {
        let pods = self.view.pods.iter();
        pods.filter(|pod| pod.role != Role::Relay)
    }

    /// The first pod of the cluster that refuses which was not started with the users of today.
    fn older_users(&self, refused: Role) -> Option<&'a PodView> {
        let users = |pod: &PodView| {
            let live = self.pods.get(&pod.name)?;
            live.annotations().get(OPERATOR_USERS).map(String::as_str)
        };
        self.servers()
            .find(|pod| pod.role == refused && users(pod) != Some(self.users))
    }

    /// The refusal is of the servers that run now, and they have run for a while.
    fn is_calm(&self) -> bool {
        self.servers_since
            .is_some_and(|since| self.seen.began > since && self.now.duration_since(since) >= CALM)
    }
}

/// Takes the step into what was decided, unless something else moves: one pod at a time.
pub(super) fn take(step: Step, region: &str, decision: &mut Decision, now: Timestamp) -> Wait {
    let wait = |unblocked_by| Wait {
        what: "LoginRefused",
        where_: region.to_owned(),
        unblocked_by,
    };
    match step {
        Step::Wait(text) => wait(text),
        Step::Restart(pod) if decision.restart.is_some() => wait(format!(
            "another pod that is restarted first; then {pod}, so that it takes the operator's new users"
        )),
        Step::Restart(pod) => {
            let rollout = decision.status.as_mut();
            if let Some(rollout) = rollout.filter(|rollout| rollout.phase != RolloutPhase::Done) {
                // The pod has as long to come back as any that the rollout moves.
                rollout.pod = Some(pod.clone());
                rollout.moved_at = Some(Time(now));
                rollout.settled_at = None;
            }
            let text =
                format!("{pod} starting with the operator's new users; the others then load them");
            decision.restart = Some(pod);
            wait(text)
        }
    }
}

#[cfg(test)]
#[path = "locked_out_tests.rs"]
mod tests;
