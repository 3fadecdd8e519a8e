//! Regions that are no longer in the spec: kept until their log is held elsewhere and somebody has acknowledged the removal. Pure.

use std::collections::BTreeSet;

use nightjar_envelope::{RegionName, StreamName};
use tokio::time::Instant;

use super::names::{ABANDON_REGION, REMOVE_REGION};
use super::pass::{HealthOf, Scope};
use super::record::{FleetRecord, RegionRecord};
use super::rollout::Wait;
use super::sightings::Sightings;
use crate::crd::{DeletionPolicy, RelayCluster};
use crate::plan::own_streams;
use crate::validate::{FieldError, ValidFleet, ValidRegion, validate};

/// What of the asked fleet cannot be taken over by the one on record.
pub(super) fn check_change(asked: &ValidFleet, record: &FleetRecord) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, region) in asked.regions.iter().enumerate() {
        if record
            .regions
            .get(&region.name)
            .is_some_and(|known| known.removed)
        {
            let message = "is the name of a region that left the fleet; positions in its log would change their meaning, so choose another".to_owned();
            errors.push(FieldError::new(
                format!("spec.regions[{index}].name"),
                message,
            ));
        }
    }
    let Some(old) = fleet_on_record(asked, record) else {
        return errors;
    };
    errors.extend(old.check_change(asked));
    errors
}

/// The asked fleet with the regions as they are on record.
fn fleet_on_record(asked: &ValidFleet, record: &FleetRecord) -> Option<ValidFleet> {
    let regions: Vec<ValidRegion> = record
        .regions
        .iter()
        .filter(|(_, known)| !known.removed)
        .filter_map(|(name, _)| region_on_record(asked, record, name))
        .collect();
    (!regions.is_empty()).then(|| ValidFleet {
        regions,
        ..asked.clone()
    })
}

/// A region as it was asked for last, through the same checks as any other.
fn region_on_record(
    asked: &ValidFleet,
    record: &FleetRecord,
    name: &RegionName,
) -> Option<ValidRegion> {
    let known = record.regions.get(name)?;
    let spec: crate::crd::RelayClusterSpec = serde_json::from_value(serde_json::json!({
        "regions": [known.spec],
        "log": {"maxBytesPerRegion": "16Mi"},
    }))
    .ok()?;
    validate(&RelayCluster::new(&asked.name, spec))
        .ok()?
        .regions
        .into_iter()
        .next()
}

/// The fleet to run, and what is special about some regions.
pub(super) struct Effective {
    pub(super) fleet: ValidFleet,
    /// They left the spec and are kept.
    pub(super) leaving: BTreeSet<RegionName>,
    /// They left the spec, and their record is not understood: nothing of them is touched.
    pub(super) unread: BTreeSet<RegionName>,
    pub(super) waits: Vec<Wait>,
}

/// The fleet to run: what was asked for, and the regions that cannot go yet.
pub(super) fn effective(
    asked: &ValidFleet,
    record: &mut FleetRecord,
    scope: &Scope<'_>,
    health: &HealthOf,
    sightings: &Sightings,
) -> Effective {
    let mut fleet = asked.clone();
    let (mut leaving, mut waits, mut unread) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
    let gone: Vec<RegionName> = record
        .regions
        .iter()
        .filter(|(name, known)| {
            !known.removed && !asked.regions.iter().any(|region| region.name == **name)
        })
        .map(|(name, _)| name.clone())
        .collect();
    for name in gone {
        let Some(mut region) = region_on_record(asked, record, &name) else {
            // Nothing of it may go on the ground that its record is not understood.
            waits.push(Wait {
                what: "RegionRemoval",
                where_: name.to_string(),
                unblocked_by: "an operator that reads the region's record; put the region back into the spec meanwhile".to_owned(),
            });
            unread.insert(name);
            continue;
        };
        let acknowledged = asked.deletion_policy == DeletionPolicy::Delete
            || scope.annotation(REMOVE_REGION) == Some(name.as_str());
        let abandoned = scope.annotation(ABANDON_REGION) == Some(name.as_str());
        if abandoned {
            if let Some(known) = record.regions.get_mut(&name) {
                leave(known, asked);
            }
            continue;
        }
        if !acknowledged {
            waits.push(Wait {
                what: "RegionRemoval",
                where_: name.to_string(),
                unblocked_by: format!("an acknowledgement: kubectl annotate relaycluster {} {REMOVE_REGION}={name}; or put the region back into the spec", asked.name),
            });
        } else if let Some(reason) = not_held(asked, record, &name, health, sightings) {
            // Its relays take no more clients, so that nothing is added while the others catch up.
            region.relay_replicas = 0;
            waits.push(Wait {
                what: "RegionRemoval",
                where_: name.to_string(),
                unblocked_by: format!("every other region holding its log; now {reason}; if the region is lost for good: kubectl annotate relaycluster {} {ABANDON_REGION}={name}", asked.name),
            });
        } else {
            if let Some(known) = record.regions.get_mut(&name) {
                leave(known, asked);
            }
            continue;
        }
        leaving.insert(name);
        fleet.regions.push(region);
    }
    Effective {
        fleet,
        leaving,
        unread,
        waits,
    }
}

fn not_held(
    asked: &ValidFleet,
    record: &FleetRecord,
    name: &RegionName,
    health: &HealthOf,
    sightings: &Sightings,
) -> Option<String> {
    let held = Held {
        others: asked.regions.iter().map(|region| &region.name).collect(),
        record,
        health,
        relays_gone: sightings.relays_gone(name),
    };
    held.refuses(name)
}

/// What is known of a region whose log the others are to hold.
struct Held<'a> {
    /// The regions that stay.
    others: Vec<&'a RegionName>,
    record: &'a FleetRecord,
    health: &'a HealthOf,
    /// Since when it has no relay, and so nobody that writes.
    relays_gone: Option<Instant>,
}

impl Held<'_> {
    /// Why the other regions do not hold everything of a region's log; `None` if they do.
    fn refuses(&self, name: &RegionName) -> Option<String> {
        if !self.record.streams_made {
            // The record says so before the first stream of the fleet is made: nobody ever wrote anything.
            return None;
        }
        let Some(own) = self
            .health
            .get(name)
            .filter(|seen| seen.unreachable.is_none())
        else {
            return Some(format!(
                "region {name} cannot be seen, so what it wrote last is not known"
            ));
        };
        let Some(gone) = self.relays_gone else {
            return Some("its relays still run".to_owned());
        };
        if own.began <= gone {
            return Some(format!(
                "region {name} was not looked at since its last relay ended"
            ));
        }
        let known = self.record.regions.get(name)?;
        let planned = own_streams(name, known.generation);
        let recorded = known.streams.iter().chain(own.streams.keys());
        let streams: BTreeSet<&StreamName> = recorded
            .filter(|stream| stream.region == *name)
            .chain(&planned)
            .collect();
        streams.into_iter().find_map(|stream| {
            let never_made = own.absent.contains(stream) && !known.streams.contains(stream);
            match own.streams.get(stream) {
                Some(origin) => self.behind(stream, origin.last_sequence),
                None if never_made => None,
                None => Some(format!("stream {stream} was not seen in region {name}")),
            }
        })
    }

    /// Which region does not have as much of a stream. Copies only grow, so that any look at them will do.
    fn behind(&self, stream: &StreamName, wanted: u64) -> Option<String> {
        self.others.iter().find_map(|region| {
            let seen = self.health.get(*region);
            let copy = seen.and_then(|seen| seen.streams.get(stream));
            match copy.map(|copy| copy.last_sequence) {
                Some(held) if held >= wanted => None,
                Some(held) => Some(format!(
                    "region {region} has {held} of {wanted} entries of {stream}"
                )),
                None => Some(format!(
                    "the copy of {stream} in region {region} cannot be seen"
                )),
            }
        })
    }
}

fn leave(known: &mut RegionRecord, asked: &ValidFleet) {
    known.removed = true;
    known.disposable = asked.deletion_policy == DeletionPolicy::Delete;
}

#[cfg(test)]
#[path = "leaving_tests.rs"]
mod tests;
