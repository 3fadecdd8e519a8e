//! What a look proves about a region's servers, and what it does not.

use std::time::Duration;

use super::*;
use crate::cluster::region_watch::ServerView;
use crate::plan::FleetFacts;
use crate::validate::from_yaml;

const FILE: &str = "
apiVersion: nightjar.dev/v1alpha1
kind: RelayCluster
metadata: {name: f}
spec:
  regions: [{name: a, nats: {replicas: 1, storage: 4Gi}}]
  log: {maxBytesPerRegion: 512Mi}
";

fn plan_of_one() -> FleetPlan {
    let fleet = from_yaml(FILE).unwrap();
    let facts = FleetFacts::stand_in(fleet.regions.iter().map(|region| &region.name));
    let names = crate::cluster::Names::new("f", "chat");
    let addresses = crate::cluster::ClusterAddresses::new(names, Default::default());
    crate::plan::plan(&fleet, &facts, &addresses).unwrap()
}

fn well(plan: &FleetPlan, began: Instant) -> RegionHealth {
    let mut look = RegionHealth::new(began);
    for process in plan.regions[0].nats.iter().chain(&plan.regions[0].hubs) {
        let server = ServerView {
            healthy: true,
            ..ServerView::default()
        };
        look.servers.insert(process.name(), server);
    }
    look
}

#[test]
fn a_look_from_before_a_restart_does_not_say_that_all_is_well_after_it() {
    let plan = plan_of_one();
    let region = &plan.regions[0];
    let restarted = Instant::now();
    let judge = |look: &RegionHealth, since| nats(region, Some(look), &BTreeSet::new(), since);
    let second = Duration::from_secs(1);
    let (before, after) = (well(&plan, restarted), well(&plan, restarted + second));
    assert_eq!(judge(&after, Some(restarted)), NatsHealth::Well);
    for (look, since) in [(&before, Some(restarted)), (&after, None)] {
        let judged = judge(look, since);
        assert!(matches!(judged, NatsHealth::Unseen(_)), "{judged:?}");
        assert!(is_before(look, since));
    }
    assert!(!is_before(&after, Some(restarted)));
}

#[test]
fn why_a_region_is_not_seen_is_told_first_and_no_other_look_is_due() {
    let plan = plan_of_one();
    let look = RegionHealth::unseen(Instant::now(), "no answer");
    let judged = nats(&plan.regions[0], Some(&look), &BTreeSet::new(), None);
    assert_eq!(judged, NatsHealth::Unseen("no answer".to_owned()));
    assert!(!is_before(&look, None));
}
