//! The query engine against a slow and simple one, over random events and filters with few values, so that they meet.

use proptest::prelude::*;
use proptest::sample::{Index as Pick, select, subsequence};

use super::*;
use crate::visibility::may_read;

const AUTHORS: [PublicKey; 3] = [ALICE, BOB, CAROL];
const KINDS: [u16; 6] = [0, 1, 5, 1059, 30_000, 62];
const EVENTS: usize = 120;

fn random_event(number: u64) -> impl Strategy<Value = Event> {
    let recipient = select(&AUTHORS[..]);
    let tags = prop::collection::vec(
        (
            select(&["t", "T", "d", "x"][..]),
            select(&["a", "b", ""][..]),
        ),
        0..3,
    );
    let fields = (
        select(&AUTHORS[..]),
        0u64..12,
        select(&KINDS[..]),
        recipient,
        tags,
        prop::bool::weighted(0.1),
    );
    fields.prop_map(move |(author, time, kind, recipient, tags, expires)| {
        let mut all: Vec<Value> = tags
            .iter()
            .map(|(name, value)| json!([name, value]))
            .collect();
        match kind {
            5 => all.push(json!(["k", if time % 2 == 0 { "1" } else { "1059" }])),
            1 | 1059 => all.push(json!(["p", hex::encode(recipient)])),
            _ => {}
        }
        if expires {
            all.push(json!(["expiration", (NOW + time - 6).to_string()]));
        }
        // Vanishing at time 0 hides little, so that enough is left to find.
        let time = if kind == 62 { 0 } else { time };
        event(number, author, time, kind, json!(all))
    })
}

fn maybe<T: std::fmt::Debug + Clone + 'static>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.3, value)
}

fn random_filter() -> impl Strategy<Value = Value> {
    let authors = subsequence(AUTHORS.to_vec(), 0..=3)
        .prop_map(|keys| json!(keys.iter().map(hex::encode).collect::<Vec<_>>()));
    let kinds = subsequence(KINDS.to_vec(), 0..=4).prop_map(|kinds| json!(kinds));
    let ids = prop::collection::vec(any::<Pick>(), 0..6).prop_map(|picks| {
        json!(
            picks
                .iter()
                .map(|pick| hex_id(pick.index(EVENTS) as u64))
                .collect::<Vec<_>>()
        )
    });
    let values = || subsequence(vec!["a", "b", "", "c"], 0..=3).prop_map(|values| json!(values));
    let people = subsequence(AUTHORS.to_vec(), 1..=2)
        .prop_map(|keys| json!(keys.iter().map(hex::encode).collect::<Vec<_>>()));
    let fields = (
        prop::option::weighted(0.1, ids),
        maybe(authors),
        maybe(kinds),
        maybe(values()),
        maybe(values()),
        prop::option::weighted(0.2, people),
        maybe(0u64..12),
        maybe(0u64..12),
        maybe(0u64..20),
    );
    fields.prop_map(|(ids, authors, kinds, t, d, p, since, until, limit)| {
        let mut filter = json!({});
        let lists = [
            ("ids", ids),
            ("authors", authors),
            ("kinds", kinds),
            ("#t", t),
            ("#d", d),
            ("#p", p),
        ];
        for (name, value) in lists {
            if let Some(value) = value {
                filter[name] = value;
            }
        }
        for (name, value) in [("since", since), ("until", until), ("limit", limit)] {
            if let Some(value) = value {
                filter[name] = json!(value);
            }
        }
        filter
    })
}

/// What the index should answer: every filter alone, then all of them together.
fn naive(stored: &[Event], filters: &[Filter], readers: &Readers, now_s: u64) -> Vec<EventId> {
    let mut visible: Vec<&Event> = stored
        .iter()
        .filter(|event| {
            may_read(event, readers).is_some() && event.expiration().is_none_or(|time| time > now_s)
        })
        .collect();
    visible.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
    let mut wanted: Vec<&Event> = Vec::new();
    for filter in filters {
        let matching = visible.iter().filter(|event| filter.matches(event));
        wanted.extend(matching.take(filter.limit.unwrap_or(usize::MAX)));
    }
    wanted.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
    wanted.dedup_by_key(|event| event.id);
    wanted.iter().map(|event| event.id).collect()
}

/// The visible set by the rules, straight from their wording.
fn survivors(events: &[Event], now_s: u64) -> Vec<Event> {
    let beats = |one: &Event, other: &Event| {
        one.created_at > other.created_at
            || (one.created_at == other.created_at && one.id < other.id)
    };
    let is_hidden = |event: &Event| {
        let superseded = event.coordinate().is_some()
            && events
                .iter()
                .any(|other| other.coordinate() == event.coordinate() && beats(other, event));
        let vanished = event.kind != 62
            && events.iter().any(|other| {
                let concerns = other.pubkey == event.pubkey
                    || (event.kind == 1059 && event.recipients().any(|key| key == other.pubkey));
                other.kind == 62 && concerns && other.created_at >= event.created_at
            });
        superseded || vanished || event.expiration().is_some_and(|time| time <= now_s)
    };
    events
        .iter()
        .filter(|event| !is_hidden(event))
        .cloned()
        .collect()
}

fn unlimited(filter: &Filter) -> Filter {
    Filter {
        limit: None,
        ..filter.clone()
    }
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn queries_answer_as_a_naive_engine_does(
        events in (0..EVENTS as u64).map(random_event).collect::<Vec<_>>(),
        questions in prop::collection::vec(
            (prop::collection::vec(random_filter(), 1..4), subsequence(AUTHORS.to_vec(), 0..=2), 1usize..6, any::<bool>()),
            100,
        ),
    ) {
        let bed = Bed::new();
        let entries: Vec<LogEntry> = events.iter().enumerate().map(|(seq, event)| entry(event, seq as u64 + 1)).collect();
        bed.index.apply(&entries, &[], NOW - 100).unwrap();
        let stored = survivors(&events, NOW - 100);
        for (filters, readers, per_batch, hurried) in questions {
            let filters: Vec<Filter> = filters.iter().map(filter).collect();
            let readers: Readers = readers.into_iter().collect();
            let time = if hurried { Duration::ZERO } else { Duration::from_secs(1) };
            let limits = BatchLimits { events: per_batch, bytes: usize::MAX, time };
            let mut query = bed.index.query(&filters, &readers, NOW).unwrap();
            let expected = naive(&stored, &filters, &readers, NOW);
            prop_assert_eq!(&drain(&mut query, &limits), &expected, "{:?} {:?}", filters, readers);
            let everything = naive(&stored, &filters.iter().map(unlimited).collect::<Vec<_>>(), &readers, NOW);
            let has_room = filters.iter().all(|filter| {
                naive(&stored, &[unlimited(filter)], &readers, NOW).len() < filter.limit.unwrap_or(usize::MAX)
            });
            let complete = is_complete(&mut bed.index.query(&filters, &readers, NOW).unwrap());
            prop_assert!(!complete || everything == expected, "{:?} {:?}", filters, readers);
            prop_assert!(complete || !has_room, "{:?} {:?}", filters, readers);
            let mut query = bed.index.query(&filters, &readers, NOW).unwrap();
            prop_assert_eq!(count(&mut query, time), expected.len() as u64, "{:?} {:?}", filters, readers);
        }
        prop_assert_eq!(bed.index.stats().unwrap().door_violations, 0);
    }
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
