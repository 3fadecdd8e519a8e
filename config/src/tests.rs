//! Tests of reading, checking and writing settings.

use proptest::prelude::*;

use crate::{
    FleetRef, IndexConfig, Limits, LogConfig, NatsClient, OnFailure, Plugin, Plugins, RegionLog,
    RelayConfig, RelayInfo, TracingConfig,
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
            "tracing: {otlp_endpoint: 'http://x', sample_ratio: 2}\nindex: {",
            "tracing.sample_ratio: is 2",
        ),
    ] {
        names_its_field(from, to, expected);
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
fn proof_of_work_is_written_only_when_it_is_asked_for() {
    let mut config = minimal();
    assert!(!config.to_yaml().contains("min_pow_difficulty"));
    config.limits.min_pow_difficulty = 20;
    assert!(config.to_yaml().contains("  min_pow_difficulty: 20\n"));
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
    assert!(!change(|new| new.info.name = Some("x".to_owned())));
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
