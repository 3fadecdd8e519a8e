//! Two fleets that know nothing of each other come to hold the same (NIP-77), by a client of ours and for nostr-tools' own implementation.
//! Gift wraps are in their recipient's set and in nobody else's.
//!
//! Short by default; `cargo xtask test --long` has 100,000 notes and 10,000 gift wraps: as many as a relay reconciles at once, and more.

use std::collections::BTreeSet;
use std::time::Instant;

use nightjar_tests::event::{Person, Signed, now, wrap_at};
use nightjar_tests::fleet::Fleet;
use nightjar_tests::interop::{ForeignClient, Library};
use nightjar_tests::load::CONVERGE_LIMIT;
use nightjar_tests::mirror::{Found, Mirror, Windows, publish};
use nightjar_tests::report::measured;
use nightjar_tests::wait::until;
use nightjar_tests::wire::Wire;
use nightjar_tests::yaml;
use serde_json::{Value, json};

const WRAP: u64 = 1059;
const DAY: u64 = 86_400;

type Ids = BTreeSet<String>;

/// Notes of the last 30 days and gift wraps of the last two; three share a time.
fn events(notes: usize, wraps: usize, recipients: [&Person; 2]) -> Vec<Signed> {
    let author = Person::new();
    let time = |number: usize, of: usize, days: u64| {
        let (number, of) = (number as u64 / 3 * 3, of as u64);
        now() - days * DAY + number * days * DAY / of
    };
    let note =
        |number: usize| author.event(1, time(number, notes, 30), &[], &format!("note {number}"));
    let wrap = |number: usize| {
        let to = recipients[number % 2].pubkey();
        wrap_at(time(number, wraps, 2), &to, &format!("sealed {number}"))
    };
    (0..notes).map(note).chain((0..wraps).map(wrap)).collect()
}

/// The ids of those events that somebody may see: notes, and wraps for this person.
fn visible<'a>(events: impl IntoIterator<Item = &'a Signed>, to: Option<&Person>) -> Ids {
    let to = to.map(|person| json!([["p", person.pubkey()]]));
    let seen = events.into_iter().filter(|event| {
        let value = event.value();
        value["kind"] == 1 || to.as_ref() == Some(&value["tags"])
    });
    seen.map(|event| event.id.clone()).collect()
}

/// Small sets cost nothing worth a line.
fn tell_cost(of: &str, found: &Found) {
    if std::env::var_os("NIGHTJAR_LONG").is_some() {
        measured(&format!("{of}, reconciled: {}", found.cost()));
    }
}

/// All of these kinds that a relay gives to somebody who has nothing.
async fn given(relay: &str, to: Option<&Person>, kinds: &[u64]) -> Ids {
    let found = Mirror::new(to).reconcile(relay, kinds).await;
    let found = found.expect("an answer");
    tell_cost("an empty set", &found);
    found.need
}

/// Both relays come to hold the same of these kinds, by way of what somebody keeps who may read it.
async fn make_equal(relays: [&str; 2], person: &Person, kinds: &[u64]) {
    let mut mirror = Mirror::new(Some(person));
    for relay in [relays[0], relays[1], relays[0]] {
        let found = mirror.exchange(relay, kinds).await.expect("an exchange");
        tell_cost("a mirror", &found);
    }
    for relay in relays {
        until("nothing is missing", CONVERGE_LIMIT, async || {
            let found = mirror.reconcile(relay, kinds).await?;
            if found.have.is_empty() && found.need.is_empty() {
                Ok(())
            } else {
                Err(format!("{relay}: {}", found.cost()))
            }
        })
        .await;
    }
}

/// What nostr-tools finds out about all it may read here: what the relay lacks, and what it has beside.
fn ask_nostr_tools(foreign: &mut ForeignClient, events: &[&Signed]) -> (Ids, Ids) {
    let ids = |list: &Value| {
        let ids = list.as_array().expect("ids").iter();
        ids.map(|id| id.as_str().expect("an id").to_owned())
            .collect::<Vec<_>>()
    };
    let ours: Vec<(u64, Value)> = events
        .iter()
        .map(|event| {
            let created_at = event.value()["created_at"].as_u64().expect("a time");
            (created_at, json!([event.id, created_at]))
        })
        .collect();
    let (mut have, mut need) = (Ids::new(), Ids::new());
    let (mut opened, mut rounds) = (0, 0);
    let mut windows = Windows::all();
    let started = Instant::now();
    while let Some(window) = windows.take() {
        let filter = window.narrowed(&json!({"kinds": [1, WRAP]}));
        let ours: Vec<Value> = ours
            .iter()
            .filter(|(created_at, _)| window.holds(*created_at))
            .map(|(_, event)| event.clone())
            .collect();
        match foreign.sync(&filter, &ours) {
            Ok(found) => {
                have.extend(ids(&found["have"]));
                need.extend(ids(&found["need"]));
                opened += 1;
                rounds += found["rounds"].as_u64().unwrap_or_default();
            }
            Err(reason) => windows.halve(window, reason).expect("too big, and no more"),
        }
    }
    measured(&format!(
        "nostr-tools: {} missing there and {} here, in {opened} reconciliations of {rounds} rounds, {:.1} s",
        have.len(),
        need.len(),
        started.elapsed().as_secs_f64()
    ));
    (have, need)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_fleets_come_to_hold_the_same_and_wraps_stay_with_their_recipient() {
    let (notes, wraps) = match std::env::var_os("NIGHTJAR_LONG") {
        Some(_) => (100_000, 10_000),
        None => (2_000, 200),
    };
    let yaml = yaml::fleet(&["a"], 1);
    let (one, other) = tokio::join!(
        Fleet::start("reconciled-one", &yaml),
        Fleet::start("reconciled-other", &yaml)
    );
    let (one, other) = (one.relay("a"), other.relay("a"));
    let relays = [one.as_str(), other.as_str()];
    let (alice, bob) = (Person::new(), Person::new());
    let events = events(notes, wraps, [&alice, &bob]);
    // Each lacks a fifth, here and there among what both have.
    let part = |lacks: [usize; 2]| {
        let all = events.iter().enumerate();
        let there = all.filter(move |(number, _)| !lacks.contains(&(number % 10)));
        there.map(|(_, event)| event)
    };
    let parts: [Vec<&Signed>; 2] = [part([0, 1]).collect(), part([8, 9]).collect()];
    for (relay, part) in relays.into_iter().zip(&parts) {
        let mut wire = Wire::open_as(relay, &alice).await.expect("a connection");
        let published = publish(&mut wire, part.iter().copied()).await;
        published.expect("all are taken");
    }

    for (relay, part) in relays.into_iter().zip(&parts) {
        let notes = visible(part.iter().copied(), None);
        assert_eq!(given(relay, None, &[]).await, notes);
        let refused = Mirror::new(None).reconcile(relay, &[WRAP]).await;
        assert!(refused.is_err_and(|reason| reason.starts_with("auth-required: ")));
    }
    make_equal(relays, &alice, &[]).await;
    // What alice may not read did not move.
    for (relay, part) in relays.into_iter().zip(&parts) {
        let (all, notes) = (
            visible(part.iter().copied(), Some(&bob)),
            visible(part.iter().copied(), None),
        );
        let wraps: Ids = all.difference(&notes).cloned().collect();
        assert_eq!(given(relay, Some(&bob), &[WRAP]).await, wraps);
    }
    make_equal(relays, &bob, &[WRAP]).await;
    for person in [None, Some(&alice), Some(&bob)] {
        let expected = visible(&events, person);
        for relay in relays {
            assert_eq!(given(relay, person, &[]).await, expected);
        }
    }

    let test = "nostr-tools-reconciles";
    let start = |person| ForeignClient::start_as(person, Library::NostrTools, &one, test);
    let Some(mut stranger) = start(None) else {
        return;
    };
    let (have, need) = ask_nostr_tools(&mut stranger, &[]);
    assert_eq!((have, need), (Ids::new(), visible(&events, None)));
    let mut foreign = start(Some(&alice)).expect("it started before");
    let new = self::events(notes / 20, wraps / 20, [&alice, &alice]);
    let expected = visible(&events, Some(&alice));
    let (mut kept, mut unknown) = (Vec::new(), Ids::new());
    for (number, event) in events.iter().enumerate() {
        if !expected.contains(&event.id) {
            continue;
        }
        if number % 97 == 0 {
            unknown.insert(event.id.clone());
        } else {
            kept.push(event);
        }
    }
    kept.extend(&new);
    let (have, need) = ask_nostr_tools(&mut foreign, &kept);
    assert_eq!(have, visible(&new, Some(&alice)));
    assert_eq!(need, unknown);
}
