//! The operator itself comes and goes; fleets do not notice.

use std::time::Instant;

use nightjar_tests::kubernetes::cluster::{cluster, machine, machine_dir, text, until};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec};
use nightjar_tests::kubernetes::{limits, operator, turn};
use nightjar_tests::report::measured;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_build_of_the_operator_restarts_no_pod() {
    let Some(cluster) = cluster("operator upgrade") else {
        return;
    };
    let _turn = turn::with_operators().await;
    let fleet = Fleet::start(cluster, "upgrade", &FleetSpec::new(&["a"], 3)).await;
    let before = fleet.pods();
    let old = operator::leader(cluster);
    let mut values = operator::values("dev-2");
    // Images for new fleets come with the operator; a fleet that runs keeps its own.
    values["fleetImages"]["relay"]["tag"] = "dev-2".into();
    values["fleetImages"]["nats"]["tag"] = "dev-2".into();
    operator::helm_upgrade(cluster, &values).expect("the other operator");
    until("a new leader", limits::HEALED, async || {
        let leader = operator::leader(cluster);
        if leader != old && !leader.is_empty() {
            Ok(())
        } else {
            Err(format!("`{leader}` leads"))
        }
    })
    .await;
    if machine_dir().is_some() {
        let version = operator::version(cluster);
        assert!(version.contains("dev-2"), "it is another build: {version}");
    }
    fleet.wait_calm(limits::HEALED).await;
    // A change of no consequence to pods has the new operator make a full pass.
    fleet.kubectl(&[
        "patch",
        "relaycluster",
        "fleet",
        "--type=merge",
        "-p",
        r#"{"spec":{"rollout":{"soak":"4s"}}}"#,
    ]);
    fleet.wait_calm(limits::HEALED).await;
    let after = fleet.pods();
    operator::helm_upgrade(cluster, &operator::values("dev")).expect("the first operator again");
    fleet.wait_calm(limits::HEALED).await;
    assert_eq!(before, after, "pods before and after the upgrade");
    assert_eq!(before, fleet.pods(), "and after the way back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_stood_still_writes_nothing_when_it_goes_on() {
    let Some(cluster) = machine("stalled leader") else {
        return;
    };
    let mut spec = FleetSpec::new(&["a"], 1);
    let started_beside = turn::beside().await;
    let fleet = Fleet::start(cluster, "stalled", &spec).await;
    drop(started_beside);
    // Times are looked at, and what is written: nobody else may ask for anything.
    let _turn = turn::alone().await;
    let old = operator::leading(cluster);
    let (name, address) = (
        text(&old["metadata"]["name"]),
        text(&old["status"]["podIP"]),
    );
    let stalled = operator::Stalled::begin(&old);
    let started = Instant::now();
    until("another leader", limits::TAKEOVER, async || {
        let leader = operator::leader(cluster);
        if leader.contains(&name) || leader.is_empty() {
            Err(format!("`{leader}` leads"))
        } else {
            Ok(())
        }
    })
    .await;
    measured(&format!(
        "Kubernetes: another operator leads {:.1} s after the leader stood still",
        started.elapsed().as_secs_f64()
    ));
    let position = operator::audit_mark();
    // Work for whoever thinks that it leads, before and after the old leader goes on.
    spec.more = json!({"log": {"maxBytesPerRegion": "96Mi"}});
    fleet.apply(&spec);
    drop(stalled);
    spec.more = json!({"log": {"maxBytesPerRegion": "128Mi"}});
    fleet.apply(&spec);
    fleet.wait_calm(limits::HEALED).await;
    spec.regions[0].relays = 2;
    fleet.apply(&spec);
    fleet.wait_calm(limits::HEALED).await;
    let writes = operator::writes_since(position);
    assert!(!writes.is_empty(), "the new leader works");
    let (old, new): (Vec<&String>, Vec<&String>) = writes
        .iter()
        .partition(|write| write.ends_with(&format!("from {address}")));
    assert!(
        old.is_empty(),
        "writes of the old leader: {old:#?}\nof the new one: {new:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_killed_in_a_rollout_is_followed_by_another_that_finishes() {
    let Some(cluster) = cluster("leader killed") else {
        return;
    };
    let _turn = turn::with_operators().await;
    let spec = FleetSpec::new(&["a"], 3);
    let fleet = Fleet::start(cluster, "leader", &spec).await;
    let mut changed = spec.clone();
    changed.nats_tag = "dev-2".to_owned();
    fleet.apply(&changed);
    until("the rollout to be under way", limits::TOLD, async || {
        let object = fleet.object()?;
        let rollout = &object["status"]["rollout"];
        if rollout["phase"] == "Moving" && rollout["updated"].as_i64() > Some(0) {
            Ok(())
        } else {
            Err(format!("it is {rollout}"))
        }
    })
    .await;
    assert_eq!(operator::pods(cluster).len(), 2, "one stands by");
    let killed = operator::leader(cluster);
    let leading = text(&operator::leading(cluster)["metadata"]["name"]);
    cluster.kubectl(&[
        "delete",
        "pod",
        "-n",
        operator::NAMESPACE,
        &leading,
        "--force",
        "--grace-period=0",
    ]);
    let started = Instant::now();
    let leader = until("another leader", limits::TAKEOVER, async || {
        let leader = operator::leader(cluster);
        if leader != killed && !leader.is_empty() {
            Ok(leader)
        } else {
            Err(format!("`{leader}` is still written as the leader"))
        }
    })
    .await;
    measured(&format!(
        "Kubernetes: another operator leads {:.1} s after the death of the leader",
        started.elapsed().as_secs_f64()
    ));
    fleet.wait_calm(limits::ROLLOUT).await;
    let nats = operator::image("nats-server", "dev-2");
    for pod in fleet.pods().iter().filter(|pod| pod.component != "relay") {
        assert_eq!(
            (pod.name.as_str(), pod.image.as_str()),
            (pod.name.as_str(), nats.as_str())
        );
    }
    assert_ne!(leader, killed);
}
