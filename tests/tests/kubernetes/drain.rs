//! Nodes are drained, as for an upgrade of Kubernetes, while people use the fleet.

use nightjar_tests::kubernetes::cluster::{Cluster, cluster, list, text, until};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec};
use nightjar_tests::kubernetes::load::Load;
use nightjar_tests::kubernetes::watch::PodWatch;
use nightjar_tests::kubernetes::{limits, turn};
use nightjar_tests::report::skipped;
use serde_json::{Value, json};

/// Nodes that take pods again when this is dropped, also when the test fails.
struct Cordoned {
    cluster: &'static Cluster,
    nodes: Vec<String>,
}

impl Drop for Cordoned {
    fn drop(&mut self) {
        for node in &self.nodes {
            self.cluster.try_kubectl(&["uncordon", node]).ok();
        }
    }
}

/// `kubectl drain`, of this fleet's pods alone.
fn drain(fleet: &Fleet, node: &str, timeout: &str) -> Result<String, String> {
    let selector = format!("--pod-selector=nightjar.dev/fleet={}", fleet.name);
    let timeout = format!("--timeout={timeout}");
    fleet
        .cluster
        .try_kubectl(&["drain", node, &selector, "--delete-emptydir-data", &timeout])
}

/// The node of the server that leads the stream which region a writes.
fn leader_node(fleet: &Fleet) -> Result<String, String> {
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}-a-nats-0:8222/proxy/jsz?streams=true",
        fleet.namespace, fleet.name
    );
    let told = fleet.try_kubectl(&["get", "--raw", &path])?;
    let told: Value = serde_json::from_str(&told).map_err(|error| error.to_string())?;
    let streams = list(&told["account_details"])
        .iter()
        .flat_map(|account| list(&account["stream_detail"]));
    let leader = streams
        .map(|stream| text(&stream["cluster"]["leader"]))
        .find(|leader| !leader.is_empty())
        .ok_or_else(|| format!("no stream has a leader in {told}"))?;
    let pods = fleet.pods();
    pods.iter()
        .find(|pod| pod.component == "nats" && leader.ends_with(pod_number(&pod.name)))
        .map(|pod| pod.node.clone())
        .ok_or_else(|| format!("`{leader}` is no pod of {pods:?}"))
}

/// `-0` of `fleet-a-nats-0`.
fn pod_number(name: &str) -> &str {
    &name[name.rfind('-').expect("a pod of a StatefulSet")..]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_leaders_node_is_drained_and_a_second_drain_is_held_back() {
    let Some(cluster) = cluster("drained nodes") else {
        return;
    };
    let _turn = turn::beside().await;
    let zones: Vec<_> = cluster
        .nodes
        .iter()
        .filter(|node| node.region == "a")
        .collect();
    if zones.len() < 3 {
        skipped(
            "drained nodes",
            "needs three nodes in region a: cargo xtask cluster up zones",
        );
        return;
    }
    let mut spec = FleetSpec::new(&["a"], 3);
    spec.regions[0].relays = 2;
    let mut regions = spec.spec(cluster)["regions"].clone();
    regions[0]["placement"]["zones"] = json!(["a1", "a2", "a3"]);
    spec.more = json!({"regions": regions});
    let mut fleet = Fleet::namespace(cluster, "drain");
    fleet.name = "drained".to_owned();
    fleet.apply(&spec);
    fleet.wait_calm(limits::FLEET_READY).await;
    let mut nodes: Vec<String> = fleet
        .pods()
        .iter()
        .filter(|pod| pod.component == "nats")
        .map(|pod| pod.node.clone())
        .collect();
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes.len(), 3, "each server has a zone: {nodes:?}");

    let load = Load::start("drained nodes", &fleet.urls(&spec)).await;
    let watch = PodWatch::start(&fleet);
    let first = until("the leader's node", limits::TOLD, async || {
        leader_node(&fleet)
    })
    .await;
    let second = nodes
        .iter()
        .find(|node| **node != first)
        .expect("another node")
        .clone();
    let cordoned = Cordoned {
        cluster,
        nodes: vec![first.clone(), second.clone()],
    };
    drain(&fleet, &first, "120s").expect("the first drain succeeds");
    let on = |node: &str| {
        let pods = fleet.pods().into_iter();
        pods.filter(|pod| pod.node == node && pod.component == "nats")
            .map(|pod| pod.name)
            .collect::<Vec<_>>()
    };
    assert!(on(&first).is_empty(), "{:?}", on(&first));

    let (place, remedy) = fleet.wait_waiting("PodUnschedulable").await;
    assert!(place.starts_with("pod/drained-a-nats-"), "{place}");
    assert!(
        remedy.contains("poddisruptionbudget/drained-a-nats holds back drains"),
        "{remedy}"
    );
    let held = drain(&fleet, &second, "10s").expect_err("the second drain is held back");
    assert!(held.contains("disruption budget"), "{held}");
    assert_eq!(on(&second).len(), 1, "its server runs on");

    drop(cordoned);
    fleet.wait_calm(limits::HEALED).await;
    watch.finish().assert_quorum();
    load.finish().await;
}
