//! What a fleet's streams wait for: before they are made, and when they are not as planned. Pure.

use std::sync::Arc;
use std::time::Duration;

use super::health;
use super::material::Keys;
use super::pass::HealthOf;
use super::rollout::{self, RegionView, Wait};
use crate::plan::{FleetPlan, RegionPlan};

/// A mirror that has heard nothing of its origin for longer is told.
const MIRROR_STALE: Duration = Duration::from_secs(15);

/// Whether streams may be made; if not, what that waits for is added.
pub(super) fn allowed(
    plan: &FleetPlan,
    health: &HealthOf,
    keys: &Keys,
    waits: &mut Vec<Wait>,
) -> bool {
    if matches!(keys, Keys::Missing) {
        waits.push(Wait {
            what: "KeysMissing",
            where_: format!("secret/{}-keys", plan.name),
            unblocked_by: "putting the Secret back from a backup (kubectl apply): messages exist that only its keys open, so none are made".to_owned(),
        });
        return false;
    }
    let of = |region: &RegionPlan| health.get(&region.name).map(Arc::as_ref);
    match health::unlinked(plan, of) {
        None => true,
        Some(reason) => {
            // Where every stream exists, a link that is down is told by the pods and mirrors it holds back.
            let complete = plan.regions.iter().all(|region| {
                let seen = health.get(&region.name);
                seen.is_some_and(|seen| seen.streams.len() >= region.streams.len())
            });
            if complete {
                return false;
            }
            waits.push(Wait {
                what: "LinksDown",
                where_: "fleet".to_owned(),
                unblocked_by: reason,
            });
            false
        }
    }
}

/// Streams that are not as planned, the worst of each region, and logs that are not whole. `told` is what the rollout waits for.
pub(super) fn waits(
    plan: &FleetPlan,
    health: &HealthOf,
    views: &[RegionView],
    told: Option<&Wait>,
) -> Vec<Wait> {
    let mut waits = not_as_planned(plan, health);
    waits.extend(
        rollout::log_waits(views).filter(|wait| !told.is_some_and(|told| same(told, wait))),
    );
    waits
}

fn same(one: &Wait, other: &Wait) -> bool {
    (one.what, &one.where_) == (other.what, &other.where_)
}

fn not_as_planned(plan: &FleetPlan, health: &HealthOf) -> Vec<Wait> {
    let mut waits = Vec::new();
    for region in &plan.regions {
        let Some(seen) = health.get(&region.name) else {
            continue;
        };
        let worst = seen
            .problems
            .iter()
            .min_by_key(|(_, (_, temporary))| *temporary);
        if let Some((stream, (problem, temporary))) = worst {
            waits.push(Wait {
                what: if *temporary {
                    "StreamsStarting"
                } else {
                    "StreamProblem"
                },
                where_: format!("{}/{stream}", region.name),
                unblocked_by: problem.clone(),
            });
        }
        // A mirror hears of its origin every second; what a moved leader needs to begin is less than this.
        let stale = seen.streams.values().find(|stream| {
            stream.mirror_of.is_some()
                && stream
                    .silent_for
                    .is_some_and(|silent| silent > MIRROR_STALE)
        });
        if let Some((stream, of)) =
            stale.and_then(|stream| Some((stream, stream.mirror_of.as_ref()?)))
        {
            waits.push(Wait {
                what: "MirrorStale",
                where_: region.name.to_string(),
                unblocked_by: format!("regions {} and {of} reaching each other again (for example {} hears nothing of its origin); both serve, and catch up by themselves", region.name, stream.name),
            });
        }
        if let Some((server, problem)) = seen.reload_problems.iter().next() {
            waits.push(Wait {
                what: "ReloadFailed",
                where_: server.clone(),
                unblocked_by: format!("the server loading its configuration; it says: {problem}"),
            });
        }
    }
    waits
}
