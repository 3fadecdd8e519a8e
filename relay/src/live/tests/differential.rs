//! Live delivery against the plainest one: each subscription gets the events that match it and that its readers may read, each once,
//! from the moment it is opened to its end; whatever else comes, goes and authenticates meanwhile.

use std::collections::HashSet;

use futures_util::FutureExt;
use serde_json::Value;

use super::*;
use crate::plain::made_up::MadeUp;
use crate::plain::{Note, matches, may_read, rounds};

const EVENTS: usize = 40;
const STEPS: usize = 160;

/// What happens.
#[derive(Debug, Clone)]
enum Step {
    Open {
        filters: Vec<Value>,
        readers: Vec<String>,
        /// Whether its stored read ends at once.
        is_read: bool,
    },
    /// Of one that was opened, by its number.
    Close(usize),
    Authenticate(usize, Vec<String>),
    Offer(Value, Source),
}

impl Step {
    fn made_up(made_up: &mut MadeUp, events: &[Value]) -> Step {
        let sources = [
            Source::Publisher,
            Source::Hint,
            Source::Consumer,
            Source::Ephemeral,
        ];
        match made_up.below(12) {
            0..=2 => Step::Open {
                filters: made_up.filters(),
                readers: made_up.readers(),
                is_read: made_up.once_in(2),
            },
            3 => Step::Close(made_up.below(STEPS)),
            4 => Step::Authenticate(made_up.below(STEPS), made_up.readers()),
            _ => Step::Offer(made_up.one_of(events), made_up.one_of(&sources)),
        }
    }
}

/// A subscription, and what the plainest relay sends to it.
struct Pair {
    filters: Vec<Value>,
    readers: Vec<String>,
    /// Offered since it is open: an event that comes again is no new one.
    offered: HashSet<String>,
    expected: Vec<String>,
    open: Option<OpenSubscription>,
    keys: SharedReaders,
    outbox: Outbox,
}

impl Pair {
    fn open(live: &Live, filters: &[Value], readers: &[String], is_read: bool) -> Pair {
        let outbox = Outbox::new(1 << 30, Arc::new(Metrics::new()));
        let keys: SharedReaders = Arc::new(ArcSwap::from_pointee(keys_of(readers)));
        let parsed = filters.iter().map(filter).collect();
        let open = live.open("s", parsed, keys.clone(), outbox.clone(), None);
        if is_read {
            open.subscription().send_stored(&last(Vec::new()), None);
        }
        Pair {
            filters: filters.to_vec(),
            readers: readers.to_vec(),
            offered: HashSet::new(),
            expected: Vec::new(),
            open: Some(open),
            keys,
            outbox,
        }
    }

    fn offer(&mut self, note: &Note) {
        let is_new = self.open.is_some() && self.offered.insert(note.id.clone());
        let is_asked_for = || self.filters.iter().any(|filter| matches(filter, note));
        if is_new && is_asked_for() && may_read(note, &self.readers) {
            self.expected.push(note.id.clone());
        }
    }

    /// The ids that were sent.
    fn sent(&self) -> Vec<String> {
        self.outbox.push_ping();
        let next = self.outbox.next(usize::MAX).now_or_never();
        let Some(Next::Frames(frames)) = next else {
            panic!("the queue has a ping")
        };
        let events = frames.iter().filter_map(|frame| match frame {
            Frame::Event { json, .. } => Some(json),
            _ => None,
        });
        events
            .map(|json| Event::parse(json).expect("an event").id_hex())
            .collect()
    }
}

fn keys_of(readers: &[String]) -> Readers {
    let key = |reader: &String| crate::event::parse_hex(reader).expect("a key");
    readers.iter().map(key).collect()
}

/// In what live delivery differs from the plainest one; otherwise how many pairs of an event and an open subscription there were.
fn play(steps: &[Step]) -> Result<u64, String> {
    let live = live();
    let mut pairs: Vec<Pair> = Vec::new();
    let mut compared = 0;
    for step in steps {
        match step {
            Step::Open {
                filters,
                readers,
                is_read,
            } => pairs.push(Pair::open(&live, filters, readers, *is_read)),
            Step::Close(number) => {
                if let Some(pair) = pairs.get_mut(*number) {
                    pair.open = None;
                }
            }
            Step::Authenticate(number, readers) => {
                if let Some(pair) = pairs.get_mut(*number) {
                    // Keys are only ever added.
                    pair.readers.extend_from_slice(readers);
                    pair.keys.store(Arc::new(keys_of(&pair.readers)));
                }
            }
            Step::Offer(event, source) => {
                let parsed = Event::parse(event.to_string().as_bytes()).expect("an event");
                live.deliver(&Arc::new(parsed), *source);
                let note = Note::of(event);
                compared += pairs.iter().filter(|pair| pair.open.is_some()).count() as u64;
                pairs.iter_mut().for_each(|pair| pair.offer(&note));
            }
        }
    }
    for (number, pair) in pairs.iter().enumerate() {
        let sent = pair.sent();
        if sent != pair.expected {
            let (filters, expected) = (&pair.filters, &pair.expected);
            return Err(format!(
                "subscription {number} to {filters:#?} was sent {sent:#?}, not {expected:#?}"
            ));
        }
    }
    drop(pairs);
    match live.index_entries() {
        0 => Ok(compared),
        left => Err(format!(
            "{left} entries are left of subscriptions that ended"
        )),
    }
}

fn check_deliveries(seed: u64) -> Result<u64, String> {
    let mut made_up = MadeUp::new(seed, EVENTS);
    let events = made_up.events();
    let steps: Vec<Step> = (0..STEPS)
        .map(|_| Step::made_up(&mut made_up, &events))
        .collect();
    play(&steps).map_err(|_| {
        let fewest = rounds::fewest(&steps, |fewer| play(fewer).is_err());
        let what = play(&fewest).err().unwrap_or_default();
        format!("{what}\nafter {fewest:#?}")
    })
}

#[test]
fn each_subscription_gets_what_the_plainest_relay_would_send_to_it() {
    rounds::compare(100, check_deliveries);
}
