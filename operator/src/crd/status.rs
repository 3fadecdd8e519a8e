//! `status` of a `RelayCluster`: what the operator saw, what it waits for, and since when. Written on changes only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator saw of a fleet.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct RelayClusterStatus {
    /// `metadata.generation` that this status is about. Older than the object: the operator has not seen the last change yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Progressing, Degraded, Durable, Paused and UpgradeAvailable; all of them are there from the first second, as Unknown.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Everything the fleet waits for, the most important first; empty when it is as asked.
    pub waiting_for: Vec<WaitingFor>,
    /// One entry a region, in the order of the spec; regions that are leaving come last.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub regions: Vec<RegionStatus>,
    /// The columns of `kubectl get`.
    pub summary: StatusSummary,
    /// Images that the fleet runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
    /// The fleet's identity, 32 hex digits. Envelopes are bound to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet_id: Option<String>,
    /// Key epoch that relays seal with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_epoch: Option<i64>,
    /// The rollout that is under way, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
}

/// One thing that a fleet waits for.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WaitingFor {
    /// What: a stable word, such as `PodNotReady` or `KeysMissing`.
    pub what: String,
    /// Where: a region, or an object such as `pod/fleet-a-nats-1`.
    #[serde(rename = "where")]
    pub where_: String,
    /// Since when.
    pub since: Time,
    /// What ends the wait, and what to do if it lasts.
    pub unblocked_by: String,
}

/// One region as it is.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RegionStatus {
    /// The region.
    pub name: String,
    /// What it is doing.
    pub state: RegionState,
    /// Relays that are ready.
    pub relays_ready: i32,
    /// Relays that are wanted.
    pub relays: i32,
    /// NATS servers that are ready.
    pub nats_ready: i32,
    /// NATS servers that are wanted.
    pub nats: i32,
    /// Hubs that are ready.
    pub hubs_ready: i32,
    /// Hubs that are wanted.
    pub hubs: i32,
    /// Where clients inside the cluster reach the region.
    pub url: String,
}

/// What a region is doing.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionState {
    /// Its pods are being made, or its streams.
    Starting,
    /// Everything is there and answers.
    Ready,
    /// It serves, and something is missing.
    Degraded,
    /// It does not serve.
    Down,
    /// The operator cannot see it; nothing is concluded from that.
    Unknown,
    /// Its pods are being restarted with a change.
    RollingOut,
    /// It left the spec and is kept until its log is held elsewhere.
    Leaving,
}

/// What `kubectl get njc` shows.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusSummary {
    /// `3/3`: regions that serve, of those wanted.
    pub regions: String,
    /// `9/9`: relays that are ready, of those wanted.
    pub relays: String,
    /// The first of `waitingFor` in a few words, and how many more there are.
    pub waiting_for: String,
}

/// Images of a fleet.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Images {
    /// Image of the relays.
    pub relay: String,
    /// Image of the NATS servers and hubs.
    pub nats: String,
}

/// A change that moves through the fleet.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// What all pods are to become: a hash.
    pub revision: String,
    /// How far it is.
    pub phase: RolloutPhase,
    /// The region that moves, or the canary that soaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The pod that moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Pods that run the change.
    pub updated: i32,
    /// Pods of the fleet.
    pub total: i32,
    /// When it began.
    pub started_at: Time,
    /// When the canary region was through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_done_at: Option<Time>,
    /// When the last restarted pod was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_at: Option<Time>,
    /// When the moved pod and everything around it were seen well again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<Time>,
    /// Why it does not go on, or what it is doing, for people.
    pub message: String,
}

/// How far a rollout is.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutPhase {
    /// Pods are restarted, one after the other.
    Moving,
    /// The canary region is through; the others wait.
    Soaking,
    /// A pod did not become ready in time. It goes on when it does, or when the change is taken back.
    Halted,
    /// Stopped by annotation.
    Paused,
    /// Every pod runs it.
    Done,
}

/// The condition types of a `RelayCluster`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// Every region serves.
    Ready,
    /// Something is being made or changed.
    Progressing,
    /// Something is wrong, or missing.
    Degraded,
    /// Every acknowledged message is on the disks of a majority of its region's servers.
    Durable,
    /// The operator was told to leave the fleet alone.
    Paused,
    /// The operator brings newer images than the fleet runs.
    UpgradeAvailable,
}

impl ConditionType {
    /// All types, in the order in which they are shown.
    pub const ALL: [Self; 6] = [
        Self::Ready,
        Self::Progressing,
        Self::Degraded,
        Self::Durable,
        Self::Paused,
        Self::UpgradeAvailable,
    ];

    /// Its name in `conditions[].type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Progressing => "Progressing",
            Self::Degraded => "Degraded",
            Self::Durable => "Durable",
            Self::Paused => "Paused",
            Self::UpgradeAvailable => "UpgradeAvailable",
        }
    }
}

impl RelayClusterStatus {
    /// A condition by its type.
    pub fn condition(&self, of: ConditionType) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.type_ == of.name())
    }
}
