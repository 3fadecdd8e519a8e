//! The rollout planner against a small world of pods that obeys it: what it may never do, and that it always comes to an end.

use proptest::prelude::*;

use super::*;

const SOAK: u64 = 30;
const SETTLE: u64 = 5;

fn terms() -> ValidRollout {
    ValidRollout {
        soak: Duration::from_secs(SOAK),
        pod_deadline: Duration::from_secs(60),
        settle: Duration::from_secs(SETTLE),
    }
}

fn pod(region: &str, role: Role, ordinal: usize) -> PodView {
    PodView {
        name: format!("f-{region}-{role}-{ordinal}"),
        role,
        wanted: "old".to_owned(),
        hash: Some("old".to_owned()),
        ready: true,
        terminating: false,
        broken: None,
    }
}

fn region(name: &str) -> RegionView {
    let of = |role, count| (0..count).map(move |ordinal| pod(name, role, ordinal));
    RegionView {
        name: name.to_owned(),
        pods: of(Role::Hub, 2)
            .chain(of(Role::Nats, 3))
            .chain(of(Role::Relay, 2))
            .collect(),
        nats: NatsHealth::Well,
    }
}

/// Pods that do what the planner says, one second a step.
struct World {
    regions: Vec<RegionView>,
    status: Option<RolloutStatus>,
    now: i64,
    /// By pod: seconds until it is ready.
    starting: Vec<(String, u64)>,
    /// A template with which no pod becomes ready.
    bad: Option<&'static str>,
    paused: bool,
    log: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self {
            regions: ["a", "b", "c"].map(region).into(),
            status: None,
            now: 1_000,
            starting: Vec::new(),
            bad: None,
            paused: false,
            log: Vec::new(),
        }
    }

    fn want(&mut self, roles: &[Role], hash: &str) {
        for pod in self.regions.iter_mut().flat_map(|region| &mut region.pods) {
            if roles.contains(&pod.role) {
                pod.wanted = hash.to_owned();
            }
        }
    }

    fn decide(&self) -> Decision {
        decide(&Situation {
            regions: &self.regions,
            terms: terms(),
            paused: self.paused,
            before: self.status.as_ref(),
            now: Timestamp::from_second(self.now).unwrap(),
        })
    }

    fn step(&mut self, start_takes: u64) {
        let decision = self.decide();
        self.status.clone_from(&decision.status);
        if let Some(name) = decision.restart {
            self.check_may_restart(&name);
            let bad = self.bad;
            let pod = self.pod(&name);
            pod.hash = Some(pod.wanted.clone());
            pod.ready = false;
            pod.broken = (bad == Some(pod.wanted.as_str())).then(|| "ImagePullBackOff".to_owned());
            self.log.push(name.clone());
            self.starting.retain(|(known, _)| *known != name);
            self.starting.push((name, start_takes));
        }
        self.now += 1;
        self.pass_time();
    }

    fn pass_time(&mut self) {
        let mut still = Vec::new();
        for (name, left) in std::mem::take(&mut self.starting) {
            if left > 0 {
                still.push((name, left - 1));
            } else if self.pod(&name).broken.is_none() {
                self.pod(&name).ready = true;
            } else {
                still.push((name, 0));
            }
        }
        self.starting = still;
        for region in &mut self.regions {
            let down = region
                .pods
                .iter()
                .any(|pod| pod.role != Role::Relay && !pod.ready);
            region.nats = if down {
                NatsHealth::Behind("a server is missing".to_owned())
            } else {
                NatsHealth::Well
            };
        }
    }

    /// What holds whenever a pod is restarted.
    fn check_may_restart(&self, name: &str) {
        let at = self
            .regions
            .iter()
            .position(|region| region.pods.iter().any(|pod| pod.name == *name))
            .unwrap();
        let pod = self.regions[at]
            .pods
            .iter()
            .find(|pod| pod.name == *name)
            .unwrap();
        assert!(pod.outdated(), "{name} runs what was asked for already");
        assert!(!self.paused, "{name} is restarted although paused");
        if pod.ready {
            for region in &self.regions {
                let missing = region.pods.iter().filter(|pod| !pod.ready).count();
                assert!(
                    missing == 0 || region.name > self.regions[at].name,
                    "{name} is restarted while {missing} pods of {} are down",
                    region.name
                );
            }
        }
        for earlier in &self.regions[..at] {
            assert!(
                !earlier.outdated(),
                "{name} moves before region {} is through",
                earlier.name
            );
        }
    }

    fn pod(&mut self, name: &str) -> &mut PodView {
        self.regions
            .iter_mut()
            .flat_map(|region| &mut region.pods)
            .find(|pod| pod.name == name)
            .unwrap()
    }

    fn phase(&self) -> Option<RolloutPhase> {
        self.status.as_ref().map(|status| status.phase)
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step(3);
        }
    }
}

#[test]
fn at_rest_nothing_is_decided_and_nothing_is_written() {
    let mut world = World::new();
    let first = world.decide();
    assert_eq!(
        (first.restart, first.status, first.wait),
        (None, None, None)
    );
    world.want(&[Role::Relay], "new");
    world.run(200);
    assert_eq!(world.phase(), Some(RolloutPhase::Done));
    let (one, two) = (world.decide(), world.decide());
    assert_eq!(one, two);
    assert_eq!(one.status, world.status);
}

#[test]
fn hubs_come_before_servers_and_servers_before_relays_and_the_canary_soaks() {
    let mut world = World::new();
    world.want(&[Role::Hub, Role::Nats, Role::Relay], "new");
    let mut phases = Vec::new();
    for _ in 0..400 {
        world.step(3);
        if phases.last() != world.phase().as_ref() {
            phases.extend(world.phase());
        }
    }
    let order: Vec<&str> = world.log[..7].iter().map(String::as_str).collect();
    assert_eq!(
        order,
        [
            "f-a-hub-0",
            "f-a-hub-1",
            "f-a-nats-0",
            "f-a-nats-1",
            "f-a-nats-2",
            "f-a-relay-0",
            "f-a-relay-1"
        ]
    );
    assert_eq!(world.log.len(), 21);
    assert_eq!(
        phases,
        [
            RolloutPhase::Moving,
            RolloutPhase::Soaking,
            RolloutPhase::Moving,
            RolloutPhase::Done
        ]
    );
}

#[test]
fn a_bad_change_stays_in_the_canary_and_taking_it_back_heals() {
    let mut world = World::new();
    world.bad = Some("bad");
    world.want(&[Role::Relay], "bad");
    world.run(300);
    assert_eq!(world.log, ["f-a-relay-0"]);
    assert_eq!(world.phase(), Some(RolloutPhase::Halted));
    let decision = world.decide();
    assert!(decision.wait.unwrap().unblocked_by.contains("f-a-relay-0"));
    assert_eq!(decision.released, ["a"]);
    world.want(&[Role::Relay], "old");
    world.run(60);
    assert_eq!(world.log, ["f-a-relay-0", "f-a-relay-0"]);
    assert_eq!(world.phase(), Some(RolloutPhase::Done));
}

#[test]
fn a_pod_that_is_merely_slow_halts_after_its_deadline_and_goes_on_by_itself() {
    let mut world = World::new();
    world.want(&[Role::Relay], "new");
    world.step(90);
    for _ in 0..70 {
        world.step(90);
    }
    assert_eq!(world.phase(), Some(RolloutPhase::Halted));
    world.run(400);
    assert_eq!(world.phase(), Some(RolloutPhase::Done));
}

#[test]
fn a_canary_that_fails_while_it_is_watched_is_watched_anew_for_the_whole_time() {
    let mut world = World::new();
    world.want(&[Role::Relay], "new");
    while world.phase() != Some(RolloutPhase::Soaking) {
        world.run(1);
    }
    world.run(20);
    assert_eq!(world.phase(), Some(RolloutPhase::Soaking));
    world.pod("f-a-relay-0").ready = false;
    world.run(2);
    world.pod("f-a-relay-0").ready = true;
    let moved = world.log.len();
    world.run(usize::try_from(SOAK).unwrap() - 1);
    assert_eq!(world.phase(), Some(RolloutPhase::Soaking));
    assert_eq!(world.log.len(), moved);
    world.run(200);
    assert_eq!(world.phase(), Some(RolloutPhase::Done));
}

#[test]
fn a_canary_that_fails_after_its_time_holds_the_others_only_while_it_is_not_whole() {
    let mut world = World::new();
    world.want(&[Role::Relay], "new");
    while world.log.len() < 3 {
        world.run(1);
    }
    world.pod("f-a-relay-0").ready = false;
    world.run(5);
    assert_eq!(world.log.len(), 3);
    world.pod("f-a-relay-0").ready = true;
    world.run(10);
    assert!(world.log.len() > 3, "{:?}", world.status);
}

#[test]
fn a_canary_that_is_not_seen_or_behind_for_a_moment_holds_and_is_not_watched_anew() {
    for nats in [
        NatsHealth::Unseen("no answer".to_owned()),
        NatsHealth::Behind("one entry".to_owned()),
    ] {
        let mut world = World::new();
        world.want(&[Role::Relay], "new");
        while world.phase() != Some(RolloutPhase::Soaking) {
            world.run(1);
        }
        let since = world.status.clone().unwrap().canary_done_at;
        world.regions[0].nats = nats;
        let held = world.decide();
        assert_eq!(held.restart, None);
        assert_eq!(held.status.unwrap().canary_done_at, since);
    }
}

#[test]
fn a_change_beside_the_canary_does_not_wait_for_a_canary_that_failed_meanwhile() {
    let mut world = World::new();
    for pod in &mut world.regions[2].pods {
        pod.wanted = "new".to_owned();
    }
    world.run(1);
    world.pod("f-a-relay-0").ready = false;
    world.run(3);
    world.pod("f-a-relay-0").ready = true;
    let moved = world.log.len();
    world.run(10);
    assert!(world.log.len() > moved, "{:?}", world.status);
}

#[test]
fn a_change_beside_the_canary_does_not_soak() {
    let mut world = World::new();
    for pod in &mut world.regions[2].pods {
        pod.wanted = "new".to_owned();
    }
    world.step(3);
    assert_eq!(world.log, ["f-c-hub-0"]);
}

#[test]
fn a_region_that_cannot_be_seen_is_left_alone() {
    let mut world = World::new();
    world.want(&[Role::Nats], "new");
    world.regions[0].nats = NatsHealth::Unseen("no answer".to_owned());
    let decision = world.decide();
    assert_eq!(decision.restart, None);
    assert_eq!(decision.wait.unwrap().what, "RegionUnseen");
}

proptest! {
    /// Changes, pauses, resumptions and forgotten status at any time: the rules of `check_may_restart` hold, and it ends.
    #[test]
    fn whatever_happens_the_rules_hold_and_it_comes_to_an_end(
        acts in prop::collection::vec((0_u8..6, 1_usize..40), 1..12),
        start_takes in 0_u64..8,
    ) {
        let mut world = World::new();
        world.bad = Some("bad");
        for (index, (act, steps)) in acts.into_iter().enumerate() {
            match act {
                0 => world.want(&[Role::Relay], &format!("v{index}")),
                1 => world.want(&[Role::Nats, Role::Hub], &format!("v{index}")),
                2 => world.want(&[Role::Relay], "bad"),
                3 => world.paused = !world.paused,
                // Another operator takes over: it has the status, or has lost it.
                4 => world.status = None,
                _ => {}
            }
            for _ in 0..steps {
                world.step(start_takes);
            }
        }
        world.paused = false;
        world.want(&[Role::Nats, Role::Hub, Role::Relay], "final");
        for _ in 0..1_500 {
            world.step(start_takes);
        }
        prop_assert!(world.regions.iter().all(RegionView::done), "{:?}", world.status);
    }
}

#[test]
fn a_log_that_is_not_whole_is_told_when_all_pods_are_ready() {
    let behind = NatsHealth::Behind("stream EV_a_1_0 has no leader".to_owned());
    let view = |ready, nats: &NatsHealth| {
        let mut view = region("a");
        view.pods[3].ready = ready;
        view.nats = nats.clone();
        view
    };
    let told = |view: RegionView| log_waits(&[view]).next().map(|wait| wait.unblocked_by);
    assert_eq!(
        told(view(true, &behind)).as_deref(),
        Some(
            "every replica of the region's streams being current; now stream EV_a_1_0 has no leader"
        )
    );
    assert_eq!(told(view(false, &behind)), None, "the pod says more");
    assert_eq!(told(view(true, &NatsHealth::Well)), None);
}
