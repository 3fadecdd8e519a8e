//! What a pod amounts to, and what pods that are not ready wait for. Pure.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::dereference::Observed;
use super::names::{Names, RESTART_HASH};
use super::rollout::{PodView, RegionView, Wait};
use crate::plan::Role;

/// Reasons of a container that does not start and will not without a change.
const BROKEN: [&str; 6] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CrashLoopBackOff",
];
/// A container that crashed this often is taken for broken.
const CRASHES: i32 = 3;

/// The view of a pod, whether or not it exists.
pub(super) fn view(name: String, role: Role, wanted: String, pod: Option<&Pod>) -> PodView {
    let terminating = pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some());
    PodView {
        hash: pod.map(|pod| {
            pod.annotations()
                .get(RESTART_HASH)
                .cloned()
                .unwrap_or_default()
        }),
        ready: pod.is_some_and(is_ready) && !terminating,
        terminating,
        broken: pod.and_then(broken),
        name,
        role,
        wanted,
    }
}

/// Whether Kubernetes calls the pod ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, _)| status == "True")
}

/// How often its containers were started again.
pub(super) fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let containers = containers.into_iter().flatten();
    containers.map(|container| container.restart_count).sum()
}

fn condition<'a>(pod: &'a Pod, of: &str) -> Option<(&'a str, &'a str)> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == of)
        .map(|condition| {
            (
                condition.status.as_str(),
                condition.message.as_deref().unwrap_or_default(),
            )
        })
}

/// Why its container does not start, if that is plain.
fn broken(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        let crashing = reason != "CrashLoopBackOff" || container.restart_count >= CRASHES;
        (BROKEN.contains(&reason) && crashing).then(|| reason.to_owned())
    })
}

/// What the pods of a fleet wait for: those that are missing, cannot be placed, or are not ready.
pub(super) fn waits(views: &[RegionView], observed: &Observed) -> Vec<Wait> {
    let mut waits = Vec::new();
    for view in views {
        for pod in view.pods.iter().filter(|pod| !pod.ready) {
            let mut wait = wait(pod, observed);
            let lasting = ["PodUnschedulable", "PodTerminating"].contains(&wait.what);
            if let Some(budget) = budget(pod, view).filter(|_| lasting) {
                write!(
                    wait.unblocked_by,
                    "; until then poddisruptionbudget/{budget} holds back drains of nodes with its other pods"
                )
                .expect("a String takes everything");
            }
            waits.push(wait);
        }
    }
    waits
}

/// The PodDisruptionBudget that this pod uses up while it is not ready; a role with a single pod has none.
fn budget<'a>(pod: &'a PodView, view: &RegionView) -> Option<&'a str> {
    let of_role = view.pods.iter().filter(|other| other.role == pod.role);
    let (set, _) = pod.name.rsplit_once('-')?;
    (of_role.count() > 1).then_some(set)
}

fn wait(pod: &PodView, observed: &Observed) -> Wait {
    let where_ = format!("pod/{}", pod.name);
    let Some(live) = observed.pods.get(&pod.name) else {
        return Wait {
            what: "PodMissing",
            where_,
            unblocked_by: format!(
                "Kubernetes making the pod; if it does not, see kubectl describe statefulset {}",
                pod.name.rsplit_once('-').map_or("", |(set, _)| set)
            ),
        };
    };
    if let Some(claim) = pending_claim(&pod.name, observed) {
        return Wait {
            what: "VolumePending",
            where_: format!("persistentvolumeclaim/{claim}"),
            unblocked_by: "a StorageClass that provisions the disk; see kubectl get storageclass, and kubectl describe pvc".to_owned(),
        };
    }
    if let Some(("False", message)) = condition(live, "PodScheduled") {
        return Wait {
            what: "PodUnschedulable",
            where_,
            unblocked_by: format!("a node that takes the pod; the scheduler says: {message}"),
        };
    }
    let node = live
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.clone())
        .unwrap_or_default();
    if pod.terminating {
        return Wait {
            what: "PodTerminating",
            where_,
            unblocked_by: format!(
                "the pod ending on node {node}; if the node is gone for good, delete the Node object"
            ),
        };
    }
    match &pod.broken {
        Some(reason) => Wait {
            what: "PodBroken",
            where_,
            unblocked_by: format!(
                "the cause of {reason} being mended; see kubectl describe pod {}",
                pod.name
            ),
        },
        None => Wait {
            what: "PodNotReady",
            where_,
            unblocked_by: format!("{} becoming ready on node {node}", pod.name),
        },
    }
}

fn pending_claim(pod: &str, observed: &Observed) -> Option<String> {
    let name = format!("{}-{pod}", Names::claim());
    let claim = observed.claims.get(&name)?;
    let phase = claim.status.as_ref()?.phase.as_deref()?;
    let scheduled = observed
        .pods
        .get(pod)
        .and_then(|pod| pod.spec.as_ref())
        .is_some_and(|spec| spec.node_name.is_some());
    // A class that waits for a pod to be placed leaves the claim pending until then; the scheduler's word says more.
    let class_missing = claim
        .spec
        .as_ref()
        .is_some_and(|spec| spec.storage_class_name.is_none());
    (phase != "Bound" && (scheduled || class_missing)).then_some(name)
}
