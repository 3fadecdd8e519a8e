//! Moments at which pods were seen, against small clusters.

use std::time::Duration;

use k8s_openapi::api::core::v1::ContainerStatus;
use serde_json::json;

use super::*;
use crate::cluster::build::Kind;

fn names() -> Names {
    Names::new("f", "chat")
}

fn region() -> RegionName {
    "a".parse().unwrap()
}

fn pod(role: Role, ordinal: usize, uid: &str) -> Pod {
    let name = format!("f-a-{role}-{ordinal}");
    serde_json::from_value(json!({
        "metadata": {"name": name, "uid": uid, "labels": {
            REGION_LABEL: "a", COMPONENT_LABEL: role.to_string(),
        }},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap()
}

fn cluster(pods: Vec<Pod>, relays: Option<(i64, i64)>) -> Observed {
    let set = relays.map(|(wanted, observed)| {
        let set = json!({
            "metadata": {"generation": 2},
            "spec": {"replicas": wanted},
            "status": {"replicas": wanted, "observedGeneration": observed},
        });
        ((Kind::StatefulSet, "f-a-relay".to_owned()), set)
    });
    Observed {
        objects: set.into_iter().collect(),
        pods: pods.into_iter().map(|pod| (pod.name_any(), pod)).collect(),
        claims: BTreeMap::new(),
        record: None,
    }
}

fn second(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn relays_are_gone_from_when_none_was_seen_first_until_one_is_seen_again() {
    let start = Instant::now();
    let mut sightings = Sightings::default();
    let mut see = |at, cluster: &Observed| {
        sightings.observe([&region()], &names(), cluster, start + second(at));
        sightings.relays_gone(&region())
    };
    assert_eq!(see(0, &cluster(vec![pod(Role::Relay, 0, "x")], None)), None);
    let gone = cluster(vec![pod(Role::Nats, 0, "y")], Some((0, 2)));
    assert_eq!(see(1, &gone), Some(start + second(1)));
    assert_eq!(see(9, &gone), Some(start + second(1)));
    assert_eq!(
        see(10, &cluster(vec![pod(Role::Relay, 0, "z")], None)),
        None
    );
    assert_eq!(see(11, &gone), Some(start + second(11)));
}

#[test]
fn relays_that_are_missing_for_a_moment_or_not_called_off_yet_are_not_gone() {
    for set in [(2, 2), (0, 1)] {
        let mut sightings = Sightings::default();
        let cluster = cluster(Vec::new(), Some(set));
        sightings.observe([&region()], &names(), &cluster, Instant::now());
        assert_eq!(sightings.relays_gone(&region()), None, "{set:?}");
    }
}

#[test]
fn servers_are_the_same_as_long_as_their_pods_and_containers_are() {
    let start = Instant::now();
    let mut sightings = Sightings::default();
    let mut see = |at, pods: Vec<Pod>| {
        let cluster = cluster(pods, None);
        sightings.observe([&region()], &names(), &cluster, start + second(at));
        let since = sightings.servers_since(&region()).unwrap();
        since.duration_since(start).as_secs()
    };
    let both = |uid: &str| vec![pod(Role::Nats, 0, "x"), pod(Role::Hub, 0, uid)];
    assert_eq!(see(0, both("y")), 0);
    assert_eq!(see(1, both("y")), 0);
    assert_eq!(see(2, both("z")), 2, "another pod of the same name");
    let mut leaving = both("z");
    leaving[1].metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    assert_eq!(see(3, leaving), 3, "one that is asked to go");
    let mut crashed = both("z");
    let status = crashed[0].status.as_mut().unwrap();
    status.container_statuses = Some(vec![ContainerStatus {
        restart_count: 1,
        ..ContainerStatus::default()
    }]);
    assert_eq!(see(4, crashed), 4, "a container that was started again");
    let mut with_relay = both("z");
    assert_eq!(see(5, with_relay.clone()), 5);
    with_relay.push(pod(Role::Relay, 0, "r"));
    assert_eq!(see(6, with_relay), 5, "relays are none of them");
}

#[test]
fn another_leader_begins_anew() {
    assert_eq!(Sightings::default().relays_gone(&region()), None);
    assert_eq!(Sightings::default().servers_since(&region()), None);
}
