//! A page from the filters' own rows: the same as one over all arrivals, at the price of what may match.

use std::collections::{BTreeMap, BTreeSet};

use super::arrivals::{Page, STREAMS, WAYS, log_entry, take_page};
use super::*;
use crate::index::gather::Budget;
use crate::plain::made_up::{self, LATER, MadeUp};
use crate::plain::{Note, matches, may_read, rounds, stands};

const EVENTS: usize = 40;
/// Questions to one log.
const QUESTIONS: u64 = 200;

/// An index that followed a log, and knows a little more.
struct Log {
    bed: Bed,
    /// What stands at [`made_up::NOW`], and [`LATER`].
    standing: [Vec<Note>; 2],
    /// Where each event is, by its id: number of the stream, and sequence.
    places: BTreeMap<String, Vec<(usize, u64)>>,
}

impl Log {
    fn made_up(made_up: &mut MadeUp) -> Log {
        let values = made_up.events();
        let events: Vec<Event> = values
            .iter()
            .map(|event| Event::parse(event.to_string().as_bytes()).unwrap())
            .collect();
        let notes: Vec<Note> = values.iter().map(Note::of).collect();
        let standing = [made_up::NOW, LATER].map(|now_s| {
            let standing = notes.iter().filter(|note| stands(note, &notes, now_s));
            standing.cloned().collect()
        });
        let (bed, mut places) = (Bed::new(), BTreeMap::<_, Vec<_>>::new());
        let mut seqs = [0; STREAMS.len()];
        let (mut entries, mut ahead) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            for number in made_up.order(events.len()) {
                let (event, on) = (&events[number], made_up.below(STREAMS.len()));
                let id = hex::encode(event.id);
                if places.contains_key(&id) && !made_up.once_in(3) {
                    continue;
                }
                // What is ahead at two positions comes twice: the subscription leaves it out.
                let is_ahead = ahead.iter().any(|(_, other, _)| *other == id);
                if !is_ahead && made_up.once_in(12) {
                    ahead.push((event, id, made_up.once_in(2).then_some(on)));
                    continue;
                }
                seqs[on] += 1 + made_up.below(2) as u64;
                entries.push(log_entry(event, STREAMS[on], seqs[on]));
                places.entry(id).or_default().push((on, seqs[on]));
            }
        }
        let advances: Vec<Advance> = (0..STREAMS.len())
            .map(|on| Advance {
                stream: stream(STREAMS[on]),
                seq: seqs[on],
            })
            .collect();
        let begun = made_up::NOW - 100;
        bed.index.apply(&entries, &advances, begun).unwrap();
        for (event, id, on) in ahead {
            let mut entry = log_entry(event, STREAMS[0], 1);
            entry.at = on.map(|on| {
                seqs[on] += 2;
                (stream(STREAMS[on]), seqs[on])
            });
            let at = places.entry(id).or_default();
            at.extend(on.map(|on| (on, seqs[on])));
            bed.index.apply(&[entry], &[], begun).unwrap();
        }
        Log {
            bed,
            standing,
            places,
        }
    }

    /// In what the ways to an answer differ.
    fn difference(&self, question: &Question) -> Option<String> {
        let [walked, gathered] = [|_| 0, question.way].map(|way| self.pages(question, way));
        if question.most_looked_at == u64::MAX && gathered != walked {
            return Some(format!("{gathered:#?}, not {walked:#?}"));
        }
        let [walked, gathered] = [walked, gathered].map(joined);
        if gathered != walked {
            return Some(format!("{gathered:#?}, not {walked:#?}"));
        }
        let (ids, complete, _) = gathered;
        let expected = self.expected(question);
        let all: BTreeSet<String> = ids.iter().map(hex::encode).collect();
        if all.len() != ids.len() || (complete && all != expected) || !all.is_subset(&expected) {
            return Some(format!("{complete} {ids:?}, not {expected:?}"));
        }
        None
    }

    /// All pages, or those before one that does not go on: its limit is 0.
    fn pages(&self, question: &Question, way: Budget) -> Vec<Page> {
        let filters: Vec<Filter> = question.filters.iter().map(filter).collect();
        let keys = question.readers.iter();
        let readers = keys
            .map(|key| crate::event::parse_hex(key).unwrap())
            .collect();
        let index = &self.bed.index;
        let mut after: PositionVector = question
            .after
            .iter()
            .enumerate()
            .map(|(on, seq)| (stream(STREAMS[on]), *seq))
            .collect();
        let mut pages = Vec::new();
        loop {
            let (begin, most) = (after.clone(), question.most_looked_at);
            let clock = index.clock(question.now_s);
            let query = ArrivalQuery::new(index, &filters, &readers, begin, most, clock, way);
            let page = take_page(&mut query.unwrap(), &question.limits);
            let (_, complete, position) = &page;
            assert!(position.covers(&after), "a cursor does not go back");
            let is_last = *complete || *position == after;
            after = position.clone();
            pages.push(page);
            if is_last {
                return pages;
            }
        }
    }

    fn expected(&self, question: &Question) -> BTreeSet<String> {
        let came_before = |id: &String| {
            let mut places = self.places[id].iter();
            places.any(|(on, seq)| *seq <= question.after[*on])
        };
        let there = &self.standing[usize::from(question.now_s == LATER)];
        let notes = there.iter().filter(|note| {
            may_read(note, &question.readers)
                && question.filters.iter().any(|filter| matches(filter, note))
                && !came_before(&note.id)
        });
        notes.map(|note| note.id.clone()).collect()
    }
}

/// Who asks what and when, after what, and how the answer is taken.
#[derive(Debug)]
struct Question {
    filters: Vec<Value>,
    readers: Vec<String>,
    after: [u64; STREAMS.len()],
    most_looked_at: u64,
    way: Budget,
    now_s: u64,
    limits: BatchLimits,
}

impl Question {
    fn made_up(made_up: &mut MadeUp) -> Question {
        let slow = made_up.once_in(4);
        Question {
            filters: made_up.filters(),
            readers: made_up.readers(),
            after: [(); STREAMS.len()].map(|()| made_up.one_of(&[0, 0, 3, 9, 50])),
            most_looked_at: made_up.one_of(&[u64::MAX, u64::MAX, u64::MAX, 0, 1, 7]),
            // With few steps some keyspaces are walked, and some are not.
            way: made_up.one_of::<Budget>(&[|_| usize::MAX, |_| usize::MAX, |_| 60]),
            now_s: made_up.one_of(&[made_up::NOW, LATER]),
            limits: BatchLimits {
                events: 1 + made_up.below(6),
                bytes: usize::MAX,
                time: Duration::from_secs(if slow { 0 } else { 1 }),
            },
        }
    }
}

/// What a client that asks until the end has.
fn joined(pages: Vec<Page>) -> Page {
    let (_, complete, position) = pages.last().unwrap().clone();
    let ids = pages.into_iter().flat_map(|(ids, _, _)| ids).collect();
    (ids, complete, position)
}

fn check_pages(seed: u64) -> Result<u64, String> {
    let mut made_up = MadeUp::new(seed, EVENTS);
    let log = Log::made_up(&mut made_up);
    for _ in 0..QUESTIONS {
        let question = Question::made_up(&mut made_up);
        if let Some(difference) = log.difference(&question) {
            return Err(format!("{difference}\nasked {question:#?}"));
        }
    }
    match log.bed.index.stats().unwrap().door_violations {
        0 => Ok(QUESTIONS),
        violations => Err(format!("{violations} violations at the read door")),
    }
}

#[test]
fn pages_do_not_depend_on_the_way_to_them() {
    rounds::compare(100, check_pages);
}

/// 3,000 notes of Alice and wraps to Carol, and among them, at 1,000 and 2,000, something of Bob's and the only early wraps.
fn crowded() -> Bed {
    let bed = Bed::new();
    let mut entries = Vec::new();
    for number in 1..=3_000 {
        let (public, private) = if number % 1_000 == 0 && number < 3_000 {
            let note = event(number, BOB, number, 7, json!([["t", "rare"]]));
            (note, wrap(10_000 + number, CAROL, number))
        } else {
            let note = event(number, ALICE, number, 1, json!([["t", "often"]]));
            (note, wrap(10_000 + number, CAROL, NOW))
        };
        entries.push(log_entry(&public, STREAMS[0], number));
        entries.push(log_entry(&private, STREAMS[1], number));
    }
    let advances = [STREAMS[0], STREAMS[1]].map(|name| Advance {
        stream: stream(name),
        seq: 3_000,
    });
    bed.index.apply(&entries, &advances, NOW).unwrap();
    bed
}

/// A page after `seq` in all streams that looks at 100 arrivals at most, and at how many it looked.
fn looked_at(bed: &Bed, asked: &Value, readers: &[PublicKey], seq: u64) -> (Vec<EventId>, u64) {
    let after = STREAMS.map(|name| (stream(name), seq)).into_iter();
    let readers = readers.iter().copied().collect();
    let mut query = bed
        .index
        .query_arrivals(&[filter(asked)], &readers, after.collect(), 100, NOW)
        .unwrap();
    let (ids, complete, _) = take_page(&mut query, &BatchLimits::default());
    assert!(complete || query.looked_at() == 100, "{asked}");
    (ids, query.looked_at())
}

#[test]
fn a_selective_page_does_not_pay_for_what_arrived_for_others() {
    let bed = crowded();
    let both = vec![id(1_000), id(2_000)];
    for asked in [
        json!({"authors": [hex::encode(BOB)]}),
        json!({"authors": [hex::encode(BOB), hex::encode(CAROL)], "kinds": [1, 7]}),
        json!({"kinds": [7]}),
        json!({"#t": ["rare", "never"]}),
        json!({"ids": [hex_id(1_000), hex_id(2_000), hex_id(9_999)]}),
    ] {
        assert_eq!(
            looked_at(&bed, &asked, &[], 0),
            (both.clone(), 2),
            "{asked}"
        );
        let later = (vec![id(2_000)], 1);
        assert_eq!(looked_at(&bed, &asked, &[], 1_500), later, "{asked}");
        assert_eq!(looked_at(&bed, &asked, &[], 2_500), (vec![], 0), "{asked}");
    }
    let late = json!({"kinds": [1], "since": 2_999});
    assert_eq!(
        looked_at(&bed, &late, &[], 0),
        (vec![id(2_999), id(3_000)], 2)
    );
    let nothing = json!({"authors": [hex::encode(CAROL)]});
    assert_eq!(looked_at(&bed, &nothing, &[], 0), (vec![], 0));
    let early = json!({"kinds": [1059], "until": 5_000});
    let wraps = vec![id(11_000), id(12_000)];
    assert_eq!(looked_at(&bed, &early, &[BOB, CAROL], 0), (wraps, 2));
}

#[test]
fn a_page_of_much_walks_over_all_arrivals() {
    let bed = crowded();
    for asked in [json!({}), json!({"kinds": [1]}), json!({"#t": ["often"]})] {
        let (ids, looked_at) = looked_at(&bed, &asked, &[], 0);
        assert_eq!((ids.len(), looked_at), (100, 100), "{asked}");
    }
    let bob = json!({"authors": [hex::encode(BOB)]});
    let (ids, looked_at) = looked_at(&bed, &bob, &[], 2_950);
    assert_eq!((ids, looked_at), (vec![], 50), "few arrivals need no plan");
}

#[test]
fn what_is_erased_and_comes_again_while_a_page_is_taken_comes_once() {
    const LATE: u64 = NOW + 100 * DAY;
    for way in WAYS {
        let bed = Bed::new();
        for number in 1..=3 {
            let note = event(number, ALICE, number, 1, json!([]));
            bed.follow(&log_entry(&note, STREAMS[0], number));
        }
        let (filters, readers) = ([Filter::default()], Readers::anonymous());
        let (start, clock) = (PositionVector::new(), bed.index.clock(NOW));
        let query = ArrivalQuery::new(&bed.index, &filters, &readers, start, u64::MAX, clock, way);
        let mut query = query.unwrap();
        let one = BatchLimits {
            events: 1,
            ..BatchLimits::default()
        };
        assert_eq!(query.next_batch(&one).unwrap().events[0].id, id(1));
        assert_eq!(bed.index.sweep_expired(LATE, 9).unwrap(), 3);
        let mut again = log_entry(&event(2, ALICE, 2, 1, json!([])), STREAMS[0], 4);
        again.log_time = LogTime::Nats(LATE * 1000);
        bed.apply_at(&again, LATE);
        let (ids, complete, position) = take_page(&mut query, &one);
        assert_eq!((ids, complete), (vec![id(2)], true));
        assert_eq!(position.get(&stream(STREAMS[0])), 3);
    }
}
