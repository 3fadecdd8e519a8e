//! What a person changes by hand in the objects of a fleet is put back, and an Event says so.

use std::time::Instant;

use nightjar_tests::kubernetes::cluster::{Cluster, cluster, patient_machine, text, until};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec};
use nightjar_tests::kubernetes::load::Load;
use nightjar_tests::kubernetes::watch::PodWatch;
use nightjar_tests::kubernetes::{limits, turn};
use nightjar_tests::report::measured;
use serde_json::{Value, json};

/// Kind, name of an object of the fleet `fleet` with region `a`, and a patch that a person may try.
fn edits() -> [(&'static str, &'static str, Value); 8] {
    [
        (
            "statefulset",
            "fleet-a-relay",
            json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 7}}}}),
        ),
        (
            "statefulset",
            "fleet-a-nats",
            json!({"spec": {"replicas": 2}}),
        ),
        (
            "service",
            "fleet-a",
            json!({"spec": {"selector": {"app.kubernetes.io/component": "nats"}}}),
        ),
        (
            "service",
            "fleet-a-nats",
            json!({"metadata": {"labels": {"nightjar.dev/region": "elsewhere"}}}),
        ),
        (
            "configmap",
            "fleet-a-relay-config",
            json!({"data": {"fleet-a-relay-0.yaml": "broken"}}),
        ),
        (
            "poddisruptionbudget",
            "fleet-a-nats",
            json!({"spec": {"maxUnavailable": 3}}),
        ),
        (
            "networkpolicy",
            "fleet-a-nats",
            json!({"spec": {"ingress": [{}]}}),
        ),
        (
            "networkpolicy",
            "fleet-a-relay",
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}}),
        ),
    ]
}

fn get(fleet: &Fleet, kind: &str, name: &str) -> Result<Value, String> {
    fleet.try_get(&[kind, name])
}

/// What a person's patch set, at the places of the patch.
fn at_patch(object: &Value, patch: &Value) -> Value {
    match patch {
        Value::Object(patch) => patch
            .iter()
            .map(|(key, below)| (key.clone(), at_patch(&object[key], below)))
            .collect(),
        _ => object.clone(),
    }
}

async fn three_servers(cluster: &'static Cluster, test: &str) -> Fleet {
    Fleet::start(cluster, test, &FleetSpec::new(&["a"], 3)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_edited_object_is_put_back_and_an_event_says_so() {
    let Some(cluster) = cluster("edited objects") else {
        return;
    };
    let _turn = turn::beside().await;
    let fleet = three_servers(cluster, "edit").await;
    for (kind, name, patch) in edits() {
        let before = at_patch(
            &get(&fleet, kind, name).expect("an object of the fleet"),
            &patch,
        );
        fleet.kubectl(&[
            "patch",
            kind,
            name,
            "--type=merge",
            "-p",
            &patch.to_string(),
        ]);
        until(
            &format!("{kind}/{name} put back"),
            limits::PUT_BACK,
            async || {
                let now = at_patch(&get(&fleet, kind, name)?, &patch);
                if now == before {
                    Ok(())
                } else {
                    Err(format!("it has {now}, not {before}"))
                }
            },
        )
        .await;
        fleet.wait_event("PutBack", &format!("{kind}/{name}")).await;
    }
    fleet.wait_calm(limits::HEALED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_removed_object_is_made_again_and_an_event_says_so() {
    let Some(cluster) = cluster("removed objects") else {
        return;
    };
    let _turn = turn::beside().await;
    let fleet = three_servers(cluster, "remove").await;
    for (kind, name) in [
        ("service", "fleet-a"),
        ("service", "fleet-a-relay"),
        ("configmap", "fleet-a-nats-config"),
        ("poddisruptionbudget", "fleet-a-nats"),
        ("networkpolicy", "fleet-a-nats"),
        ("statefulset", "fleet-a-relay"),
    ] {
        let old = get(&fleet, kind, name).expect("an object of the fleet");
        fleet.kubectl(&["delete", kind, name, "--wait=false"]);
        until(
            &format!("{kind}/{name} again"),
            limits::PUT_BACK,
            async || {
                let new = get(&fleet, kind, name)?;
                let is_new = new["metadata"]["uid"] != old["metadata"]["uid"];
                is_new
                    .then_some(())
                    .ok_or_else(|| "it is the old one".to_owned())
            },
        )
        .await;
        fleet
            .wait_event("Recreated", &format!("{kind}/{name}"))
            .await;
    }
    fleet.wait_calm(limits::HEALED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn certificates_and_users_that_are_removed_come_back() {
    let Some(cluster) = cluster("removed Secrets") else {
        return;
    };
    let _turn = turn::beside().await;
    let fleet = three_servers(cluster, "secrets").await;
    for secret in ["fleet-a-nats-tls", "fleet-a-relay-user"] {
        remove_secret(&fleet, secret).await;
    }
    fleet.wait_calm(limits::HEALED).await;
}

/// Removes a Secret and waits for another of its name.
async fn remove_secret(fleet: &Fleet, secret: &str) {
    let old = get(fleet, "secret", secret).expect("a Secret of the fleet");
    fleet.kubectl(&["delete", "secret", secret]);
    // Secrets are not watched, so that nobody's but the fleet's are ever read: the next look at the fleet finds it gone.
    until(&format!("{secret} again"), limits::HEALED, async || {
        let new = get(fleet, "secret", secret)?;
        let is_new = text(&new["metadata"]["uid"]) != text(&old["metadata"]["uid"]);
        is_new
            .then_some(())
            .ok_or_else(|| "it is the old one".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fleet_heals_whose_operator_lost_its_users_or_its_authority() {
    let Some(cluster) = patient_machine("lost users and authorities") else {
        return;
    };
    let _turn = turn::beside().await;
    let spec = FleetSpec::new(&["a"], 3);
    let fleet = Fleet::start(cluster, "lockout", &spec).await;
    let load = Load::start("lost users and authorities", &fleet.urls(&spec)).await;
    for (secret, what) in [
        ("fleet-a-operator-users", "users"),
        ("fleet-a-authority", "authority"),
    ] {
        let watch = PodWatch::start(&fleet);
        let began = Instant::now();
        remove_secret(&fleet, secret).await;
        // What is asked for next is done only by an operator that is let in.
        let bytes = if what == "users" { "80Mi" } else { "96Mi" };
        let mut changed = spec.clone();
        changed.more = json!({"log": {"maxBytesPerRegion": bytes}});
        fleet.apply(&changed);
        fleet.wait_calm(limits::ROLLOUT).await;
        watch.finish().assert_quorum();
        measured(&format!(
            "Kubernetes: a fleet whose operator lost its {what} is as asked after {:.0} s",
            began.elapsed().as_secs_f64()
        ));
    }
    load.finish().await;
}
