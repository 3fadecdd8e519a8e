//! What will not do is refused by its field.

use super::*;

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
fn refusals_of_questions_of_admission_name_their_field() {
    for (from, to, expected) in [
        (
            "index: {",
            "admission: {auth_required: sometimes}\nindex: {",
            "admission.auth_required: unknown variant",
        ),
        (
            "index: {",
            "admission: {gift_wraps: {any_of: [auth, known, auth]}}\nindex: {",
            "admission.gift_wraps.any_of[2]: appears twice",
        ),
        (
            "index: {",
            "admission: {gift_wraps: {proof_of_work_difficulty: 0}}\nindex: {",
            "admission.gift_wraps.proof_of_work_difficulty: is 0, must be 1 to 64",
        ),
        (
            "index: {",
            "admission: {trust: {roots: [npub1]}}\nindex: {",
            "admission.trust.roots[0]: must be 64 lowercase hex digits",
        ),
        (
            "index: {",
            "admission: {trust: {depth: 3}}\nindex: {",
            "admission.trust.depth: is 3, must be 1 to 2",
        ),
        (
            "index: {",
            "admission: {trust: {refresh_seconds: 9}}\nindex: {",
            "admission.trust.refresh_seconds: is 9, must be 10 to 86400",
        ),
        (
            "index: {",
            "admission: {key_budget: {events_per_minute: 100001}}\nindex: {",
            "admission.key_budget.events_per_minute: is 100001, must be 0 to 100000",
        ),
        (
            "index: {",
            "admission: {key_budget: {burst: 0}}\nindex: {",
            "admission.key_budget.burst: is 0, must be 1 to 1000000",
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
            "limits: {read_percent_per_connection: 0}",
            "limits.read_percent_per_connection: is 0, must be 1 to 100",
        ),
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
