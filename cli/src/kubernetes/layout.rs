//! Names, labels and annotations by which the operator and this program know the parts of a fleet.

use nightjar_operator::cluster::names::{FLEET_LABEL, MANAGER, Names};
pub(crate) use nightjar_operator::cluster::names::{
    PAUSED, REMOVE_REGION, RESTARTED_AT, ROLLOUT_PAUSED,
};
use nightjar_operator::plan::Role;

/// Labels of the operator's Deployment.
pub(crate) const OPERATOR_SELECTOR: &str =
    "app.kubernetes.io/name=nightjar,app.kubernetes.io/component=operator";
/// Name of the operator's Lease.
pub(crate) const OPERATOR_LEASE: &str = "nightjar-operator";
/// Key of the keyring in the Secret of a fleet's keys.
pub(crate) const KEYS_KEY: &str = "keyring.json";

/// Selects every object of a fleet.
pub(crate) fn selector(fleet: &str) -> String {
    format!("app.kubernetes.io/managed-by={MANAGER},{FLEET_LABEL}={fleet}")
}

/// The Secret with the fleet's keys.
pub(crate) fn keys_secret(fleet: &str) -> String {
    Names::new(fleet, "").keys()
}

/// The Service through which clients reach a region.
pub(crate) fn region_service(fleet: &str, region: &str) -> String {
    format!("{fleet}-{region}")
}

/// A pod of a fleet.
pub(crate) fn pod_name(fleet: &str, region: &str, role: Role, ordinal: u32) -> String {
    format!("{fleet}-{region}-{role}-{ordinal}")
}
