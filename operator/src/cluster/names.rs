//! Names, labels, annotations, ports and paths of everything that a fleet has in Kubernetes. Pure; every other file takes them from here.

use std::collections::BTreeMap;

use nightjar_envelope::RegionName;

use crate::plan::{Port, ProcessId, Role};

/// Field manager of every server-side apply, `app.kubernetes.io/managed-by`, and reporter of events.
pub const MANAGER: &str = "nightjar-operator";
/// Finalizer of a `RelayCluster`: its deletion waits for what `deletionPolicy` says.
pub const FINALIZER: &str = "nightjar.dev/fleet";

/// Label: the fleet.
pub const FLEET_LABEL: &str = "nightjar.dev/fleet";
/// Label: the region.
pub const REGION_LABEL: &str = "nightjar.dev/region";
/// Label: `nats`, `hub` or `relay`.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";

/// Annotation of a `RelayCluster`: the operator leaves the fleet alone while it is `true`.
pub const PAUSED: &str = "nightjar.dev/paused";
/// Annotation of a `RelayCluster`: no pod is restarted while it is `true`; everything else goes on.
pub const ROLLOUT_PAUSED: &str = "nightjar.dev/rollout-paused";
/// Annotation of a `RelayCluster`: every pod is restarted, as by a change, when the value changes.
pub const RESTARTED_AT: &str = "nightjar.dev/restarted-at";
/// Annotation of a `RelayCluster`: the named region may go once its log is held elsewhere.
pub const REMOVE_REGION: &str = "nightjar.dev/remove-region";
/// Annotation of a `RelayCluster`: the named region is lost for good and goes without its log being held elsewhere.
pub const ABANDON_REGION: &str = "nightjar.dev/abandon-region";
/// Annotation of owned objects: hash of what was applied last, so that a change by hand is told from one of ours.
pub const APPLIED_HASH: &str = "nightjar.dev/applied-hash";
/// Annotation of pods: what they were started with. Another value in the plan means a restart.
pub const RESTART_HASH: &str = "nightjar.dev/restart-hash";

/// Annotation of the pods of servers and hubs: which users of the operator they were started with. Another value means no restart.
pub const OPERATOR_USERS: &str = "nightjar.dev/operator-users";

/// UID and GID of every process.
pub const USER: i64 = 65_532;

/// Where the configuration lies in a pod.
pub const CONFIG_DIR: &str = "/etc/nightjar/config";
/// Certificates and their keys.
pub const TLS_DIR: &str = "/etc/nightjar/tls";
/// The certificate that relays serve to clients.
pub const PUBLIC_TLS_DIR: &str = "/etc/nightjar/public-tls";
/// Its file, and key of a Secret of type `kubernetes.io/tls`.
pub const TLS_CERTIFICATE: &str = "tls.crt";
/// The same for its private key.
pub const TLS_KEY: &str = "tls.key";
/// The seed of a NATS user.
pub const USER_DIR: &str = "/etc/nightjar/user";
/// The fleet's keyring.
pub const KEYS_DIR: &str = "/etc/nightjar/keys";
/// The disk.
pub const DATA_DIR: &str = "/data";
/// What lives as long as the pod.
pub const RUN_DIR: &str = "/run/nightjar";

/// Probes of NATS servers.
pub const MONITOR_PORT: u16 = 8222;

/// A port of a pod.
pub fn port_number(port: Port) -> u16 {
    match port {
        Port::Client => 4222,
        Port::Route => 6222,
        Port::Leaf => 7422,
        Port::Gateway => 7222,
        Port::Relay => 7777,
        Port::Admin => 9090,
    }
}

/// The name of a port in pods and Services.
pub fn port_name(port: Port) -> &'static str {
    match port {
        Port::Client => "client",
        Port::Route => "route",
        Port::Leaf => "leaf",
        Port::Gateway => "gateway",
        Port::Relay => "relay",
        Port::Admin => "admin",
    }
}

/// Names of a fleet's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// `metadata.name` of the `RelayCluster`.
    pub fleet: String,
    /// Its namespace.
    pub namespace: String,
}

impl Names {
    /// Of a fleet in a namespace.
    pub fn new(fleet: impl Into<String>, namespace: impl Into<String>) -> Self {
        Self {
            fleet: fleet.into(),
            namespace: namespace.into(),
        }
    }

    /// `<fleet>-<region>`: the Service that clients use, and the prefix of everything else.
    pub fn region(&self, region: &RegionName) -> String {
        format!("{}-{region}", self.fleet)
    }

    /// `<fleet>-<region>-<role>`: StatefulSet, headless Service, PodDisruptionBudget, NetworkPolicy.
    pub fn set(&self, region: &RegionName, role: Role) -> String {
        format!("{}-{region}-{role}", self.fleet)
    }

    /// A pod.
    pub fn pod(&self, id: &ProcessId) -> String {
        format!("{}-{}", self.set(&id.region, id.role), id.ordinal)
    }

    /// The DNS name of a pod, short of the cluster's domain.
    pub fn host(&self, id: &ProcessId) -> String {
        let set = self.set(&id.region, id.role);
        format!("{}.{set}.{}.svc", self.pod(id), self.namespace)
    }

    /// The DNS name of a region's Service, short of the cluster's domain.
    pub fn service_host(&self, region: &RegionName) -> String {
        format!("{}.{}.svc", self.region(region), self.namespace)
    }

    /// ConfigMap with the configurations of a role's processes.
    pub fn config(&self, region: &RegionName, role: Role) -> String {
        format!("{}-config", self.set(region, role))
    }

    /// Secret with the certificates of a role's processes.
    pub fn tls(&self, region: &RegionName, role: Role) -> String {
        format!("{}-tls", self.set(region, role))
    }

    /// Secret with the seed that a role's processes read.
    pub fn user(&self, region: &RegionName, role: Role) -> String {
        format!("{}-user", self.set(region, role))
    }

    /// Secret with the seeds that only the operator reads.
    pub fn operator_users(&self, region: &RegionName) -> String {
        format!("{}-operator-users", self.region(region))
    }

    /// Secret with the authority of a region.
    pub fn authority(&self, region: &RegionName) -> String {
        format!("{}-authority", self.region(region))
    }

    /// Secret with the authority of the fleet's gateways.
    pub fn gateway_authority(&self) -> String {
        format!("{}.gateway-authority", self.fleet)
    }

    /// Secret with the fleet's keyring. It has no owner and outlives the fleet.
    pub fn keys(&self) -> String {
        format!("{}-keys", self.fleet)
    }

    /// ConfigMap with what must be remembered of the fleet. It has no owner and outlives the fleet.
    pub fn record(&self) -> String {
        format!("{}-record", self.fleet)
    }

    /// Name of the claim template of every StatefulSet.
    pub fn claim() -> &'static str {
        "data"
    }

    /// Selector of everything that belongs to the fleet.
    pub fn selector(&self) -> String {
        format!("{FLEET_LABEL}={}", self.fleet)
    }

    /// Labels of everything that belongs to the fleet.
    pub fn labels(&self) -> BTreeMap<String, String> {
        [
            ("app.kubernetes.io/managed-by", MANAGER),
            ("app.kubernetes.io/part-of", "nightjar"),
            ("app.kubernetes.io/instance", self.fleet.as_str()),
            (FLEET_LABEL, self.fleet.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    /// Labels of what belongs to a region.
    pub fn region_labels(&self, region: &RegionName) -> BTreeMap<String, String> {
        let mut labels = self.labels();
        labels.insert(REGION_LABEL.to_owned(), region.to_string());
        labels
    }

    /// Labels of what belongs to a role in a region.
    pub fn role_labels(&self, region: &RegionName, role: Role) -> BTreeMap<String, String> {
        let mut labels = self.region_labels(region);
        labels.insert(COMPONENT_LABEL.to_owned(), role.to_string());
        labels
    }

    /// The part of the labels by which pods of a role are found; it never changes.
    pub fn role_selector(&self, region: &RegionName, role: Role) -> BTreeMap<String, String> {
        [
            (FLEET_LABEL, self.fleet.clone()),
            (REGION_LABEL, region.to_string()),
            (COMPONENT_LABEL, role.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }
}

/// Whether a pod is one of a StatefulSet, by its name.
pub(super) fn is_pod_of(pod: &str, set: &str) -> bool {
    let ordinal = pod
        .strip_prefix(set)
        .and_then(|rest| rest.strip_prefix('-'));
    ordinal.is_some_and(|ordinal| {
        !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit())
    })
}
