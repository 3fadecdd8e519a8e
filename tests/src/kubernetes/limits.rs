//! How long anything on a cluster may take. A limit is only ever reached when something is broken; the machine may be small and busy.

use std::time::Duration;

/// Between two looks at a condition: each look is a process.
pub const PAUSE: Duration = Duration::from_millis(400);
/// From `helm install` to operators that are ready.
pub const OPERATOR_READY: &str = "120s";
/// From apply to a fleet with nothing left to do.
pub const FLEET_READY: Duration = Duration::from_secs(240);
/// The first status of a new RelayCluster. A person would say "at once"; each look at it costs half a second.
pub const FIRST_STATUS: Duration = Duration::from_secs(5);
/// A condition or a wait that tells of something that happened.
pub const TOLD: Duration = Duration::from_secs(60);
/// An object that a person changed or removed, put back.
pub const PUT_BACK: Duration = Duration::from_secs(45);
/// A rollout through one region or through three.
pub const ROLLOUT: Duration = Duration::from_secs(480);
/// A fleet well again after its fault has ended.
pub const HEALED: Duration = Duration::from_secs(180);
/// Another operator leading after the death of the one that led.
pub const TAKEOVER: Duration = Duration::from_secs(20);
/// A message on its way from one region to another.
pub const DELIVERED: Duration = Duration::from_secs(60);
/// What the operator may have of memory beside one running fleet and 200 paused ones.
pub const OPERATOR_KIB: u64 = 64 * 1024;
/// A Secret or ConfigMap of a pod, as changed: the kubelet brings it within a minute or two by its usual settings.
pub const MOUNTED: Duration = Duration::from_secs(150);
