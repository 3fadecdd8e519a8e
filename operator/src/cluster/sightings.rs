//! Since when the pods of a region are as they are, so that a look that began earlier proves nothing about them. Pure: the clock comes
//! in. Kept in memory alone: another leader begins anew, which makes it wait for a look of its own.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use nightjar_envelope::RegionName;
use serde_json::Value;
use tokio::time::Instant;

use super::dereference::Observed;
use super::names::{COMPONENT_LABEL, Names, REGION_LABEL};
use super::pods;
use crate::plan::Role;

/// What was seen of the pods of each region, pass after pass.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    regions: BTreeMap<RegionName, Sighting>,
}

#[derive(Debug)]
struct Sighting {
    relays_gone: Option<Instant>,
    servers: BTreeSet<Server>,
    /// Since when the servers are these.
    since: Instant,
}

/// One run of a server or hub that is ready: another pod, or another start of its container, is another run.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Server {
    pod: String,
    uid: String,
    restarts: i32,
}

impl Sightings {
    /// Takes in what was read of the cluster; `now` is a moment after it was read.
    pub(super) fn observe<'a>(
        &mut self,
        regions: impl IntoIterator<Item = &'a RegionName>,
        names: &Names,
        observed: &Observed,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.regions);
        for region in regions {
            let before = before.remove(region);
            let servers = servers(region, observed);
            let gone_before = before.as_ref().and_then(|before| before.relays_gone);
            let gone = has_no_relay(region, names, observed);
            let sighting = Sighting {
                relays_gone: gone.then(|| gone_before.unwrap_or(now)),
                since: before
                    .filter(|before| before.servers == servers)
                    .map_or(now, |before| before.since),
                servers,
            };
            self.regions.insert(region.clone(), sighting);
        }
    }

    /// Since when the region is known to have no relay, and none on its way.
    pub(super) fn relays_gone(&self, region: &RegionName) -> Option<Instant> {
        self.regions.get(region)?.relays_gone
    }

    /// Since when the very servers and hubs run that are ready now. A look from before may show those that were there before them.
    pub(super) fn servers_since(&self, region: &RegionName) -> Option<Instant> {
        Some(self.regions.get(region)?.since)
    }
}

/// Whether a pod is of a region and a role, by its labels.
fn is_of(pod: &Pod, region: &RegionName, role: Role) -> bool {
    let labels = pod.labels();
    labels.get(REGION_LABEL).map(String::as_str) == Some(region.as_str())
        && labels.get(COMPONENT_LABEL) == Some(&role.to_string())
}

fn servers(region: &RegionName, observed: &Observed) -> BTreeSet<Server> {
    let of = |pod: &&Pod| is_of(pod, region, Role::Nats) || is_of(pod, region, Role::Hub);
    let ready = |pod: &&Pod| pods::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
    let run = |pod: &Pod| Server {
        pod: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        restarts: pods::restarts(pod),
    };
    let pods = observed.pods.values();
    pods.filter(of).filter(ready).map(run).collect()
}

/// No relay is there, and Kubernetes has taken in that none is to be: pods that are missing for a moment come back and write on.
fn has_no_relay(region: &RegionName, names: &Names, observed: &Observed) -> bool {
    let pods = observed
        .pods
        .values()
        .any(|pod| is_of(pod, region, Role::Relay));
    let set = observed.stateful_set(&names.set(region, Role::Relay));
    !pods && set.is_none_or(is_empty)
}

fn is_empty(set: &Value) -> bool {
    let (status, generation) = (&set["status"], &set["metadata"]["generation"]);
    set["spec"]["replicas"] == 0
        && status["replicas"].as_i64().unwrap_or(0) == 0
        && status["observedGeneration"] == *generation
}

#[cfg(test)]
#[path = "sightings_tests.rs"]
mod tests;
