//! The `RelayCluster` resource, `nightjar.dev/v1alpha1`: what a user may ask for, with the bounds and rules that the API server checks.
//!
//! Field comments here are the reference that users read (`kubectl explain`, `docs/reference/relaycluster.md`): meaning,
//! unit, range, default, whether a change is applied to a running fleet, and an example. A field exists only if code honours it.

// KubeSchema derives from a hidden copy of each struct, which keeps its `pub`.
#![allow(unreachable_pub)]

mod admission;
mod duration;
mod generate;
mod limits;
mod load;
mod placement;
mod plugins;
mod quantity;
mod reference;
mod rollout;
mod schema;
mod senders;
mod status;
#[cfg(test)]
mod tests;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use admission::{AdmissionSpec, KindAccessSpec, ManagementSpec, WriteAccessSpec};
pub use duration::{DurationError, parse_duration};
pub use generate::{crd_yaml, definition};
pub use limits::RelayLimits;
pub use load::{MAX_FILE_BYTES, load};
pub use placement::{
    IngressSpec, PlacementSpec, RelayTlsSpec, ResourcesSpec, ServiceSpec, ServiceType,
    TolerationSpec,
};
pub use plugins::{OnPluginFailure, PluginSpec, PluginsSpec};
pub use quantity::{QuantityError, format_bytes, parse_quantity};
pub use reference::reference_markdown;
pub use rollout::{DeletionPolicy, ImagesSpec, RolloutSpec};
pub(crate) use schema::{check_spec, quote};
pub use senders::{AuthRequiredSpec, FirstContactSpec, GiftWrapsSpec, KeyBudgetSpec, TrustSpec};
pub use status::{
    ConditionType, Images, RegionState, RegionStatus, RelayClusterStatus, RolloutPhase,
    RolloutStatus, StatusSummary, WaitingFor,
};

/// A fleet of Nostr relays in one or several regions that hold the same messages.
///
/// In this version all regions of a `RelayCluster` live in one Kubernetes cluster, or on one machine with `nightjar up`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "nightjar.dev",
    version = "v1alpha1",
    kind = "RelayCluster",
    plural = "relayclusters",
    namespaced,
    cel,
    derive = "PartialEq",
    shortname = "njc",
    category = "nightjar",
    doc = "A fleet of Nostr relays in one or several regions that hold the same messages.",
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name must have at most 40 characters: names of processes begin with it"),
    validation = Rule::new("self.spec.regions.all(r, self.metadata.name.size() + r.name.size() <= 44)").message("metadata.name and the name of a region must have at most 44 characters together: names of pods are made of both"),
    status = "RelayClusterStatus",
    printcolumn(name = "Ready", type_ = "string", description = "Whether every region serves", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Regions", type_ = "string", description = "Regions that serve, of those wanted", json_path = ".status.summary.regions"),
    printcolumn(name = "Relays", type_ = "string", description = "Relays that are ready, of those wanted", json_path = ".status.summary.relays"),
    printcolumn(name = "Durable", type_ = "string", description = "Whether every acknowledged message is on the disks of a majority", json_path = ".status.conditions[?(@.type==\"Durable\")].status"),
    printcolumn(name = "Waiting For", type_ = "string", description = "What the fleet waits for, if anything", json_path = ".status.summary.waitingFor"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", description = "Why it is ready or not", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "Relay Image", type_ = "string", json_path = ".status.images.relay", priority = 1),
    printcolumn(name = "NATS Image", type_ = "string", json_path = ".status.images.nats", priority = 1),
    printcolumn(name = "Epoch", type_ = "integer", description = "Key epoch that relays seal with", json_path = ".status.keyEpoch", priority = 1)
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.regions.all(r, self.regions.exists_one(s, s.name == r.name))").message("names of regions must be unique").field_path(".regions"),
    validation = Rule::new("self.regions.all(r, oldSelf.regions.all(o, o.name != r.name || o.nats.replicas == r.nats.replicas))").message("nats.replicas of a region cannot be changed: add a region with the wanted number instead").field_path(".regions"),
    validation = Rule::new("self.regions.all(r, oldSelf.regions.all(o, o.name != r.name || (has(o.nats.storageClass) == has(r.nats.storageClass) && (!has(o.nats.storageClass) || o.nats.storageClass == r.nats.storageClass) && has(o.relays.storageClass) == has(r.relays.storageClass) && (!has(o.relays.storageClass) || o.relays.storageClass == r.relays.storageClass))))").message("storageClass of a region cannot be changed: its disks exist already").field_path(".regions")
)]
pub struct RelayClusterSpec {
    /// The regions, 1 to 16, in no particular order.
    ///
    /// Can be changed live: a new region receives everything the others still keep. A removed region's processes stop, and its
    /// data stays where it is. A region's name is never changed, and never given to another region.
    ///
    /// Example: `[{name: eu}, {name: us}]`
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_string()]))]
    pub regions: Vec<RegionSpec>,

    /// The log: the durable streams through which regions exchange sealed messages.
    #[serde(default)]
    pub log: LogSpec,

    /// What all relays of the fleet have in common.
    #[serde(default)]
    pub relay: RelaySpec,

    /// Export of traces by all relays; none when left out. A change restarts the relays, one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingSpec>,

    /// Container images. Kubernetes only: on one machine the installed programs run.
    #[serde(default)]
    pub images: ImagesSpec,

    /// How changes that need a restart move through the fleet. Kubernetes only. Can be changed live.
    #[serde(default)]
    pub rollout: RolloutSpec,

    /// What happens to disks and keys when the `RelayCluster` is deleted, or when a region leaves it. Kubernetes only. Default `Retain`.
    ///
    /// Can be changed live.
    ///
    /// Example: `Delete`
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// One region: relays, and the NATS servers that keep its part of the log.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!self.name.endsWith('-') && !self.name.endsWith('-nats') && !self.name.endsWith('-hub') && !self.name.endsWith('-relay')").message("name of a region must not end in '-', '-nats', '-hub' or '-relay': names of objects are made of it").field_path(".name")
)]
pub struct RegionSpec {
    /// Name of the region: 1 to 31 of a-z, 0-9 and '-', beginning with a letter. It is part of stored data: never change it, and
    /// never use it again for another region.
    ///
    /// Example: `eu-west`
    #[schemars(length(min = 1, max = 31), regex(pattern = r"^[a-z][a-z0-9-]{0,30}$"))]
    pub name: String,

    /// The relays of the region.
    #[serde(default)]
    pub relays: RelaysSpec,

    /// The NATS servers of the region.
    #[serde(default)]
    pub nats: NatsSpec,

    /// URL under which clients reach the region, beside the addresses of the single relays: `wss://` or `ws://`. NIP-42 answers may
    /// name it. Default: none.
    ///
    /// A change restarts the region's relays.
    ///
    /// Example: `wss://eu.example.org`
    #[serde(default, rename = "publicURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 6, max = 512), regex(pattern = r"^wss?://[^\s/]+"))]
    pub public_url: Option<String>,

    /// Where the region's pods run. Kubernetes only.
    #[serde(default)]
    pub placement: PlacementSpec,

    /// The Service through which clients reach the region's relays. Kubernetes only. Can be changed live.
    #[serde(default)]
    pub service: ServiceSpec,

    /// An Ingress in front of the Service; none when left out. Kubernetes only. Can be changed live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<IngressSpec>,
}

/// Relays of a region.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelaysSpec {
    /// How many relays, 1 to 16. Each holds a full index of the fleet. Default 1.
    ///
    /// Can be changed live; a removed relay lets its clients go before it stops.
    ///
    /// Example: `2`
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub replicas: i32,

    /// Disk of each relay for its index, so that a restart need not rebuild it. Kubernetes only. Default `10Gi`.
    ///
    /// Can be raised where the StorageClass allows it, not lowered.
    ///
    /// Example: `20Gi`
    #[serde(default = "default_storage")]
    #[schemars(
        length(min = 1, max = 16),
        regex(pattern = r"^[0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?$")
    )]
    pub storage: String,

    /// StorageClass of the index. Kubernetes only. Default: the cluster's default class. Cannot be changed.
    ///
    /// Example: `fast-ssd`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class: Option<String>,

    /// What each relay may use. Kubernetes only. A change restarts the relays, one after the other.
    #[serde(default)]
    pub resources: ResourcesSpec,
}

/// NATS JetStream servers of a region.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NatsSpec {
    /// How many servers: 3, or 1 for development. With 3, an acknowledged message is on the disks of a majority and survives the loss
    /// of one. With 1 it survives a crash of the process, but not power loss. Default 3.
    ///
    /// Cannot be changed. Add a region with the wanted number instead.
    ///
    /// Example: `3`
    #[serde(default = "three")]
    #[schemars(extend("enum" = [1, 3]))]
    pub replicas: i32,

    /// Disk of each server for the log, in bytes, with `Ki`, `Mi`, `Gi` or `Ti`. Every server holds the log of every region, so this
    /// must be at least 1.3 x number of regions x `log.maxBytesPerRegion`. Default `10Gi`.
    ///
    /// Can be raised (the servers restart, one after the other), not lowered.
    ///
    /// Example: `40Gi`
    #[serde(default = "default_storage")]
    #[schemars(
        length(min = 1, max = 16),
        regex(pattern = r"^[0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?$")
    )]
    pub storage: String,

    /// StorageClass of the log's disks. Use one that honours flushes: no network file systems. Kubernetes only. Default: the cluster's
    /// default class. Cannot be changed.
    ///
    /// Example: `fast-ssd`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class: Option<String>,

    /// What each server may use. Kubernetes only. A change restarts the servers, one after the other.
    #[serde(default)]
    pub resources: ResourcesSpec,
}

/// Size and retention of the log.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogSpec {
    /// Bytes that one region's messages may fill on the log, at least `16Mi`. When it is full, relays refuse new messages; nothing
    /// acknowledged is dropped. Three quarters are for messages, one quarter for profiles and other replaceable state. Default `1Gi`.
    ///
    /// Can be changed live (a much larger one also restarts the relays); a lower limit than what is stored refuses new messages until older ones have expired.
    ///
    /// Example: `20Gi`
    #[serde(default = "default_max_bytes")]
    #[schemars(
        length(min = 1, max = 16),
        regex(pattern = r"^[0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?$")
    )]
    pub max_bytes_per_region: String,

    /// How long things are kept.
    #[serde(default)]
    pub retention: RetentionSpec,
}

/// How long things are kept on the log.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetentionSpec {
    /// How long messages (gift wraps and other regular kinds) are kept: a number with `h`, `d` or `w`, from `30d` to `3650d`. Recipients
    /// that stay away longer miss messages. Profiles and other replaceable state have no age limit. Default `90d`.
    ///
    /// A change restarts the relays, one after the other. A shorter one removes older messages everywhere.
    ///
    /// Example: `180d`
    #[serde(default = "default_retention")]
    #[schemars(length(min = 2, max = 10), regex(pattern = r"^[0-9]+(s|m|h|d|w)$"))]
    pub messages: String,
}

/// What all relays of the fleet have in common.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelaySpec {
    /// What the relays say of themselves and their operator (NIP-11). Can be changed live.
    #[serde(default)]
    pub info: RelayInfoSpec,

    /// What a client may ask of a relay. Can be changed live; connections that are open keep what they have.
    #[serde(default)]
    #[x_kube(
        validation = Rule::new("self.defaultLimit <= self.maxLimit").message("defaultLimit must be at most maxLimit").field_path(".defaultLimit"),
        validation = Rule::new("self.inFlightPublishBytesPerConnection >= self.maxMessageLength").message("inFlightPublishBytesPerConnection must be at least maxMessageLength").field_path(".inFlightPublishBytesPerConnection"),
        validation = Rule::new("self.inFlightPublishBytesPerRelay >= self.inFlightPublishBytesPerConnection").message("inFlightPublishBytesPerRelay must be at least inFlightPublishBytesPerConnection").field_path(".inFlightPublishBytesPerRelay"),
        validation = Rule::new("self.idleTimeoutSeconds > self.pingIntervalSeconds").message("idleTimeoutSeconds must be more than pingIntervalSeconds").field_path(".idleTimeoutSeconds")
    )]
    pub limits: RelayLimits,

    /// TLS by the relays themselves: clients reach them with `wss://`, without an Ingress. Kubernetes only; on one machine the relays speak
    /// plain `ws://`. Default: none.
    ///
    /// Turning it on or off, or another Secret, restarts the relays, one after the other. A renewed certificate does not.
    ///
    /// Example: `{secretName: chat-example-org-tls}`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RelayTlsSpec>,

    /// Networks (CIDR) of the proxies and load balancers in front of the relays, at most 64. Only to them the relays listen about who a client
    /// is: the last address in `X-Forwarded-For` or `Forwarded` that is not in one of these networks counts for limits per address. Name as
    /// little as possible, and nothing from where clients connect without such a proxy. Default: none, those headers are ignored.
    ///
    /// Can be changed live, for new connections.
    ///
    /// Example: `[10.0.0.0/8]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 3, max = 49),
            regex(pattern = r"^[0-9a-fA-F:.]+/[0-9]{1,3}$")
        )
    )]
    pub trusted_proxies: Vec<String>,

    /// Web pages that may connect, by origin as browsers send it: `scheme://host` or `scheme://host:port`, at most 64. Programs that are no
    /// browsers send none and may always. Default: none, every page may, as is usual for relays.
    ///
    /// Can be changed live, for new connections.
    ///
    /// Example: `[https://chat.example.org]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 4, max = 512),
            regex(pattern = r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s]+$")
        )
    )]
    pub allowed_origins: Vec<String>,
    /// Whose events the relays take: allow and deny lists, and what is asked of who sends. Can be changed live. What administrators change through
    /// the management API comes on top; to be denied or banned beats to be allowed. Upgrade the whole fleet before the first use: relays of earlier
    /// versions refuse the configuration and go on with the one before.
    #[serde(default)]
    pub admission: AdmissionSpec,

    /// Relay management (NIP-86): administrators ban and allow keys, events and kinds on the whole fleet by signed HTTP calls (NIP-98) to any
    /// relay. Can be changed live. An administrator that is taken out calls no more; what they changed stays.
    #[serde(default)]
    pub management: ManagementSpec,
    /// Programs that decide what relays take and answer, in any language (`docs/how-to/plugins.md`). None unless named. A change restarts the
    /// relays, one after the other; a change of a program's file has the program started anew, without a restart of the relay.
    #[serde(default)]
    pub plugins: PluginsSpec,
}

/// NIP-11 information. Everything is optional and can be changed live.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelayInfoSpec {
    /// Name shown to people, at most 100 characters. Default: the fleet's name.
    ///
    /// Example: `Example Messaging`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub name: Option<String>,

    /// Description in plain text, at most 1,000 characters.
    ///
    /// Example: `Private messages for example.org`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub description: Option<String>,

    /// How to reach the operator: a URI.
    ///
    /// Example: `mailto:ops@example.org`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub contact: Option<String>,

    /// The operator's public key: 64 lowercase hex digits.
    ///
    /// Example: `3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 64, max = 64), regex(pattern = r"^[0-9a-f]{64}$"))]
    pub pubkey: Option<String>,

    /// URL of an icon, `https://` or `http://`.
    ///
    /// Example: `https://example.org/icon.png`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 500), regex(pattern = r"^https?://"))]
    pub icon: Option<String>,

    /// URL of the terms of service.
    ///
    /// Example: `https://example.org/terms`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 500), regex(pattern = r"^https?://"))]
    pub terms_of_service: Option<String>,

    /// URL of the privacy policy.
    ///
    /// Example: `https://example.org/privacy`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 500), regex(pattern = r"^https?://"))]
    pub privacy_policy: Option<String>,

    /// URL of the posting policy.
    ///
    /// Example: `https://example.org/posting`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 500), regex(pattern = r"^https?://"))]
    pub posting_policy: Option<String>,
}

/// Export of traces. Between relays, trace context travels inside sealed messages only.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TracingSpec {
    /// Where relays send traces: OTLP over gRPC, `http://` or `https://`.
    ///
    /// Example: `http://127.0.0.1:4317`
    #[schemars(length(min = 8, max = 512), regex(pattern = r"^https?://"))]
    pub otlp_endpoint: String,

    /// Part of the messages that is traced, in percent, 0 to 100. Default 1.
    ///
    /// Example: `100`
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub sample_percent: i32,
}

impl Default for RelaysSpec {
    fn default() -> Self {
        Self {
            replicas: one(),
            storage: default_storage(),
            storage_class: None,
            resources: ResourcesSpec::default(),
        }
    }
}

impl Default for NatsSpec {
    fn default() -> Self {
        Self {
            replicas: three(),
            storage: default_storage(),
            storage_class: None,
            resources: ResourcesSpec::default(),
        }
    }
}

impl Default for LogSpec {
    fn default() -> Self {
        Self {
            max_bytes_per_region: default_max_bytes(),
            retention: RetentionSpec::default(),
        }
    }
}

impl Default for RetentionSpec {
    fn default() -> Self {
        Self {
            messages: default_retention(),
        }
    }
}

fn one() -> i32 {
    1
}

fn three() -> i32 {
    3
}

fn default_storage() -> String {
    "10Gi".to_owned()
}

fn default_max_bytes() -> String {
    "1Gi".to_owned()
}

fn default_retention() -> String {
    "90d".to_owned()
}
