//! From what was seen and decided to `status`. Pure: times come in, and what did not change keeps its time.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::error::ClusterError;
use super::health::Durable;
use super::rollout::Wait;
use crate::crd::{
    ConditionType, Images, RegionState, RegionStatus, RelayCluster, RelayClusterStatus,
    RolloutPhase, RolloutStatus, StatusSummary, WaitingFor,
};

/// What a region amounts to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RegionFacts {
    pub(super) status: RegionStatus,
    pub(super) durable: Durable,
}

/// Everything that a status is made of.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) generation: Option<i64>,
    pub(super) before: Option<&'a RelayClusterStatus>,
    pub(super) now: Timestamp,
    /// Why the pass ended early.
    pub(super) error: Option<&'a ClusterError>,
    pub(super) paused: bool,
    pub(super) regions: Vec<RegionFacts>,
    pub(super) waits: Vec<Wait>,
    pub(super) rollout: Option<RolloutStatus>,
    pub(super) images: Option<Images>,
    /// Images that the operator brings, where the fleet did not name its own.
    pub(super) newer: Option<String>,
    pub(super) fleet_id: Option<String>,
    pub(super) key_epoch: Option<i64>,
}

impl<'a> Facts<'a> {
    /// Of a fleet of which nothing was looked at.
    pub(super) fn unseen(cluster: &'a RelayCluster, now: Timestamp) -> Self {
        Self {
            generation: cluster.metadata.generation,
            before: cluster.status.as_ref(),
            now,
            error: None,
            paused: false,
            regions: Vec::new(),
            waits: Vec::new(),
            rollout: None,
            images: None,
            newer: None,
            fleet_id: None,
            key_epoch: None,
        }
    }
}

type Verdict = (&'static str, &'static str, String);

/// The status; what the facts leave open stays as it was.
pub(super) fn status(facts: Facts<'_>) -> RelayClusterStatus {
    let empty = RelayClusterStatus::default();
    let before = facts.before.unwrap_or(&empty);
    let mut waits = facts.waits.clone();
    if let Some(error) = facts.error {
        waits.insert(0, wait_of(error));
    }
    let regions: Vec<RegionStatus> = if facts.error.is_some() && facts.regions.is_empty() {
        before.regions.clone()
    } else {
        facts
            .regions
            .iter()
            .map(|region| region.status.clone())
            .collect()
    };
    let waiting_for = waiting_for(&waits, before, facts.now);
    let verdicts = [
        (ConditionType::Ready, ready(&facts, &regions, &waits)),
        (ConditionType::Progressing, progressing(&facts, &waits)),
        (ConditionType::Degraded, degraded(&facts, &regions, &waits)),
        (ConditionType::Durable, durable(&facts)),
        (ConditionType::Paused, paused(&facts)),
        (ConditionType::UpgradeAvailable, upgrade(&facts)),
    ];
    let conditions = verdicts
        .into_iter()
        .map(|(of, verdict)| condition(of, verdict, before, facts.generation, facts.now))
        .collect();
    RelayClusterStatus {
        observed_generation: facts.generation,
        conditions,
        summary: summary(&regions, &waiting_for),
        waiting_for,
        regions,
        images: facts.images.or_else(|| before.images.clone()),
        fleet_id: facts.fleet_id.or_else(|| before.fleet_id.clone()),
        key_epoch: facts.key_epoch.or(before.key_epoch),
        rollout: facts.rollout.or_else(|| before.rollout.clone()),
    }
}

fn wait_of(error: &ClusterError) -> Wait {
    Wait {
        what: error.reason(),
        where_: match error {
            ClusterError::Api { kind, name, .. } if name.is_empty() => kind.clone(),
            ClusterError::Api { kind, name, .. } => format!("{kind}/{name}"),
            ClusterError::Damaged { object, .. }
            | ClusterError::Foreign { object }
            | ClusterError::BeingRemoved { object } => object.clone(),
            ClusterError::Invalid(errors) => errors
                .first()
                .map(|error| error.field.clone())
                .unwrap_or_default(),
            ClusterError::Outdated | ClusterError::Pki(_) | ClusterError::Plan(_) => {
                "fleet".to_owned()
            }
        },
        unblocked_by: format!("{}; {error}", error.remedy()),
    }
}

fn waiting_for(waits: &[Wait], before: &RelayClusterStatus, now: Timestamp) -> Vec<WaitingFor> {
    let mut entries: Vec<WaitingFor> = Vec::new();
    for wait in waits {
        let known = |entry: &&WaitingFor| entry.what == wait.what && entry.where_ == wait.where_;
        if entries.iter().any(|entry| known(&entry)) {
            continue;
        }
        let since = before.waiting_for.iter().find(known);
        entries.push(WaitingFor {
            what: wait.what.to_owned(),
            where_: wait.where_.clone(),
            since: since.map_or(Time(whole(now)), |entry| entry.since.clone()),
            unblocked_by: wait.unblocked_by.clone(),
        });
    }
    entries
}

/// Kubernetes keeps whole seconds; finer ones would differ from what is read back.
fn whole(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn condition(
    of: ConditionType,
    (status, reason, message): Verdict,
    before: &RelayClusterStatus,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let last = before
        .condition(of)
        .filter(|old| old.status == status)
        // The CRD's default, from before anybody had looked.
        .filter(|old| old.last_transition_time.0 > Timestamp::UNIX_EPOCH)
        .map_or(Time(whole(now)), |old| old.last_transition_time.clone());
    Condition {
        type_: of.name().to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: last,
        observed_generation: generation,
    }
}

fn serves(region: &RegionStatus) -> bool {
    matches!(
        region.state,
        RegionState::Ready | RegionState::Degraded | RegionState::RollingOut
    ) && region.relays_ready > 0
}

fn first(waits: &[Wait]) -> String {
    waits.first().map_or_else(String::new, |wait| {
        format!(
            "waiting for {} ({}): {}",
            wait.what, wait.where_, wait.unblocked_by
        )
    })
}

fn ready(facts: &Facts<'_>, regions: &[RegionStatus], waits: &[Wait]) -> Verdict {
    let wanted: Vec<&RegionStatus> = regions
        .iter()
        .filter(|region| region.state != RegionState::Leaving)
        .collect();
    if wanted.is_empty() {
        let reason = facts.error.map_or("Starting", ClusterError::reason);
        return ("False", reason, first(waits));
    }
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|region| !serves(region))
        .map(|region| region.name.as_str())
        .collect();
    if missing.is_empty() {
        return ("True", "Serving", format!("{} regions serve", wanted.len()));
    }
    let unknown = wanted
        .iter()
        .filter(|region| !serves(region))
        .all(|region| region.state == RegionState::Unknown);
    let message = format!(
        "regions that do not serve: {}; {}",
        missing.join(", "),
        first(waits)
    );
    if unknown {
        ("Unknown", "RegionUnseen", message)
    } else if wanted
        .iter()
        .any(|region| region.state == RegionState::Down)
    {
        ("False", "RegionDown", message)
    } else {
        ("False", "Starting", message)
    }
}

fn progressing(facts: &Facts<'_>, waits: &[Wait]) -> Verdict {
    let phase = facts.rollout.as_ref().map(|rollout| rollout.phase);
    let message = facts
        .rollout
        .as_ref()
        .map(|rollout| rollout.message.clone())
        .unwrap_or_default();
    match phase {
        Some(RolloutPhase::Moving) => ("True", "RollingOut", message),
        Some(RolloutPhase::Soaking) => ("True", "Soaking", message),
        Some(RolloutPhase::Halted) => ("False", "RolloutHalted", message),
        Some(RolloutPhase::Paused) => ("False", "RolloutPaused", message),
        Some(RolloutPhase::Done) | None if facts.error.is_some() => (
            "False",
            facts.error.map_or("Failed", ClusterError::reason),
            first(waits),
        ),
        Some(RolloutPhase::Done) | None if waits.is_empty() => {
            ("False", "AsAsked", "everything is as asked".to_owned())
        }
        Some(RolloutPhase::Done) | None => ("True", "Waiting", first(waits)),
    }
}

fn degraded(facts: &Facts<'_>, regions: &[RegionStatus], waits: &[Wait]) -> Verdict {
    if let Some(error) = facts.error {
        return ("True", error.reason(), error.to_string());
    }
    let halted = facts
        .rollout
        .as_ref()
        .filter(|rollout| rollout.phase == RolloutPhase::Halted);
    if let Some(rollout) = halted {
        return ("True", "RolloutHalted", rollout.message.clone());
    }
    if let Some(wait) = waits.iter().find(|wait| is_fault(wait.what)) {
        return (
            "True",
            wait.what,
            format!("{} waits for {}", wait.where_, wait.unblocked_by),
        );
    }
    let bad: Vec<&str> = regions
        .iter()
        .filter(|region| {
            matches!(
                region.state,
                RegionState::Degraded | RegionState::Down | RegionState::Unknown
            )
        })
        .map(|region| region.name.as_str())
        .collect();
    if bad.is_empty() {
        ("False", "AsAsked", "nothing is missing".to_owned())
    } else {
        (
            "True",
            "RegionDegraded",
            format!(
                "regions with something missing: {}; {}",
                bad.join(", "),
                first(waits)
            ),
        )
    }
}

/// Waits that a person has to end.
fn is_fault(what: &str) -> bool {
    matches!(
        what,
        "KeysMissing"
            | "MirrorStale"
            | "StreamProblem"
            | "ReloadFailed"
            | "VolumePending"
            | "VolumeCannotGrow"
            | "PodUnschedulable"
            | "TlsSecretMissing"
            | "TlsSecretUnusable"
    )
}

fn durable(facts: &Facts<'_>) -> Verdict {
    if facts.regions.is_empty() {
        return ("Unknown", "NotSeen", "no region was seen yet".to_owned());
    }
    let mut verdict = (
        "True",
        "Replicated",
        "every acknowledged message is on the disks of a majority of its region's servers"
            .to_owned(),
    );
    for region in &facts.regions {
        match &region.durable {
            Durable::Yes => {}
            Durable::No(reason) => return ("False", "QuorumLost", reason.clone()),
            Durable::Development => {
                verdict = (
                    "False",
                    "Development",
                    format!(
                        "region {} has one NATS server: messages survive a crash, not the loss of power or disk",
                        region.status.name
                    ),
                );
            }
            Durable::Unknown(reason) if verdict.0 == "True" => {
                verdict = ("Unknown", "NotSeen", reason.clone());
            }
            Durable::Unknown(_) => {}
        }
    }
    verdict
}

fn paused(facts: &Facts<'_>) -> Verdict {
    if facts.paused {
        (
            "True",
            "Annotated",
            "the operator leaves the fleet alone until the annotation nightjar.dev/paused is removed".to_owned(),
        )
    } else {
        (
            "False",
            "Active",
            "the operator looks after the fleet".to_owned(),
        )
    }
}

fn upgrade(facts: &Facts<'_>) -> Verdict {
    match &facts.newer {
        Some(newer) => (
            "True",
            "NewerImages",
            format!("the operator brings {newer}; name it in spec.images to roll it out"),
        ),
        None => (
            "False",
            "UpToDate",
            "the fleet runs what it was asked to run".to_owned(),
        ),
    }
}

fn summary(regions: &[RegionStatus], waiting_for: &[WaitingFor]) -> StatusSummary {
    let wanted = || {
        regions
            .iter()
            .filter(|region| region.state != RegionState::Leaving)
    };
    let ready = wanted().filter(|region| serves(region)).count();
    let relays_ready: i32 = wanted().map(|region| region.relays_ready).sum();
    let relays: i32 = wanted().map(|region| region.relays).sum();
    let waiting = match waiting_for {
        [] => String::new(),
        [one] => format!("{} ({})", one.what, one.where_),
        [one, rest @ ..] => format!("{} ({}) and {} more", one.what, one.where_, rest.len()),
    };
    StatusSummary {
        regions: format!("{ready}/{}", wanted().count()),
        relays: format!("{relays_ready}/{relays}"),
        waiting_for: waiting,
    }
}
