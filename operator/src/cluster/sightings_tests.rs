//! Moments at which pods were seen, against small clusters.

use std::time::Duration;

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
fn another_leader_begins_anew() {
    assert_eq!(Sightings::default().relays_gone(&region()), None);
}
