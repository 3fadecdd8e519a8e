//! The operator itself comes and goes; fleets do not notice.

use std::time::Instant;

use nightjar_tests::kubernetes::cluster::{cluster, text, until};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec};
use nightjar_tests::kubernetes::{limits, operator};
use nightjar_tests::report::measured;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_build_of_the_operator_restarts_no_pod() {
    let Some(cluster) = cluster("operator upgrade") else {
        return;
    };
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
async fn a_leader_killed_in_a_rollout_is_followed_by_another_that_finishes() {
    let Some(cluster) = cluster("leader killed") else {
        return;
    };
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
    let killed = operator::leader(cluster);
    let pods = operator::pods(cluster);
    assert_eq!(pods.len(), 2, "one stands by");
    // Killed, not asked to stop: the Lease is not released.
    let leading = pods
        .iter()
        .map(|pod| text(&pod["metadata"]["name"]))
        .find(|name| killed.contains(name.as_str()))
        .unwrap_or_else(|| panic!("`{killed}` leads, which is no pod"));
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
