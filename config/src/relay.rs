//! The relay's settings, how they are read and written, and which of them change only with a restart.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use nightjar_envelope::{FleetId, MESSAGE_SHARDS, RegionName, STATE_SHARDS};
use serde::{Deserialize, Serialize};

use crate::admission::{AdmissionConfig, ManagementConfig};
use crate::limits::Limits;
use crate::plugins::Plugins;

/// Why a relay's settings were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML of the right form; the parser names field and line.
    #[error("{0}")]
    Form(String),
    /// A value out of its range.
    #[error("{field}: {message}")]
    Field {
        /// Path of the field, as `nats.servers[1]`.
        field: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

/// All settings of one relay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// The fleet this relay belongs to.
    pub fleet: FleetRef,
    /// The relay's own region. It must be one of `log.regions`.
    pub region: RegionName,
    /// The relay's name, unique in the fleet, as `a-relay-0`: 1 to 63 of a-z, 0-9 and '-'.
    pub name: String,
    /// Whether this relay removes superseded entries from its region's state streams. One relay of a region does. Default false.
    #[serde(default)]
    pub sweeper: bool,
    /// Address of the WebSocket and NIP-11 listener.
    pub listen: SocketAddr,
    /// Address of the listener for `/healthz`, `/readyz` and `/metrics`. Not for the public.
    pub admin: SocketAddr,
    /// URLs (`ws://` or `wss://`) under which clients reach this relay; NIP-42 answers must name one of them. At least one.
    pub public_urls: Vec<String>,
    /// The certificate with which `listen` speaks TLS; plain TCP if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// Networks of the proxies in front of the relay, at most 64. Only they are believed who a client is (`Forwarded`, `X-Forwarded-For`).
    /// Written only when there are any, so that relays which do not know it can read the file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<IpNet>,
    /// Origins (`scheme://host[:port]`) whose web pages may connect, at most 64; every one if empty. Programs that are no browsers name no
    /// origin and are not concerned. Written only when there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_origins: Vec<String>,
    /// How to reach the region's NATS servers.
    pub nats: NatsClient,
    /// The fleet's keyring, mode 0600. Watched: a changed file is used at once.
    pub keyring_file: PathBuf,
    /// The index on local disk.
    pub index: IndexConfig,
    /// The streams to write and follow.
    pub log: LogConfig,
    /// What the relay says of itself (NIP-11).
    #[serde(default)]
    pub info: RelayInfo,
    /// What a client may ask of the relay.
    #[serde(default)]
    pub limits: Limits,
    /// Whose events the relay takes. Written only when it differs from the default.
    #[serde(default, skip_serializing_if = "AdmissionConfig::is_default")]
    pub admission: AdmissionConfig,
    /// Who may manage the relay (NIP-86); nobody unless set.
    #[serde(default, skip_serializing_if = "ManagementConfig::is_default")]
    pub management: ManagementConfig,
    /// Policy programs; none unless named. Written only when there is one, so that relays which do not know them can read the file.
    #[serde(default, skip_serializing_if = "Plugins::is_empty")]
    pub plugins: Plugins,
    /// Where to send traces; none unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingConfig>,
}

/// The fleet's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetRef {
    /// 32 lowercase hex digits; bound into every envelope.
    pub id: FleetId,
    /// Name of the `RelayCluster`, shown to clients: 1 to 63 of a-z, 0-9 and '-'.
    pub name: String,
}

/// The certificate of the public port. Both files are watched: a new pair is served to new connections, without a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate and those that lead to its authority, PEM, the relay's own first.
    pub cert_file: PathBuf,
    /// Its private key, PEM, mode 0600.
    pub key_file: PathBuf,
}

/// Client connection to the region's NATS servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsClient {
    /// `nats://host:port` or `tls://host:port` of each server, at least one.
    pub servers: Vec<String>,
    /// File with the nkey seed that authenticates the relay, mode 0600.
    pub nkey_seed_file: PathBuf,
    /// Certificate authority for `tls://` servers; the system's if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// The LMDB index. It is a cache of the log: deleting the folder makes the relay rebuild it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexConfig {
    /// Folder of the index; made if missing.
    pub dir: PathBuf,
    /// Largest size of the index in bytes, at least 16 MiB. Disk is used as the index grows.
    pub max_bytes: u64,
}

/// The log's streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Copies of each of the region's streams, 1 or 3. 1 is for development: it survives the crash of a process, not the loss of power.
    pub replicas: u8,
    /// How long messages are kept, in seconds, at least 30 days (gift wraps are back-dated and outboxes are late).
    pub message_retention_seconds: u64,
    /// All regions of the fleet, the relay's own included.
    pub regions: Vec<RegionLog>,
}

impl LogConfig {
    /// The entry of a region.
    #[must_use]
    pub fn region(&self, name: &RegionName) -> Option<&RegionLog> {
        self.regions.iter().find(|region| &region.region == name)
    }
}

/// The streams that one region writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionLog {
    /// The writing region.
    pub region: RegionName,
    /// Incarnation of the region's streams, from 1.
    pub generation: u32,
    /// Message streams of this generation, 1 to 64. Default 4.
    #[serde(default = "message_shards")]
    pub message_shards: u8,
    /// State streams of this generation, 1 to 64. Default 2.
    #[serde(default = "state_shards")]
    pub state_shards: u8,
}

fn message_shards() -> u8 {
    MESSAGE_SHARDS
}

fn state_shards() -> u8 {
    STATE_SHARDS
}

/// What the NIP-11 document says of the relay's operator. Everything is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayInfo {
    /// Name shown to people; the fleet's name if left out. At most 100 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Description in plain text, at most 4,096 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// How to reach the operator: a URI, as `mailto:ops@example.org`. At most 500 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// The operator's public key, 64 lowercase hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pubkey: Option<String>,
    /// URL (`http://` or `https://`) of an icon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icon: Option<String>,
    /// URL of the terms of service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms_of_service: Option<String>,
    /// URL of the privacy policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy_policy: Option<String>,
    /// URL of the posting policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub posting_policy: Option<String>,
}

/// Export of traces. Trace context goes from relay to relay inside sealed bodies only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracingConfig {
    /// OTLP over gRPC, as `http://127.0.0.1:4317`.
    pub otlp_endpoint: String,
    /// Part of the traces that is sampled, 0 to 1. Default 0.01.
    #[serde(default = "sample_ratio")]
    pub sample_ratio: f64,
}

fn sample_ratio() -> f64 {
    0.01
}

impl RelayConfig {
    /// Reads settings. Form, names and ranges are checked; files are not looked at.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let config: Self =
            serde_yaml::from_str(text).map_err(|error| ConfigError::Form(error.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// The settings as YAML, every default written out. [`RelayConfig::from_yaml`] reads the same settings back.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("settings are plain maps, lists and scalars")
    }

    /// Whether going from `old` to `new` needs a restart. The known regions, `info`, `limits`, `trusted_proxies`, `allowed_origins`, `admission` and
    /// `management` change live; everything else does not.
    #[must_use]
    pub fn restart_required(old: &Self, new: &Self) -> bool {
        let mut live = old.clone();
        live.log.regions.clone_from(&new.log.regions);
        live.info.clone_from(&new.info);
        live.limits.clone_from(&new.limits);
        live.trusted_proxies.clone_from(&new.trusted_proxies);
        live.allowed_origins.clone_from(&new.allowed_origins);
        live.admission.clone_from(&new.admission);
        live.management.clone_from(&new.management);
        let own_generation_moved = old.log.region(&old.region) != new.log.region(&new.region);
        live != *new || own_generation_moved
    }
}
