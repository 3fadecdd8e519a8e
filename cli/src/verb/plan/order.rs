//! The order in which pods restart: regions as in the spec, the first as canary; hubs, NATS servers, relays, one at a time. Pure.

use std::time::Duration;

use nightjar_operator::crd::{RegionSpec, RelayClusterSpec, parse_duration};
use nightjar_operator::plan::{HUBS_PER_REGION, Role};
use serde::Serialize;

use crate::kubernetes::pod_name;
use crate::when;

/// In this order inside a region.
const ROLES: [Role; 3] = [Role::Hub, Role::Nats, Role::Relay];

/// Restarts of one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) region: String,
    /// The first region shows whether a change is good.
    pub(crate) canary: bool,
    /// One after the other.
    pub(crate) pods: Vec<String>,
    /// What is waited for before the next region.
    pub(crate) then: Option<String>,
}

impl Step {
    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Self {
            number,
            region,
            canary,
            pods,
            then,
        } = self;
        let canary = if *canary { " (canary)" } else { "" };
        let then = then
            .as_ref()
            .map_or_else(String::new, |then| format!("\n      then {then}"));
        format!(
            "{number}. region {region}{canary}: {}{then}",
            pods.join(", ")
        )
    }
}

fn count(spec: &RelayClusterSpec, region: &RegionSpec, role: Role) -> u32 {
    match role {
        Role::Hub if spec.regions.len() == 1 => 0,
        Role::Hub => HUBS_PER_REGION,
        Role::Nats => u32::try_from(region.nats.replicas).unwrap_or(0),
        Role::Relay => u32::try_from(region.relays.replicas).unwrap_or(0),
    }
}

fn pods(fleet: &str, spec: &RelayClusterSpec, region: &RegionSpec, roles: &[Role]) -> Vec<String> {
    let roles = ROLES.iter().filter(|role| roles.contains(role));
    roles
        .flat_map(|role| {
            (0..count(spec, region, *role))
                .map(|ordinal| pod_name(fleet, &region.name, *role, ordinal))
        })
        .collect()
}

/// All pods of a fleet.
pub(super) fn pods_of(fleet: &str, spec: &RelayClusterSpec) -> Vec<String> {
    let regions = spec.regions.iter();
    regions
        .flat_map(|region| pods(fleet, spec, region, &ROLES))
        .collect()
}

/// The restarts of the pods of which `restarts` says, by region and role, that the change reaches them.
pub(super) fn steps(
    fleet: &str,
    old: &RelayClusterSpec,
    new: &RelayClusterSpec,
    restarts: impl Fn(&str, Role) -> bool,
) -> Vec<Step> {
    let mut steps = Vec::new();
    // Only what runs already restarts; a new region starts with the change.
    let stays = |region: &&RegionSpec| old.regions.iter().any(|before| before.name == region.name);
    for region in new.regions.iter().filter(stays) {
        let roles: Vec<Role> = ROLES
            .into_iter()
            .filter(|role| restarts(&region.name, *role))
            .collect();
        let before = old.regions.iter().find(|before| before.name == region.name);
        let mut names = pods(fleet, new, region, &roles);
        // Pods that come with the change do not restart.
        let there = before
            .map(|before| pods(fleet, old, before, &ROLES))
            .unwrap_or_default();
        names.retain(|name| there.contains(name));
        if !names.is_empty() {
            steps.push((region.name.clone(), names));
        }
    }
    numbered(steps, new)
}

/// The restart of every pod.
pub(crate) fn all_steps(fleet: &str, spec: &RelayClusterSpec) -> Vec<Step> {
    let steps = spec
        .regions
        .iter()
        .map(|region| (region.name.clone(), pods(fleet, spec, region, &ROLES)));
    numbered(steps.collect(), spec)
}

fn numbered(steps: Vec<(String, Vec<String>)>, spec: &RelayClusterSpec) -> Vec<Step> {
    let last = steps.len();
    let step = |(at, (region, pods)): (usize, (String, Vec<String>))| Step {
        number: at + 1,
        region,
        canary: at == 0 && last > 1,
        pods,
        then: (at == 0 && last > 1).then(|| {
            format!(
                "{} of running well before the others begin (spec.rollout.soak)",
                spec.rollout.soak
            )
        }),
    };
    steps.into_iter().enumerate().map(step).collect()
}

/// The pauses that the spec asks for; starting of pods comes on top.
pub(super) fn at_least(steps: &[Step], spec: &RelayClusterSpec) -> String {
    let read = |text: &str| parse_duration(text).unwrap_or_default();
    let mut time = Duration::ZERO;
    if steps.len() > 1 {
        time += read(&spec.rollout.soak);
    }
    for step in steps {
        let servers = step
            .pods
            .iter()
            .filter(|pod| pod.contains("-nats-"))
            .count();
        let pauses = u32::try_from(servers.saturating_sub(1)).unwrap_or(0);
        time += read(&spec.rollout.settle) * pauses;
    }
    when::span(time)
}
