//! StatefulSets: the pods of a role. `OnDelete`: Kubernetes restarts nothing by itself, the rollout decides.

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::{Group, pod};
use crate::cluster::names::Names;
use crate::plan::Role;

/// The StatefulSet of a role in a region.
pub(super) fn build(group: &Group<'_>) -> StatefulSet {
    StatefulSet {
        metadata: group.metadata(group.name()),
        spec: Some(StatefulSetSpec {
            replicas: Some(i32::try_from(group.processes().len()).unwrap_or(i32::MAX)),
            service_name: Some(group.name()),
            // Servers find each other while they start, so none may wait for another to be ready.
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                rolling_update: None,
            }),
            selector: LabelSelector {
                match_labels: Some(
                    group
                        .input
                        .names
                        .role_selector(&group.region.name, group.role),
                ),
                ..LabelSelector::default()
            },
            template: pod::template(group),
            volume_claim_templates: claim(group).map(|claim| vec![claim]),
            persistent_volume_claim_retention_policy: retention(group.role),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

/// The log's disks are never removed by Kubernetes. An index is made anew from the log, so a relay that leaves takes its own along.
fn retention(role: Role) -> Option<StatefulSetPersistentVolumeClaimRetentionPolicy> {
    let policy = |deleted: &str, scaled: &str| StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some(deleted.to_owned()),
        when_scaled: Some(scaled.to_owned()),
    };
    match role {
        Role::Nats => Some(policy("Retain", "Retain")),
        Role::Relay => Some(policy("Retain", "Delete")),
        Role::Hub => None,
    }
}

fn claim(group: &Group<'_>) -> Option<PersistentVolumeClaim> {
    let asked = &group.spec.asked;
    let (size, class) = match group.role {
        Role::Nats => (&asked.nats.storage, &asked.nats.storage_class),
        Role::Relay => (&asked.relays.storage, &asked.relays.storage_class),
        Role::Hub => return None,
    };
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(Names::claim().to_owned()),
            labels: Some(
                group
                    .input
                    .names
                    .role_labels(&group.region.name, group.role),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            // Two servers on one disk would ruin it, and a pod that was deleted by force can outlive its Pod: the kubelet then holds back
            // the next one. (ReadWriteOnce binds a disk to a node, not to a pod.)
            access_modes: Some(vec!["ReadWriteOncePod".to_owned()]),
            storage_class_name: class.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(
                    [("storage".to_owned(), Quantity(size.clone()))]
                        .into_iter()
                        .collect(),
                ),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}
