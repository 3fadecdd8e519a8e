//! An operator with nothing to do does nothing: no writes, little memory.

use std::time::Duration;

use nightjar_tests::kubernetes::cluster::{list, machine, until};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec, condition};
use nightjar_tests::kubernetes::{limits, operator, shared};
use nightjar_tests::report::measured;
use serde_json::{Value, json};

const PAUSED_FLEETS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_operator_writes_nothing_beside_its_lease_and_stays_small() {
    let Some(cluster) = machine("at rest") else {
        return;
    };
    let three = shared::alone(cluster).await;
    let beside = Fleet::namespace(cluster, "paused");
    let spec = FleetSpec::new(&["a"], 3).spec(cluster);
    let fleets: Vec<Value> = (0..PAUSED_FLEETS)
        .map(|number| {
            let mut fleet = beside.manifest(spec.clone());
            fleet["metadata"]["name"] = json!(format!("paused-{number}"));
            fleet["metadata"]["annotations"] = json!({"nightjar.dev/paused": "true"});
            // The API server refuses a port that is taken only when a Service asks for it, which none does here.
            fleet
        })
        .collect();
    let all = json!({"apiVersion": "v1", "kind": "List", "items": fleets});
    cluster
        .try_kubectl_with(&["create", "-f", "-"], &all.to_string())
        .expect("200 paused fleets");
    until("every paused fleet says so", limits::HEALED, async || {
        let fleets = beside.try_get(&["relayclusters"])?;
        let said = list(&fleets["items"])
            .iter()
            .filter(|fleet| condition(fleet, "Paused").status == "True")
            .count();
        if said == PAUSED_FLEETS {
            Ok(())
        } else {
            Err(format!("{said} of {PAUSED_FLEETS} do"))
        }
    })
    .await;
    assert_eq!(
        beside.kubectl(&["get", "pods,statefulsets,secrets", "-o", "name"]),
        ""
    );
    three.fleet.wait_calm(limits::HEALED).await;

    let before = operator::audit_mark();
    let minutes = if std::env::var_os("NIGHTJAR_LONG").is_some() {
        10
    } else {
        1
    };
    // Not a wait for anything: the promise is that nothing happens in this time.
    tokio::time::sleep(Duration::from_secs(60 * minutes)).await;
    let writes = operator::writes_since(before);
    assert!(
        writes.is_empty(),
        "writes of the operator in {minutes} min at rest: {writes:#?}"
    );
    for (pod, kib) in operator::resident_kib(cluster) {
        assert!(kib > 0, "the process of {pod} was not found");
        assert!(
            kib < limits::OPERATOR_KIB,
            "{pod} has {kib} KiB in memory, more than {} KiB",
            limits::OPERATOR_KIB
        );
        measured(&format!(
            "Kubernetes: memory of {pod} beside 1 running and {PAUSED_FLEETS} paused fleets: {:.1} MiB",
            kib as f64 / 1024.0
        ));
    }
}
