//! Which pods a change of a `RelayCluster` restarts, judged by the same hashes as a pass judges them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use nightjar_envelope::RegionName;

use super::addresses::ClusterAddresses;
use super::build::{self, Kind};
use super::images;
use super::names::Names;
use crate::crd::{Images, RelayCluster};
use crate::plan::{FleetFacts, Role, plan};
use crate::validate::validate;

/// Pods of a role in a region.
pub type Group = (RegionName, Role);

/// The groups of `old` whose pods restart when it becomes `new`. `running` are the images of a fleet that names none.
///
/// `None` if one of the two is no valid fleet. What is new starts, and is not named; what leaves ends, and is not named either.
pub fn restarts(
    old: &RelayCluster,
    new: &RelayCluster,
    running: &Images,
) -> Option<BTreeSet<Group>> {
    let left = |region: &&str| !new.spec.regions.iter().any(|kept| kept.name == *region);
    let regions = old.spec.regions.iter().map(|region| region.name.as_str());
    let former: Vec<RegionName> = regions
        .filter(left)
        .filter_map(|region| region.parse().ok())
        .collect();
    let before = hashes(old, running, &[])?;
    let after = hashes(new, running, &former)?;
    let moved = after
        .into_iter()
        .filter(|(group, hash)| before.get(group).is_some_and(|old| old != hash));
    Some(moved.map(|(group, _)| group).collect())
}

/// Keys and certificates do not change with a spec, so the same stand for both.
fn hashes(
    cluster: &RelayCluster,
    running: &Images,
    former: &[RegionName],
) -> Option<BTreeMap<Group, String>> {
    let fleet = validate(cluster).ok()?;
    let names = Names::new(cluster.name_any(), cluster.namespace().unwrap_or_default());
    let facts = FleetFacts {
        former: former.iter().map(|region| (region.clone(), 1)).collect(),
        ..FleetFacts::stand_in(fleet.regions.iter().map(|region| &region.name))
    };
    let plan = plan(&fleet, &facts, &ClusterAddresses::of(&names, &fleet)).ok()?;
    let images = images::asked_or(&fleet, running.clone());
    let none = BTreeMap::new();
    let objects = build::build(&build::Input {
        names: &names,
        fleet: &fleet,
        plan: &plan,
        owner: &OwnerReference::default(),
        images: &images,
        authorities: &none,
        secrets_hash: &BTreeMap::new(),
        operator_users: &none,
        restarted_at: cluster
            .annotations()
            .get(super::names::RESTARTED_AT)
            .map(String::as_str),
    });
    let hash = |set: &str| {
        let found = objects
            .iter()
            .find(|object| object.kind == Kind::StatefulSet && object.name == set)?;
        Some(build::template_hash(&found.object).to_owned())
    };
    let groups = fleet.regions.iter().flat_map(|region| {
        [Role::Hub, Role::Nats, Role::Relay].map(|role| (region.name.clone(), role))
    });
    Some(
        groups
            .filter_map(|(region, role)| {
                let hash = hash(&names.set(&region, role))?;
                Some(((region, role), hash))
            })
            .collect(),
    )
}
