//! What the API server refuses, and what Kubernetes cannot give: one message that names the field, or a condition, and recovery.

use nightjar_tests::kubernetes::cluster::cluster;
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec};
use nightjar_tests::kubernetes::{limits, operator, turn};
use serde_json::{Value, json};

/// A rule: what breaks it, what keeps it, and what the message must name.
struct Rule {
    name: &'static str,
    broken: Value,
    kept: Value,
    says: &'static [&'static str],
}

fn rule(name: &'static str, broken: Value, kept: Value, says: &'static [&'static str]) -> Rule {
    Rule {
        name,
        broken,
        kept,
        says,
    }
}

fn regions(names: &[&str]) -> Value {
    json!({"regions": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()})
}

fn limits_of(limits: Value) -> Value {
    json!({"regions": [{"name": "a"}], "relay": {"limits": limits}})
}

fn region(more: Value) -> Value {
    let mut region = json!({"name": "a"});
    for (key, value) in more.as_object().into_iter().flatten() {
        region[key] = value.clone();
    }
    json!({"regions": [region]})
}

/// Rules over one state of the spec.
fn of_one_state() -> Vec<Rule> {
    let long_region = "a".repeat(31);
    vec![
        rule(
            "names of regions are unique",
            regions(&["a", "b", "a"]),
            regions(&["a", "b"]),
            &["spec.regions"],
        ),
        rule(
            "a fleet has a region",
            regions(&[]),
            regions(&["a"]),
            &["spec.regions"],
        ),
        rule(
            "names of regions are short words",
            regions(&["A"]),
            regions(&[&long_region]),
            &["spec.regions[0].name"],
        ),
        rule(
            "defaultLimit is at most maxLimit",
            limits_of(json!({"defaultLimit": 600, "maxLimit": 500})),
            limits_of(json!({"defaultLimit": 500, "maxLimit": 500})),
            &[
                "spec.relay.limits.defaultLimit",
                "defaultLimit must be at most maxLimit",
            ],
        ),
        rule(
            "a connection may have one message under way",
            limits_of(
                json!({"inFlightPublishBytesPerConnection": 131_071, "maxMessageLength": 131_072}),
            ),
            limits_of(
                json!({"inFlightPublishBytesPerConnection": 131_072, "maxMessageLength": 131_072}),
            ),
            &["spec.relay.limits.inFlightPublishBytesPerConnection"],
        ),
        rule(
            "a relay holds what a connection may have under way",
            limits_of(
                json!({"inFlightPublishBytesPerRelay": 2_000_000, "inFlightPublishBytesPerConnection": 2_000_001}),
            ),
            limits_of(
                json!({"inFlightPublishBytesPerRelay": 2_000_000, "inFlightPublishBytesPerConnection": 2_000_000}),
            ),
            &["spec.relay.limits.inFlightPublishBytesPerRelay"],
        ),
        rule(
            "NATS servers are 1 or 3",
            region(json!({"nats": {"replicas": 2}})),
            region(json!({"nats": {"replicas": 1}})),
            &["spec.regions[0].nats.replicas"],
        ),
        rule(
            "a URL is one for WebSockets",
            region(json!({"publicURL": "https://example.org"})),
            region(json!({"publicURL": "wss://example.org"})),
            &["spec.regions[0].publicURL"],
        ),
        rule(
            "a size is a number of bytes",
            region(json!({"nats": {"storage": "1.5Gi"}})),
            region(json!({"nats": {"storage": "20Gi"}})),
            &["spec.regions[0].nats.storage"],
        ),
    ]
}

/// Rules over a change; both are tried on a fleet of region a.
fn of_a_change() -> Vec<Rule> {
    vec![
        rule(
            "NATS servers of a region stay as many",
            region(json!({"nats": {"replicas": 1}})),
            region(json!({"nats": {"replicas": 3}, "relays": {"replicas": 2}})),
            &[
                "spec.regions",
                "nats.replicas of a region cannot be changed",
            ],
        ),
        rule(
            "disks of a region keep their class",
            region(json!({"nats": {"storageClass": "other"}})),
            json!({"regions": [{"name": "a"}, {"name": "b", "nats": {"storageClass": "other"}}]}),
            &["spec.regions", "storageClass of a region cannot be changed"],
        ),
        rule(
            "indexes of a region keep their class",
            region(json!({"relays": {"storageClass": "other"}})),
            region(json!({"relays": {"storage": "20Gi"}})),
            &["spec.regions", "storageClass of a region cannot be changed"],
        ),
    ]
}

fn dry_run(fleet: &Fleet, object: &Value) -> Result<String, String> {
    fleet.cluster.try_kubectl_with(
        &["apply", "--dry-run=server", "-f", "-"],
        &object.to_string(),
    )
}

fn check(fleet: &Fleet, rules: &[Rule]) {
    for rule in rules {
        let kept = dry_run(fleet, &fleet.manifest(rule.kept.clone()));
        assert!(
            kept.is_ok(),
            "{}: refused although kept: {kept:?}",
            rule.name
        );
        let refused = dry_run(fleet, &fleet.manifest(rule.broken.clone()));
        let Err(message) = refused else {
            panic!("{}: accepted: {}", rule.name, rule.broken);
        };
        for wanted in rule.says {
            assert!(
                message.contains(wanted),
                "{}: `{wanted}` is not said in: {message}",
                rule.name
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_rule_is_kept_by_the_api_server_and_names_its_field() {
    let Some(cluster) = cluster("rules of the API server") else {
        return;
    };
    let _turn = turn::beside().await;
    let fleet = Fleet::namespace(cluster, "rules");
    check(&fleet, &of_one_state());
    for (name, region, accepted) in [
        ("n".repeat(40), "a", true),
        ("n".repeat(41), "a", false),
        ("n".repeat(38), "abcdef", true),
        ("n".repeat(38), "abcdefg", false),
    ] {
        let mut object = fleet.manifest(regions(&[region]));
        object["metadata"]["name"] = json!(name);
        let said = dry_run(&fleet, &object);
        assert_eq!(
            said.is_ok(),
            accepted,
            "{name} with region {region}: {said:?}"
        );
        if let Err(message) = said {
            assert!(message.contains("metadata.name"), "{message}");
        }
    }
    let unknown = fleet.manifest(json!({"regions": [{"name": "a", "relay": {"replicas": 2}}]}));
    let message = dry_run(&fleet, &unknown).expect_err("no such field");
    assert!(message.contains("spec.regions[0].relay"), "{message}");

    let mut live = fleet.manifest(regions(&["a"]));
    live["metadata"]["annotations"] = json!({"nightjar.dev/paused": "true"});
    fleet.apply_object(&live).expect("a fleet to change");
    check(&fleet, &of_a_change());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storage_class_that_is_missing_is_named_until_it_is_there() {
    let Some(cluster) = cluster("missing StorageClass") else {
        return;
    };
    let _turn = turn::beside().await;
    let class = format!("nj-test-{}", std::process::id());
    let mut spec = FleetSpec::new(&["a"], 1);
    let mut asked = spec.spec(cluster)["regions"].clone();
    asked[0]["nats"]["storageClass"] = json!(class);
    spec.more = json!({"regions": asked});
    let fleet = Fleet::namespace(cluster, "class");
    fleet.apply(&spec);
    let message = fleet
        .wait_condition("Degraded", "True", "PodUnschedulable")
        .await;
    assert!(
        message.contains(&class)
            || message.contains("storageclass")
            || message.contains("PersistentVolumeClaim"),
        "{message}"
    );

    let made = cluster.storage_class(&class, true);
    fleet.apply_object(&made).expect("the class");
    fleet.wait_calm(limits::FLEET_READY).await;
    drop(fleet);
    cluster.kubectl(&["delete", "storageclass", &class]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_exhausted_quota_is_told_and_ends_when_it_is_raised() {
    let Some(cluster) = cluster("exhausted quota") else {
        return;
    };
    let _turn = turn::beside().await;
    let fleet = Fleet::namespace(cluster, "quota");
    let quota = |pods: u32| {
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": fleet.namespace},
            "spec": {"hard": {"pods": pods.to_string()}}})
    };
    fleet.apply_object(&quota(0)).expect("a quota");
    fleet.apply(&FleetSpec::new(&["a"], 1));
    let (place, remedy) = fleet.wait_waiting("PodMissing").await;
    assert!(place.starts_with("pod/fleet-a-"), "{place}");
    assert!(remedy.contains("describe statefulset fleet-a-"), "{remedy}");
    fleet.apply_object(&quota(20)).expect("a larger quota");
    fleet.wait_calm(limits::FLEET_READY).await;

    // A quota of Services meets the operator itself.
    let services = |number: u32| {
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "services", "namespace": fleet.namespace},
            "spec": {"hard": {"services": number.to_string()}}})
    };
    fleet.apply_object(&services(0)).expect("a quota");
    fleet.kubectl(&["delete", "service", "fleet-a"]);
    let (place, remedy) = fleet.wait_waiting("QuotaExceeded").await;
    assert_eq!(place, "service/fleet-a");
    assert!(remedy.contains("ResourceQuota"), "{remedy}");
    fleet.apply_object(&services(10)).expect("a larger quota");
    fleet.wait_calm(limits::HEALED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_denied_right_is_named_and_its_return_noticed() {
    let Some(cluster) = cluster("denied RBAC") else {
        return;
    };
    let _turn = turn::alone().await;
    let fleet = Fleet::start(cluster, "rbac", &FleetSpec::new(&["a"], 1)).await;
    let role = "nightjar-system:nightjar-operator";
    let saved = cluster.get(&["clusterrole", role]);
    let mut less = saved.clone();
    for rule in less["rules"].as_array_mut().into_iter().flatten() {
        let of_budgets = rule["resources"]
            .as_array()
            .is_some_and(|resources| resources.contains(&json!("poddisruptionbudgets")));
        if of_budgets {
            rule["verbs"] = json!(["get", "list", "watch"]);
        }
    }
    assert_ne!(
        less["rules"], saved["rules"],
        "the role allows writes of budgets"
    );
    let replaced = cluster.try_kubectl_with(&["replace", "-f", "-"], &less.to_string());
    replaced.expect("the role without the right");
    fleet.kubectl(&[
        "patch",
        "relaycluster",
        "fleet",
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/spec/regions/0/relays/replicas","value":2}]"#,
    ]);
    fleet.kubectl(&["delete", "poddisruptionbudget", "--all"]);
    let told = std::panic::AssertUnwindSafe(fleet.wait_waiting("Forbidden"));
    let told = futures_util::FutureExt::catch_unwind(told).await;
    // Made anew by Helm, so that it is Helm's alone again.
    cluster.kubectl(&["delete", "clusterrole", role]);
    operator::install(cluster).expect("the role as it was");
    let (place, remedy) = told.unwrap_or_else(|_| panic!("the missing right was not told"));
    assert!(
        place.starts_with("poddisruptionbudget/"),
        "{place}: {remedy}"
    );
    assert!(
        remedy.contains("poddisruptionbudgets"),
        "it says which right: {remedy}"
    );
    fleet.wait_calm(limits::HEALED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_object_is_named_until_it_is_mended() {
    let Some(cluster) = cluster("damaged objects") else {
        return;
    };
    let _turn = turn::beside().await;
    let fleet = Fleet::start(cluster, "damaged", &FleetSpec::new(&["a"], 1)).await;
    let pods = fleet.pods();
    let rubbish = "not what belongs here";
    for secret in ["fleet-keys", "fleet-a-operator-users", "fleet-a-authority"] {
        let saved = fleet.try_get(&["secret", secret]).expect("a Secret");
        let keys = saved["data"].as_object().expect("data").keys();
        let text: serde_json::Map<String, Value> =
            keys.map(|key| (key.clone(), json!(rubbish))).collect();
        let patch = |patch: &Value| {
            let patch = patch.to_string();
            fleet.kubectl(&["patch", "secret", secret, "--type=merge", "-p", &patch])
        };
        patch(&json!({"stringData": text}));
        let (place, remedy) = fleet.wait_waiting("DamagedObject").await;
        assert_eq!(place, format!("secret/{secret}"));
        assert!(!remedy.contains(rubbish), "no content is told: {remedy}");
        let message = fleet
            .wait_condition("Degraded", "True", "DamagedObject")
            .await;
        assert!(message.contains(secret), "{message}");
        patch(&json!({"data": saved["data"]}));
        fleet.wait_calm(limits::HEALED).await;
    }
    let record = fleet.saved("configmap", "fleet-record");
    fleet.kubectl(&["delete", "configmap", "fleet-record"]);
    let (place, _) = fleet.wait_waiting("DamagedObject").await;
    assert_eq!(place, "configmap/fleet-record");
    fleet.apply_object(&record).expect("the record put back");
    fleet.wait_calm(limits::HEALED).await;
    assert_eq!(pods, fleet.pods(), "no pod was touched");
}
