//! The CustomResourceDefinition as a file, made from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON,
};
use kube::CustomResourceExt;
use serde_json::json;

use super::{ConditionType, RelayCluster};

/// First lines of generated files.
pub(super) const GENERATED: &str =
    "Generated from operator/src/crd by `cargo xtask generate`; changes here are lost.";

/// The definition of `RelayCluster`, as the API server gets it.
///
/// `status` has a default, so that every condition exists, as Unknown, before the operator has seen a fleet: `kubectl wait` and
/// health checks need no special case for the first second.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = RelayCluster::crd();
    for version in &mut definition.spec.versions {
        let Some(properties) = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
            .and_then(|schema| schema.properties.as_mut())
        else {
            continue;
        };
        if let Some(status) = properties.get_mut("status") {
            status.default = Some(JSON(json!({"conditions": first_conditions()})));
        }
    }
    definition
}

fn first_conditions() -> Vec<serde_json::Value> {
    ConditionType::ALL
        .map(|of| {
            json!({
                "type": of.name(),
                "status": "Unknown",
                "reason": "NotReconciled",
                "message": "The operator has not seen this fleet yet: is nightjar-operator running, and does it watch this namespace?",
                "lastTransitionTime": "1970-01-01T00:00:00Z",
            })
        })
        .into()
}

/// `crds/relaycluster.yaml`.
pub fn crd_yaml() -> String {
    let yaml = serde_yaml::to_string(&definition())
        .expect("a definition is plain maps, lists and scalars");
    format!("# {GENERATED}\n{yaml}")
}
