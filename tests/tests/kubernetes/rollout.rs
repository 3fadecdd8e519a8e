//! A change moves through a fleet one region at a time, under load, and stops where it does harm.

use std::time::Instant;

use nightjar_tests::kubernetes::cluster::{cluster, text, until};
use nightjar_tests::kubernetes::fleet::{FleetSpec, Pod, is_calm};
use nightjar_tests::kubernetes::load::Load;
use nightjar_tests::kubernetes::{limits, operator};

use nightjar_tests::kubernetes::shared::{self, ThreeRegions};
use nightjar_tests::kubernetes::watch::PodWatch;
use nightjar_tests::report::measured;

/// Applies a change and waits until every pod of a component runs the image.
async fn roll(three: &ThreeRegions, spec: &FleetSpec, component: &str, image: &str) {
    three.fleet.apply(spec);
    let uses =
        |pod: &Pod| pod.component == component || (component == "nats" && pod.component == "hub");
    until("the change to be everywhere", limits::ROLLOUT, async || {
        let pods = three.fleet.pods();
        let old: Vec<&str> = pods
            .iter()
            .filter(|pod| uses(pod) && (pod.image != image || !pod.ready))
            .map(|pod| pod.name.as_str())
            .collect();
        if old.is_empty() {
            is_calm(&three.fleet.object()?)
        } else {
            Err(format!("{old:?} do not run it"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_relay_image_moves_one_region_at_a_time_and_loses_nothing() {
    let Some(cluster) = cluster("rolling change of the relays") else {
        return;
    };
    let mut three = shared::beside(cluster).await;
    let before = three.fleet.pods();
    let load = Load::start("relay rollout", &three.urls()).await;
    let watch = PodWatch::start(&three.fleet);
    let started = Instant::now();
    let mut spec = three.spec.clone();
    spec.relay_tag = operator::other_tag(&spec.relay_tag);
    let image = operator::image("relay", &spec.relay_tag);
    roll(&three, &spec, "relay", &image).await;
    three.spec = spec;
    measured(&format!(
        "Kubernetes: rolling change of 3 relays in 3 regions (soak 3 s): {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    let seen = watch.finish();
    load.finish().await;
    seen.assert_one_region_at_a_time();
    assert_eq!(
        seen.order,
        ["a", "b", "c"],
        "the order of the spec\n{}",
        seen.story.join("\n")
    );
    let nats = |pods: Vec<Pod>| -> Vec<Pod> {
        pods.into_iter()
            .filter(|pod| pod.component != "relay")
            .collect()
    };
    assert_eq!(
        nats(before),
        nats(three.fleet.pods()),
        "other pods were left alone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bad_image_stops_in_the_first_region_and_taking_it_back_heals() {
    let Some(cluster) = cluster("bad image") else {
        return;
    };
    let three = shared::beside(cluster).await;
    let before = three.fleet.pods();
    let load = Load::start_at(
        "bad image",
        &[three.url("b"), three.url("c")],
        &[three.url("b"), three.url("c")],
    )
    .await;
    let mut spec = three.spec.clone();
    spec.relay_tag = "nope".to_owned();
    three.fleet.apply(&spec);
    let pod = format!("{}-a-relay-0", three.fleet.name);
    let message = three
        .fleet
        .wait_condition("Degraded", "True", "RolloutHalted")
        .await;
    assert!(message.contains(&pod), "it names the pod: {message}");
    let (place, remedy) = three.fleet.wait_waiting("RolloutHalted").await;
    assert_eq!(place, format!("pod/{pod}"));
    assert!(remedy.contains("take the change back"), "{remedy}");
    three.fleet.wait_event("RolloutHalted", &pod).await;
    let object = three.fleet.object().expect("the fleet");
    assert_eq!(text(&object["status"]["rollout"]["phase"]), "Halted");
    let others = |pods: Vec<Pod>| -> Vec<Pod> {
        pods.into_iter().filter(|known| known.name != pod).collect()
    };
    assert_eq!(
        others(before.clone()),
        others(three.fleet.pods()),
        "no other pod was touched"
    );

    three.fleet.apply(&three.spec);
    three.fleet.wait_calm(limits::HEALED).await;
    load.finish().await;
    assert_eq!(others(before), others(three.fleet.pods()), "nor later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn new_nats_servers_come_one_by_one_and_a_majority_is_always_there() {
    let Some(cluster) = cluster("rolling change of NATS") else {
        return;
    };
    let mut three = shared::beside(cluster).await;
    let load = Load::start("NATS rollout", &three.urls()).await;
    let watch = PodWatch::start(&three.fleet);
    let started = Instant::now();
    let mut spec = three.spec.clone();
    spec.nats_tag = operator::other_tag(&spec.nats_tag);
    let image = operator::image("nats-server", &spec.nats_tag);
    roll(&three, &spec, "nats", &image).await;
    three.spec = spec;
    measured(&format!(
        "Kubernetes: rolling change of 9 NATS servers and 6 hubs in 3 regions: {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    let (passes, bound) = operator::passes(cluster);
    measured(&format!(
        "Kubernetes: 95 of 100 of the leader's {passes} passes within {bound} s"
    ));
    let seen = watch.finish();
    load.finish().await;
    seen.assert_quorum();
    seen.assert_one_region_at_a_time();
}
