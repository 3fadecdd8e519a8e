//! Judges what was seen of a region's NATS: can it lose a server, is every message durable, is everything linked. Pure.

use std::collections::BTreeSet;

use nightjar_envelope::StreamName;
use tokio::time::Instant;

use crate::plan::{FleetPlan, RegionPlan, StreamKind};

use super::region_watch::{RegionHealth, StreamView};
use super::rollout::NatsHealth;

/// Whether the region's servers can lose one more.
///
/// A look that began before the servers ran that run now shows others: after a restart it may say that all was well before it.
///
/// A stream that was never made is no fault: a region that joins needs the others' servers to restart before its copies can be.
pub(super) fn nats(
    plan: &RegionPlan,
    health: Option<&RegionHealth>,
    made: &BTreeSet<StreamName>,
    servers_since: Option<Instant>,
) -> NatsHealth {
    let Some(health) = health else {
        return NatsHealth::Unseen("it was not looked at yet".to_owned());
    };
    if let Some(reason) = &health.unreachable {
        return NatsHealth::Unseen(reason.clone());
    }
    if is_before(health, servers_since) {
        let reason = "its servers were not looked at since the last of them became ready";
        return NatsHealth::Unseen(reason.to_owned());
    }
    for process in plan.nats.iter().chain(&plan.hubs) {
        match health.servers.get(&process.name()) {
            None => return NatsHealth::Behind(format!("{} does not answer", process.name())),
            Some(server) if !server.healthy => {
                return NatsHealth::Behind(format!("{} is not well yet", process.name()));
            }
            Some(_) => {}
        }
    }
    for stream in &plan.streams {
        let Some(seen) = health.streams.get(&stream.name) else {
            if made.contains(&stream.name) {
                return NatsHealth::Behind(format!("stream {} is not there", stream.name));
            }
            continue;
        };
        if let Some(reason) = not_current(seen, stream.replicas) {
            return NatsHealth::Behind(reason);
        }
    }
    NatsHealth::Well
}

/// Whether a look that saw something began before the servers ran that run now, so that another one is due.
pub(super) fn is_before(health: &RegionHealth, servers_since: Option<Instant>) -> bool {
    health.unreachable.is_none() && servers_since.is_none_or(|since| health.began <= since)
}

fn not_current(stream: &StreamView, replicas: u8) -> Option<String> {
    if replicas <= 1 {
        return None;
    }
    if stream.leader.is_none() {
        return Some(format!("stream {} has no leader", stream.name));
    }
    if stream.replicas.len() + 1 < usize::from(replicas) {
        return Some(format!(
            "stream {} has {} of {replicas} replicas",
            stream.name,
            stream.replicas.len() + 1
        ));
    }
    let (server, _, lag) = stream.replicas.iter().find(|(_, current, _)| !current)?;
    Some(format!(
        "stream {} on {server} is {lag} entries behind",
        stream.name
    ))
}

/// Why not every server is linked as it must be before a mirror is made; `None` if all are.
pub(super) fn unlinked<'a>(
    plan: &FleetPlan,
    health: impl Fn(&RegionPlan) -> Option<&'a RegionHealth>,
) -> Option<String> {
    let several = plan.regions.len() > 1;
    for region in &plan.regions {
        let Some(seen) = health(region).filter(|seen| seen.unreachable.is_none()) else {
            return Some(format!(
                "the NATS servers of region {} answering",
                region.name
            ));
        };
        for process in region.nats.iter().chain(&region.hubs) {
            let Some(server) = seen.servers.get(&process.name()) else {
                return Some(format!("{} answering", process.name()));
            };
            let hub = region.hubs.iter().any(|hub| hub.id == process.id);
            if several && !hub && server.leafs == 0 {
                return Some(format!("{} being linked to its hubs", process.name()));
            }
            if several && hub && server.gateways.len() + 1 < plan.regions.len() {
                return Some(format!("{} reaching every other region", process.name()));
            }
        }
    }
    None
}

/// Whether what the region acknowledges is on the disks of a majority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Durable {
    /// It is.
    Yes,
    /// One server: no majority to speak of.
    Development,
    /// A writer stream has no leader, so nothing is acknowledged, or too few copies.
    No(String),
    /// Not seen.
    Unknown(String),
}

/// Judges the streams that the region writes.
pub(super) fn durable(plan: &RegionPlan, health: Option<&RegionHealth>) -> Durable {
    let writers = plan
        .streams
        .iter()
        .filter(|stream| matches!(stream.kind, StreamKind::Writer { .. }));
    let Some(health) = health.filter(|health| health.unreachable.is_none()) else {
        return Durable::Unknown(format!("region {} cannot be seen", plan.name));
    };
    for stream in writers {
        if stream.replicas <= 1 {
            return Durable::Development;
        }
        let Some(seen) = health.streams.get(&stream.name) else {
            return Durable::Unknown(format!("stream {} was not seen", stream.name));
        };
        if seen.leader.is_none() {
            return Durable::No(format!("stream {} has no leader", stream.name));
        }
        let current = 1 + seen
            .replicas
            .iter()
            .filter(|(_, current, _)| *current)
            .count();
        if current * 2 <= usize::from(stream.replicas) {
            return Durable::No(format!(
                "stream {} has {current} current copies of {}",
                stream.name, stream.replicas
            ));
        }
    }
    Durable::Yes
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
