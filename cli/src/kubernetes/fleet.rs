//! Finds the RelayCluster that is meant, and what happened to its objects lately.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;
use nightjar_operator::crd::RelayCluster;

use super::{Cluster, Failure};
use crate::code::Code;
use crate::error::CliError;

/// All fleets of the namespace.
pub(crate) async fn fleets(cluster: &Cluster) -> Result<Vec<RelayCluster>, Failure> {
    let read = cluster.fleets().await?;
    Ok(read.into_iter().map(|read| read.fleet).collect())
}

/// The fleet of that name; an error that says which there are otherwise.
pub(crate) async fn found_fleet(cluster: &Cluster, name: &str) -> Result<RelayCluster, CliError> {
    if let Some(read) = cluster.fleet(name).await? {
        return Ok(read.fleet);
    }
    let known = fleets(cluster).await?;
    let error = CliError::new(
        Code::NoSuchFleet,
        format!(
            "there is no RelayCluster {name} in namespace {}",
            cluster.namespace
        ),
        "kubectl get relayclusters --all-namespaces",
    );
    Err(match names(&known) {
        None => error,
        Some(names) => error.because(format!("there are: {names}")),
    })
}

/// The fleet of that name, or the only one of the namespace.
pub(crate) async fn fleet_or_only(
    cluster: &Cluster,
    name: Option<&str>,
) -> Result<RelayCluster, CliError> {
    if let Some(name) = name {
        return found_fleet(cluster, name).await;
    }
    let mut known = fleets(cluster).await?;
    if known.len() > 1 {
        let error = CliError::new(
            Code::WhichFleet,
            format!("namespace {} has several fleets", cluster.namespace),
            "the same command with the name of one",
        );
        return Err(names(&known).into_iter().fold(error, CliError::because));
    }
    known.pop().ok_or_else(|| {
        CliError::new(
            Code::NoSuchFleet,
            format!(
                "there is no RelayCluster in namespace {}",
                cluster.namespace
            ),
            "kubectl get relayclusters --all-namespaces, then the same command with -n NAMESPACE",
        )
    })
}

fn names(fleets: &[RelayCluster]) -> Option<String> {
    let names: Vec<String> = fleets.iter().map(ResourceExt::name_any).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Events about the fleet's objects, the newest first. Events carry no labels of the fleet: names tell.
pub(crate) async fn events(cluster: &Cluster, fleet: &str) -> Result<Vec<Event>, Failure> {
    let mut events = cluster.list::<Event>("").await?;
    let prefix = format!("{fleet}-");
    events.retain(|event| {
        let name = event.involved_object.name.as_deref().unwrap_or_default();
        // A disk is named `store-FLEET-...` or similar.
        let claim = event.involved_object.kind.as_deref() == Some("PersistentVolumeClaim");
        name == fleet
            || name.starts_with(&prefix)
            || (claim && name.contains(&format!("-{prefix}")))
    });
    events.sort_by_key(|event| std::cmp::Reverse(event_time(event)));
    Ok(events)
}

/// When an event happened last.
pub(crate) fn event_time(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let exact = series.or(event.event_time.as_ref()).map(|time| time.0);
    last.or(exact).or(event
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0))
}
