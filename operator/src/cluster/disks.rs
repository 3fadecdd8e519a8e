//! Growth of disks, before anything is planned for them: a region whose disks cannot grow is looked after with the size that it has.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, Patch, PatchParams};
use nightjar_envelope::RegionName;
use serde_json::{Value, json};

use super::dereference::Observed;
use super::error::ClusterError;
use super::names::{Names, is_pod_of};
use super::record::FleetRecord;
use super::rollout::Wait;
use crate::crd::{RegionSpec, parse_quantity};
use crate::plan::Role;
use crate::validate::{ValidFleet, ValidRegion};

/// Roles that have disks.
const ROLES: [Role; 2] = [Role::Nats, Role::Relay];

/// Disks of one role in one region that are smaller than what is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Growth {
    region: RegionName,
    role: Role,
    claims: Vec<String>,
    size: String,
}

/// A growth that the API server does not let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    growth: Growth,
    claim: String,
    reason: String,
}

/// A record may say more than what was applied: older operators wrote the size down before the disks grew. What counts is what the
/// StatefulSets ask for.
pub(super) fn correct_record(record: &mut FleetRecord, names: &Names, observed: &Observed) {
    for (region, known) in record.regions.iter_mut() {
        for role in ROLES {
            let applied = applied(&names.set(region, role), observed);
            let recorded = size_of(&mut known.spec, role);
            if let Some(applied) = applied.filter(|applied| is_less(applied, recorded)) {
                *recorded = applied;
            }
        }
    }
}

/// What has to grow. Claims that have no disk yet cannot, and have their turn when they do.
pub(super) fn wanted(fleet: &ValidFleet, names: &Names, observed: &Observed) -> Vec<Growth> {
    let of_role = |region: &ValidRegion, role| {
        let set = names.set(&region.name, role);
        let size = size_in(&region.asked, role).to_owned();
        let small = |claim: &PersistentVolumeClaim| {
            requested(claim).is_some_and(|live| is_less(live, &size))
        };
        let claims = observed.claims.iter();
        let claims =
            claims.filter(|(name, claim)| is_of_set(name, &set) && is_bound(claim) && small(claim));
        Growth {
            region: region.name.clone(),
            role,
            claims: claims.map(|(name, _)| name.clone()).collect(),
            size,
        }
    };
    fleet
        .regions
        .iter()
        .flat_map(|region| ROLES.map(|role| of_role(region, role)))
        .filter(|growth| !growth.claims.is_empty())
        .collect()
}

/// Grows disks. What the API server refuses is told, and holds back nothing but itself.
pub(super) async fn grow(
    api: &Api<PersistentVolumeClaim>,
    wanted: Vec<Growth>,
) -> Result<Vec<Refused>, ClusterError> {
    let mut refused = Vec::new();
    for growth in wanted {
        if let Some((claim, reason)) = grow_claims(api, &growth).await? {
            refused.push(Refused {
                growth,
                claim,
                reason,
            });
        }
    }
    Ok(refused)
}

async fn grow_claims(
    api: &Api<PersistentVolumeClaim>,
    growth: &Growth,
) -> Result<Option<(String, String)>, ClusterError> {
    let patch = json!({"spec": {"resources": {"requests": {"storage": growth.size}}}});
    for name in &growth.claims {
        let params = PatchParams::default();
        match api.patch(name, &params, &Patch::Merge(&patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_invalid() => {
                return Ok(Some((name.clone(), status.message.clone())));
            }
            Err(source) => {
                return Err(ClusterError::api(
                    "grow",
                    "persistentvolumeclaim",
                    name,
                    source,
                ));
            }
        }
    }
    Ok(None)
}

/// Leaves the size of what cannot grow as it is on record, and says what there is to do.
pub(super) fn hold(fleet: &mut ValidFleet, record: &FleetRecord, refused: &Refused) -> Wait {
    let growth = &refused.growth;
    let recorded = record.regions.get(&growth.region);
    let old = recorded.map(|known| size_in(&known.spec, growth.role).to_owned());
    let regions = fleet.regions.iter_mut();
    let region = regions
        .into_iter()
        .find(|region| region.name == growth.region);
    if let (Some(region), Some(old)) = (region, &old) {
        keep(region, growth.role, old);
    }
    let field = match growth.role {
        Role::Relay => "relays.storage",
        Role::Nats | Role::Hub => "nats.storage",
    };
    let back = match old.filter(|old| is_less(old, &growth.size)) {
        Some(old) => format!(", or put {field} of region {} back to {old}", growth.region),
        None => String::new(),
    };
    Wait {
        what: "VolumeCannotGrow",
        where_: format!("persistentvolumeclaim/{}", refused.claim),
        unblocked_by: format!(
            "the disk growing to {}, which the API server refuses: {}; make its StorageClass one with allowVolumeExpansion, or lift what it names{back}",
            growth.size, refused.reason
        ),
    }
}

fn keep(region: &mut ValidRegion, role: Role, size: &str) {
    let Ok(bytes) = parse_quantity(size) else {
        return;
    };
    match role {
        Role::Relay => region.relay_storage = bytes,
        Role::Nats | Role::Hub => region.nats_storage = bytes,
    }
    size.clone_into(size_of(&mut region.asked, role));
}

fn size_in(spec: &RegionSpec, role: Role) -> &str {
    match role {
        Role::Relay => &spec.relays.storage,
        Role::Nats | Role::Hub => &spec.nats.storage,
    }
}

fn size_of(spec: &mut RegionSpec, role: Role) -> &mut String {
    match role {
        Role::Relay => &mut spec.relays.storage,
        Role::Nats | Role::Hub => &mut spec.nats.storage,
    }
}

/// What the StatefulSet asks for a disk.
fn applied(set: &str, observed: &Observed) -> Option<String> {
    let template: &Value = &observed.stateful_set(set)?["spec"]["volumeClaimTemplates"][0];
    let size = template["spec"]["resources"]["requests"]["storage"].as_str();
    size.map(str::to_owned)
}

fn requested(claim: &PersistentVolumeClaim) -> Option<&str> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    Some(&resources.requests.as_ref()?.get("storage")?.0)
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase == Some("Bound") && claim.metadata.deletion_timestamp.is_none()
}

fn is_of_set(claim: &str, set: &str) -> bool {
    let pod = claim
        .strip_prefix(Names::claim())
        .and_then(|rest| rest.strip_prefix('-'));
    pod.is_some_and(|pod| is_pod_of(pod, set))
}

/// Whether one size is less than another. What cannot be read is neither.
fn is_less(one: &str, other: &str) -> bool {
    matches!((parse_quantity(one), parse_quantity(other)), (Ok(one), Ok(other)) if one < other)
}

#[cfg(test)]
#[path = "disks_tests.rs"]
mod tests;
