//! Rules of the schema, each shown to pass and to fail; files that will not do; and the generated files.

use std::path::Path;

use regex::Regex;
use serde_json::{Value, json};

use super::*;
use crate::validate::{from_yaml, validate};

/// The smallest file with a spec of these lines.
fn file(spec: &str) -> String {
    format!(
        "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {{name: x}}\nspec:\n{spec}"
    )
}

fn cluster(spec: Value) -> RelayCluster {
    RelayCluster::new("x", serde_json::from_value(spec).unwrap())
}

/// The lines with which a file is refused.
fn refused(text: &str) -> Vec<String> {
    from_yaml(text)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_file_that_names_only_regions_has_every_default() {
    let fleet = from_yaml(&file("  regions: [{name: a}]")).unwrap();
    assert_eq!(
        (fleet.name.as_str(), fleet.max_bytes_per_region),
        ("x", 1 << 30)
    );
    assert_eq!(fleet.message_retention.as_secs(), 90 * 86_400);
    let region = &fleet.regions[0];
    assert_eq!(
        (
            region.relay_replicas,
            region.nats_replicas,
            region.nats_storage
        ),
        (1, 3, 10 << 30)
    );
    assert_eq!(fleet.limits, nightjar_config::Limits::default());
    assert_eq!(fleet.tracing, None);
    assert!(fleet.plugins.is_empty());
}

#[test]
fn every_setting_of_a_file_arrives() {
    let fleet = from_yaml(&file(
        "  regions: [{name: a, relays: {replicas: 2}, nats: {replicas: 1, storage: 2Gi}, publicURL: 'wss://a.example.org'}]\n  \
         log: {maxBytesPerRegion: 256Mi, retention: {messages: 5w}}\n  \
         relay: {info: {name: N, contact: 'mailto:x@example.org'}, limits: {maxFilters: 7, minPowDifficulty: 16, unauthenticatedLogPercent: 10, pingIntervalSeconds: 20}, tls: {secretName: s}, trustedProxies: [10.0.0.0/8], allowedOrigins: ['https://x.example.org'], \
         admission: {write: AllowedKeys, denyKinds: [1]}, management: {admins: [3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d]}, \
         plugins: {write: {command: [/policy, -v], watch: [/list], environment: {A: b}, timeoutMs: 500, onFailure: Accept, maxInFlight: 1, giveAddress: true}}}\n  \
         tracing: {otlpEndpoint: 'http://127.0.0.1:4317', samplePercent: 50}",
    ))
    .unwrap();
    let region = &fleet.regions[0];
    assert_eq!(
        (
            region.relay_replicas,
            region.nats_replicas,
            region.nats_storage
        ),
        (2, 1, 2 << 30)
    );
    assert_eq!(region.public_url.as_deref(), Some("wss://a.example.org"));
    assert_eq!(
        (
            fleet.max_bytes_per_region,
            fleet.message_retention.as_secs()
        ),
        (256 << 20, 35 * 86_400)
    );
    assert_eq!(
        (
            fleet.limits.max_filters,
            fleet.limits.min_pow_difficulty,
            fleet.limits.unauthenticated_log_share
        ),
        (7, 16, 0.1)
    );
    assert_eq!(
        (
            fleet.limits.ping_interval_seconds,
            fleet.limits.idle_timeout_seconds
        ),
        (20, 150)
    );
    assert_eq!(fleet.relay_tls_secret.as_deref(), Some("s"));
    assert_eq!(fleet.trusted_proxies, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(fleet.allowed_origins, ["https://x.example.org"]);
    assert_eq!(
        (fleet.info.name.as_deref(), fleet.info.icon),
        (Some("N"), None)
    );
    assert_eq!(fleet.tracing.unwrap().sample_ratio, 0.5);
    assert_eq!(
        (fleet.admission.write, fleet.admission.deny_kinds),
        (nightjar_config::WriteAccess::AllowedKeys, vec![1])
    );
    assert_eq!(fleet.management.admins.len(), 1);
    let plugin = nightjar_config::Plugin {
        watch: vec!["/list".to_owned()],
        environment: [("A".to_owned(), "b".to_owned())].into(),
        timeout_ms: 500,
        on_failure: nightjar_config::OnFailure::Accept,
        max_in_flight: 1,
        give_address: true,
        ..nightjar_config::Plugin::new(vec!["/policy".to_owned(), "-v".to_owned()])
    };
    assert_eq!(
        (fleet.plugins.write, fleet.plugins.read),
        (Some(plugin), None)
    );
}

/// Insists that each text is refused with a line that begins so, and that every refusal is one line.
fn check_refusals(cases: &[(String, &str)]) {
    for (text, expected) in cases {
        let lines = refused(text);
        assert!(
            lines.iter().any(|line| line.starts_with(expected)),
            "{expected}\n{lines:#?}"
        );
        assert!(
            lines.iter().all(|line| line.lines().count() == 1),
            "{lines:#?}"
        );
    }
}

fn region_with(rest: &str) -> String {
    file(&format!("  regions: [{{name: a{rest}}}]"))
}

#[test]
fn a_file_that_is_no_relay_cluster_is_refused() {
    let good = region_with("");
    check_refusals(&[
        ("regions: [a".to_owned(), "not YAML: "),
        (String::new(), "the file is empty"),
        ("- a".to_owned(), "the file is YAML, but not a RelayCluster"),
        ("x".repeat(MAX_FILE_BYTES + 1), "the file has 1048577 bytes"),
        (
            format!("{good}\n---\n{good}"),
            "the file has several documents",
        ),
        (
            good.replace("v1alpha1", "v9"),
            "apiVersion: must be nightjar.dev/v1alpha1, is \"nightjar.dev/v9\"",
        ),
        (
            good.replace("kind: RelayCluster", "kind: Pod"),
            "kind: must be RelayCluster, is \"Pod\"",
        ),
        (
            good.replace("kind: RelayCluster\n", ""),
            "kind: is missing; it must be RelayCluster",
        ),
        (good.replace("{name: x}", "{}"), "metadata.name: is missing"),
        (
            good.replace("{name: x}", "{name: X_1}"),
            "metadata.name: must be 1 to 40 of a-z, 0-9 and '-'",
        ),
        (
            good.replace("{name: x}", &format!("{{name: {}}}", "x".repeat(41))),
            "metadata.name: must be 1 to 40",
        ),
        (good.replace("spec:", "specs:"), "specs: no such field"),
    ]);
}

#[test]
fn a_region_that_will_not_do_is_refused_by_its_field() {
    check_refusals(&[
        (file("  log: {}"), "spec.regions: is missing"),
        (
            file("  regions: []"),
            "spec.regions: must have 1 to 16 entries, has 0",
        ),
        (
            file("  regions: {name: a}"),
            "spec.regions: must be a list, is a map of fields",
        ),
        (file("  regions: [{}]"), "spec.regions[0].name: is missing"),
        (
            file("  regions: [{name: a}, {name: b}, {name: a}]"),
            "spec.regions[2].name: \"a\" is the name of spec.regions[0] already",
        ),
        (
            file("  regions: [{name: Eu}]"),
            "spec.regions[0].name: \"Eu\" does not match",
        ),
        (
            file("  regions: [{name: 7}]"),
            "spec.regions[0].name: must be a text, is 7",
        ),
        (
            region_with(", colour: red"),
            "spec.regions[0].colour: no such field; there are ingress, name, nats, placement, publicURL, relays, service",
        ),
        (
            region_with(", public_url: x"),
            "spec.regions[0].public_url: no such field; did you mean publicURL?",
        ),
        (
            region_with(", publicURL: 'http://x'"),
            "spec.regions[0].publicURL: \"http://x\" does not match",
        ),
        (
            region_with(", nats: {replicas: 0}"),
            "spec.regions[0].nats.replicas: must be 1 or 3, is 0",
        ),
        (
            region_with(", nats: {replicas: 2}"),
            "spec.regions[0].nats.replicas: must be 1 or 3, is 2",
        ),
        (
            region_with(", nats: {replicas: '3'}"),
            "spec.regions[0].nats.replicas: must be a whole number, is the text \"3\"",
        ),
        (
            region_with(", relays: {replicas: 17}"),
            "spec.regions[0].relays.replicas: must be from 1 to 16, is 17",
        ),
        (
            region_with(", nats: {storage: 1.5Gi}"),
            "spec.regions[0].nats.storage: \"1.5Gi\" does not match",
        ),
        (
            region_with(", nats: {storage: 1Gi}"),
            "spec.regions[0].nats.storage: 1Gi is too small for the log: 1 regions x 1Gi",
        ),
    ]);
}

#[test]
fn a_setting_that_will_not_do_is_refused_by_its_field() {
    let with = |rest: &str| file(&format!("  regions: [{{name: a}}]\n  {rest}"));
    check_refusals(&[
        (
            with("log: {maxBytesPerRegion: 1Mi}"),
            "spec.log.maxBytesPerRegion: must be at least 16Mi, is 1Mi",
        ),
        (
            with("log: {maxBytesPerRegion: 9999999999999Ti}"),
            "spec.log.maxBytesPerRegion: \"9999999999999Ti\": must be less than",
        ),
        (
            with("log: {retention: {messages: 3d}}"),
            "spec.log.retention.messages: must be from 30d to 3650d, is 3d",
        ),
        (
            with("relay: {limits: {maxFilters: 0}}"),
            "spec.relay.limits.maxFilters: must be from 1 to 1000, is 0",
        ),
        (
            with("relay: {limits: {minPowDifficulty: 65}}"),
            "spec.relay.limits.minPowDifficulty: must be from 0 to 64, is 65",
        ),
        (
            with("relay: {limits: {minPowDifficulty: -1}}"),
            "spec.relay.limits.minPowDifficulty: must be from 0 to 64, is -1",
        ),
        (
            with("relay: {management: {admins: [npub1abc]}}"),
            "spec.relay.management.admins[0]: must have 64 characters, has 8",
        ),
        (
            with("relay: {admission: {write: Nobody}}"),
            "spec.relay.admission.write: ",
        ),
        (
            with("relay: {admission: {allowKinds: [65536]}}"),
            "spec.relay.admission.allowKinds[0]: must be from 0 to 65535, is 65536",
        ),
        (
            with("relay: {info: {pubkey: abc}}"),
            "spec.relay.info.pubkey: must have 64 characters, has 3",
        ),
        (
            with("relay: {limits: {idleTimeoutSeconds: 30}}"),
            "spec.relay.limits.idleTimeoutSeconds: idleTimeoutSeconds must be more than pingIntervalSeconds",
        ),
        (
            with("relay: {tls: {}}"),
            "spec.relay.tls.secretName: is missing",
        ),
        (
            with("relay: {trustedProxies: [10.0.0.0/8, 10.0.0.1]}"),
            "spec.relay.trustedProxies[1]: ",
        ),
        (
            with("relay: {trustedProxies: [10.0.0.0/33]}"),
            "spec.relay.trustedProxies[0]: must be a network in CIDR notation",
        ),
        (
            with("relay: {allowedOrigins: ['https://x.example.org/chat']}"),
            "spec.relay.allowedOrigins[0]: ",
        ),
        (
            with("relay: {allowedOrigins: ['https://x.example.org:443']}"),
            "spec.relay.allowedOrigins[0]: must not name the port",
        ),
        (with("tracing: {}"), "spec.tracing.otlpEndpoint: is missing"),
    ]);
}

#[test]
fn a_plugin_that_will_not_do_is_refused_by_its_field() {
    let with = |rest: &str| file(&format!("  regions: [{{name: a}}]\n  {rest}"));
    check_refusals(&[
        (
            with("relay: {plugins: {write: {}}}"),
            "spec.relay.plugins.write.command: is missing",
        ),
        (
            with("relay: {plugins: {write: {command: []}}}"),
            "spec.relay.plugins.write.command: must have 1 to 32 entries, has 0",
        ),
        (
            with("relay: {plugins: {read: {command: [/x], timeoutMs: 5}}}"),
            "spec.relay.plugins.read.timeoutMs: must be from 10 to 10000, is 5",
        ),
        (
            with("relay: {plugins: {read: {command: [/x], onFailure: Open}}}"),
            "spec.relay.plugins.read.onFailure: must be Accept or Reject, is \"Open\"",
        ),
        (
            with("relay: {plugins: {write: {command: [/x], environment: {1A: b}}}}"),
            "spec.relay.plugins.write.environment: names must be 1 to 128",
        ),
    ]);
}

#[test]
fn everything_wrong_is_told_at_once() {
    let lines = refused(&file(
        "  regions: [{name: A, nats: {replicas: 2}, x: 1}]\n  log: {maxBytesPerRegion: lots}",
    ));
    assert_eq!(lines.len(), 4, "{lines:#?}");
}

#[test]
fn the_log_must_fit_into_every_region_s_storage() {
    let of = |storage: &str| {
        file(&format!(
            "  regions: [{{name: a}}, {{name: b, nats: {{storage: {storage}}}}}]\n  log: {{maxBytesPerRegion: 1000}}"
        ))
    };
    let lines = |storage: &str| refused(&of(storage).replace("1000", "20Mi"));
    assert!(from_yaml(&of("52Mi").replace("1000", "20Mi")).is_ok());
    assert_eq!(
        lines("51Mi"),
        [
            "spec.regions[1].nats.storage: 51Mi is too small for the log: 2 regions x 20Mi (spec.log.maxBytesPerRegion) x 1.3 need at least 52Mi"
        ]
    );
}

#[test]
fn rule_region_names_are_unique() {
    assert!(
        cluster(json!({"regions": [{"name": "a"}, {"name": "b"}]}))
            .validate_cel()
            .is_ok()
    );
    let error = cluster(json!({"regions": [{"name": "a"}, {"name": "a"}]}))
        .validate_cel()
        .unwrap_err();
    assert_eq!(
        error.as_slice()[0].message,
        "names of regions must be unique"
    );
}

#[test]
fn rule_nats_replicas_never_change() {
    let of = |replicas: i32| {
        cluster(json!({"regions": [{"name": "a", "nats": {"replicas": replicas}}, {"name": "b"}]}))
    };
    assert!(of(3).validate_cel_update(&of(3)).is_ok());
    let new_region = cluster(
        json!({"regions": [{"name": "a"}, {"name": "b"}, {"name": "c", "nats": {"replicas": 1}}]}),
    );
    assert!(new_region.validate_cel_update(&of(3)).is_ok());
    let error = of(1).validate_cel_update(&of(3)).unwrap_err();
    assert!(
        error.as_slice()[0].message.contains("cannot be changed"),
        "{error:?}"
    );
}

#[test]
fn rule_the_fleet_s_name_is_short() {
    let named =
        |name: &str| RelayCluster::new(name, cluster(json!({"regions": [{"name": "a"}]})).spec);
    assert!(named(&"x".repeat(40)).validate_cel().is_ok());
    let error = named(&"x".repeat(41)).validate_cel().unwrap_err();
    assert!(
        error.as_slice()[0].message.contains("at most 40"),
        "{error:?}"
    );
}

#[test]
fn rules_of_limits_that_depend_on_each_other() {
    let of =
        |limits: Value| cluster(json!({"regions": [{"name": "a"}], "relay": {"limits": limits}}));
    assert!(
        of(json!({"maxLimit": 100, "defaultLimit": 100}))
            .validate_cel()
            .is_ok()
    );
    for (limits, message) in [
        (
            json!({"maxLimit": 100, "defaultLimit": 101}),
            "defaultLimit must be at most maxLimit",
        ),
        (
            json!({"maxMessageLength": 600_000, "inFlightPublishBytesPerConnection": 599_999}),
            "inFlightPublishBytesPerConnection must be at least maxMessageLength",
        ),
        (
            json!({"inFlightPublishBytesPerRelay": 700_000, "inFlightPublishBytesPerConnection": 700_001}),
            "inFlightPublishBytesPerRelay must be at least inFlightPublishBytesPerConnection",
        ),
    ] {
        let errors = validate(&of(limits)).unwrap_err();
        assert_eq!(errors[0].message, message);
        assert!(
            errors[0].field.starts_with("spec.relay.limits"),
            "{errors:?}"
        );
    }
}

#[test]
fn rule_a_plugin_is_named_by_its_absolute_path() {
    let of = |program: &str| {
        cluster(json!({
            "regions": [{"name": "a"}],
            "relay": {"plugins": {"write": {"command": [program, "x"]}}},
        }))
    };
    assert!(of("/policy").validate_cel().is_ok());
    let errors = validate(&of("policy.py")).unwrap_err();
    assert!(errors[0].message.contains("absolute path"), "{errors:?}");
    assert!(
        errors[0].field.starts_with("spec.relay.plugins.write"),
        "{errors:?}"
    );
}

#[test]
fn what_a_running_fleet_cannot_take_over_is_named() {
    let of = |spec: &str| from_yaml(&file(spec)).unwrap();
    let old = of("  regions: [{name: a}, {name: b, nats: {replicas: 1}}]");
    assert_eq!(
        old.check_change(&of(
            "  regions: [{name: b, nats: {replicas: 1, storage: 20Gi}}, {name: c}]"
        )),
        []
    );
    let errors = old.check_change(&of(
        "  regions: [{name: b}, {name: a, nats: {storage: 8Gi}}]",
    ));
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "spec.regions[0].nats.replicas: cannot be changed from 1 to 3; add a region with 3 instead",
            "spec.regions[1].nats.storage: can only grow: 8Gi is less than 10Gi",
        ]
    );
}

/// Walks every schema with its path.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, visit);
    }
    if schema["items"].is_object() {
        walk(&format!("{path}[]"), &schema["items"], visit);
    }
}

#[test]
fn every_field_is_bounded_and_explained() {
    walk("spec", schema::spec(), &mut |path, field| {
        let bounded = match field["type"].as_str() {
            Some("string") => field["maxLength"].is_u64() || field["enum"].is_array(),
            Some("array") => field["maxItems"].is_u64(),
            Some("integer") => {
                field["enum"].is_array()
                    || (field["minimum"].is_number() && field["maximum"].is_number())
            }
            kind => matches!(kind, Some("object" | "boolean")),
        };
        assert!(bounded, "{path} has no bounds: {field}");
        // The entries of a list of plain values are explained with the list.
        if path.ends_with("[]") && field["type"] != "object" {
            return;
        }
        let text = field["description"].as_str().unwrap_or_default();
        assert!(!text.is_empty(), "{path} has no description");
        let leaf = field["type"] != "object" && field["type"] != "array";
        assert!(
            !leaf || text.contains("Example: `"),
            "{path} has no example"
        );
        if let Some(pattern) = field["pattern"].as_str() {
            assert!(Regex::new(pattern).is_ok(), "{path}: {pattern}");
        }
    });
}

#[test]
fn generated_files_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (file, text) in [
        ("crds/relayclusters.nightjar.dev.yaml", crd_yaml()),
        ("docs/reference/relaycluster.md", reference_markdown()),
    ] {
        let stored = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        assert!(
            stored == text,
            "{file} is stale: run `cargo xtask generate` and commit"
        );
    }
}

#[test]
fn the_examples_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for entry in std::fs::read_dir(root.join("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                from_yaml(&text).is_ok(),
                "{}: {:?}",
                path.display(),
                from_yaml(&text)
            );
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}|(apiVersion|kind|spec|regions|name|- |: |\\[|\\{|\\}|\\]|&a|\\*a|!x|\n| ){0,30}") {
        let _ = from_yaml(&text);
    }
}
