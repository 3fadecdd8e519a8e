//! The query engine against the plainest one, over made-up events and filters; and what a query is promised between its batches.

use super::*;
use crate::plain::made_up::{self, LATER, MadeUp};
use crate::plain::{Note, answer, may_read, rounds, stands};

const EVENTS: usize = 80;
/// Questions to one set of events.
const QUESTIONS: u64 = 200;

/// Who asks what and when, and how the answer is taken.
#[derive(Debug)]
struct Question {
    filters: Vec<Value>,
    readers: Vec<String>,
    now_s: u64,
    limits: BatchLimits,
}

impl Question {
    fn made_up(made_up: &mut MadeUp) -> Question {
        let slow = made_up.once_in(2);
        Question {
            filters: made_up.filters(),
            readers: made_up.readers(),
            now_s: made_up.one_of(&[made_up::NOW, LATER]),
            limits: BatchLimits {
                events: 1 + made_up.below(6),
                bytes: usize::MAX,
                time: Duration::from_secs(if slow { 1 } else { 0 }),
            },
        }
    }
}

/// An index and the plainest relay, both with the same events.
struct Pair {
    bed: Bed,
    /// What stands at [`made_up::NOW`], and [`LATER`].
    standing: [Vec<Note>; 2],
}

impl Pair {
    fn of(events: &[Value]) -> Pair {
        let bed = Bed::new();
        let parsed = events
            .iter()
            .map(|event| Event::parse(event.to_string().as_bytes()).unwrap());
        let entries: Vec<LogEntry> = parsed
            .zip(1..)
            .map(|(event, seq)| entry(&event, seq))
            .collect();
        bed.index.apply(&entries, &[], made_up::NOW - 100).unwrap();
        let notes: Vec<Note> = events.iter().map(Note::of).collect();
        let standing = [made_up::NOW, LATER].map(|now_s| {
            let standing = notes.iter().filter(|note| stands(note, &notes, now_s));
            standing.cloned().collect()
        });
        Pair { bed, standing }
    }

    /// In what the two differ.
    fn difference(&self, question: &Question) -> Option<String> {
        let Question {
            filters,
            readers,
            now_s,
            limits,
        } = question;
        let there = &self.standing[usize::from(*now_s == LATER)];
        let there: Vec<&Note> = there
            .iter()
            .filter(|note| may_read(note, readers))
            .collect();
        let expected = answer(&there, filters);
        let parsed: Vec<Filter> = filters.iter().map(filter).collect();
        let keys: Readers = readers
            .iter()
            .map(|key| crate::event::parse_hex(key).unwrap())
            .collect();
        let query = || self.bed.index.query(&parsed, &keys, *now_s).unwrap();

        let ids: Vec<String> = drain(&mut query(), limits)
            .iter()
            .map(hex::encode)
            .collect();
        if ids != expected {
            return Some(format!("a query gives {ids:#?}, not {expected:#?}"));
        }
        let counted = count(&mut query(), limits.time);
        if counted != expected.len() as u64 {
            return Some(format!("{counted} are counted, not {}", expected.len()));
        }
        let places = places(&mut query(), limits.time);
        if places != expected {
            return Some(format!(
                "a reconciliation has {places:#?}, not {expected:#?}"
            ));
        }
        let all: Vec<Value> = filters.iter().map(unlimited).collect();
        let is_whole = answer(&there, &all) == expected;
        let has_room = filters.iter().zip(&all).all(|(filter, all)| {
            let matching = answer(&there, std::slice::from_ref(all)).len() as u64;
            filter["limit"]
                .as_u64()
                .is_none_or(|limit| matching < limit)
        });
        let says = is_complete(&mut query());
        if (says && !is_whole) || (!says && has_room) {
            return Some(format!(
                "the answer says of itself that it is complete: {says}"
            ));
        }
        None
    }
}

fn unlimited(filter: &Value) -> Value {
    let mut filter = filter.clone();
    filter.as_object_mut().unwrap().remove("limit");
    filter
}

/// Whether the whole answer says of itself that nothing was left out.
fn is_complete(query: &mut Query) -> bool {
    loop {
        let batch = query.next_batch(&BatchLimits::default()).unwrap();
        if batch.done {
            return batch.complete;
        }
        assert!(!batch.complete);
    }
}

fn count(query: &mut Query, time: Duration) -> u64 {
    let mut events = 0;
    loop {
        let batch = query.count_batch(time).unwrap();
        events += batch.events;
        if batch.done {
            return events;
        }
    }
}

/// Ids of what a NEG-OPEN would reconcile.
fn places(query: &mut Query, time: Duration) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let batch = query.place_batch(time).unwrap();
        ids.extend(batch.places.iter().map(|(_, id)| hex::encode(id)));
        if batch.done {
            return ids;
        }
    }
}

fn check_queries(seed: u64) -> Result<u64, String> {
    let mut made_up = MadeUp::new(seed, EVENTS);
    let events = made_up.events();
    let pair = Pair::of(&events);
    for _ in 0..QUESTIONS {
        let question = Question::made_up(&mut made_up);
        if pair.difference(&question).is_some() {
            let fewest = rounds::fewest(&events, |fewer| {
                Pair::of(fewer).difference(&question).is_some()
            });
            let what = Pair::of(&fewest).difference(&question);
            let what = what.unwrap_or_default();
            return Err(format!("{what}\nasked {question:#?}\nof {fewest:#?}"));
        }
    }
    match pair.bed.index.stats().unwrap().door_violations {
        0 => Ok(QUESTIONS),
        violations => Err(format!("{violations} violations at the read door")),
    }
}

#[test]
fn queries_answer_as_the_plainest_relay_does() {
    rounds::compare(100, check_queries);
}

#[test]
fn a_query_survives_what_is_erased_and_added_between_batches() {
    let bed = Bed::new();
    for number in 1..=200 {
        bed.apply(&entry(&event(number, ALICE, number, 1, json!([])), number));
    }
    let mut query = bed
        .index
        .query(
            &[filter(&json!({"kinds": [1], "limit": 150}))],
            &Readers::anonymous(),
            NOW,
        )
        .unwrap();
    let limits = BatchLimits {
        events: 10,
        bytes: usize::MAX,
        time: Duration::from_secs(1),
    };
    let first = query.next_batch(&limits).unwrap();
    assert_eq!(first.events.len(), 10);
    assert_eq!(first.events[9].id, id(191));
    let targets: Vec<Value> = (181..=190)
        .map(|number| json!(["e", hex_id(number)]))
        .chain([json!(["k", "1"])])
        .collect();
    bed.apply(&entry(&event(900, ALICE, 900, 5, json!(targets)), 1));
    bed.apply(&entry(&event(901, ALICE, 901, 1, json!([])), 901));
    let rest = drain(&mut query, &limits);
    assert_eq!(rest.len(), 140);
    assert_eq!((rest[0], rest[139]), (id(180), id(41)));
}

#[test]
fn a_batch_stops_at_its_byte_limit_after_at_least_one_event() {
    let bed = Bed::new();
    for number in 1..=3 {
        bed.apply(&entry(&event(number, ALICE, number, 1, json!([])), number));
    }
    let mut query = bed
        .index
        .query(&[Filter::default()], &Readers::anonymous(), NOW)
        .unwrap();
    let limits = BatchLimits {
        events: 10,
        bytes: 1,
        time: Duration::from_secs(1),
    };
    for done in [false, false, false, true] {
        let batch = query.next_batch(&limits).unwrap();
        assert_eq!((batch.events.len(), batch.done), (usize::from(!done), done));
    }
}
