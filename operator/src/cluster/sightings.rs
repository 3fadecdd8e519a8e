//! Since when the pods of a region are as they are, so that a look that began earlier proves nothing about them. Pure: the clock comes
//! in. Kept in memory alone: another leader begins anew, which makes it wait for a look of its own.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use nightjar_envelope::RegionName;
use serde_json::Value;
use tokio::time::Instant;

use super::dereference::Observed;
use super::names::{COMPONENT_LABEL, Names, REGION_LABEL};
use crate::plan::Role;

/// What was seen of the pods of each region, pass after pass.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    regions: BTreeMap<RegionName, Sighting>,
}

#[derive(Debug, Default)]
struct Sighting {
    relays_gone: Option<Instant>,
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
            let mut sighting = before.remove(region).unwrap_or_default();
            sighting.relays_gone =
                has_no_relay(region, names, observed).then(|| sighting.relays_gone.unwrap_or(now));
            self.regions.insert(region.clone(), sighting);
        }
    }

    /// Since when the region is known to have no relay, and none on its way.
    pub(super) fn relays_gone(&self, region: &RegionName) -> Option<Instant> {
        self.regions.get(region)?.relays_gone
    }
}

/// Whether a pod is of a region and a role, by its labels.
fn is_of(pod: &Pod, region: &RegionName, role: Role) -> bool {
    let labels = pod.labels();
    labels.get(REGION_LABEL).map(String::as_str) == Some(region.as_str())
        && labels.get(COMPONENT_LABEL) == Some(&role.to_string())
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
