//! The configuration of one relay, as `nightjar-config` defines it.

use nightjar_config::{
    AdmissionConfig, FleetRef, IndexConfig, Limits, LogConfig, ManagementConfig, NatsClient,
    RegionLog, RelayConfig, RelayInfo,
};
use nightjar_envelope::{MESSAGE_SHARDS, STATE_SHARDS};

use super::planner::{Planner, ProcessText};
use super::{Credential, FileRef, Issuer, Port, ProcessId, SeedForm};

/// The index holds every region's events in the clear with its tables: three times their bytes on the log, as a ceiling.
const INDEX_PER_LOG_BYTE: u64 = 3;
/// Regions that the ceiling has room for: the most that a fleet may have, so that a new region restarts no relay.
const MAX_REGIONS: u64 = 16;

/// The relay's `relay.yaml`.
pub(super) fn config(plan: &Planner<'_>, id: &ProcessId) -> ProcessText {
    let config = relay_config(plan, id);
    // What a running relay takes over is left out of the part that needs a restart.
    let mut fixed = config.clone();
    fixed
        .log
        .regions
        .retain(|region| region.region == id.region);
    fixed.info = RelayInfo::default();
    fixed.limits = Limits::default();
    fixed.trusted_proxies = Vec::new();
    fixed.allowed_origins = Vec::new();
    fixed.admission = AdmissionConfig::default();
    fixed.management = ManagementConfig::default();
    let head = format!("# {id}. Written by nightjar-operator; changes here are lost.\n");
    ProcessText {
        full: format!("{head}{}", config.to_yaml()),
        restart: fixed.to_yaml(),
    }
}

fn relay_config(plan: &Planner<'_>, id: &ProcessId) -> RelayConfig {
    let region = plan.region(&id.region);
    let fleet = plan.fleet;
    let regions = plan.logs();
    // Address space, not disk. In powers of two, so that a slightly larger log restarts nothing either.
    let index_bytes = fleet
        .max_bytes_per_region
        .saturating_mul(MAX_REGIONS * INDEX_PER_LOG_BYTE)
        .min(1 << 62)
        .next_power_of_two();
    let mut public_urls = vec![plan.relay_url(id)];
    public_urls.extend(region.spec.public_url.clone());
    RelayConfig {
        fleet: FleetRef {
            id: plan.facts.fleet_id,
            name: fleet.name.clone(),
        },
        region: id.region.clone(),
        name: id.to_string(),
        sweeper: id.ordinal == 0,
        listen: plan.listen(id, Port::Relay),
        admin: plan.listen(id, Port::Admin),
        public_urls,
        tls: plan.relay_tls(id),
        trusted_proxies: fleet.trusted_proxies.clone(),
        allowed_origins: fleet.allowed_origins.clone(),
        nats: NatsClient {
            servers: plan.nats_urls(&id.region),
            nkey_seed_file: plan.path(id, &FileRef::Seed(Credential::Relay, SeedForm::Plain)),
            ca_file: plan
                .options()
                .client_tls
                .then(|| plan.path(id, &FileRef::Authority(Issuer::Region(id.region.clone())))),
        },
        keyring_file: plan.path(id, &FileRef::Keyring),
        index: IndexConfig {
            dir: plan.path(id, &FileRef::Index),
            max_bytes: index_bytes,
        },
        log: LogConfig {
            replicas: region.spec.nats_replicas,
            message_retention_seconds: fleet.message_retention.as_secs(),
            regions: regions
                .into_iter()
                .map(|(region, generation)| RegionLog {
                    region,
                    generation,
                    message_shards: MESSAGE_SHARDS,
                    state_shards: STATE_SHARDS,
                })
                .collect(),
        },
        info: fleet.info.clone(),
        limits: fleet.limits.clone(),
        admission: fleet.admission.clone(),
        management: fleet.management.clone(),
        plugins: fleet.plugins.clone(),
        tracing: fleet.tracing.clone(),
    }
}
