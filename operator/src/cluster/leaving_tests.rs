//! When the log of a region that leaves counts as held by the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nightjar_envelope::FleetId;
use proptest::prelude::*;

use super::*;
use crate::cluster::record::RegionRecord;
use crate::cluster::region_watch::{RegionHealth, StreamView};

fn name(text: &str) -> RegionName {
    text.parse().unwrap()
}

fn view(name: &StreamName, last_sequence: u64) -> StreamView {
    StreamView {
        name: name.clone(),
        mirror_of: None,
        leader: Some("a-nats-0".to_owned()),
        replicas: Vec::new(),
        messages: last_sequence,
        bytes: 0,
        last_sequence,
        lag: 0,
        silent_for: None,
    }
}

/// Region `b` leaves `a`; its relays went at second 10, and everybody has five entries of each stream.
struct World {
    start: Instant,
    record: FleetRecord,
    own: RegionHealth,
    other: RegionHealth,
    relays_gone: Option<Instant>,
}

impl World {
    fn new() -> Self {
        let start = Instant::now();
        let streams: BTreeSet<StreamName> = own_streams(&name("b"), 1).into_iter().collect();
        let looked = |at| {
            let mut seen = RegionHealth::new(start + Duration::from_secs(at));
            let views = streams
                .iter()
                .map(|stream| (stream.clone(), view(stream, 5)));
            seen.streams = views.collect();
            seen
        };
        let mut record = FleetRecord::new(FleetId::from_bytes([1; 16]));
        record.streams_made = true;
        let spec = serde_json::from_value(serde_json::json!({"name": "b"})).unwrap();
        let region = RegionRecord {
            generation: 1,
            streams: streams.clone(),
            spec,
            removed: false,
            disposable: false,
        };
        record.regions.insert(name("b"), region);
        Self {
            start,
            record,
            own: looked(11),
            other: looked(3),
            relays_gone: Some(start + Duration::from_secs(10)),
        }
    }

    fn refusal(&self) -> Option<String> {
        let health = BTreeMap::from([
            (name("a"), Arc::new(self.other.clone())),
            (name("b"), Arc::new(self.own.clone())),
        ]);
        let stays = name("a");
        let held = Held {
            others: vec![&stays],
            record: &self.record,
            health: &health,
            relays_gone: self.relays_gone,
        };
        held.refuses(&name("b"))
    }

    fn refuses_with(&self, part: &str) {
        let refusal = self.refusal().unwrap_or_default();
        assert!(refusal.contains(part), "{refusal:?} should say {part:?}");
    }
}

#[test]
fn a_region_whose_log_is_held_may_go_and_an_old_look_at_a_copy_will_do() {
    assert_eq!(World::new().refusal(), None);
}

#[test]
fn a_look_that_began_before_the_last_relay_went_does_not_count() {
    let mut world = World::new();
    for at in [0, 9, 10] {
        world.own.began = world.start + Duration::from_secs(at);
        world.refuses_with("was not looked at since its last relay ended");
    }
    world.relays_gone = None;
    world.refuses_with("its relays still run");
}

#[test]
fn a_region_that_cannot_be_seen_stays() {
    let mut world = World::new();
    world.own = RegionHealth::unseen(world.own.began, "no answer");
    world.refuses_with("cannot be seen");
}

#[test]
fn a_record_without_streams_does_not_let_a_region_go_that_has_some() {
    let mut world = World::new();
    world
        .record
        .regions
        .get_mut(&name("b"))
        .unwrap()
        .streams
        .clear();
    assert_eq!(world.refusal(), None, "seen and held");
    world.other.streams.clear();
    world.refuses_with("cannot be seen");
    world.own.streams.clear();
    world.refuses_with("was not seen in region b");
}

#[test]
fn a_stream_that_was_made_and_is_gone_is_not_one_that_never_was() {
    let mut world = World::new();
    world.own.absent = std::mem::take(&mut world.own.streams).into_keys().collect();
    world.refuses_with("was not seen in region b");
    world
        .record
        .regions
        .get_mut(&name("b"))
        .unwrap()
        .streams
        .clear();
    assert_eq!(world.refusal(), None);
}

#[test]
fn a_region_of_a_fleet_that_never_made_a_stream_may_go_unseen() {
    let mut world = World::new();
    world.record.streams_made = false;
    world.own = RegionHealth::unseen(world.own.began, "no answer");
    assert_eq!(world.refusal(), None);
}

proptest! {
    /// Whatever was seen, recorded and copied: a region goes only if nothing that it has is more than what the other has.
    #[test]
    fn nothing_goes_that_is_not_held(
        streams in prop::collection::vec((0_u8..3, 0_u64..4, prop::option::of(0_u64..4), any::<bool>()), 6),
        looked in 5_u64..15,
    ) {
        let mut world = World::new();
        world.own.began = world.start + Duration::from_secs(looked);
        let mut safe = looked > 10;
        let names: Vec<StreamName> = world.own.streams.keys().cloned().collect();
        for (stream, (state, last, copy, recorded)) in names.into_iter().zip(streams) {
            world.own.streams.remove(&stream);
            world.other.streams.remove(&stream);
            let known = world.record.regions.get_mut(&name("b")).unwrap();
            if !recorded {
                known.streams.remove(&stream);
            }
            if let Some(copy) = copy {
                world.other.streams.insert(stream.clone(), view(&stream, copy));
            }
            match state {
                0 => {
                    world.own.streams.insert(stream.clone(), view(&stream, last));
                    safe &= copy.is_some_and(|copy| copy >= last);
                }
                1 => {
                    world.own.absent.insert(stream);
                    safe &= !recorded;
                }
                _ => safe = false,
            }
        }
        prop_assert_eq!(world.refusal().is_none(), safe);
    }
}
