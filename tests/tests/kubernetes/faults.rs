//! Nodes, links, pods and disks get lost; nothing acknowledged does, and nothing is destroyed from half a view.

use std::time::{Duration, Instant};

use nightjar_tests::kubernetes::cluster::{Fault, cluster, machine, until};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec, Pod};
use nightjar_tests::kubernetes::load::Load;
use nightjar_tests::kubernetes::{limits, operator, shared, turn};
use nightjar_tests::report::measured;

/// How long a fault lasts: longer than it takes Kubernetes to notice a lost node.
const FAULT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pod_that_is_killed_and_a_disk_that_is_lost_cost_no_message() {
    let Some(cluster) = cluster("lost pods and disks") else {
        return;
    };
    let _turn = turn::beside().await;
    let spec = FleetSpec::new(&["a"], 3);
    let fleet = Fleet::start(cluster, "lost", &spec).await;
    let load = Load::start("lost pods and disks", &fleet.urls(&spec)).await;
    for pod in ["fleet-a-nats-0", "fleet-a-relay-0"] {
        fleet.kubectl(&["delete", "pod", pod, "--force", "--grace-period=0"]);
        until(&format!("{pod} not ready"), limits::TOLD, async || {
            let pods = fleet.pods();
            let ready = pods.iter().any(|known| known.name == pod && known.ready);
            if ready {
                Err("it is ready".to_owned())
            } else {
                Ok(())
            }
        })
        .await;
        fleet.wait_calm(limits::HEALED).await;
    }
    let claim = "data-fleet-a-nats-1";
    let started = Instant::now();
    let before = fleet
        .try_get(&["persistentvolumeclaim", claim])
        .expect("the disk");
    fleet.kubectl(&["delete", "persistentvolumeclaim", claim, "--wait=false"]);
    fleet.kubectl(&["delete", "pod", "fleet-a-nats-1"]);
    until("another disk", limits::HEALED, async || {
        let now = fleet.try_get(&["persistentvolumeclaim", claim])?;
        let other = now["metadata"]["uid"] != before["metadata"]["uid"];
        other
            .then_some(())
            .ok_or_else(|| "it is the old one".to_owned())
    })
    .await;
    fleet.wait_calm(limits::HEALED).await;
    measured(&format!(
        "Kubernetes: a NATS server with an empty disk is current again after {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_region_that_is_cut_off_serves_on_and_catches_up_with_a_change() {
    let Some(cluster) = machine("cut region") else {
        return;
    };
    let three = shared::alone(cluster).await;
    let load = Load::start("region cut off", &three.urls()).await;
    let cut = Fault::cut(cluster, "b");
    let began = Instant::now();
    let mut spec = three.spec.clone();
    spec.relay_tag = operator::other_tag(&spec.relay_tag);
    let image = operator::image("relay", &spec.relay_tag);
    // What the region itself is asked for changes too.
    spec.regions[1].relays = 2;
    three.fleet.apply(&spec);
    until("the fault to have lasted", limits::HEALED, async || {
        let pods = three.fleet.pods();
        let changed = pods
            .iter()
            .any(|pod| pod.component == "relay" && pod.region == "a" && pod.image == image);
        if began.elapsed() < FAULT || !changed {
            return Err(format!("region a has the change: {changed}"));
        }
        Ok(())
    })
    .await;
    let pods = three.fleet.pods();
    assert!(pods.len() >= 18, "nothing was removed: {pods:?}");
    drop(cut);
    three.fleet.wait_calm(limits::ROLLOUT).await;
    let in_b = |pod: &&Pod| pod.component == "relay" && pod.region == "b";
    assert_eq!(three.fleet.pods().iter().filter(in_b).count(), 2);
    assert!(
        three
            .fleet
            .pods()
            .iter()
            .filter(|pod| pod.component == "relay")
            .all(|pod| pod.image == image),
        "the change went on to the other regions"
    );
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_is_lost_and_returns_costs_no_message() {
    let Some(cluster) = machine("isolated node") else {
        return;
    };
    let three = shared::alone(cluster).await;
    let node = three
        .fleet
        .pods()
        .iter()
        .find(|pod| pod.region == "b")
        .expect("a pod of region b")
        .node
        .clone();
    let load = Load::start_at(
        "node isolated",
        &[three.url("a"), three.url("c")],
        &[three.url("a"), three.url("c")],
    )
    .await;
    let lost = Fault::isolate(cluster, &node);
    let began = Instant::now();
    let mut spec = three.spec.clone();
    // The region returns to another spec than the one it was lost with.
    spec.regions[1].relays = 2;
    three.fleet.apply(&spec);
    let (place, _) = three.fleet.wait_waiting("PodNotReady").await;
    assert!(place.starts_with("pod/fleet-b-"), "{place}");
    let ready = three
        .fleet
        .wait_condition("Ready", "False", "RegionDown")
        .await;
    assert!(ready.contains('b'), "{ready}");
    until("the fault to have lasted", limits::HEALED, async || {
        let lasted = began.elapsed();
        (lasted >= FAULT)
            .then_some(())
            .ok_or_else(|| format!("for {lasted:?}"))
    })
    .await;
    drop(lost);
    three.fleet.wait_calm(limits::HEALED).await;
    let in_b = |pod: &&Pod| pod.component == "relay" && pod.region == "b";
    assert_eq!(three.fleet.pods().iter().filter(in_b).count(), 2);
    let outcome = load.finish().await;
    outcome
        .run
        .wait_served_once(&[three.url("b")], &outcome.acknowledged)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_removed_while_a_region_cannot_be_seen() {
    let Some(cluster) = machine("deletion with a lost node") else {
        return;
    };
    let _turn = turn::alone().await;
    let mut spec = FleetSpec::new(&["a", "b"], 1);
    spec.deletion_policy = "Delete";
    let fleet = Fleet::start(cluster, "blocked", &spec).await;
    let claims = fleet.owned("persistentvolumeclaims").len();
    let sets = fleet.owned("statefulsets").len();
    let node = fleet
        .pods()
        .iter()
        .find(|pod| pod.region == "b")
        .expect("a pod of region b")
        .node
        .clone();
    let lost = Fault::isolate(cluster, &node);
    until("the node to be called lost", limits::TOLD, async || {
        let node = cluster.try_get(&["node", &node])?;
        let ready = nightjar_tests::kubernetes::cluster::list(&node["status"]["conditions"])
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        if ready {
            Err("it is Ready".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    fleet.kubectl(&["delete", "relaycluster", "fleet", "--wait=false"]);
    let (place, remedy) = fleet.wait_waiting("DeletionBlocked").await;
    assert!(place.starts_with("pod/fleet-b-"), "{place}");
    assert!(remedy.contains(&node), "{remedy}");
    assert_eq!(
        fleet.owned("persistentvolumeclaims").len(),
        claims,
        "no disk was removed"
    );
    fleet
        .try_get(&["secret", "fleet-keys"])
        .expect("the keyring is there");
    assert_eq!(
        fleet.owned("statefulsets").len(),
        sets,
        "nor was anything else"
    );
    drop(lost);
    until(
        "the fleet and its disks are gone",
        limits::HEALED,
        async || {
            let left = fleet.try_kubectl(&[
                "get",
                "relaycluster,persistentvolumeclaim,secret",
                "-l",
                "nightjar.dev/fleet=fleet",
                "-o",
                "name",
            ])?;
            let object = fleet.object();
            if left.is_empty() && object.is_err() {
                Ok(())
            } else {
                Err(left)
            }
        },
    )
    .await;
}
