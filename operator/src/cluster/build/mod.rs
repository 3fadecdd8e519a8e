//! From a plan to Kubernetes objects, one file a kind. Pure: no client, no clock, and the same input gives the same objects.

mod config_map;
mod ingress;
mod network_policy;
mod pod;
mod pod_disruption_budget;
mod service;
mod stateful_set;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use nightjar_envelope::RegionName;
use serde::Serialize;
use serde_json::Value;

use super::names::{Names, RESTART_HASH};
use crate::crd::Images;
use crate::plan::{FleetPlan, ProcessPlan, RegionPlan, Role};
use crate::validate::{ValidFleet, ValidRegion};

pub use pod::restart_hash;

/// A kind of object that the operator owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1`
    ConfigMap,
    /// `v1`
    Service,
    /// `networking.k8s.io/v1`
    NetworkPolicy,
    /// `networking.k8s.io/v1`
    Ingress,
    /// `policy/v1`
    PodDisruptionBudget,
    /// `apps/v1`
    StatefulSet,
}

impl Kind {
    /// All kinds, in the order in which they are applied: what pods need comes before pods.
    pub const ALL: [Self; 6] = [
        Self::ConfigMap,
        Self::Service,
        Self::NetworkPolicy,
        Self::Ingress,
        Self::PodDisruptionBudget,
        Self::StatefulSet,
    ];

    /// Group, version, kind and plural.
    pub fn resource(self) -> kube::core::ApiResource {
        use k8s_openapi::api::{apps, core, networking, policy};
        use kube::core::ApiResource;
        match self {
            Self::ConfigMap => ApiResource::erase::<core::v1::ConfigMap>(&()),
            Self::Service => ApiResource::erase::<core::v1::Service>(&()),
            Self::NetworkPolicy => ApiResource::erase::<networking::v1::NetworkPolicy>(&()),
            Self::Ingress => ApiResource::erase::<networking::v1::Ingress>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<policy::v1::PodDisruptionBudget>(&()),
            Self::StatefulSet => ApiResource::erase::<apps::v1::StatefulSet>(&()),
        }
    }
}

/// An object as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The whole object, with `apiVersion` and `kind`.
    pub object: Value,
}

/// Everything that the objects are made of.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Names of the fleet.
    pub names: &'a Names,
    /// The fleet, checked.
    pub fleet: &'a ValidFleet,
    /// Its plan.
    pub plan: &'a FleetPlan,
    /// The `RelayCluster`, which owns the objects.
    pub owner: &'a OwnerReference,
    /// Images to run.
    pub images: &'a Images,
    /// Certificates of the regions' authorities, PEM.
    pub authorities: &'a BTreeMap<RegionName, String>,
    /// What besides its plan makes a process need a restart, by process name: keys and certificates that it cannot load again.
    pub secrets_hash: &'a BTreeMap<String, String>,
    /// Which users of the operator the servers of a region are started with, as one hash.
    pub operator_users: &'a BTreeMap<RegionName, String>,
    /// Value of the annotation that asks for a restart of everything.
    pub restarted_at: Option<&'a str>,
}

/// One role in one region.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group<'a> {
    pub(super) input: &'a Input<'a>,
    pub(super) region: &'a RegionPlan,
    pub(super) spec: &'a ValidRegion,
    pub(super) role: Role,
}

impl<'a> Group<'a> {
    pub(super) fn processes(&self) -> &'a [ProcessPlan] {
        match self.role {
            Role::Nats => &self.region.nats,
            Role::Hub => &self.region.hubs,
            Role::Relay => &self.region.relays,
        }
    }

    pub(super) fn name(&self) -> String {
        self.input.names.set(&self.region.name, self.role)
    }

    pub(super) fn metadata(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            labels: Some(self.input.names.role_labels(&self.region.name, self.role)),
            ..self.input.metadata(name)
        }
    }
}

impl Input<'_> {
    pub(super) fn metadata(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.names.namespace.clone()),
            labels: Some(self.names.labels()),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        }
    }
}

/// All objects of a fleet, in the order in which they are applied.
pub fn build(input: &Input<'_>) -> Vec<Desired> {
    let mut objects = Vec::new();
    for region in &input.plan.regions {
        let Some(spec) = input
            .fleet
            .regions
            .iter()
            .find(|spec| spec.name == region.name)
        else {
            continue;
        };
        for role in [Role::Nats, Role::Hub, Role::Relay] {
            let group = Group {
                input,
                region,
                spec,
                role,
            };
            if group.processes().is_empty() {
                continue;
            }
            objects.push(desired(Kind::ConfigMap, &config_map::build(&group)));
            objects.push(desired(Kind::Service, &service::headless(&group)));
            objects.push(desired(Kind::NetworkPolicy, &network_policy::build(&group)));
            if let Some(budget) = pod_disruption_budget::build(&group) {
                objects.push(desired(Kind::PodDisruptionBudget, &budget));
            }
            objects.push(desired(Kind::StatefulSet, &stateful_set::build(&group)));
            if role == Role::Relay {
                objects.push(desired(Kind::Service, &service::of_clients(&group)));
                if let Some(ingress) = ingress::build(&group) {
                    objects.push(desired(Kind::Ingress, &ingress));
                }
            }
        }
    }
    objects.sort_by_key(|object| object.kind);
    objects
}

/// The restart hash of a StatefulSet's pods; empty without one.
pub(super) fn template_hash(set: &Value) -> &str {
    set["spec"]["template"]["metadata"]["annotations"][RESTART_HASH]
        .as_str()
        .unwrap_or_default()
}

fn desired<K: kube::Resource<DynamicType = ()> + Serialize>(kind: Kind, object: &K) -> Desired {
    let mut value = serde_json::to_value(object).expect("objects are plain JSON");
    // Empty status and similar leftovers of the types are not ours to say.
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    Desired {
        kind,
        name: object.meta().name.clone().unwrap_or_default(),
        object: value,
    }
}
