//! The end of a fleet: with `Retain` everything but disks, keys and record goes; with `Delete` they go too, keys last, and never while
//! a part of the fleet cannot be seen.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::{Resource as _, ResourceExt as _};
use nightjar_envelope::RegionName;
use serde_json::json;

use super::build::Kind;
use super::controller::{Context, write_status};
use super::dereference::Observed;
use super::error::ClusterError;
use super::events;
use super::names::FINALIZER;
use super::pass::Scope;
use super::rollout::Wait;
use super::status::{self, Facts};
use crate::crd::{DeletionPolicy, RelayCluster};
use crate::plan::Role;

const AGAIN: Duration = Duration::from_secs(3);

/// One step of a deletion.
pub(super) async fn finalize(
    scope: &Scope<'_>,
    context: &Context,
) -> Result<(Action, &'static str), ClusterError> {
    if !scope
        .cluster
        .finalizers()
        .iter()
        .any(|known| known == FINALIZER)
    {
        return Ok((Action::await_change(), "unchanged"));
    }
    if scope.cluster.spec.deletion_policy == DeletionPolicy::Retain {
        let note = format!(
            "disks, secret/{} and configmap/{} stay; the same RelayCluster applied again finds its messages",
            scope.names.keys(),
            scope.names.record()
        );
        events::deletion(context, scope, "Retained", note).await;
        release(scope).await?;
        return Ok((Action::await_change(), "applied"));
    }
    let observed = Observed::read(&scope.tools.client, &scope.names).await?;
    if let Some(wait) = unseen(scope, &observed).await? {
        hold(scope, context, wait).await?;
        return Ok((Action::requeue(AGAIN), "waiting"));
    }
    if stop_pods(scope, &observed).await? {
        return Ok((Action::requeue(AGAIN), "waiting"));
    }
    remove_data(scope, &observed).await?;
    events::deletion(
        context,
        scope,
        "Deleted",
        "disks and keys were removed".to_owned(),
    )
    .await;
    release(scope).await?;
    Ok((Action::await_change(), "applied"))
}

/// Pods on nodes that do not answer may still write: nothing is removed under them.
async fn unseen(scope: &Scope<'_>, observed: &Observed) -> Result<Option<Wait>, ClusterError> {
    let nodes: Api<Node> = Api::all(scope.tools.client.clone());
    let nodes = match nodes.list(&ListParams::default()).await {
        Ok(nodes) => nodes.items,
        // Without the right to see nodes, pods that do not end are what holds the deletion back.
        Err(kube::Error::Api(status)) if status.is_forbidden() => Vec::new(),
        Err(source) => return Err(ClusterError::api("list", "nodes", "", source)),
    };
    let ready = |name: &str| {
        nodes.is_empty()
            || nodes
                .iter()
                .find(|node| node.name_any() == name)
                .and_then(|node| node.status.as_ref()?.conditions.as_ref())
                .into_iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    Ok(observed.pods.values().find_map(|pod| {
        let node = pod.spec.as_ref()?.node_name.as_deref()?;
        (!ready(node)).then(|| Wait {
            what: "DeletionBlocked",
            where_: format!("pod/{}", pod.name_any()),
            unblocked_by: format!("node {node} answering again, so that nothing is removed under a pod that may still run; if the node is gone for good, delete the Node object"),
        })
    }))
}

async fn hold(scope: &Scope<'_>, context: &Context, wait: Wait) -> Result<(), ClusterError> {
    let before = scope.cluster.status.as_ref();
    let mut new = before.cloned().unwrap_or_default();
    new.waiting_for = status::status(Facts {
        waits: vec![wait],
        ..Facts::unseen(scope.cluster, Timestamp::now())
    })
    .waiting_for;
    new.summary.waiting_for = new
        .waiting_for
        .first()
        .map(|wait| format!("{} ({})", wait.what, wait.where_))
        .unwrap_or_default();
    write_status(scope, context, &new).await
}

/// Removes the StatefulSets; true while pods are left.
async fn stop_pods(scope: &Scope<'_>, observed: &Observed) -> Result<bool, ClusterError> {
    let sets: Api<k8s_openapi::api::apps::v1::StatefulSet> = scope.api();
    for (_, name) in observed
        .objects
        .keys()
        .filter(|(kind, _)| *kind == Kind::StatefulSet)
    {
        absent(sets.delete(name, &DeleteParams::background()).await)
            .map_err(|source| ClusterError::api("delete", "statefulset", name, source))?;
    }
    Ok(!observed.pods.is_empty())
}

/// Disks first, keys after them: without keys nobody can tell whether the right disks went.
async fn remove_data(scope: &Scope<'_>, observed: &Observed) -> Result<(), ClusterError> {
    let claims: Api<PersistentVolumeClaim> = scope.api();
    for name in observed.claims.keys() {
        absent(claims.delete(name, &DeleteParams::default()).await)
            .map_err(|source| ClusterError::api("delete", "persistentvolumeclaim", name, source))?;
    }
    let (keys, record) = (scope.names.keys(), scope.names.record());
    let params = DeleteParams::default();
    absent(scope.api::<Secret>().delete(&keys, &params).await)
        .map_err(|source| ClusterError::api("delete", "secret", &keys, source))?;
    absent(scope.api::<ConfigMap>().delete(&record, &params).await)
        .map_err(|source| ClusterError::api("delete", "configmap", &record, source))
}

/// Removes the disks and Secrets of a region that left.
pub(super) async fn remove_region(
    scope: &Scope<'_>,
    region: &RegionName,
    claims: &[&String],
) -> Result<(), ClusterError> {
    let params = DeleteParams::default();
    let names = &scope.names;
    let secrets = [
        names.operator_users(region),
        names.user(region, Role::Relay),
        names.user(region, Role::Nats),
        names.authority(region),
        names.tls(region, Role::Nats),
        names.tls(region, Role::Hub),
    ];
    for secret in &secrets {
        absent(scope.api::<Secret>().delete(secret, &params).await)
            .map_err(|source| ClusterError::api("delete", "secret", secret, source))?;
    }
    for name in claims {
        absent(
            scope
                .api::<PersistentVolumeClaim>()
                .delete(name, &params)
                .await,
        )
        .map_err(|source| ClusterError::api("delete", "persistentvolumeclaim", name, source))?;
    }
    Ok(())
}

fn absent<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

async fn release(scope: &Scope<'_>) -> Result<(), ClusterError> {
    let finalizers: Vec<&String> = scope
        .cluster
        .finalizers()
        .iter()
        .filter(|known| *known != FINALIZER)
        .collect();
    let patch = json!({"metadata": {
        "finalizers": finalizers,
        "resourceVersion": scope.cluster.meta().resource_version,
    }});
    let api = scope.api::<RelayCluster>();
    let params = PatchParams::default();
    absent(
        api.patch(&scope.names.fleet, &params, &Patch::Merge(&patch))
            .await,
    )
    .map_err(|source| ClusterError::api("write", "relaycluster", &scope.names.fleet, source))?;
    Ok(())
}
