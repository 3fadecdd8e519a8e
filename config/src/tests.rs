//! Tests of reading, checking and writing settings.

use proptest::prelude::*;

use crate::{
    AdmissionConfig, FleetRef, IndexConfig, KindAccess, Limits, LogConfig, ManagementConfig,
    NatsClient, OnFailure, Plugin, Plugins, RegionLog, RelayConfig, RelayInfo, TlsFiles,
    TracingConfig, WriteAccess, check_origin,
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

/// The refusal of the minimal file with one text replaced by another.
#[track_caller]
fn refused(from: &str, to: &str) -> String {
    assert!(MINIMAL.contains(from), "{from}");
    RelayConfig::from_yaml(&MINIMAL.replacen(from, to, 1))
        .unwrap_err()
        .to_string()
}

/// One line that names the field.
#[track_caller]
fn names_its_field(from: &str, to: &str, expected: &str) {
    let message = refused(from, to);
    assert!(message.contains(expected), "{to}: {message}");
    assert!(!message.contains('\n'), "one line: {message}");
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
fn every_refusal_names_its_field() {
    for (from, to, expected) in [
        ("name: a-relay-0", "name: a_relay", "name: must be"),
        ("region: a\n", "region: A\n", "region: region name \"A\""),
        ("id: 000102", "id: zz0102", "fleet.id: fleet id"),
        ("name: three-regions", "name: ''", "fleet.name: must be"),
        ("listen: 127.0.0.1:4001", "listen: 127.0.0.1", "listen: "),
        (
            "admin: 127.0.0.1:4002",
            "admin: 127.0.0.1:4001",
            "admin: must differ",
        ),
        (
            "[ws://127.0.0.1:4001]",
            "[]",
            "public_urls: must have at least one",
        ),
        (
            "[ws://127.0.0.1:4001]",
            "[ws://x, http://y]",
            "public_urls[1]: must begin with ws:// or wss://",
        ),
        ("[nats://127.0.0.1:4222]", "[]", "nats.servers: must have"),
        (
            "[nats://127.0.0.1:4222]",
            "[127.0.0.1]",
            "nats.servers[0]: must begin with nats://",
        ),
        (
            "/keys/keyring.json",
            "''",
            "keyring_file: must not be empty",
        ),
        (
            "max_bytes: 1073741824",
            "max_bytes: 1000",
            "index.max_bytes: is 1000, must be 16777216 to",
        ),
        (
            "replicas: 3",
            "replicas: 2",
            "log.replicas: is 2, must be 1 or 3",
        ),
        (
            "message_retention_seconds: 7776000",
            "message_retention_seconds: 60",
            "log.message_retention_seconds: is 60",
        ),
        (
            "region: b",
            "region: a",
            "log.regions[1].region: a appears twice",
        ),
        (
            "region: a, generation: 1",
            "region: c, generation: 1",
            "log.regions: must have the relay's own region a",
        ),
        (
            "generation: 1}, {",
            "generation: 0}, {",
            "log.regions[0].generation: is 0",
        ),
    ] {
        names_its_field(from, to, expected);
    }
}

#[test]
fn refusals_of_optional_parts_and_unknown_fields_name_their_field() {
    for (from, to, expected) in [
        (
            "keyring_file:",
            "unknown_field: 1\nkeyring_file:",
            "unknown field `unknown_field`",
        ),
        ("nats: {", "nats: {tls: 1, ", "nats: unknown field `tls`"),
        (
            "index: {",
            "limits: {max_filters: 0}\nindex: {",
            "limits.max_filters: is 0, must be 1 to 1000",
        ),
        (
            "index: {",
            "limits: {default_limit: 6000}\nindex: {",
            "limits.default_limit: is 6000, must be 1 to 5000",
        ),
        (
            "index: {",
            "limits: {events_per_second_per_address: .nan}\nindex: {",
            "limits.events_per_second_per_address: is NaN",
        ),
        (
            "index: {",
            "limits: {min_pow_difficulty: 65}\nindex: {",
            "limits.min_pow_difficulty: is 65, must be 0 to 64",
        ),
        (
            "index: {",
            "limits: {drain_seconds: 601}\nindex: {",
            "limits.drain_seconds: is 601, must be 0 to 600",
        ),
        (
            "index: {",
            "limits: {max_filters: many}\nindex: {",
            "limits.max_filters: invalid type",
        ),
        (
            "index: {",
            "info: {pubkey: npub1}\nindex: {",
            "info.pubkey: must be 64 lowercase hex",
        ),
        (
            "index: {",
            "info: {icon: icon.png}\nindex: {",
            "info.icon: must begin with http://",
        ),
        (
            "index: {",
            "admission: {write: nobody}\nindex: {",
            "admission.write: unknown variant `nobody`",
        ),
        (
            "index: {",
            "admission: {deny_pubkeys: [npub1]}\nindex: {",
            "admission.deny_pubkeys[0]: must be 64 lowercase hex",
        ),
        (
            "index: {",
            "admission: {allow_kinds: [65536]}\nindex: {",
            "admission.allow_kinds",
        ),
        (
            "index: {",
            "management: {admins: [nsec1]}\nindex: {",
            "management.admins[0]: must be 64 lowercase hex",
        ),
        (
            "index: {",
            "tracing: {otlp_endpoint: 'http://x', sample_ratio: 2}\nindex: {",
            "tracing.sample_ratio: is 2",
        ),
    ] {
        names_its_field(from, to, expected);
    }
}

#[test]
fn refusals_of_what_stands_in_front_name_their_field() {
    let origins = vec!["https://x.example.org"; 65].join(", ");
    for (inserted, expected) in [
        (
            "limits: {ping_interval_seconds: 4}",
            "limits.ping_interval_seconds: is 4, must be 5 to 3600",
        ),
        (
            "limits: {ping_interval_seconds: 60, idle_timeout_seconds: 60}",
            "limits.idle_timeout_seconds: is 60, must be 61 to 86400",
        ),
        (
            "tls: {cert_file: '', key_file: /k}",
            "tls.cert_file: must not be empty",
        ),
        ("tls: {cert_file: /c}", "tls: missing field `key_file`"),
        (
            "trusted_proxies: [10.0.0.0/8, 10.0.0.1]",
            "trusted_proxies[1]: ",
        ),
        ("trusted_proxies: [10.0.0.0/33]", "trusted_proxies[0]: "),
        (
            "allowed_origins: ['https://x.example.org', x.example.org]",
            "allowed_origins[1]: must be an origin as browsers send it",
        ),
        (
            "allowed_origins: ['https://x.example.org:443']",
            "allowed_origins[0]: must not name the port",
        ),
        (
            &format!("allowed_origins: [{origins}]"),
            "allowed_origins: has 65 entries, the limit is 64",
        ),
    ] {
        names_its_field("index: {", &format!("{inserted}\nindex: {{"), expected);
    }
}

#[test]
fn an_origin_is_what_a_browser_sends() {
    for origin in [
        "https://chat.example.org",
        "http://localhost:3000",
        "http://[::1]:3000",
        "HTTPS://Chat.example.org:8443",
        "capacitor://localhost",
        "chrome-extension://abcdefgh",
        "http://example.org:443",
    ] {
        assert_eq!(check_origin(origin), Ok(()), "{origin}");
    }
    for origin in [
        "",
        "*",
        "null",
        "example.org",
        "://example.org",
        "https://",
        "https://*.example.org",
        "https://example.org/",
        "https://example.org, https://b.example",
        "https://user@example.org",
        "http://example.org:80",
    ] {
        assert!(check_origin(origin).is_err(), "{origin}");
    }
}

#[test]
fn a_plugin_that_will_not_do_is_refused_by_its_field() {
    for (plugins, expected) in [
        ("{write: {}}", "plugins.write: missing field `command`"),
        (
            "{filter: {command: [/x]}}",
            "plugins: unknown field `filter`",
        ),
        (
            "{read: {command: []}}",
            "plugins.read.command: has 0 entries, must have 1 to 32",
        ),
        (
            "{write: {command: [policy.py]}}",
            "plugins.write.command[0]: must be the absolute path",
        ),
        (
            "{write: {command: [/x, \"a\\0b\"]}}",
            "plugins.write.command[1]: must not have a NUL byte",
        ),
        (
            "{write: {command: [/x], watch: [/list, list]}}",
            "plugins.write.watch[1]: must be an absolute path",
        ),
        (
            "{write: {command: [/x], environment: {1A: b}}}",
            "plugins.write.environment: names must be",
        ),
        (
            "{write: {command: [/x], timeout_ms: 9}}",
            "plugins.write.timeout_ms: is 9, must be 10 to 10000",
        ),
        (
            "{write: {command: [/x], max_in_flight: 0}}",
            "plugins.write.max_in_flight: is 0, must be 1 to 1000",
        ),
        (
            "{write: {command: [/x], on_failure: open}}",
            "plugins.write.on_failure: unknown variant `open`",
        ),
    ] {
        names_its_field(
            "index: {",
            &format!("plugins: {plugins}\nindex: {{"),
            expected,
        );
    }
}

#[test]
fn text_that_is_no_mapping_is_refused() {
    for text in ["", "hello", "[1]", "fleet: [", "\u{0}"] {
        assert!(RelayConfig::from_yaml(text).is_err(), "{text:?}");
    }
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

fn any_limits() -> impl Strategy<Value = Limits> {
    (
        (16_usize << 10..=16 << 20),
        1..=100_000_usize,
        0.001..1e6_f64,
        1..=u32::MAX,
        0.0..=1.0_f64,
        0..=8_u64,
        0..=64_u32,
        5..=3_600_u64,
    )
        .prop_map(
            |(
                max_message_length,
                max_limit,
                rate,
                burst,
                share,
                drain_seconds,
                min_pow_difficulty,
                ping_interval_seconds,
            )| Limits {
                max_message_length,
                max_limit,
                default_limit: max_limit.min(500),
                events_per_second_per_connection: rate,
                events_burst_per_address: burst,
                in_flight_publish_bytes_per_connection: max_message_length,
                unauthenticated_log_share: share,
                drain_seconds,
                min_pow_difficulty,
                ping_interval_seconds,
                idle_timeout_seconds: ping_interval_seconds * 3,
                ..Limits::default()
            },
        )
}

fn any_info() -> impl Strategy<Value = RelayInfo> {
    let text = || {
        proptest::option::of("\\PC{0,25}|[ \n\t:#'\"{}&*!|>%@`-]{0,20}|(yes|no|null|~|1e3|0x1F|on)")
    };
    (
        text(),
        text(),
        text(),
        proptest::option::of("[0-9a-f]{64}"),
        proptest::option::of("https?://[a-z:# ]{1,20}"),
    )
        .prop_map(|(name, description, contact, pubkey, icon)| RelayInfo {
            name,
            description,
            contact,
            pubkey,
            icon,
            ..RelayInfo::default()
        })
}

fn any_regions() -> impl Strategy<Value = Vec<RegionLog>> {
    proptest::collection::btree_map(
        "[a-z][a-z0-9-]{0,30}|yes|no|null|on",
        (1..=u32::MAX, 1..=64_u8, 1..=64_u8),
        1..5,
    )
    .prop_map(|regions| {
        regions
            .into_iter()
            .map(
                |(name, (generation, message_shards, state_shards))| RegionLog {
                    region: name.parse().unwrap(),
                    generation,
                    message_shards,
                    state_shards,
                },
            )
            .collect()
    })
}

fn any_admission() -> impl Strategy<Value = (AdmissionConfig, ManagementConfig)> {
    let keys = || proptest::collection::vec("[0-9a-f]{64}", 0..3);
    let kinds = || proptest::collection::vec(any::<u16>(), 0..3);
    (any::<bool>(), keys(), keys(), kinds(), kinds()).prop_map(
        |(listed, allow_pubkeys, deny_pubkeys, allow_kinds, deny_kinds)| {
            let management = ManagementConfig {
                admins: deny_pubkeys.clone(),
            };
            let admission = AdmissionConfig {
                write: match listed {
                    true => WriteAccess::AllowedKeys,
                    false => WriteAccess::Everyone,
                },
                kinds: match listed {
                    true => KindAccess::AllowedKinds,
                    false => KindAccess::All,
                },
                allow_pubkeys,
                deny_pubkeys,
                allow_kinds,
                deny_kinds,
            };
            (admission, management)
        },
    )
}

fn any_config() -> impl Strategy<Value = RelayConfig> {
    let places = (
        "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        any::<[u8; 4]>(),
        any::<[u8; 16]>(),
        1..=u16::MAX,
        "/[ -~]{1,30}",
    );
    let tracing = proptest::option::of((0.0..=1.0_f64).prop_map(|sample_ratio| TracingConfig {
        otlp_endpoint: "http://[::1]:4317".to_owned(),
        sample_ratio,
    }));
    (
        places,
        any_regions(),
        any_info(),
        any_limits(),
        any_admission(),
        tracing,
        any::<bool>(),
        16_u64 << 20..=u64::MAX >> 1,
    )
        .prop_map(
            |(
                (name, v4, bytes, port, path),
                regions,
                info,
                limits,
                (admission, management),
                tracing,
                sweeper,
                max_bytes,
            )| RelayConfig {
                fleet: FleetRef {
                    id: nightjar_envelope::FleetId::from_bytes(bytes),
                    name: name.clone(),
                },
                region: regions[0].region.clone(),
                listen: (v4, port).into(),
                admin: (bytes, port).into(),
                public_urls: vec![
                    format!("wss://{name}.example.org/"),
                    format!("ws://127.0.0.1:{port}"),
                ],
                nats: NatsClient {
                    servers: vec![format!("tls://{name}:{port}")],
                    nkey_seed_file: path.clone().into(),
                    ca_file: sweeper.then(|| path.clone().into()),
                },
                keyring_file: path.clone().into(),
                tls: sweeper.then(|| TlsFiles {
                    cert_file: path.clone().into(),
                    key_file: path.clone().into(),
                }),
                trusted_proxies: vec![
                    crate::IpNet::new(v4.into(), 20).unwrap(),
                    crate::IpNet::new(bytes.into(), 48).unwrap(),
                ],
                allowed_origins: vec![format!("https://{name}.example.org")],
                index: IndexConfig {
                    dir: path.into(),
                    max_bytes,
                },
                log: LogConfig {
                    replicas: if sweeper { 1 } else { 3 },
                    message_retention_seconds: 30 * 86_400 + u64::from(port),
                    regions,
                },
                name,
                sweeper,
                info,
                limits,
                admission,
                management,
                plugins: Plugins {
                    write: sweeper.then(|| any_plugin("_A1")),
                    read: (port > 9).then(|| any_plugin("b")),
                },
                tracing,
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_reads_back(config in any_config()) {
        let yaml = config.to_yaml();
        prop_assert_eq!(RelayConfig::from_yaml(&yaml).unwrap(), config);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*|([a-z_]{1,12}: [\\[{\"'&*]?[a-z0-9]{0,5}\n){0,9}") {
        let _ = RelayConfig::from_yaml(&text);
    }
}
