//! What a cursor is answered with: everything that arrived after it, once, whatever relay is asked, in pages of any size.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::index::gather::{Budget, budget};

pub(super) const STREAMS: [&str; 3] = ["EV_a_1_0", "EV_a_1_1", "EV_b_1_0"];
/// The cheapest way to a page; over all arrivals; from the filters' own rows.
pub(super) const WAYS: [Budget; 3] = [budget, |_| 0, |_| usize::MAX];

/// The ids, whether nothing was left out, and where the next one begins.
pub(super) type Page = (Vec<EventId>, bool, PositionVector);

/// One page, the same by all ways.
fn page(index: &Index, filters: &[Value], readers: &[PublicKey], after: &PositionVector) -> Page {
    page_within(index, filters, readers, after, u64::MAX)
}

fn page_within(
    index: &Index,
    filters: &[Value],
    readers: &[PublicKey],
    after: &PositionVector,
    most_looked_at: u64,
) -> Page {
    let filters: Vec<Filter> = filters.iter().map(filter).collect();
    let readers = readers.iter().copied().collect();
    let limits = BatchLimits {
        events: 2,
        ..BatchLimits::default()
    };
    let [page, walked, gathered] = WAYS.map(|way| {
        let (after, clock) = (after.clone(), index.clock(NOW));
        let query = ArrivalQuery::new(index, &filters, &readers, after, most_looked_at, clock, way);
        take_page(&mut query.unwrap(), &limits)
    });
    assert_eq!(page, walked);
    assert_eq!(page, gathered);
    page
}

pub(super) fn take_page(query: &mut ArrivalQuery, limits: &BatchLimits) -> Page {
    let mut ids = Vec::new();
    loop {
        let batch = query.next_batch(limits).unwrap();
        ids.extend(batch.events.iter().map(|found| found.id));
        if batch.done {
            return (ids, batch.complete, query.position());
        }
    }
}

pub(super) fn log_entry(event: &Event, stream_name: &str, seq: u64) -> LogEntry {
    LogEntry {
        content: Arc::new(event.clone()).into(),
        at: Some((stream(stream_name), seq)),
        log_time: LogTime::Nats(NOW * 1000),
    }
}

#[test]
fn an_event_that_is_older_than_all_others_arrives_last() {
    let bed = Bed::new();
    bed.follow(&entry(&wrap(1, BOB, NOW), 1));
    let (_, complete, cursor) = page(
        &bed.index,
        &[json!({"kinds": [1059]})],
        &[BOB],
        &PositionVector::new(),
    );
    assert!(complete);
    bed.follow(&entry(&wrap(2, BOB, NOW - 2 * DAY), 2));
    let (ids, complete, next) = page(&bed.index, &[json!({"kinds": [1059]})], &[BOB], &cursor);
    assert_eq!((ids, complete), (vec![id(2)], true));
    assert_eq!(
        page(&bed.index, &[json!({})], &[BOB], &next).0,
        Vec::<EventId>::new()
    );
}

#[test]
fn what_is_nobodys_business_is_no_part_of_a_page() {
    let bed = Bed::new();
    bed.follow(&entry(&wrap(1, BOB, NOW), 1));
    bed.follow(&entry(&event(2, ALICE, NOW, 1, json!([])), 2));
    bed.follow(&entry(&wrap(3, CAROL, NOW), 3));
    let start = PositionVector::new();
    let all = |readers: &[PublicKey]| page(&bed.index, &[json!({})], readers, &start).0;
    assert_eq!(all(&[]), [id(2)]);
    assert_eq!(all(&[BOB]), [id(1), id(2)]);
    assert_eq!(all(&[BOB, CAROL]), [id(1), id(2), id(3)]);
    assert_eq!(all(&[ALICE]), [id(2)], "nor of who sent it");
}

#[test]
fn what_was_deleted_or_superseded_does_not_arrive() {
    let bed = Bed::new();
    bed.follow(&entry(&wrap(1, BOB, NOW), 1));
    bed.follow(&entry(&event(2, ALICE, 100, 10_050, json!([])), 1));
    bed.follow(&entry(&event(3, ALICE, 200, 10_050, json!([])), 2));
    bed.follow(&entry(
        &event(4, BOB, 300, 5, json!([["e", hex_id(1)], ["k", "1059"]])),
        3,
    ));
    let filters = [json!({"kinds": [1059, 10_050]})];
    let (ids, complete, position) = page(&bed.index, &filters, &[BOB], &PositionVector::new());
    assert_eq!((ids, complete), (vec![id(3)], true));
    assert_eq!(position, bed.index.position().unwrap());
}

#[test]
fn a_cursor_speaks_only_of_what_the_pull_consumer_has_applied() {
    let bed = Bed::new();
    bed.follow(&entry(&event(1, ALICE, 1, 1, json!([])), 1));
    // Published here and acknowledged; sequence 2 has not come yet.
    bed.apply(&entry(&event(3, ALICE, 3, 1, json!([])), 3));
    let mut unplaced = entry(&event(4, ALICE, 4, 1, json!([])), 4);
    unplaced.at = None;
    bed.apply(&unplaced);
    let filters = [json!({"kinds": [1]})];
    let (ids, complete, cursor) = page(&bed.index, &filters, &[], &PositionVector::new());
    assert_eq!((ids, complete), (vec![id(1), id(3), id(4)], true));
    bed.follow(&entry(&event(2, ALICE, 2, 1, json!([])), 2));
    let (ids, _, _) = page(&bed.index, &filters, &[], &cursor);
    assert_eq!(ids, [id(2), id(3), id(4)], "2 was not sent");
}

#[test]
fn a_limit_of_zero_and_a_costly_page_lose_nothing() {
    let bed = Bed::new();
    for number in 1..=9 {
        bed.follow(&entry(&event(number, ALICE, number, 1, json!([])), number));
    }
    let start = PositionVector::new();
    let nothing = page(
        &bed.index,
        &[json!({"kinds": [1], "limit": 0})],
        &[],
        &start,
    );
    assert_eq!(nothing, (vec![], false, start.clone()));
    let nobody = page(
        &bed.index,
        &[json!({"kinds": [7], "limit": 0})],
        &[],
        &start,
    );
    assert!(nobody.1, "nothing was left out");
    let filters = [json!({"kinds": [1]})];
    let (first, complete, cursor) = page_within(&bed.index, &filters, &[], &start, 4);
    assert_eq!((first.len(), complete), (4, false));
    let (rest, complete, _) = page(&bed.index, &filters, &[], &cursor);
    assert_eq!((rest.len(), complete), (5, true));
}

/// A log of a few streams: for each, the events in order; an event may stand in several places.
fn random_log() -> impl Strategy<Value = Vec<(usize, Event)>> {
    let place = (
        0..STREAMS.len(),
        0u64..25,
        0u64..9,
        select(&[1u16, 1059, 7][..]),
        select(&[BOB, CAROL][..]),
    );
    prop::collection::vec(place, 1..50).prop_map(|places| {
        let mut made: BTreeMap<u64, Event> = BTreeMap::new();
        let mut log = Vec::new();
        for (stream, number, time, kind, recipient) in places {
            let made = made.entry(number).or_insert_with(|| match kind {
                1059 => wrap(number, recipient, time),
                _ => event(number, ALICE, time, kind, json!([])),
            });
            log.push((stream, made.clone()));
        }
        log
    })
}

fn readable_by_bob(event: &Event) -> bool {
    event.kind != 1059
        || event
            .tags
            .iter()
            .any(|tag| tag.get(1).is_some_and(|value| *value == hex::encode(BOB)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("NIGHTJAR_LONG").is_some() { 2_000 } else { 96 }))]

    #[test]
    fn pages_of_any_size_give_everything_once(log in random_log(), after in prop::collection::vec(0u64..12, 3), limit in 1usize..6) {
        let bed = Bed::new();
        let mut seqs = [0_u64; 3];
        let mut places: BTreeMap<EventId, Vec<(usize, u64)>> = BTreeMap::new();
        for (stream, event) in &log {
            seqs[*stream] += 1;
            bed.follow(&log_entry(event, STREAMS[*stream], seqs[*stream]));
            places.entry(event.id).or_default().push((*stream, seqs[*stream]));
        }
        let start: PositionVector = STREAMS.iter().zip(&after).map(|(name, seq)| (stream(name), *seq)).collect();
        let expected: BTreeSet<EventId> = log
            .iter()
            .filter(|(_, event)| event.kind != 7 && readable_by_bob(event))
            .map(|(_, event)| event.id)
            .filter(|id| places[id].iter().all(|(stream, seq)| *seq > after[*stream]))
            .collect();
        let filters = [json!({"kinds": [1], "limit": limit}), json!({"kinds": [1059], "limit": limit})];
        let (mut seen, mut cursor) = (Vec::new(), start);
        loop {
            let (ids, complete, next) = page(&bed.index, &filters, &[BOB], &cursor);
            seen.extend(ids);
            prop_assert!(next.covers(&cursor));
            prop_assert!(complete || next != cursor, "a page that ends early goes on");
            cursor = next;
            if complete {
                break;
            }
        }
        let once: BTreeSet<EventId> = seen.iter().copied().collect();
        prop_assert_eq!(once.len(), seen.len(), "nothing twice");
        prop_assert_eq!(once, expected);
    }

    #[test]
    fn who_hops_between_relays_misses_nothing(
        log in random_log(),
        steps in prop::collection::vec((0usize..3, 0usize..3, 0u8..3, 1usize..4), 1..60),
    ) {
        let mut streams: [Vec<&Event>; 3] = Default::default();
        for (stream, event) in &log {
            streams[*stream].push(event);
        }
        let relays = [Bed::new(), Bed::new(), Bed::new()];
        let mut applied = [[0_usize; 3]; 3];
        let follow = |applied: &mut [[usize; 3]; 3], relay: usize, on: usize| {
            let next = &mut applied[relay][on];
            if let Some(event) = streams[on].get(*next) {
                *next += 1;
                relays[relay].follow(&log_entry(event, STREAMS[on], *next as u64));
            }
        };
        let mut seen = BTreeSet::new();
        let mut cursor = PositionVector::new();
        for (relay, on, what, amount) in steps {
            match what {
                0 => (0..amount * 3).for_each(|_| follow(&mut applied, relay, on)),
                // Its own publish, ahead of what its pull consumer has applied.
                1 => if let Some(event) = streams[on].get(applied[relay][on] + amount) {
                    relays[relay].apply(&log_entry(event, STREAMS[on], (applied[relay][on] + amount) as u64 + 1));
                },
                _ => {
                    let (ids, _, next) = page(&relays[relay].index, &[json!({"limit": amount})], &[BOB], &cursor);
                    seen.extend(ids);
                    cursor = next;
                }
            }
        }
        for relay in 0..3 {
            for on in 0..3 {
                (0..log.len()).for_each(|_| follow(&mut applied, relay, on));
            }
        }
        loop {
            let (ids, complete, next) = page(&relays[0].index, &[json!({"limit": 3})], &[BOB], &cursor);
            seen.extend(ids);
            cursor = next;
            if complete {
                break;
            }
        }
        let expected: BTreeSet<EventId> = log.iter().filter(|(_, event)| readable_by_bob(event)).map(|(_, event)| event.id).collect();
        prop_assert_eq!(seen, expected);
    }
}
