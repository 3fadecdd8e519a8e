//! Live delivery without sockets: once per subscription, whatever the sources and their order.

mod differential;

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::json;

use super::*;
use crate::index::{Batch, Found};
use crate::session::outbox::{Frame, Next};
use crate::visibility::Readers;

fn event(number: u8, author: u8, kind: u16, topic: &str) -> Arc<Event> {
    let json = json!({
        "id": hex::encode([number; 32]), "pubkey": hex::encode([author; 32]), "created_at": 1_700_000_000,
        "kind": kind, "tags": [["t", topic]], "content": "", "sig": "00".repeat(64),
    });
    Arc::new(Event::parse(json.to_string().as_bytes()).expect("an event"))
}

fn filter(json: &serde_json::Value) -> Filter {
    Filter::from_json(json.to_string().as_bytes()).expect("a filter")
}

struct Reader {
    open: OpenSubscription,
    outbox: Outbox,
}

impl Reader {
    fn open(live: &Live, filters: Vec<Filter>) -> Self {
        let outbox = Outbox::new(1 << 20, Arc::new(Metrics::new()));
        let readers = Arc::new(ArcSwap::from_pointee(Readers::anonymous()));
        Self {
            open: live.open("s", filters, readers, outbox.clone(), None),
            outbox,
        }
    }

    /// Ids of the events queued so far, by their first byte.
    async fn take(&self) -> Vec<u8> {
        self.outbox.push_ping();
        let Next::Frames(frames) = self.outbox.next(usize::MAX).await else {
            panic!("an end")
        };
        frames
            .iter()
            .filter_map(|frame| match frame {
                Frame::Event { json, .. } => Some(Event::parse(json).expect("an event").id[0]),
                _ => None,
            })
            .collect()
    }
}

/// The last batch of a stored read.
fn last(events: Vec<Found>) -> Batch {
    Batch {
        events,
        done: true,
        complete: true,
    }
}

fn live() -> Live {
    Live::new(Arc::new(Metrics::new()))
}

#[tokio::test]
async fn an_event_from_three_sources_is_sent_once_to_who_had_it_and_once_to_who_came_between() {
    let live = live();
    let early = Reader::open(&live, vec![filter(&json!({}))]);
    let note = event(1, 1, 1, "x");
    live.deliver(&note, Source::Hint);
    let between = Reader::open(&live, vec![filter(&json!({"kinds": [1]}))]);
    live.deliver(&note, Source::Consumer);
    live.deliver(&note, Source::Publisher);
    assert_eq!(early.take().await, [1]);
    assert_eq!(between.take().await, [1]);
}

#[tokio::test]
async fn a_subscription_with_several_matching_filters_gets_an_event_once() {
    let live = live();
    let filters = [
        json!({"kinds": [1]}),
        json!({"authors": [hex::encode([1; 32])]}),
        json!({"#t": ["x", "y"]}),
        json!({}),
    ];
    let reader = Reader::open(&live, filters.iter().map(filter).collect());
    live.deliver(&event(1, 1, 1, "x"), Source::Publisher);
    assert_eq!(reader.take().await, [1]);
}

#[tokio::test]
async fn what_was_sent_live_is_left_out_of_the_stored_read_and_the_other_way_round() {
    let live = live();
    let reader = Reader::open(&live, vec![filter(&json!({}))]);
    let (one, two) = (event(1, 1, 1, "x"), event(2, 1, 1, "x"));
    live.deliver(&one, Source::Publisher);
    let stored = [&one, &two].map(|event| Found {
        id: event.id,
        json: event.json().clone(),
    });
    let stored = last(stored.to_vec());
    assert_eq!(
        reader.open.subscription().send_stored(&stored, None),
        Some(1)
    );
    live.deliver(&two, Source::Consumer);
    assert_eq!(reader.take().await, [1, 2]);
    live.deliver(&event(3, 1, 1, "x"), Source::Consumer);
    assert_eq!(reader.take().await, [3]);
}

#[tokio::test]
async fn nothing_is_sent_after_the_end() {
    let live = live();
    let Reader { open, outbox } = Reader::open(&live, vec![filter(&json!({}))]);
    let subscription = open.subscription().clone();
    drop(open);
    assert_eq!(subscription.send_stored(&last(vec![]), None), None);
    live.deliver(&event(1, 1, 1, "x"), Source::Publisher);
    outbox.end(crate::metrics::Close::drain);
    assert!(matches!(outbox.next(1).await, Next::End(_)));
    assert_eq!(live.index_entries(), 0);
}

/// Two deliveries at a time meet at the same subscription, each by many of its filters.
#[tokio::test]
async fn deliveries_at_the_same_time_send_an_event_once() {
    const EACH: usize = 1_000;
    let live = live();
    let topics: Vec<String> = (0..50).map(|topic| topic.to_string()).collect();
    let filters = topics
        .iter()
        .map(|topic| filter(&json!({"#t": [topic]})))
        .collect();
    let outbox = Outbox::new(1 << 30, Arc::new(Metrics::new()));
    let readers = Arc::new(ArcSwap::from_pointee(Readers::anonymous()));
    let open = live.open("s", filters, readers, outbox.clone(), None);
    open.subscription().send_stored(&last(vec![]), None);
    let tags: Vec<[&str; 2]> = topics.iter().map(|topic| ["t", topic]).collect();
    let events = |thread: u16| -> Vec<Arc<Event>> {
        (0..EACH)
            .map(|number| {
                let json = json!({
                    "id": format!("{thread:04x}{number:04x}").repeat(8), "pubkey": "01".repeat(32), "created_at": 1,
                    "kind": 1, "tags": tags, "content": "", "sig": "00".repeat(64),
                });
                Arc::new(Event::parse(json.to_string().as_bytes()).expect("an event"))
            })
            .collect()
    };
    let (ours, theirs) = (events(0), events(1));
    let together = std::sync::Barrier::new(2);
    let deliver = |events: &[Arc<Event>]| {
        together.wait();
        events
            .iter()
            .for_each(|event| live.deliver(event, Source::Consumer));
    };
    std::thread::scope(|scope| {
        scope.spawn(|| deliver(&ours));
        scope.spawn(|| deliver(&theirs));
    });
    let Next::Frames(frames) = outbox.next(usize::MAX).await else {
        panic!("an end")
    };
    let is_event = |frame: &&Frame| matches!(frame, Frame::Event { .. });
    assert_eq!(frames.iter().filter(is_event).count(), 2 * EACH);
}
