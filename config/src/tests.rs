//! Tests of reading, checking and writing settings.

mod refusals;
mod round_trip;

use crate::{
    AdmissionConfig, AuthRequired, FirstContact, FleetRef, GiftWrapAdmission, IndexConfig,
    KeyBudget, KindAccess, Limits, LogConfig, ManagementConfig, NatsClient, OnFailure, Plugin,
    Plugins, RegionLog, RelayConfig, RelayInfo, TlsFiles, TracingConfig, TrustConfig, WriteAccess,
    check_origin,
};

/// The least that a relay needs.
const MINIMAL: &str = "\
fleet: {id: 000102030405060708090a0b0c0d0e0f, name: three-regions}
region: a
name: a-relay-0
listen: 127.0.0.1:4001
admin: 127.0.0.1:4002
public_urls: [ws://127.0.0.1:4001]
nats: {servers: [nats://127.0.0.1:4222], nkey_seed_file: /keys/relay.nk}
keyring_file: /keys/keyring.json
index: {dir: /data/index, max_bytes: 1073741824}
log:
  replicas: 3
  message_retention_seconds: 7776000
  regions: [{region: a, generation: 1}, {region: b, generation: 1}]
";

fn minimal() -> RelayConfig {
    RelayConfig::from_yaml(MINIMAL).unwrap()
}

#[test]
fn the_least_file_takes_every_default() {
    let config = minimal();
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.info, RelayInfo::default());
    assert_eq!((config.sweeper, config.tracing), (false, None));
    assert!(config.plugins.is_empty());
    assert_eq!(
        (config.tls, config.trusted_proxies, config.allowed_origins),
        (None, Vec::new(), Vec::new())
    );
    assert_eq!(
        (
            config.log.regions[0].message_shards,
            config.log.regions[0].state_shards
        ),
        (4, 2)
    );
}

#[test]
fn the_default_limits_hold_the_largest_event() {
    assert!(Limits::default().max_message_length >= nightjar_envelope::MAX_EVENT_BYTES + 1_024);
}

#[test]
fn the_file_that_is_written_names_every_default() {
    let yaml = minimal().to_yaml();
    for field in [
        "max_message_length: 600000",
        "sweeper: false",
        "message_shards: 4",
        "publish_deadline_ms: 5000",
    ] {
        assert!(yaml.contains(field), "{field} in\n{yaml}");
    }
}

/// A relay of an earlier version refuses fields that it does not know.
#[test]
fn later_settings_are_written_only_when_they_are_asked_for() {
    let (plain, all) = (minimal().to_yaml(), complete().to_yaml());
    for setting in [
        "  min_pow_difficulty: 20\n",
        "  ping_interval_seconds: 30\n",
        "  read_percent_per_connection: 50\n",
        "  idle_timeout_seconds: 90\n",
        "tls:\n",
        "trusted_proxies:\n- 10.0.0.0/8\n- 2001:db8::/32\n",
        "allowed_origins:\n- https://chat.example.org\n",
    ] {
        let name = setting.trim_start().split(':').next().unwrap();
        assert!(!plain.contains(name), "{name}");
        assert!(all.contains(setting), "{setting} in\n{all}");
    }
}

/// The same for lists and administrators.
#[test]
fn lists_and_administrators_are_written_only_where_there_are_some() {
    let mut config = minimal();
    let yaml = config.to_yaml();
    assert!(
        !yaml.contains("admission") && !yaml.contains("management"),
        "{yaml}"
    );
    config.admission.write = WriteAccess::AllowedKeys;
    config.management.admins = vec!["0".repeat(64)];
    let yaml = config.to_yaml();
    assert!(yaml.contains("  write: allowed-keys\n"), "{yaml}");
    assert_eq!(RelayConfig::from_yaml(&yaml).unwrap(), config);
}

#[test]
fn questions_of_admission_are_written_only_where_they_are_asked() {
    let mut config = minimal();
    config.admission.gift_wraps.any_of = vec![FirstContact::ProofOfWork, FirstContact::Known];
    let yaml = config.to_yaml();
    assert!(
        yaml.contains("    - proof-of-work\n    - known\n"),
        "{yaml}"
    );
    for other in ["auth_required", "trust", "key_budget"] {
        assert!(!yaml.contains(other), "{other}");
    }
}

#[test]
fn a_list_has_at_most_5000_entries() {
    let mut config = minimal();
    config.admission.allow_pubkeys = vec!["0".repeat(64); 5_001];
    let error = RelayConfig::from_yaml(&config.to_yaml()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "admission.allow_pubkeys: has 5001 entries, the limit is 5000"
    );
}

/// For the same reason.
#[test]
fn plugins_are_written_only_when_there_are_any() {
    let mut config = minimal();
    assert!(!config.to_yaml().contains("plugins"));
    config.plugins.read = Some(Plugin::new(vec!["/policy".to_owned()]));
    let yaml = config.to_yaml();
    assert!(yaml.contains("plugins:\n  read:\n"), "{yaml}");
    assert!(yaml.contains("    on_failure: reject\n"), "{yaml}");
    assert!(!config.plugins.give_address());
}

/// Every setting with a value, so that each is written.
fn complete() -> RelayConfig {
    let url = || Some("https://example.org/".to_owned());
    let mut config = minimal();
    config.nats.ca_file = Some("/ca.pem".into());
    config.info = RelayInfo {
        name: Some("n".to_owned()),
        description: Some("d".to_owned()),
        contact: Some("c".to_owned()),
        pubkey: Some("0".repeat(64)),
        icon: url(),
        terms_of_service: url(),
        privacy_policy: url(),
        posting_policy: url(),
    };
    config.limits.min_pow_difficulty = 20;
    config.limits.ping_interval_seconds = 30;
    config.limits.read_percent_per_connection = 50;
    config.limits.idle_timeout_seconds = 90;
    config.tls = Some(TlsFiles {
        cert_file: "/tls.crt".into(),
        key_file: "/tls.key".into(),
    });
    config.trusted_proxies = ["10.0.0.0/8", "2001:db8::/32"]
        .map(|network| network.parse().unwrap())
        .into();
    config.allowed_origins = vec!["https://chat.example.org".to_owned()];
    config.admission = AdmissionConfig {
        write: WriteAccess::AllowedKeys,
        kinds: KindAccess::AllowedKinds,
        allow_pubkeys: vec!["0".repeat(64)],
        deny_pubkeys: vec!["1".repeat(64)],
        allow_kinds: vec![1059],
        deny_kinds: vec![1],
        auth_required: AuthRequired::Writes,
        gift_wraps: GiftWrapAdmission {
            any_of: vec![FirstContact::Auth],
            ..GiftWrapAdmission::default()
        },
        trust: TrustConfig {
            roots: vec!["0".repeat(64)],
            ..TrustConfig::default()
        },
        key_budget: KeyBudget {
            events_per_minute: 60,
            ..KeyBudget::default()
        },
    };
    config.management.admins = vec!["2".repeat(64)];
    config.plugins = Plugins {
        write: Some(any_plugin("NAME")),
        read: Some(any_plugin("NAME")),
    };
    config.tracing = Some(TracingConfig {
        otlp_endpoint: "http://127.0.0.1:4317".to_owned(),
        sample_ratio: 0.5,
    });
    config
}

/// A plugin with a value in each field, none of them the default.
fn any_plugin(name: &str) -> Plugin {
    Plugin {
        command: vec!["/policy".to_owned(), "--strict".to_owned()],
        watch: vec!["/list".to_owned()],
        environment: [(name.to_owned(), "value".to_owned())].into(),
        timeout_ms: 500,
        on_failure: OnFailure::Accept,
        max_in_flight: 7,
        give_address: true,
    }
}

/// Paths of the leaves, as the reference spells them.
fn leaves(path: &str, value: &serde_yaml::Value, found: &mut Vec<String>) {
    match value {
        serde_yaml::Value::Mapping(fields) => {
            for (name, value) in fields {
                leaves(&format!("{path}.{}", name.as_str().unwrap()), value, found);
            }
        }
        serde_yaml::Value::Sequence(items) if items[0].is_mapping() => {
            leaves(&format!("{path}[]"), &items[0], found)
        }
        _ => found.push(path.trim_start_matches('.').to_owned()),
    }
}

#[test]
fn the_reference_names_every_setting_and_shows_a_file_that_is_read() {
    let reference = include_str!("../../docs/reference/relay-config.md");
    let config = complete();
    let mut found = Vec::new();
    leaves(
        "",
        &serde_yaml::from_str(&config.to_yaml()).unwrap(),
        &mut found,
    );
    assert!(found.len() > 40, "{found:?}");
    for path in &found {
        let sections = ["limits.", "plugins.write.", "plugins.read."];
        let shown = sections
            .iter()
            .find_map(|section| path.strip_prefix(section));
        let shown = shown.unwrap_or(path);
        assert!(
            reference.contains(&format!("| `{shown}` |")),
            "{path} is not in docs/reference/relay-config.md"
        );
    }
    let example = reference
        .split("```yaml\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    assert_eq!(RelayConfig::from_yaml(example).unwrap(), minimal());
}

#[test]
fn limits_info_and_other_regions_change_live_and_the_rest_restarts() {
    let old = minimal();
    let change = |edit: fn(&mut RelayConfig)| {
        let mut new = old.clone();
        edit(&mut new);
        RelayConfig::restart_required(&old, &new)
    };
    assert!(!change(|_| ()));
    assert!(!change(|new| new.limits.max_filters = 3));
    assert!(!change(|new| new.limits.min_pow_difficulty = 20));
    assert!(!change(|new| new.limits.ping_interval_seconds = 20));
    assert!(!change(|new| new
        .trusted_proxies
        .push("10.0.0.0/8".parse().unwrap())));
    assert!(!change(|new| new
        .allowed_origins
        .push("https://x.example.org".to_owned())));
    assert!(change(|new| new.tls = complete().tls));
    assert!(!change(|new| new.info.name = Some("x".to_owned())));
    assert!(!change(|new| new.admission.write = WriteAccess::AllowedKeys));
    assert!(!change(
        |new| new.admission.auth_required = AuthRequired::Always
    ));
    assert!(!change(|new| new.management.admins = vec!["0".repeat(64)]));
    assert!(!change(|new| drop(new.log.regions.pop())));
    assert!(change(|new| new.log.regions[0].generation = 2));
    assert!(change(|new| new.log.message_retention_seconds += 1));
    assert!(change(|new| new.listen.set_port(1)));
    assert!(change(|new| new.sweeper = true));
    assert!(change(|new| new.plugins.write = Some(any_plugin("A"))));
    assert!(change(|new| new
        .nats
        .servers
        .push("nats://127.0.0.1:4223".to_owned())));
}
