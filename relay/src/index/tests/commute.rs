//! Order and duplication do not matter: all orders of replace, delete, expire and re-publish on one coordinate end the
//! same on every index, also through a rebuild from what the sweeper leaves of the log.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;

/// The coordinate everything is about.
const LIST: u16 = 30_078;

/// Before and after some of the events expire.
const BEFORE: u64 = NOW + 1;
const AFTER: u64 = NOW + 60;

/// What can happen to a coordinate, a note and a gift wrap, and to their author.
fn operations() -> Vec<Event> {
    let address = format!("{LIST}:{}:x", hex::encode(ALICE));
    let d = json!(["d", "x"]);
    let soon = json!(["expiration", (NOW + 50).to_string()]);
    vec![
        event(11, ALICE, 100, LIST, json!([d])),
        event(12, ALICE, 200, LIST, json!([d])),
        event(
            10,
            ALICE,
            200,
            LIST,
            json!([d, ["t", "same time, lower id"]]),
        ),
        event(13, ALICE, 300, LIST, json!([d, soon])),
        event(14, ALICE, 400, LIST, json!([d, ["expiration", "7"]])),
        event(
            21,
            ALICE,
            150,
            5,
            json!([["e", hex_id(11)], ["k", "30078"]]),
        ),
        event(
            22,
            ALICE,
            350,
            5,
            json!([["e", hex_id(13)], ["e", hex_id(12)], ["k", "30078"]]),
        ),
        event(23, ALICE, 200, 5, json!([["a", address]])),
        event(
            24,
            BOB,
            999,
            5,
            json!([["e", hex_id(12)], ["a", address], ["k", "30078"]]),
        ),
        event(
            25,
            ALICE,
            120,
            5,
            json!([["a", address], ["k", "30078"], soon]),
        ),
        event(31, ALICE, 200, 1, json!([soon])),
        event(
            32,
            ALICE,
            210,
            5,
            json!([["e", hex_id(31)], ["e", hex_id(23)], ["k", "1"]]),
        ),
        wrap(41, BOB, 150),
        event(42, BOB, 160, 5, json!([["e", hex_id(41)], ["k", "1059"]])),
        event(43, BOB, 10, 5, json!([["e", hex_id(41)]])),
        event(51, ALICE, 200, 62, json!([["relay", "ALL_RELAYS"]])),
        event(52, BOB, 155, 62, json!([["relay", "ALL_RELAYS"]])),
    ]
}

/// Everything that shows from a time on: what is visible to whom, and what a publisher is told.
fn observe(bed: &Bed, operations: &[Event], now_s: u64) -> (Vec<Vec<EventId>>, Vec<Known>) {
    let mut seen = Vec::new();
    for readers in [&[][..], &[ALICE], &[BOB], &[ALICE, BOB]] {
        seen.push(bed.ids_at(&[json!({})], readers, now_s));
    }
    // Reached through every index, not only by time.
    let (alice, ids) = (
        hex::encode(ALICE),
        operations.iter().map(Event::id_hex).collect::<Vec<_>>(),
    );
    let ways = [
        json!({"kinds": [LIST]}),
        json!({"authors": [alice]}),
        json!({"authors": [alice], "kinds": [LIST, 1, 5]}),
        json!({"#d": ["x"]}),
        json!({"ids": ids}),
    ];
    seen.extend(ways.map(|way| bed.ids_at(&[way], &[ALICE, BOB], now_s)));
    let known = operations
        .iter()
        .map(|event| bed.index.status_of(event, now_s).unwrap());
    (seen, known.collect())
}

/// Applies a log in an order of its own: consumer or publisher first, swept in between or not.
pub(super) fn play(log: &[LogEntry], order: &[usize], sweep_every: usize) -> Bed {
    let bed = Bed::new();
    for (step, entry) in order.iter().map(|number| &log[*number]).enumerate() {
        bed.apply(entry);
        if sweep_every > 0 && step % sweep_every == 0 {
            bed.index.sweep_expired(NOW, 1_000).unwrap();
        }
    }
    bed
}

/// The pull consumer's run over a whole log, in sequence order.
pub(super) fn follow_all(bed: &Bed, log: &[LogEntry]) {
    for entry in log {
        bed.follow(entry);
    }
}

fn log_of(events: &[Event]) -> Vec<LogEntry> {
    events
        .iter()
        .enumerate()
        .map(|(seq, event)| entry(event, seq as u64 + 1))
        .collect()
}

/// The log without what `bed` names as removable.
pub(super) fn swept_log(bed: &Bed, log: &[LogEntry]) -> Vec<LogEntry> {
    let removed = bed.index.superseded(1_000).unwrap();
    let is_removed = |entry: &LogEntry| {
        let at = entry
            .at
            .clone()
            .map(|(stream, seq)| LogPosition { stream, seq });
        at.is_some_and(|at| removed.contains(&at))
    };
    log.iter()
        .filter(|entry| !is_removed(entry))
        .cloned()
        .collect()
}

/// All orders of `count` things (Heap's algorithm).
pub(super) fn orders(count: usize) -> Vec<Vec<usize>> {
    fn permute(length: usize, items: &mut Vec<usize>, out: &mut Vec<Vec<usize>>) {
        if length <= 1 {
            out.push(items.clone());
            return;
        }
        for index in 0..length {
            permute(length - 1, items, out);
            items.swap(if length.is_multiple_of(2) { index } else { 0 }, length - 1);
        }
    }
    let mut out = Vec::new();
    permute(count, &mut (0..count).collect(), &mut out);
    out
}

/// Entry numbers with their sequence kept, but the log written in this order.
fn check_all_orders(events: &[Event], orders: &[Vec<usize>]) -> Result<(), TestCaseError> {
    let mut expected = None;
    for order in orders {
        let written: Vec<Event> = order.iter().map(|number| events[*number].clone()).collect();
        let log = log_of(&written);
        let bed = play(&log, &(0..log.len()).collect::<Vec<_>>(), 2);
        follow_all(&bed, &log);
        let answer = [BEFORE, AFTER].map(|now_s| observe(&bed, events, now_s));
        prop_assert_eq!(
            expected.get_or_insert_with(|| answer.clone()),
            &answer,
            "order {:?}",
            order
        );

        // One rebuild at once, one when some events have expired before they are applied.
        let left = swept_log(&bed, &log);
        let rebuilt = Bed::new();
        follow_all(&rebuilt, &left);
        let again = [BEFORE, AFTER].map(|now_s| observe(&rebuilt, events, now_s));
        prop_assert_eq!(
            &again,
            &answer,
            "rebuilt from what is left of order {:?}",
            order
        );
        let late = Bed::new();
        for entry in &left {
            late.apply_at(entry, AFTER);
        }
        prop_assert_eq!(
            &observe(&late, events, AFTER),
            &answer[1],
            "rebuilt late from order {:?}",
            order
        );
    }
    Ok(())
}

#[test]
fn there_are_as_many_orders_as_there_should_be() {
    let mut all = orders(4);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 24);
}

#[test]
fn all_orders_of_replace_delete_expire_and_republish_end_the_same() {
    let all = operations();
    let plays: [&[usize]; 5] = [
        // Replace, replace with what expires, delete by id and by address, publish again.
        &[0, 1, 3, 6, 7, 1],
        // A deletion that itself expires.
        &[0, 9, 0, 8],
        // The same time, deleted by id, and a version that is expired from the start.
        &[1, 2, 4, 5],
        // A note that expires, its deletion, and a request to vanish.
        &[10, 11, 10, 15],
        // A wrap, its deletion, its recipient's request to vanish.
        &[12, 14, 16, 12],
    ];
    for picks in plays {
        let events: Vec<Event> = picks.iter().map(|pick| all[*pick].clone()).collect();
        check_all_orders(&events, &orders(events.len())).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn orders_of_any_operations_end_the_same(
        picked in subsequence((0..17).collect::<Vec<usize>>(), 2..=5),
        again in select((0..17).collect::<Vec<usize>>()),
        shuffles in prop::collection::vec(Just((0..6usize).collect::<Vec<_>>()).prop_shuffle(), 6),
    ) {
        let all = operations();
        let mut events: Vec<Event> = picked.iter().map(|pick| all[*pick].clone()).collect();
        events.push(events[again % events.len()].clone());
        let count = events.len();
        let orders: Vec<Vec<usize>> =
            shuffles.iter().map(|order| order.iter().copied().filter(|number| *number < count).collect()).collect();
        check_all_orders(&events, &orders)?;
    }

    #[test]
    fn duplicates_and_interleaved_sources_do_not_matter(
        picked in subsequence((0..17).collect::<Vec<usize>>(), 3..=8),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        sweep_every in 0usize..3,
    ) {
        let all = operations();
        let events: Vec<Event> = picked.iter().map(|pick| all[*pick].clone()).collect();
        let log = log_of(&events);
        let straight = Bed::new();
        follow_all(&straight, &log);
        let order: Vec<usize> = order.iter().map(|pick| pick.index(log.len())).collect();
        let messy = play(&log, &order, sweep_every);
        follow_all(&messy, &log);
        follow_all(&messy, &log);
        for now_s in [BEFORE, AFTER] {
            prop_assert_eq!(observe(&messy, &events, now_s), observe(&straight, &events, now_s));
        }
    }
}
