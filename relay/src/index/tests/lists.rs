//! The fleet's lists: what a ban hides and gives back, and that neither order nor repetition of calls matters.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::sample::{Index as Pick, select};

use super::commute::{follow_all, orders, play, swept_log};
use super::*;
use crate::management::call::{self, Call};
use crate::management::lists::{List, Target};
use crate::management::record::SignedChange;

/// A call with a chosen id and time: the index leaves checking signatures to its callers.
fn change(number: u64, at: u64, method: &str, param: Value) -> Arc<SignedChange> {
    let auth = event(number, CAROL, at, 27_235, json!([]));
    let body = json!({"method": method, "params": [param]}).to_string();
    let Ok(Call::Change(change)) = call::parse(body.as_bytes()).1 else {
        panic!("no change: {body}");
    };
    Arc::new(SignedChange::new(&auth, &body, change).unwrap())
}

fn logged(change: &Arc<SignedChange>, seq: u64) -> LogEntry {
    LogEntry {
        content: Logged::Change(change.clone()),
        at: Some((stream("ST_a_1_0"), seq)),
        log_time: LogTime::Provisional(NOW * 1000),
    }
}

fn call_entry(number: u64, at: u64, method: &str, param: Value) -> LogEntry {
    logged(&change(number, at, method, param), number)
}

fn key(key: PublicKey) -> Value {
    json!(hex::encode(key))
}

#[test]
fn a_banned_key_is_hidden_from_everyone_and_nothing_of_it_is_lost() {
    let bed = Bed::new();
    let (before, after) = (
        event(1, ALICE, 100, 1, json!([])),
        event(2, ALICE, 200, 1, json!([])),
    );
    bed.apply(&entry(&before, 1));
    bed.apply(&entry(&event(3, BOB, 150, 1, json!([])), 2));
    assert_eq!(
        bed.apply(&call_entry(50, NOW, "banpubkey", key(ALICE))),
        Applied::New
    );
    assert_eq!(bed.apply(&entry(&after, 3)), Applied::Banned);
    assert_eq!(bed.apply(&entry(&after, 3)), Applied::Duplicate);
    for readers in [&[][..], &[ALICE], &[BOB]] {
        for way in [
            json!({}),
            json!({"authors": [hex::encode(ALICE)]}),
            json!({"ids": [hex_id(1), hex_id(2)]}),
            json!({"kinds": [1]}),
        ] {
            let of_bob: Vec<EventId> = bed.ids(way.clone(), readers);
            let names_alice = way.get("authors").or(way.get("ids")).is_some();
            assert_eq!(of_bob.is_empty(), names_alice, "{way}");
            assert!(of_bob.iter().all(|found| *found == id(3)), "{way}");
        }
    }
    let live = event(4, ALICE, 300, 20_001, json!([]));
    assert!(bed.index.is_banned(&live).unwrap());
    let hint = event(5, ALICE, 300, 1, json!([]));
    assert_eq!(
        bed.index.check_hint(&hint, NOW * 1000, NOW).unwrap(),
        Applied::Banned
    );

    bed.apply(&call_entry(51, NOW + 1, "unbanpubkey", key(ALICE)));
    assert_eq!(bed.ids(json!({}), &[]), [id(2), id(3), id(1)]);
}

#[test]
fn a_banned_event_is_hidden_also_when_it_comes_later_and_whoever_may_read_it() {
    let bed = Bed::new();
    bed.apply(&call_entry(50, NOW, "banevent", json!(hex_id(1))));
    bed.apply(&call_entry(51, NOW, "banevent", json!(hex_id(2))));
    assert_eq!(
        bed.apply(&entry(&event(1, ALICE, 100, 1, json!([])), 1)),
        Applied::Banned
    );
    assert_eq!(bed.apply(&entry(&wrap(2, BOB, 100), 2)), Applied::Banned);
    bed.apply(&entry(&wrap(3, BOB, 100), 3));
    assert_eq!(bed.ids(json!({}), &[ALICE, BOB]), [id(3)]);
    bed.apply(&call_entry(52, NOW + 1, "unbanevent", json!(hex_id(2))));
    assert_eq!(bed.ids(json!({}), &[ALICE, BOB]), [id(2), id(3)]);
    assert_eq!(bed.index.stats().unwrap().door_violations, 0);
}

#[test]
fn a_banned_key_goes_on_reading_what_is_for_it_alone() {
    let bed = Bed::new();
    bed.apply(&call_entry(50, NOW, "banpubkey", key(BOB)));
    bed.apply(&entry(&wrap(1, BOB, 100), 1));
    bed.apply(&entry(
        &event(2, BOB, 10, 62, json!([["relay", "ALL_RELAYS"]])),
        2,
    ));
    bed.apply(&entry(&event(3, BOB, 20, 5, json!([["e", hex_id(9)]])), 3));
    assert_eq!(bed.ids(json!({}), &[BOB]).len(), 3);
    // A wrap that the banned key signed itself, for somebody else.
    let signed = event(4, BOB, 100, 1059, json!([["p", hex::encode(ALICE)]]));
    assert_eq!(bed.apply(&entry(&signed, 4)), Applied::Banned);
    assert!(bed.ids(json!({}), &[ALICE]).is_empty());
}

#[test]
fn a_call_that_comes_again_or_late_changes_nothing() {
    let bed = Bed::new();
    let ban = call_entry(50, NOW, "banpubkey", key(ALICE));
    assert_eq!(bed.apply(&ban), Applied::New);
    assert_eq!(bed.apply(&ban), Applied::Duplicate);
    assert_eq!(
        bed.apply(&call_entry(51, NOW + 5, "unbanpubkey", key(ALICE))),
        Applied::New
    );
    assert_eq!(bed.apply(&ban), Applied::Superseded);
    let late = call_entry(52, NOW + 4, "banpubkey", key(ALICE));
    assert_eq!(bed.apply(&late), Applied::Superseded);
    let lists = bed.index.lists().unwrap();
    assert!(lists.entries(List::BannedPubkeys).unwrap().is_empty());
    let stamp = lists.stamp(List::BannedPubkeys, &Target::Pubkey(ALICE));
    assert_eq!(stamp.unwrap().unwrap().id, id(51));
}

#[test]
fn to_allow_lifts_a_ban_and_to_unban_allows_nothing() {
    let bed = Bed::new();
    let on = |list| {
        let entries = bed.index.lists().unwrap().entries(list).unwrap();
        entries
            .into_iter()
            .map(|entry| entry.target)
            .collect::<Vec<_>>()
    };
    let alice = [Target::Pubkey(ALICE)];
    bed.apply(&call_entry(50, NOW, "banpubkey", key(ALICE)));
    assert_eq!(
        (on(List::BannedPubkeys), on(List::AllowedPubkeys)),
        (alice.to_vec(), vec![])
    );
    bed.apply(&call_entry(51, NOW + 1, "allowpubkey", key(ALICE)));
    assert_eq!(
        (on(List::BannedPubkeys), on(List::AllowedPubkeys)),
        (vec![], alice.to_vec())
    );
    bed.apply(&call_entry(52, NOW + 2, "unbanpubkey", key(ALICE)));
    assert_eq!(on(List::AllowedPubkeys), alice);
    bed.apply(&call_entry(53, NOW + 3, "unallowpubkey", key(ALICE)));
    assert_eq!(
        (on(List::BannedPubkeys), on(List::AllowedPubkeys)),
        (vec![], vec![])
    );
    bed.apply(&call_entry(54, NOW + 4, "allowkind", json!(7)));
    bed.apply(&call_entry(55, NOW + 5, "disallowkind", json!(7)));
    assert_eq!(
        (on(List::AllowedKinds), on(List::DisallowedKinds)),
        (vec![], vec![Target::Kind(7)])
    );
}

/// Events and calls that meet: few keys, ids, kinds and times.
fn item() -> impl Strategy<Value = Logged> {
    let people = || select(vec![ALICE, BOB]);
    let note = (0u64..4, people(), 0u64..4).prop_map(|(number, author, time)| {
        // The id belongs to one event.
        let number = number + 10 * u64::from(author[0]) + 1_000 * time;
        Logged::from(Arc::new(event(number, author, 100 + time, 1, json!([]))))
    });
    let list = (people(), 0u64..3).prop_map(|(author, time)| {
        let number = 5_000 + u64::from(author[0]) + 1_000 * time;
        Logged::from(Arc::new(event(
            number,
            author,
            100 + time,
            10_050,
            json!([]),
        )))
    });
    // An id belongs to one call too, and several calls have the same time.
    let by_key = (0..4u64, people(), 0..3u64).prop_map(|(method, who, time)| {
        let names = ["banpubkey", "unbanpubkey", "allowpubkey", "unallowpubkey"];
        let number = 10_000 + 1_000 * time + 4 * u64::from(who[0]) + method;
        Logged::Change(change(number, NOW + time, names[method as usize], key(who)))
    });
    let by_event = (0..2u64, people(), 0..3u64).prop_map(|(method, author, time)| {
        let number = 20_000 + 1_000 * time + 4 * u64::from(author[0]) + method;
        let target = json!(hex_id(10 * u64::from(author[0])));
        let name = ["banevent", "unbanevent"][method as usize];
        Logged::Change(change(number, NOW + time, name, target))
    });
    prop_oneof![3 => note, 1 => list, 4 => by_key, 2 => by_event]
}

fn log_of(items: &[Logged]) -> Vec<LogEntry> {
    let numbered = items.iter().enumerate();
    numbered
        .map(|(seq, item)| match item {
            Logged::Event(event) => entry(event, seq as u64 + 1),
            Logged::Change(change) => logged(change, seq as u64 + 1),
        })
        .collect()
}

type Answers = (Vec<EventId>, Vec<Vec<Target>>);

fn observe(bed: &Bed) -> Answers {
    let lists = bed.index.lists().unwrap();
    let entries = List::ALL.map(|list| {
        let entries = lists.entries(list).unwrap();
        entries.into_iter().map(|entry| entry.target).collect()
    });
    (bed.ids(json!({}), &[]), entries.to_vec())
}

/// What should be seen, straight from the wording: of every entry the call with the greatest stamp counts.
fn naive(items: &[Logged]) -> Answers {
    let mut registers = HashMap::new();
    for item in items {
        let Logged::Change(signed) = item else {
            continue;
        };
        for (list, is_on) in signed.change.moves {
            let place = registers.entry((*list, signed.change.target));
            let winner = place.or_insert((signed.stamp, *is_on));
            if signed.stamp.beats(&winner.0) {
                *winner = (signed.stamp, *is_on);
            }
        }
    }
    let is_on = |list, target| {
        registers
            .get(&(list, target))
            .is_some_and(|register| register.1)
    };
    let events: Vec<&Arc<Event>> = items
        .iter()
        .filter_map(|item| match item {
            Logged::Event(event) => Some(event),
            Logged::Change(_) => None,
        })
        .collect();
    let is_newest = |event: &Event| {
        let newer = |other: &&Arc<Event>| other.created_at > event.created_at;
        let same = |other: &&Arc<Event>| other.coordinate() == event.coordinate();
        event.coordinate().is_none() || !events.iter().any(|other| same(other) && newer(other))
    };
    let mut visible: Vec<&Arc<Event>> = events
        .iter()
        .copied()
        .filter(|event| {
            is_newest(event)
                && !is_on(List::BannedEvents, Target::Event(event.id))
                && !is_on(List::BannedPubkeys, Target::Pubkey(event.pubkey))
        })
        .collect();
    visible.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
    visible.dedup_by_key(|event| event.id);
    let entries = List::ALL.map(|list| {
        let mut on: Vec<Target> = registers
            .iter()
            .filter(|(place, register)| place.0 == list && register.1)
            .map(|(place, _)| place.1)
            .collect();
        on.sort_by_key(|target| match target {
            Target::Pubkey(id) | Target::Event(id) => *id,
            Target::Kind(_) => [0; 32],
        });
        on
    });
    (
        visible.iter().map(|event| event.id).collect(),
        entries.to_vec(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn events_and_calls_end_the_same_in_any_order_and_as_the_rules_say(
        items in prop::collection::vec(item(), 2..12),
        shuffles in prop::collection::vec(Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(), 3),
        again in prop::collection::vec(any::<Pick>(), 0..6),
        sweep_every in 0usize..3,
    ) {
        let expected = naive(&items);
        for shuffle in shuffles {
            let mut order: Vec<usize> = shuffle.into_iter().filter(|number| *number < items.len()).collect();
            let repeats: Vec<usize> = again.iter().map(|pick| order[pick.index(order.len())]).collect();
            order.extend(repeats);
            let written: Vec<Logged> = order.iter().map(|number| items[*number].clone()).collect();
            let log = log_of(&written);
            let bed = play(&log, &(0..log.len()).collect::<Vec<_>>(), sweep_every);
            prop_assert_eq!(observe(&bed), expected.clone(), "{:?}", order);
            follow_all(&bed, &log);
            let rebuilt = Bed::new();
            follow_all(&rebuilt, &swept_log(&bed, &log));
            prop_assert_eq!(observe(&rebuilt), expected.clone(), "rebuilt from {:?}", order);
        }
    }
}

#[test]
fn all_orders_of_ban_allow_and_unban_end_the_same() {
    let items = [
        Logged::from(Arc::new(event(1, ALICE, 100, 1, json!([])))),
        Logged::Change(change(50, NOW, "banpubkey", key(ALICE))),
        Logged::Change(change(51, NOW, "unbanpubkey", key(ALICE))),
        Logged::Change(change(52, NOW + 1, "allowpubkey", key(ALICE))),
        Logged::Change(change(53, NOW + 2, "banpubkey", key(ALICE))),
        Logged::Change(change(54, NOW + 3, "unbanpubkey", key(ALICE))),
    ];
    let expected = naive(&items);
    assert_eq!(expected.0, [id(1)]);
    for order in orders(items.len()) {
        let written: Vec<Logged> = order.iter().map(|number| items[*number].clone()).collect();
        let bed = Bed::new();
        let advances = [];
        bed.index.apply(&log_of(&written), &advances, NOW).unwrap();
        assert_eq!(observe(&bed), expected, "{order:?}");
    }
}
