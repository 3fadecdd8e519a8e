//! Regions that are no longer in the spec: kept until their log is held elsewhere and somebody has acknowledged the removal. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use nightjar_envelope::RegionName;

use super::dereference::Observed;
use super::names::{ABANDON_REGION, COMPONENT_LABEL, REGION_LABEL, REMOVE_REGION};
use super::pass::{HealthOf, Scope};
use super::record::FleetRecord;
use super::rollout::Wait;
use crate::crd::{DeletionPolicy, RelayCluster};
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

/// The fleet to run: what was asked for, and the regions that cannot go yet.
pub(super) fn effective(
    asked: &ValidFleet,
    record: &mut FleetRecord,
    scope: &Scope<'_>,
    health: &HealthOf,
    observed: &Observed,
) -> (ValidFleet, BTreeSet<RegionName>, Vec<Wait>) {
    let mut fleet = asked.clone();
    let (mut leaving, mut waits) = (BTreeSet::new(), Vec::new());
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
            continue;
        };
        let acknowledged = asked.deletion_policy == DeletionPolicy::Delete
            || scope.annotation(REMOVE_REGION) == Some(name.as_str());
        let abandoned = scope.annotation(ABANDON_REGION) == Some(name.as_str());
        if abandoned {
            if let Some(known) = record.regions.get_mut(&name) {
                known.removed = true;
            }
            continue;
        }
        if !acknowledged {
            waits.push(Wait {
                what: "RegionRemoval",
                where_: name.to_string(),
                unblocked_by: format!("an acknowledgement: kubectl annotate relaycluster {} {REMOVE_REGION}={name}; or put the region back into the spec", asked.name),
            });
        } else if let Some(reason) = not_held(asked, record, &name, health, observed) {
            // Its relays take no more clients, so that nothing is added while the others catch up.
            region.relay_replicas = 0;
            waits.push(Wait {
                what: "RegionRemoval",
                where_: name.to_string(),
                unblocked_by: format!("every other region holding its log; now {reason}; if the region is lost for good: kubectl annotate relaycluster {} {ABANDON_REGION}={name}", asked.name),
            });
        } else {
            if let Some(known) = record.regions.get_mut(&name) {
                known.removed = true;
            }
            continue;
        }
        leaving.insert(name);
        fleet.regions.push(region);
    }
    (fleet, leaving, waits)
}

/// Why the other regions do not hold everything of a region's log; `None` if they do.
fn not_held(
    asked: &ValidFleet,
    record: &FleetRecord,
    name: &RegionName,
    health: &HealthOf,
    observed: &Observed,
) -> Option<String> {
    let Some(own) = health.get(name).filter(|seen| seen.unreachable.is_none()) else {
        return Some(format!(
            "region {name} cannot be seen, so what it wrote last is not known"
        ));
    };
    let relay_of = |pod: &Pod| {
        let labels = pod.labels();
        labels.get(REGION_LABEL).map(String::as_str) == Some(name.as_str())
            && labels.get(COMPONENT_LABEL).map(String::as_str) == Some("relay")
    };
    if observed.pods.values().any(relay_of) {
        return Some("its relays still run".to_owned());
    }
    let known = &record.regions.get(name)?.streams;
    for stream in known.iter().filter(|stream| stream.region == *name) {
        let Some(origin) = own.streams.get(stream) else {
            return Some(format!("stream {stream} was not seen in region {name}"));
        };
        for region in &asked.regions {
            let held = health
                .get(&region.name)
                .and_then(|seen| seen.streams.get(stream))
                .map(|copy| copy.last_sequence);
            match held {
                Some(held) if held >= origin.last_sequence => {}
                Some(held) => {
                    return Some(format!(
                        "region {} has {held} of {} entries of {stream}",
                        region.name, origin.last_sequence
                    ));
                }
                None => {
                    return Some(format!(
                        "the copy of {stream} in region {} cannot be seen",
                        region.name
                    ));
                }
            }
        }
    }
    None
}
