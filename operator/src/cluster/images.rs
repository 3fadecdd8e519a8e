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
    let running = |role, brought: &str| {
        let mut regions = fleet.regions.iter().rev();
        let image = regions.find_map(|region| observed.image(&names.set(&region.name, role)));
        image.unwrap_or_else(|| brought.to_owned())
    };
    let running = Images {
        relay: running(Role::Relay, &brought.relay),
        nats: running(Role::Nats, &brought.nats),
    };
    asked_or(fleet, running)
}

/// What was asked for, else what runs.
pub(super) fn asked_or(fleet: &ValidFleet, running: Images) -> Images {
    let asked = &fleet.images;
    Images {
        relay: asked.relay.clone().unwrap_or(running.relay),
        nats: asked.nats.clone().unwrap_or(running.nats),
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
