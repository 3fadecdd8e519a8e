//! Names, labels and annotations by which the operator and this program know the parts of a fleet.

use nightjar_operator::plan::Role;

/// Label with the name of the fleet.
const FLEET_LABEL: &str = "nightjar.dev/fleet";
/// Annotation: the operator leaves the fleet alone.
pub(crate) const PAUSED: &str = "nightjar.dev/paused";
/// Annotation: no pod is restarted, everything else goes on.
pub(crate) const ROLLOUT_PAUSED: &str = "nightjar.dev/rollout-paused";
/// Annotation: a time; every pod is restarted by a normal rollout when it changes.
pub(crate) const RESTARTED_AT: &str = "nightjar.dev/restarted-at";
/// Annotation: the name of a region whose removal is acknowledged.
pub(crate) const REMOVE_REGION: &str = "nightjar.dev/remove-region";
/// Labels of the operator's Deployment.
pub(crate) const OPERATOR_SELECTOR: &str =
    "app.kubernetes.io/name=nightjar,app.kubernetes.io/component=operator";
/// Name of the operator's Lease.
pub(crate) const OPERATOR_LEASE: &str = "nightjar-operator";
/// Key of the keyring in the Secret of a fleet's keys.
pub(crate) const KEYS_KEY: &str = "keyring.json";

/// Selects every object of a fleet.
pub(crate) fn selector(fleet: &str) -> String {
    format!("app.kubernetes.io/managed-by=nightjar-operator,{FLEET_LABEL}={fleet}")
}

/// The Secret with the fleet's keys.
pub(crate) fn keys_secret(fleet: &str) -> String {
    format!("{fleet}-keys")
}

/// The Service through which clients reach a region.
pub(crate) fn region_service(fleet: &str, region: &str) -> String {
    format!("{fleet}-{region}")
}

/// A pod of a fleet.
pub(crate) fn pod_name(fleet: &str, region: &str, role: Role, ordinal: u32) -> String {
    format!("{fleet}-{region}-{role}-{ordinal}")
}
