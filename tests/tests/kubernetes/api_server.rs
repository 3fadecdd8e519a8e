//! The API server is busy or broken for a while: conditions say so, the operator asks less, and everything recovers.

use std::time::{Duration, Instant};

use nightjar_tests::kubernetes::cluster::{machine, until};
use nightjar_tests::kubernetes::faulty_api::{FaultyApi, Wrong};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec};
use nightjar_tests::kubernetes::{limits, turn};
use nightjar_tests::report::measured;
use serde_json::json;

/// How long each fault lasts: enough for pauses to grow.
const FAULT: Duration = Duration::from_secs(6);
/// Requests that may fail in that time. Eight watches of two operators begin again, and passes of a fleet come with growing pauses;
/// a hot loop would come to thousands.
const FEW: usize = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_api_server_that_refuses_or_cuts_watches_is_told_and_not_pressed() {
    let Some(cluster) = machine("faulty API server") else {
        return;
    };
    let _turn = turn::alone().await;
    let mut spec = FleetSpec::new(&["a"], 1);
    let fleet = Fleet::start(cluster, "faulty", &spec).await;
    let before = fleet.pods();
    let api = FaultyApi::start(cluster).await;
    fleet.wait_calm(limits::HEALED).await;

    let mut soak = 3;
    for (wrong, told) in [
        (Wrong::Writes(409), Some("Conflict")),
        (Wrong::Writes(429), Some("Throttled")),
        (Wrong::Writes(500), Some("ApiServerError")),
        (Wrong::Everything(429), None),
        (Wrong::Everything(500), None),
        (Wrong::WatchesCut, None),
        (Wrong::WatchesExpired, None),
    ] {
        api.set(wrong);
        let began = Instant::now();
        soak += 1;
        spec.more = json!({"rollout": {"soak": format!("{soak}s")}});
        fleet.apply(&spec);
        fleet.kubectl(&["delete", "configmap", "fleet-a-nats-config"]);
        if let Some(reason) = told {
            let message = fleet.wait_condition("Degraded", "True", reason).await;
            assert!(
                message.contains("configmap/fleet-a"),
                "{wrong:?}: {message}"
            );
        }
        until("the fault to have lasted", limits::HEALED, async || {
            let failed = api.failed().len();
            if began.elapsed() > FAULT && failed > 0 {
                Ok(())
            } else {
                Err(format!("{failed} requests failed"))
            }
        })
        .await;
        let failed = api.failed();
        api.set(Wrong::Nothing);
        let lasted = began.elapsed();
        measured(&format!(
            "Kubernetes: {wrong:?} for {:.0} s: {} requests failed",
            lasted.as_secs_f64(),
            failed.len()
        ));
        assert!(
            failed.len() <= FEW,
            "{wrong:?}: {} requests failed in {lasted:?}",
            failed.len()
        );
        fleet.wait_calm(limits::HEALED).await;
        let map = fleet.try_get(&["configmap", "fleet-a-nats-config"]);
        assert!(map.is_ok(), "{wrong:?}: the ConfigMap is back: {map:?}");
    }
    assert_eq!(before, fleet.pods(), "no pod was touched");
    drop(api);
    fleet.wait_calm(limits::HEALED).await;
}
