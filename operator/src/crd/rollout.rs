//! Images, how changes move through a fleet, and what a deletion leaves. Honoured in Kubernetes only.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Container images of a fleet.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagesSpec {
    /// Image of the relays. A change is rolled out region by region. Default: the image that the fleet runs; for a new fleet the one
    /// that belongs to the operator. So an upgrade of the operator restarts nothing.
    ///
    /// Example: `ghcr.io/nightjar-dev/relay:0.1.0`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^\s]+$"))]
    pub relay: Option<String>,

    /// Image of the NATS servers and hubs, nats-server 2.15.1 or newer. A change is rolled out region by region, one server at a time.
    /// Default: as for `relay`.
    ///
    /// Example: `docker.io/library/nats:2.15.2`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^\s]+$"))]
    pub nats: Option<String>,

    /// Names of Secrets with credentials for the images' registry, at most 8.
    ///
    /// Example: `[registry-credentials]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)))]
    pub pull_secrets: Vec<String>,
}

/// How changes that need a restart move through the fleet: one region at a time, the first of the list first.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutSpec {
    /// How long the first region must have run well with a change before the others get it: a number with `s`, `m`, `h` or `d`.
    /// Default `5m`.
    ///
    /// Example: `1h`
    #[serde(default = "default_soak")]
    #[schemars(length(min = 2, max = 10), regex(pattern = r"^[0-9]+(s|m|h|d|w)$"))]
    pub soak: String,

    /// How long a restarted pod may take to become ready before the rollout counts as halted, and says so. It goes on by itself when the
    /// pod becomes ready or the change is taken back. Default `10m`.
    ///
    /// Example: `20m`
    #[serde(default = "default_pod_deadline")]
    #[schemars(length(min = 2, max = 10), regex(pattern = r"^[0-9]+(s|m|h|d|w)$"))]
    pub pod_deadline: String,

    /// Pause between two restarted NATS servers of a region, after all streams are current again. Default `10s`.
    ///
    /// Example: `30s`
    #[serde(default = "default_settle")]
    #[schemars(length(min = 2, max = 10), regex(pattern = r"^[0-9]+(s|m|h|d|w)$"))]
    pub settle: String,
}

/// What a deletion leaves.
#[derive(
    Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default,
)]
pub enum DeletionPolicy {
    /// Disks and keys stay; the same file applied again finds its messages.
    #[default]
    Retain,
    /// Disks go, and the keys after them. What was on them cannot be read by anybody any more.
    Delete,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            soak: default_soak(),
            pod_deadline: default_pod_deadline(),
            settle: default_settle(),
        }
    }
}

fn default_soak() -> String {
    "5m".to_owned()
}

fn default_pod_deadline() -> String {
    "10m".to_owned()
}

fn default_settle() -> String {
    "10s".to_owned()
}
