//! The CustomResourceDefinition as a file, made from the types.

use kube::CustomResourceExt;

use super::RelayCluster;

/// First lines of generated files.
pub(super) const GENERATED: &str =
    "Generated from operator/src/crd by `cargo xtask generate`; changes here are lost.";

/// `crds/relaycluster.yaml`.
pub fn crd_yaml() -> String {
    let yaml = serde_yaml::to_string(&RelayCluster::crd())
        .expect("a definition is plain maps, lists and scalars");
    format!("# {GENERATED}\n{yaml}")
}
