//! Kubernetes Events of a fleet: on transitions only, with stable reasons, and a note that says what to do.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource as _;
use kube::runtime::events::{Event, EventType};

use super::apply::{Change, Written};
use super::controller::Context;
use super::pass::{Pass, Scope};
use crate::crd::{ConditionType, RelayClusterStatus, RolloutPhase};

/// The API server refuses longer notes.
const LONGEST_NOTE: usize = 1_000;

async fn publish(
    context: &Context,
    scope: &Scope<'_>,
    type_: EventType,
    reason: &str,
    action: &str,
    note: String,
) {
    publish_about(context, scope, type_, (reason, action), note, None).await;
}

/// Like [`publish`], about one object of the fleet. The library folds events that differ in their notes alone, so the object is part of it.
async fn publish_about(
    context: &Context,
    scope: &Scope<'_>,
    type_: EventType,
    (reason, action): (&str, &str),
    note: String,
    object: Option<ObjectReference>,
) {
    let note = match note.char_indices().nth(LONGEST_NOTE - 4) {
        Some((end, _)) => format!("{}...", &note[..end]),
        None => note,
    };
    let event = Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note),
        action: action.to_owned(),
        secondary: object,
    };
    let about = scope.cluster.object_ref(&());
    // What cannot be told as an event is still in the status.
    if let Err(error) = context.recorder.publish(&event, &about).await {
        tracing::debug!(%error, reason, "an event was not recorded");
    }
}

/// Tells of conditions that turned, and of steps of a rollout.
pub(super) async fn of_status(context: &Context, scope: &Scope<'_>, new: &RelayClusterStatus) {
    let before = scope.cluster.status.as_ref();
    for of in ConditionType::ALL {
        let Some(now) = new.condition(of) else {
            continue;
        };
        let old = before.and_then(|before| before.condition(of));
        let turned = old.is_none_or(|old| old.status != now.status);
        let first = old.is_none_or(|old| old.reason == "NotReconciled");
        // At first everything turns; what is as it should be from the beginning is no news.
        let quiet = first && now.status != "True";
        if !turned || quiet {
            continue;
        }
        let bad = match of {
            ConditionType::Ready | ConditionType::Durable => now.status != "True",
            ConditionType::Degraded => now.status == "True",
            _ => false,
        };
        let type_ = if bad {
            EventType::Warning
        } else {
            EventType::Normal
        };
        let note = format!(
            "{} is {} ({}): {}",
            now.type_, now.status, now.reason, now.message
        );
        publish(context, scope, type_, &now.reason, of.name(), note).await;
    }
    let phase = |status: Option<&RelayClusterStatus>| {
        status
            .and_then(|status| status.rollout.as_ref())
            .map(|rollout| rollout.phase)
    };
    let (old, now) = (phase(before), phase(Some(new)));
    if let Some(now) = now.filter(|now| old != Some(*now)) {
        let rollout = new.rollout.as_ref();
        let note = rollout.map_or_else(String::new, |rollout| {
            format!(
                "{}; {} of {} pods run the change",
                rollout.message, rollout.updated, rollout.total
            )
        });
        let (type_, reason) = match now {
            RolloutPhase::Moving => (EventType::Normal, "RolloutMoving"),
            RolloutPhase::Soaking => (EventType::Normal, "RolloutSoaking"),
            RolloutPhase::Halted => (EventType::Warning, "RolloutHalted"),
            RolloutPhase::Paused => (EventType::Normal, "RolloutPaused"),
            RolloutPhase::Done => (EventType::Normal, "RolloutDone"),
        };
        publish(context, scope, type_, reason, "Rollout", note).await;
    }
}

/// Tells of objects that somebody else had changed or removed, and of certificates.
pub(super) async fn of_pass(context: &Context, scope: &Scope<'_>, pass: &Pass) {
    for Written { kind, name, change } in &pass.written {
        context.metrics.wrote(*kind, change);
        let object = format!("{}/{name}", kind.resource().kind.to_lowercase());
        let (reason, note) = match change {
            Change::PutBack(field) => (
                "PutBack",
                format!(
                    "{object} had been changed at {field} by somebody else and was put back; change the RelayCluster instead, or pause it with nightjar.dev/paused"
                ),
            ),
            Change::Recreated => (
                "Recreated",
                format!("{object} had been removed by somebody else and was made again"),
            ),
            Change::Removed => (
                "Removed",
                format!("{object} is no longer part of the fleet and was removed"),
            ),
            Change::Created | Change::Updated => continue,
        };
        let type_ = match change {
            Change::Removed => EventType::Normal,
            _ => EventType::Warning,
        };
        let resource = kind.resource();
        let about = reference(scope, &resource.api_version, &resource.kind, name);
        publish_about(context, scope, type_, (reason, "Apply"), note, Some(about)).await;
    }
    if !pass.certificates.issued.is_empty() {
        let note = format!(
            "certificates were issued: {}",
            pass.certificates.issued.join(", ")
        );
        publish(
            context,
            scope,
            EventType::Normal,
            "CertificatesIssued",
            "Renew",
            note,
        )
        .await;
    }
}

/// Tells of a pod that is restarted by a rollout.
pub(super) async fn restarted(context: &Context, scope: &Scope<'_>, pod: &str) {
    let note = format!("pod/{pod} is restarted to run what was asked for");
    let about = reference(scope, "v1", "Pod", pod);
    let said = ("PodRestarted", "Rollout");
    publish_about(context, scope, EventType::Normal, said, note, Some(about)).await;
}

/// Tells how a deletion goes.
pub(super) async fn deletion(context: &Context, scope: &Scope<'_>, reason: &str, note: String) {
    publish(context, scope, EventType::Normal, reason, "Delete", note).await;
}

fn reference(scope: &Scope<'_>, api_version: &str, kind: &str, name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        namespace: Some(scope.names.namespace.clone()),
        ..ObjectReference::default()
    }
}
