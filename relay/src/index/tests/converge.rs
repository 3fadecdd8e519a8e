//! Relays that were given the same entries answer the same as each other and as the plainest relay, in whatever order the entries
//! came, from whichever region, and however often.

use std::collections::HashMap;

use super::*;
use crate::plain::made_up::{self, LATER, MadeUp, PEOPLE};
use crate::plain::{Note, answer, may_read, rounds, stands};

const EVENTS: usize = 40;
const REGIONS: [&str; 3] = ["a", "b", "c"];
/// Questions of each set of readers at each time, the first of them for everything.
const QUESTIONS: usize = 7;

/// What happens to an index.
#[derive(Debug, Clone)]
enum Step {
    /// The publisher or a hint brings an entry.
    Bring(LogEntry),
    /// The pull consumer brings the next entry of a stream, and moves the position.
    Follow(LogEntry),
    /// What has expired is erased.
    Sweep,
}

impl Step {
    fn happen(&self, bed: &Bed, now_s: u64) {
        match self {
            Step::Bring(entry) => drop(bed.apply_at(entry, now_s)),
            Step::Follow(entry) => {
                let (stream, seq) = entry.at.clone().unwrap();
                let entry = std::slice::from_ref(entry);
                let applied = bed.index.apply(entry, &[Advance { stream, seq }], now_s);
                applied.unwrap();
            }
            Step::Sweep => drop(bed.index.sweep_expired(now_s, 1_000).unwrap()),
        }
    }

    /// Whether it has to do with one of these events, or with none.
    fn concerns(&self, events: &[Value]) -> bool {
        match self {
            Step::Bring(entry) | Step::Follow(entry) => {
                let Logged::Event(event) = &entry.content else {
                    return false;
                };
                let id = event.id_hex();
                events.iter().any(|event| event["id"] == id)
            }
            Step::Sweep => true,
        }
    }
}

/// What one round is made of.
struct Round {
    events: Vec<Value>,
    /// What happens to each relay.
    relays: [Vec<Step>; 3],
    /// Keys that authenticated, and what is asked with them.
    questions: Vec<(Vec<String>, Vec<Vec<Value>>)>,
}

impl Round {
    fn made_up(seed: u64) -> Round {
        let mut made_up = MadeUp::new(seed, EVENTS);
        let events = made_up.events();
        let log = log_of(&mut made_up, &events);
        let relays = [
            in_order_of_streams(&mut made_up, &log),
            in_disorder(&mut made_up, &log),
            backwards_and_twice(&log),
        ];
        let questions = (0..8).map(|set| {
            let readers = (0..3).filter(|person| (set >> person) & 1 == 1);
            let readers = readers.map(|person: usize| PEOPLE[person].to_owned());
            let mut asked = vec![vec![json!({})]];
            asked.resize_with(QUESTIONS, || made_up.filters());
            (readers.collect(), asked)
        });
        let questions = questions.collect();
        Round {
            events,
            relays,
            questions,
        }
    }

    /// In what the relays differ if there are these events only.
    fn difference(&self, events: &[Value]) -> Option<String> {
        let play = |steps: &[Step], now_s| {
            let bed = Bed::new();
            for step in steps.iter().filter(|step| step.concerns(events)) {
                step.happen(&bed, now_s);
            }
            bed
        };
        let mut beds: Vec<Bed> = self
            .relays
            .iter()
            .map(|steps| play(steps, made_up::NOW))
            .collect();
        if let Some(difference) = self.difference_at(made_up::NOW, &beds, events) {
            return Some(difference);
        }
        // One erases by then what has expired, and one comes so late that it never saw it.
        Step::Sweep.happen(&beds[1], LATER);
        beds.push(play(&self.relays[0], LATER));
        self.difference_at(LATER, &beds, events)
    }

    fn difference_at(&self, now_s: u64, beds: &[Bed], events: &[Value]) -> Option<String> {
        let notes: Vec<Note> = events.iter().map(Note::of).collect();
        let standing = notes.iter().filter(|note| stands(note, &notes, now_s));
        let standing: Vec<&Note> = standing.collect();
        for (readers, asked) in &self.questions {
            let there = standing.iter().filter(|note| may_read(note, readers));
            let there: Vec<&Note> = there.copied().collect();
            let keys: Vec<PublicKey> = readers
                .iter()
                .map(|key| crate::event::parse_hex(key).unwrap())
                .collect();
            for filters in asked {
                let expected = answer(&there, filters);
                for (relay, bed) in beds.iter().enumerate() {
                    let ids = bed.ids_at(filters, &keys, now_s);
                    let ids: Vec<String> = ids.iter().map(hex::encode).collect();
                    if ids != expected {
                        return Some(format!(
                            "relay {relay} answers {ids:#?} at {now_s}, not {expected:#?}\nto {filters:#?} of {readers:?}"
                        ));
                    }
                }
            }
        }
        for event in events {
            let event = Event::parse(event.to_string().as_bytes()).unwrap();
            if event.expiration().is_some_and(|time| time <= now_s) {
                continue; // answered at the door, whatever the index knows of it
            }
            let known = |bed: &Bed| bed.index.status_of(&event, now_s).unwrap();
            let first = known(&beds[0]);
            if let Some(relay) = beds.iter().position(|bed| known(bed) != first) {
                let other = known(&beds[relay]);
                let id = event.id_hex();
                return Some(format!(
                    "relay 0 knows {id} as {first:?} at {now_s}, relay {relay} as {other:?}"
                ));
            }
        }
        None
    }
}

/// Every event in the stream of some region, some in those of two.
fn log_of(made_up: &mut MadeUp, events: &[Value]) -> Vec<LogEntry> {
    let mut ends: HashMap<String, u64> = HashMap::new();
    let mut log = Vec::new();
    for event in events {
        let event = Arc::new(Event::parse(event.to_string().as_bytes()).unwrap());
        let class = if event.class() == Class::State {
            "ST"
        } else {
            "EV"
        };
        for _ in 0..if made_up.once_in(6) { 2 } else { 1 } {
            let name = format!("{class}_{}_1_0", made_up.one_of(&REGIONS));
            let seq = ends.entry(name.clone()).or_default();
            *seq += 1;
            log.push(LogEntry {
                content: event.clone().into(),
                at: Some((stream(&name), *seq)),
                log_time: LogTime::Nats(made_up::NOW * 1000),
            });
        }
    }
    log
}

/// The pull consumers alone: each stream in its order, whichever comes next.
fn in_order_of_streams(made_up: &mut MadeUp, log: &[LogEntry]) -> Vec<Step> {
    let mut streams: HashMap<StreamName, Vec<LogEntry>> = HashMap::new();
    for entry in log.iter().rev() {
        let (stream, _) = entry.at.clone().unwrap();
        streams.entry(stream).or_default().push(entry.clone());
    }
    let mut streams: Vec<(StreamName, Vec<LogEntry>)> = streams.into_iter().collect();
    streams.sort_by(|one, other| one.0.cmp(&other.0));
    let mut steps = Vec::new();
    while !streams.is_empty() {
        let next = made_up.below(streams.len());
        match streams[next].1.pop() {
            Some(entry) => steps.push(Step::Follow(entry)),
            None => drop(streams.remove(next)),
        }
    }
    steps
}

/// Publishers and hints first, without a position or with one, again and again; then what the pull consumers bring.
fn in_disorder(made_up: &mut MadeUp, log: &[LogEntry]) -> Vec<Step> {
    let mut steps = Vec::new();
    for number in made_up.order(log.len() * 2) {
        let mut entry = log[number % log.len()].clone();
        if made_up.once_in(2) {
            entry.at = None;
            entry.log_time = LogTime::Provisional(made_up::NOW * 1000);
        }
        if !made_up.once_in(3) {
            steps.push(Step::Bring(entry));
        }
        if made_up.once_in(10) {
            steps.push(Step::Sweep);
        }
    }
    steps.extend(in_order_of_streams(made_up, log));
    steps
}

/// The latest first, and all of it once more.
fn backwards_and_twice(log: &[LogEntry]) -> Vec<Step> {
    let backwards = log.iter().rev().cloned().map(Step::Bring);
    backwards.clone().chain(backwards).collect()
}

fn check_relays(seed: u64) -> Result<u64, String> {
    let round = Round::made_up(seed);
    if round.difference(&round.events).is_some() {
        let fewest = rounds::fewest(&round.events, |fewer| round.difference(fewer).is_some());
        let what = round.difference(&fewest).unwrap_or_default();
        let ids: Vec<&str> = fewest
            .iter()
            .filter_map(|event| event["id"].as_str())
            .collect();
        return Err(format!("{what}\nof {fewest:#?}\nby id: {ids:?}"));
    }
    let sets = round.questions.len() * QUESTIONS;
    Ok(sets as u64 * (3 + 4))
}

#[test]
fn relays_that_were_given_the_same_converge_to_the_same_answers() {
    rounds::compare(60, check_relays);
}
