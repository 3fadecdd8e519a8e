//! Checks a `RelayCluster` beyond its schema and turns it into values that the plan can use as they are.
//!
//! Pure: no file, no clock. Everything wrong is told at once, each with the path of its field.

use std::fmt;
use std::time::Duration;

use nightjar_config::{
    AdmissionConfig, ConfigError, IpNet, Limits, ManagementConfig, Plugins, RelayInfo,
    TracingConfig, check_origin,
};
use nightjar_envelope::RegionName;

use crate::crd::{
    DeletionPolicy, ImagesSpec, PluginsSpec, RegionSpec, RelayCluster, RelayInfoSpec, RolloutSpec,
    TracingSpec, check_spec, format_bytes, load, parse_duration, parse_quantity, quote,
};

/// Smallest log of a region: each of its six streams needs room for some of the largest envelopes.
const MIN_LOG_BYTES: u64 = 16 << 20;
/// Shortest retention: gift wraps are back-dated by days, and outboxes are late.
const MIN_RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// Longest retention: ten years.
const MAX_RETENTION: Duration = Duration::from_secs(3650 * 86_400);
/// Disk that a server needs for each byte of the log, in tenths: Raft logs and compaction come on top of the streams.
const STORAGE_TENTHS: u64 = 13;

/// A `RelayCluster` that can be planned: every name parsed, every size in bytes, every default in place.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidFleet {
    /// `metadata.name`.
    pub name: String,
    /// The regions in the order of the file, at least one.
    pub regions: Vec<ValidRegion>,
    /// Upper limit of one region's streams together, in bytes.
    pub max_bytes_per_region: u64,
    /// How long messages are kept.
    pub message_retention: Duration,
    /// What the relays say of themselves.
    pub info: RelayInfo,
    /// What clients may ask of a relay.
    pub limits: Limits,
    /// Secret with the certificate that the relays serve. Only Kubernetes knows Secrets.
    pub relay_tls_secret: Option<String>,
    /// Networks of the proxies in front of the relays.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins of web pages that may connect; every one if empty.
    pub allowed_origins: Vec<String>,
    /// Whose events the relays take.
    pub admission: AdmissionConfig,
    /// Who may manage them.
    pub management: ManagementConfig,
    /// Policy programs of the relays.
    pub plugins: Plugins,
    /// Where relays send traces.
    pub tracing: Option<TracingConfig>,
    /// Container images that were asked for.
    pub images: ImagesSpec,
    /// How changes move through the fleet.
    pub rollout: ValidRollout,
    /// What a deletion leaves.
    pub deletion_policy: DeletionPolicy,
}

/// How changes that need a restart move through a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidRollout {
    /// How long the first region runs well before the others follow.
    pub soak: Duration,
    /// How long a restarted pod may take to become ready.
    pub pod_deadline: Duration,
    /// Pause after a restarted NATS server is current again.
    pub settle: Duration,
}

/// One region of a [`ValidFleet`].
#[derive(Debug, Clone, PartialEq)]
pub struct ValidRegion {
    /// Its name.
    pub name: RegionName,
    /// How many relays.
    pub relay_replicas: u32,
    /// How many NATS servers: 1 or 3.
    pub nats_replicas: u8,
    /// JetStream's share of each NATS server's disk, in bytes.
    pub nats_storage: u64,
    /// Where clients reach the region, if not at the addresses of the placement.
    pub public_url: Option<String>,
    /// Disk of each relay's index, in bytes.
    pub relay_storage: u64,
    /// What was asked for, for what only Kubernetes knows: placement, Service, Ingress, resources, storage classes.
    pub asked: RegionSpec,
}

/// One thing wrong with a `RelayCluster`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The path of the field, for example `spec.regions[1].name`; empty when the document as a whole is wrong.
    pub field: String,
    /// What is wrong with it, the limit, and what was found.
    pub message: String,
}

impl FieldError {
    /// A refusal of a field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

impl std::error::Error for FieldError {}

/// Reads a `RelayCluster` from YAML text and checks it.
///
/// # Errors
/// Everything that is wrong, at least one entry.
pub fn from_yaml(text: &str) -> Result<ValidFleet, Vec<FieldError>> {
    validate(&load(text)?)
}

/// Checks a `RelayCluster` and gives the fleet it describes.
///
/// # Errors
/// Everything that is wrong, at least one entry.
pub fn validate(cluster: &RelayCluster) -> Result<ValidFleet, Vec<FieldError>> {
    let spec = serde_json::to_value(&cluster.spec).expect("a spec is plain JSON");
    let mut errors = check_spec(&spec);
    if errors.is_empty() {
        let rules = cluster
            .validate_cel()
            .err()
            .map(kube::core::cel::ValidationErrors::into_vec)
            .unwrap_or_default();
        errors.extend(
            rules
                .into_iter()
                .map(|error| FieldError::new(error.field_path, error.message)),
        );
    }
    let name = cluster.metadata.name.clone().unwrap_or_default();
    check_fleet_name(&name, &mut errors);
    check_unique_names(&cluster.spec.regions, &mut errors);
    check_pod_names(&name, &cluster.spec.regions, &mut errors);

    let log = &cluster.spec.log;
    let max_bytes_per_region = read(
        "spec.log.maxBytesPerRegion",
        &log.max_bytes_per_region,
        parse_quantity,
        &mut errors,
    );
    let message_retention = read(
        "spec.log.retention.messages",
        &log.retention.messages,
        parse_duration,
        &mut errors,
    );
    check_log(
        max_bytes_per_region,
        message_retention,
        &log.retention.messages,
        &mut errors,
    );
    let regions = cluster.spec.regions.iter().enumerate();
    let regions: Vec<ValidRegion> = regions
        .filter_map(|(index, region)| region_of(index, region, &mut errors))
        .collect();
    if let Some(bytes) = max_bytes_per_region {
        check_storage(&regions, bytes, &mut errors);
    }
    let rollout = rollout_of(&cluster.spec.rollout, &mut errors);
    let trusted_proxies = networks_of(&cluster.spec.relay.trusted_proxies, &mut errors);
    check_origins(&cluster.spec.relay.allowed_origins, &mut errors);
    let plugins = plugins_of(&cluster.spec.relay.plugins, &mut errors);
    let (Some(max_bytes_per_region), Some(message_retention), true) =
        (max_bytes_per_region, message_retention, errors.is_empty())
    else {
        dedup(&mut errors);
        return Err(errors);
    };
    Ok(ValidFleet {
        name,
        regions,
        max_bytes_per_region,
        message_retention,
        info: info_of(&cluster.spec.relay.info),
        limits: cluster.spec.relay.limits.to_config(),
        relay_tls_secret: cluster
            .spec
            .relay
            .tls
            .as_ref()
            .map(|tls| tls.secret_name.clone()),
        trusted_proxies,
        allowed_origins: cluster.spec.relay.allowed_origins.clone(),
        admission: cluster.spec.relay.admission.to_config(),
        management: cluster.spec.relay.management.to_config(),
        plugins,
        tracing: cluster.spec.tracing.as_ref().map(tracing_of),
        images: cluster.spec.images.clone(),
        rollout,
        deletion_policy: cluster.spec.deletion_policy,
    })
}

impl ValidFleet {
    /// What of `new` a running fleet cannot take over.
    pub fn check_change(&self, new: &Self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if new.name != self.name {
            let message = format!(
                "cannot be changed from {} to {}: the name belongs to the fleet",
                quote(&self.name),
                quote(&new.name)
            );
            errors.push(FieldError::new("metadata.name", message));
        }
        for (index, region) in new.regions.iter().enumerate() {
            let Some(old) = self.regions.iter().find(|old| old.name == region.name) else {
                continue;
            };
            let field = |name: &str| format!("spec.regions[{index}].nats.{name}");
            if region.relay_storage < old.relay_storage {
                let message = format!(
                    "can only grow: {} is less than {}",
                    format_bytes(region.relay_storage),
                    format_bytes(old.relay_storage)
                );
                let field = format!("spec.regions[{index}].relays.storage");
                errors.push(FieldError::new(field, message));
            }
            if old.nats_replicas != region.nats_replicas {
                let message = format!(
                    "cannot be changed from {} to {}; add a region with {} instead",
                    old.nats_replicas, region.nats_replicas, region.nats_replicas
                );
                errors.push(FieldError::new(field("replicas"), message));
            }
            if region.nats_storage < old.nats_storage {
                let message = format!(
                    "can only grow: {} is less than {}",
                    format_bytes(region.nats_storage),
                    format_bytes(old.nats_storage)
                );
                errors.push(FieldError::new(field("storage"), message));
            }
        }
        errors
    }
}

fn check_fleet_name(name: &str, errors: &mut Vec<FieldError>) {
    let bytes = name.as_bytes();
    let ends_well = [bytes.first(), bytes.last()]
        .into_iter()
        .flatten()
        .all(u8::is_ascii_alphanumeric);
    let known = bytes
        .iter()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if !(1..=40).contains(&bytes.len()) || !ends_well || !known {
        let rule = "must be 1 to 40 of a-z, 0-9 and '-', and begin and end with a letter or digit";
        errors.retain(|error| error.field != "metadata.name");
        errors.push(FieldError::new(
            "metadata.name",
            format!("{rule}, is {}", quote(name)),
        ));
    }
}

/// Names of pods, StatefulSets and their labels are made of both; Kubernetes allows 63 characters, with suffixes.
fn check_pod_names(fleet: &str, regions: &[RegionSpec], errors: &mut Vec<FieldError>) {
    const TOGETHER: usize = 44;
    // The rule of the schema says the same without the place.
    errors.retain(|error| !error.message.contains("characters together"));
    for (index, region) in regions.iter().enumerate() {
        let length = fleet.len() + region.name.len();
        if fleet.len() <= 40 && region.name.len() <= 31 && length > TOGETHER {
            let message = format!(
                "and metadata.name must have at most {TOGETHER} characters together, have {length}: names of pods are made of both"
            );
            errors.push(FieldError::new(
                format!("spec.regions[{index}].name"),
                message,
            ));
        }
    }
}

fn check_unique_names(regions: &[RegionSpec], errors: &mut Vec<FieldError>) {
    for (index, region) in regions.iter().enumerate() {
        if let Some(first) = regions[..index]
            .iter()
            .position(|earlier| earlier.name == region.name)
        {
            // The rule of the schema says the same without the place.
            errors.retain(|error| error.field != "spec.regions");
            let message = format!(
                "{} is the name of spec.regions[{first}] already; names must be unique",
                quote(&region.name)
            );
            errors.push(FieldError::new(
                format!("spec.regions[{index}].name"),
                message,
            ));
        }
    }
}

fn check_log(
    bytes: Option<u64>,
    retention: Option<Duration>,
    asked: &str,
    errors: &mut Vec<FieldError>,
) {
    if let Some(bytes) = bytes.filter(|bytes| *bytes < MIN_LOG_BYTES) {
        let message = format!(
            "must be at least {}, is {}",
            format_bytes(MIN_LOG_BYTES),
            format_bytes(bytes)
        );
        errors.push(FieldError::new("spec.log.maxBytesPerRegion", message));
    }
    if retention.is_some_and(|retention| !(MIN_RETENTION..=MAX_RETENTION).contains(&retention)) {
        errors.push(FieldError::new(
            "spec.log.retention.messages",
            format!("must be from 30d to 3650d, is {asked}"),
        ));
    }
}

fn region_of(
    index: usize,
    region: &RegionSpec,
    errors: &mut Vec<FieldError>,
) -> Option<ValidRegion> {
    let field = |name: &str| format!("spec.regions[{index}].{name}");
    let name = read(
        &field("name"),
        &region.name,
        str::parse::<RegionName>,
        errors,
    );
    let nats_storage = read(
        &field("nats.storage"),
        &region.nats.storage,
        parse_quantity,
        errors,
    );
    let relay_storage = read(
        &field("relays.storage"),
        &region.relays.storage,
        parse_quantity,
        errors,
    );
    Some(ValidRegion {
        name: name?,
        // The schema has checked both ranges; out of range there is an error already.
        relay_replicas: u32::try_from(region.relays.replicas).ok()?,
        nats_replicas: u8::try_from(region.nats.replicas).ok()?,
        nats_storage: nats_storage?,
        public_url: region.public_url.clone(),
        relay_storage: relay_storage?,
        asked: region.clone(),
    })
}

/// Every server holds the log of every region.
fn check_storage(regions: &[ValidRegion], log_bytes: u64, errors: &mut Vec<FieldError>) {
    let needed = log_bytes
        .saturating_mul(regions.len() as u64)
        .saturating_mul(STORAGE_TENTHS)
        .div_ceil(10);
    for (index, region) in regions
        .iter()
        .enumerate()
        .filter(|(_, region)| region.nats_storage < needed)
    {
        let message = format!(
            "{} is too small for the log: {} regions x {} (spec.log.maxBytesPerRegion) x 1.3 need at least {}",
            format_bytes(region.nats_storage),
            regions.len(),
            format_bytes(log_bytes),
            format_bytes(needed.div_ceil(1 << 20) << 20),
        );
        errors.push(FieldError::new(
            format!("spec.regions[{index}].nats.storage"),
            message,
        ));
    }
}

fn info_of(info: &RelayInfoSpec) -> RelayInfo {
    let RelayInfoSpec {
        name,
        description,
        contact,
        pubkey,
        icon,
        terms_of_service,
        privacy_policy,
        posting_policy,
    } = info.clone();
    RelayInfo {
        name,
        description,
        contact,
        pubkey,
        icon,
        terms_of_service,
        privacy_policy,
        posting_policy,
    }
}

fn networks_of(asked: &[String], errors: &mut Vec<FieldError>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for (index, text) in asked.iter().enumerate() {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(_) => errors.push(FieldError::new(
                format!("spec.relay.trustedProxies[{index}]"),
                format!(
                    "must be a network in CIDR notation, as 10.0.0.0/8 or 192.0.2.7/32, is {}",
                    quote(text)
                ),
            )),
        }
    }
    networks
}

fn check_origins(asked: &[String], errors: &mut Vec<FieldError>) {
    for (index, origin) in asked.iter().enumerate() {
        if let Err(message) = check_origin(origin) {
            errors.push(FieldError::new(
                format!("spec.relay.allowedOrigins[{index}]"),
                format!("{message}; is {}", quote(origin)),
            ));
        }
    }
}

fn rollout_of(rollout: &RolloutSpec, errors: &mut Vec<FieldError>) -> ValidRollout {
    let mut duration = |name: &str, text: &str| {
        read(
            &format!("spec.rollout.{name}"),
            text,
            parse_duration,
            errors,
        )
        .unwrap_or_default()
    };
    ValidRollout {
        soak: duration("soak", &rollout.soak),
        pod_deadline: duration("podDeadline", &rollout.pod_deadline),
        settle: duration("settle", &rollout.settle),
    }
}

/// What the schema cannot say, such as the names of variables, is checked as the relay checks it.
fn plugins_of(spec: &PluginsSpec, errors: &mut Vec<FieldError>) -> Plugins {
    let plugins = spec.to_config();
    for (name, plugin) in [("write", &plugins.write), ("read", &plugins.read)] {
        let path = format!("spec.relay.plugins.{name}");
        let known = errors.iter().any(|error| error.field.starts_with(&path));
        let checked = plugin.as_ref().map(|plugin| plugin.check(&path));
        match checked {
            Some(Err(ConfigError::Field { field, message })) if !known => {
                errors.push(FieldError::new(field, message));
            }
            _ => {}
        }
    }
    plugins
}

fn tracing_of(tracing: &TracingSpec) -> TracingConfig {
    TracingConfig {
        otlp_endpoint: tracing.otlp_endpoint.clone(),
        sample_ratio: f64::from(tracing.sample_percent) / 100.0,
    }
}

fn read<T, E: fmt::Display>(
    field: &str,
    text: &str,
    parse: impl Fn(&str) -> Result<T, E>,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    match parse(text) {
        Ok(value) => Some(value),
        Err(error) => {
            errors.push(FieldError::new(field, format!("{}: {error}", quote(text))));
            None
        }
    }
}

/// Keeps one line a field: the schema's, when both found the same thing.
fn dedup(errors: &mut Vec<FieldError>) {
    let mut seen = std::collections::BTreeSet::new();
    errors.retain(|error| error.field.is_empty() || seen.insert(error.field.clone()));
}
