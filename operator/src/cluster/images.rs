//! Which images a fleet runs. Pure.

use super::dereference::Observed;
use super::names::Names;
use crate::crd::Images;
use crate::plan::Role;
use crate::validate::ValidFleet;

/// What was asked for, else what runs, else what the operator brings: an upgrade of the operator restarts nothing.
pub(super) fn to_run(
    fleet: &ValidFleet,
    names: &Names,
    brought: &Images,
    observed: &Observed,
) -> Images {
    // The last region is the last to get a change: after a change that was taken back it still has what ran before.
    let running = |role| {
        fleet
            .regions
            .iter()
            .rev()
            .find_map(|region| observed.image(&names.set(&region.name, role)))
    };
    let choose = |asked: &Option<String>, role, brought: &String| {
        asked
            .clone()
            .or_else(|| running(role))
            .unwrap_or_else(|| brought.clone())
    };
    Images {
        relay: choose(&fleet.images.relay, Role::Relay, &brought.relay),
        nats: choose(&fleet.images.nats, Role::Nats, &brought.nats),
    }
}

/// What the operator brings that the fleet does not run, of images that the fleet does not name.
pub(super) fn newer(fleet: &ValidFleet, brought: &Images, images: &Images) -> Option<String> {
    let mut newer = Vec::new();
    if fleet.images.relay.is_none() && images.relay != brought.relay {
        newer.push(brought.relay.clone());
    }
    if fleet.images.nats.is_none() && images.nats != brought.nats {
        newer.push(brought.nats.clone());
    }
    (!newer.is_empty()).then(|| newer.join(" and "))
}
