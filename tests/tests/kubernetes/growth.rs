//! Fleets grow and shrink while people use them.

use std::time::Instant;

use nightjar_tests::kubernetes::cluster::{cluster, text, until};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec, Pod, RegionSpec};
use nightjar_tests::kubernetes::load::Load;
use nightjar_tests::kubernetes::{limits, turn};
use nightjar_tests::report::measured;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn relays_come_and_go_and_a_live_subscriber_misses_nothing() {
    let Some(cluster) = cluster("more and fewer relays") else {
        return;
    };
    let _turn = turn::beside().await;
    let mut spec = FleetSpec::new(&["a"], 1);
    let fleet = Fleet::start(cluster, "relays", &spec).await;
    let load = Load::start("relays 1, 2, 1", &fleet.urls(&spec)).await;
    for relays in [2, 1] {
        spec.regions[0].relays = relays;
        fleet.apply(&spec);
        until(
            &format!("{relays} relays"),
            limits::FLEET_READY,
            async || {
                let pods = fleet.pods();
                let running = pods.iter().filter(|pod| pod.component == "relay");
                let (all, ready) = running.fold((0, 0), |(all, ready), pod| {
                    (all + 1, ready + u8::from(pod.ready))
                });
                if (all, ready) == (relays, relays) {
                    Ok(())
                } else {
                    Err(format!("{ready} of {all} are ready"))
                }
            },
        )
        .await;
        fleet.wait_calm(limits::HEALED).await;
    }
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_region_that_is_added_receives_everything_the_others_keep() {
    let Some(cluster) = cluster("region added") else {
        return;
    };
    let _turn = turn::beside().await;
    let mut spec = FleetSpec::new(&["a"], 1);
    let fleet = Fleet::start(cluster, "added", &spec).await;
    let old = Load::start("before the second region", &fleet.urls(&spec)).await;
    let old = old.finish().await;

    spec.regions.push(RegionSpec::new("b", 1));
    let started = Instant::now();
    fleet.apply(&spec);
    fleet.wait_calm(limits::FLEET_READY).await;
    measured(&format!(
        "Kubernetes: a region of a development fleet added: Ready after {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    let both = fleet.urls(&spec);
    old.run.wait_served_once(&both, &old.acknowledged).await;
    let mixed = Load::start("region added", &both).await;
    mixed.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_region_leaves_only_when_told_and_when_its_log_is_held_elsewhere() {
    let Some(cluster) = cluster("region removed") else {
        return;
    };
    let _turn = turn::beside().await;
    let mut spec = FleetSpec::new(&["a", "b"], 1);
    let fleet = Fleet::start(cluster, "leaving", &spec).await;
    let mixed = Load::start("region removed", &fleet.urls(&spec)).await;
    let mixed = mixed.finish().await;

    let b = spec.regions.pop().expect("region b");
    fleet.apply(&spec);
    let (place, remedy) = fleet.wait_waiting("RegionRemoval").await;
    assert_eq!(place, b.name);
    assert!(remedy.contains("nightjar.dev/remove-region=b"), "{remedy}");
    let pods = fleet.pods();
    assert!(
        pods.iter()
            .any(|pod| pod.region == "b" && pod.component == "relay" && pod.ready),
        "until somebody says so, it serves: {pods:?}"
    );

    fleet.kubectl(&[
        "annotate",
        "relaycluster",
        "fleet",
        "nightjar.dev/remove-region=b",
    ]);
    until("region b is gone", limits::ROLLOUT, async || {
        let pods = fleet.pods();
        let left: Vec<_> = pods
            .iter()
            .filter(|pod| pod.region == "b")
            .map(|pod| &pod.name)
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            let object = fleet.object()?;
            Err(format!(
                "{left:?}; it waits for {}",
                object["status"]["waitingFor"]
            ))
        }
    })
    .await;
    fleet.wait_calm(limits::HEALED).await;
    let rest = fleet.urls(&spec);
    mixed.run.wait_served_once(&rest, &mixed.acknowledged).await;

    // The name stands for positions in a log: it does not come back.
    spec.regions.push(b);
    fleet.apply(&spec);
    let (place, remedy) = fleet.wait_waiting("InvalidSpec").await;
    assert!(
        place.starts_with("spec.regions[1].name") && remedy.contains("left the fleet"),
        "{place}: {remedy}"
    );
}

/// What a claim asks for.
fn asked_of_claim(fleet: &Fleet, claim: &str) -> Result<String, String> {
    let claim = fleet.try_get(&["persistentvolumeclaim", claim])?;
    Ok(text(&claim["spec"]["resources"]["requests"]["storage"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn disks_grow_and_one_that_cannot_is_told() {
    let Some(cluster) = cluster("growing disks") else {
        return;
    };
    let _turn = turn::beside().await;
    let class = format!("nj-test-fixed-{}", std::process::id());
    let mut spec = FleetSpec::new(&["a"], 1);
    let of_class = |size: &str, soak: &str, spec: &mut FleetSpec| {
        spec.more = json!({});
        let mut regions = spec.spec(cluster)["regions"].clone();
        regions[0]["nats"]["storage"] = json!(size);
        regions[0]["nats"]["storageClass"] = json!(class);
        spec.more = json!({"regions": regions, "rollout": {"soak": soak}});
    };
    let fleet = Fleet::namespace(cluster, "disks");
    let made = |grows| {
        cluster.try_kubectl(&["delete", "storageclass", &class, "--ignore-not-found"])?;
        fleet.apply_object(&cluster.storage_class(&class, grows))
    };
    made(false).expect("a class of disks that do not grow");
    of_class("1Gi", "3s", &mut spec);
    fleet.apply(&spec);
    fleet.wait_calm(limits::FLEET_READY).await;
    let pods = fleet.pods();
    let claim = "data-fleet-a-nats-0";

    of_class("2Gi", "4s", &mut spec);
    fleet.apply(&spec);
    let (place, remedy) = fleet.wait_waiting("VolumeCannotGrow").await;
    assert_eq!(place, format!("persistentvolumeclaim/{claim}"));
    assert!(remedy.contains("allowVolumeExpansion"), "{remedy}");
    assert!(remedy.contains("back to 1Gi"), "{remedy}");
    of_class("1Gi", "4s", &mut spec);
    fleet.apply(&spec);
    fleet.wait_calm(limits::HEALED).await;

    made(true).expect("a class of disks that grow");
    of_class("2Gi", "4s", &mut spec);
    fleet.apply(&spec);
    until("the disk was asked to grow", limits::TOLD, async || {
        let size = asked_of_claim(&fleet, claim)?;
        let set = fleet.try_get(&["statefulset", "fleet-a-nats"])?;
        let template = &set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"];
        if size == "2Gi" && template["requests"]["storage"] == "2Gi" {
            Ok(())
        } else {
            Err(format!("the claim asks for {size}, its set for {template}"))
        }
    })
    .await;
    fleet.wait_calm(limits::HEALED).await;
    // NATS servers learn what they may fill when they start; a relay asks for nothing.
    let relays = |pods: Vec<Pod>| pods.into_iter().filter(|pod| pod.component == "relay");
    assert!(
        relays(pods).eq(relays(fleet.pods())),
        "relays are untouched"
    );
    drop(fleet);
    cluster.kubectl(&["delete", "storageclass", &class]);
}
