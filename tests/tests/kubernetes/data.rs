//! Keys and disks are data: they outlive fleets and operators, are never made anew under old messages, and go only when told to.

use std::collections::BTreeSet;

use nightjar_tests::event::Signed;
use nightjar_tests::kubernetes::cluster::{cluster, list, text, until};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec};
use nightjar_tests::kubernetes::{limits, operator, turn};
use nightjar_tests::load::{Run, publish_steadily};

const KEYS: &str = "fleet-keys";
const RECORD: &str = "fleet-record";

/// Publishes some events and waits until they are served.
async fn publish(run: &Run, relay: &str, events: Vec<Signed>) -> BTreeSet<String> {
    let published = publish_steadily(relay.to_owned(), events, 50.0).await;
    run.wait_served_once(&[relay.to_owned()], &published.acknowledged)
        .await;
    published.acknowledged
}

/// Secrets of the fleet that hold a keyring or are made like one, by name and identity.
fn key_secrets(fleet: &Fleet) -> Vec<String> {
    fleet
        .owned("secrets")
        .iter()
        .map(|secret| text(&secret["metadata"]["name"]))
        .filter(|name| name.contains("keys"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deleted_fleet_applied_again_serves_its_old_messages() {
    let Some(cluster) = cluster("deletionPolicy Retain") else {
        return;
    };
    let _turn = turn::beside().await;
    let spec = FleetSpec::new(&["a"], 1);
    let fleet = Fleet::start(cluster, "retain", &spec).await;
    let url = fleet.url(&spec, "a");
    let run = Run::new("retained");
    let ids = publish(&run, &url, run.events(60)).await;
    fleet.delete();
    until("its pods are gone", limits::HEALED, async || {
        let pods = fleet.try_kubectl(&["get", "pods", "-o", "name"])?;
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    })
    .await;
    let left = fleet.kubectl(&[
        "get",
        "secret,configmap,statefulset,service",
        "-l",
        "nightjar.dev/fleet=fleet",
        "-o",
        "name",
    ]);
    let left: BTreeSet<&str> = left.lines().collect();
    assert_eq!(
        left,
        BTreeSet::from(["secret/fleet-keys", "configmap/fleet-record"]),
        "what stays beside the disks"
    );
    let claims = fleet.owned("persistentvolumeclaims").len();
    assert!(claims >= 2, "{claims} disks stay");

    fleet.apply(&spec);
    fleet.wait_calm(limits::FLEET_READY).await;
    run.wait_served_once(std::slice::from_ref(&url), &ids).await;
    publish(&run, &url, run.events_from(1_000, 20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_key_is_waited_for_and_never_replaced() {
    let Some(cluster) = cluster("lost keys") else {
        return;
    };
    let _turn = turn::beside().await;
    let spec = FleetSpec::new(&["a"], 1);
    let fleet = Fleet::start(cluster, "keys", &spec).await;
    let url = fleet.url(&spec, "a");
    let run = Run::new("keys");
    let ids = publish(&run, &url, run.events(40)).await;
    let saved = fleet.saved("secret", KEYS);
    let before = fleet.pods();

    fleet.kubectl(&["delete", "secret", KEYS]);
    let (place, remedy) = fleet.wait_waiting("KeysMissing").await;
    assert_eq!(place, format!("secret/{KEYS}"));
    assert!(remedy.contains("backup"), "{remedy}");
    fleet
        .wait_condition("Degraded", "True", "KeysMissing")
        .await;
    // Another pass, asked for by a change, makes none either.
    fleet.kubectl(&[
        "patch",
        "relaycluster",
        "fleet",
        "--type=merge",
        "-p",
        r#"{"spec":{"rollout":{"soak":"4s"}}}"#,
    ]);
    until("the change to be seen", limits::TOLD, async || {
        let object = fleet.object()?;
        let seen = object["status"]["observedGeneration"] == object["metadata"]["generation"];
        seen.then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    assert_eq!(
        key_secrets(&fleet),
        Vec::<String>::new(),
        "nothing was generated"
    );
    assert_eq!(
        before,
        fleet.pods(),
        "pods that run keep their keys in memory"
    );

    fleet.apply_object(&saved).expect("the keyring put back");
    fleet.wait_calm(limits::HEALED).await;
    run.wait_served_once(std::slice::from_ref(&url), &ids).await;
    publish(&run, &url, run.events_from(1_000, 20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_the_policy_delete_everything_goes() {
    let Some(cluster) = cluster("deletionPolicy Delete") else {
        return;
    };
    let _turn = turn::beside().await;
    let mut spec = FleetSpec::new(&["a"], 1);
    spec.deletion_policy = "Delete";
    let fleet = Fleet::start(cluster, "delete", &spec).await;
    fleet.try_get(&["secret", KEYS]).expect("a keyring");
    fleet.try_get(&["configmap", RECORD]).expect("a record");
    fleet.delete();
    until("everything of the fleet is gone", limits::HEALED, async || {
        let kinds = "pods,statefulsets,persistentvolumeclaims,secrets,configmaps,services,networkpolicies,poddisruptionbudgets";
        let left = fleet.try_kubectl(&["get", kinds, "-l", "nightjar.dev/fleet=fleet", "-o", "name"])?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_operator_that_is_uninstalled_takes_nothing_with_it() {
    let Some(cluster) = cluster("helm uninstall") else {
        return;
    };
    let _turn = turn::alone().await;
    let spec = FleetSpec::new(&["a"], 1);
    let fleet = Fleet::start(cluster, "uninstall", &spec).await;
    let run = Run::new("uninstall");
    let url = fleet.url(&spec, "a");
    let ids = publish(&run, &url, run.events(40)).await;
    let before = fleet.pods();
    operator::uninstall(cluster);
    // Installed again also when what follows fails: the other tests need it.
    let kept = cluster.try_get(&["crd", "relayclusters.nightjar.dev"]);
    let object = fleet.object();
    let served = run.served(&url, &ids).await;
    operator::install(cluster).expect("the operator again");
    kept.expect("crds.keep is the default");
    let conditions = object.expect("the RelayCluster stays");
    assert!(!list(&conditions["status"]["conditions"]).is_empty());
    assert_eq!(
        served.expect("relays serve without an operator").len(),
        ids.len()
    );
    fleet.wait_calm(limits::HEALED).await;
    assert_eq!(before, fleet.pods(), "the new operator restarts nothing");
}
