//! Which pod is restarted to get back into a region, and when none is.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cluster::rollout::NatsHealth;

const NEW: &str = "users-of-today";

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// Two hubs, three servers and a relay, all ready since the start, none of which knows the operator; the look is of now.
struct World {
    start: Instant,
    view: RegionView,
    seen: RegionHealth,
    pods: BTreeMap<String, Pod>,
    since: Option<Instant>,
    paused: bool,
    now: Instant,
}

impl World {
    fn new(refused: Role) -> Self {
        let start = Instant::now();
        let pod = |role: Role, ordinal: usize| PodView {
            name: format!("f-a-{role}-{ordinal}"),
            role,
            wanted: "x".to_owned(),
            hash: Some("x".to_owned()),
            ready: true,
            terminating: false,
            broken: None,
        };
        let of = |role, count| (0..count).map(move |ordinal| pod(role, ordinal));
        let pods = of(Role::Hub, 2)
            .chain(of(Role::Nats, 3))
            .chain(of(Role::Relay, 1));
        let mut world = Self {
            start,
            view: RegionView {
                name: "a".to_owned(),
                pods: pods.collect(),
                nats: NatsHealth::Unseen("refused".to_owned()),
            },
            seen: RegionHealth::unseen(start + seconds(100), "refused"),
            pods: BTreeMap::new(),
            since: Some(start),
            paused: false,
            now: start + seconds(101),
        };
        world.seen.refused = Some(refused);
        for name in world.view.pods.iter().map(|pod| pod.name.clone()) {
            world.pods.insert(name, Pod::default());
        }
        world
    }

    fn knows(&mut self, name: &str) {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"annotations": {OPERATOR_USERS: NEW}}}))
                .unwrap();
        self.pods.insert(name.to_owned(), pod);
    }

    fn step(&self) -> Option<Step> {
        let locked = Locked {
            view: &self.view,
            seen: &self.seen,
            servers_since: self.since,
            users: NEW,
            pods: &self.pods,
            paused: self.paused,
            now: self.now,
        };
        locked.step()
    }

    fn waits_for(&self, part: &str) {
        match self.step() {
            Some(Step::Wait(text)) => assert!(text.contains(part), "{text:?} should say {part:?}"),
            other => panic!("{other:?}"),
        }
    }
}

fn restart(pod: &str) -> Option<Step> {
    Some(Step::Restart(pod.to_owned()))
}

#[test]
fn one_pod_of_the_cluster_that_refuses_is_restarted_and_then_the_next_one_only_if_it_is_still_refused()
 {
    let mut world = World::new(Role::Nats);
    assert_eq!(world.step(), restart("f-a-nats-0"));
    world.knows("f-a-nats-0");
    assert_eq!(world.step(), restart("f-a-nats-1"));
    world.seen.refused = Some(Role::Hub);
    assert_eq!(world.step(), restart("f-a-hub-0"));
    world.seen.refused = None;
    assert_eq!(world.step(), None);
}

#[test]
fn a_region_that_is_merely_not_seen_loses_no_pod() {
    let mut world = World::new(Role::Nats);
    world.seen = RegionHealth::unseen(world.seen.began, "no answer within 5 s");
    assert_eq!(world.step(), None);
}

#[test]
fn servers_that_were_started_with_the_users_of_today_are_not_restarted_for_ever() {
    let mut world = World::new(Role::Hub);
    for pod in ["f-a-hub-0", "f-a-hub-1"] {
        world.knows(pod);
    }
    world.waits_for("logs");
}

#[test]
fn nothing_goes_while_anything_of_the_log_is_away_or_was_lately_or_is_paused() {
    let mut world = World::new(Role::Nats);
    world.now = world.start + seconds(59);
    world.waits_for("ready for 60 s");
    world.now = world.start + seconds(200);
    world.since = Some(world.seen.began);
    world.waits_for("ready for 60 s");
    world.since = None;
    world.waits_for("ready for 60 s");
    world.view.pods[4].ready = false;
    world.waits_for("f-a-nats-2 becoming ready");
    world.paused = true;
    world.waits_for("resume");
}

#[test]
fn a_step_waits_for_another_restart_and_says_so() {
    let mut decision = Decision {
        restart: Some("f-b-relay-0".to_owned()),
        released: Vec::new(),
        status: None,
        wait: None,
        again_in: None,
    };
    let step = || Step::Restart("f-a-nats-0".to_owned());
    let wait = take(step(), "a", &mut decision, Timestamp::UNIX_EPOCH);
    assert_eq!(decision.restart.as_deref(), Some("f-b-relay-0"));
    assert_eq!((wait.what, wait.where_.as_str()), ("LoginRefused", "a"));
    decision.restart = None;
    take(step(), "a", &mut decision, Timestamp::UNIX_EPOCH);
    assert_eq!(decision.restart.as_deref(), Some("f-a-nats-0"));
}

proptest! {
    /// Whatever is away: a server is restarted only while every other server and hub of the region is there.
    #[test]
    fn a_majority_is_never_touched(
        ready in prop::collection::vec(any::<bool>(), 6),
        terminating in prop::collection::vec(any::<bool>(), 6),
    ) {
        let mut world = World::new(Role::Nats);
        for ((pod, ready), terminating) in world.view.pods.iter_mut().zip(ready).zip(terminating) {
            pod.ready = ready;
            pod.terminating = terminating;
        }
        let servers = world.view.pods.iter().filter(|pod| pod.role != Role::Relay);
        let all = servers.clone().all(|pod| pod.ready && !pod.terminating);
        prop_assert_eq!(matches!(world.step(), Some(Step::Restart(_))), all);
    }
}
