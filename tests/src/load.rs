//! Steady load into a fleet while things break: publishers that publish again what got no answer, subscribers that count,
//! and the comparison of what got OK with what each region serves.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::event::{Person, Signed, now, wrap_for};
use crate::socket::{Frame, Socket};
use crate::wait::until;

/// Longer than the relay's own publish deadline (5 s): without an answer by then, a client publishes again.
const NO_ANSWER: Duration = Duration::from_secs(8);
/// What one publisher has unanswered at most, so that a region that comes back is not met by a wall of events.
const IN_FLIGHT: usize = 64;
/// How often publishers look at their sockets.
const TICK: Duration = Duration::from_millis(5);
/// Everything must be acknowledged or served this long after the load ended, whatever was killed.
pub const CONVERGE_LIMIT: Duration = Duration::from_secs(120);

/// Who the events of one run are from and for, and the word that marks them.
#[derive(Debug)]
pub struct Run {
    /// Value of the `t` tag of every public event.
    pub topic: String,
    author: Person,
    recipient: Person,
}

impl Run {
    /// A run of its own author, recipient and topic.
    pub fn new(topic: &str) -> Run {
        Run {
            topic: format!("{topic}-{}-{}", std::process::id(), now()),
            author: Person::new(),
            recipient: Person::new(),
        }
    }

    /// `count` events, two public notes for each gift wrap, signed before any clock starts.
    pub fn events(&self, count: usize) -> Vec<Signed> {
        self.events_from(0, count)
    }

    /// Like [`Run::events`], numbered from `first`: events with other numbers are other events, also within one second.
    pub fn events_from(&self, first: usize, count: usize) -> Vec<Signed> {
        let one = |n: usize| match n % 3 {
            2 => wrap_for(1059, &self.recipient.pubkey(), &format!("sealed {n}")),
            _ => self
                .author
                .event(1, now(), &[&["t", &self.topic]], &format!("note {n}")),
        };
        (first..first + count).map(one).collect()
    }

    /// Filters that match every event of the run, for a connection that authenticated as the recipient.
    pub fn filters(&self) -> [Value; 2] {
        [
            json!({"kinds": [1], "#t": [self.topic]}),
            json!({"kinds": [1059], "#p": [self.recipient.pubkey()]}),
        ]
    }

    /// Opens a subscription, named `live`, to everything of the run from `since` (seconds since 1970) on; frames are left to the caller.
    pub async fn try_follow(&self, relay: &str, since: u64) -> Result<Socket, String> {
        let socket = Socket::try_open(relay).await?;
        socket.try_authenticate(&self.recipient).await?;
        let mut filters = self.filters();
        for filter in &mut filters {
            filter["since"] = json!(since);
            filter["limit"] = json!(5_000);
        }
        socket.try_subscribe("live", &filters).await?;
        Ok(socket)
    }

    /// Subscribes at a relay to everything of the run.
    pub async fn subscriber(&self, relay: &str) -> Subscriber {
        let socket = Socket::open_as(relay, &self.recipient).await;
        socket
            .stored("live", &self.filters())
            .await
            .expect("a subscription");
        Subscriber {
            relay: relay.to_owned(),
            socket,
            seen: BTreeMap::new(),
        }
    }

    /// Which of `ids` a relay serves, each with how many times it came. Asked by id, a few hundred at a time.
    pub async fn served(
        &self,
        relay: &str,
        ids: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, usize>, String> {
        let socket = Socket::try_open(relay).await?;
        socket.try_authenticate(&self.recipient).await?;
        let mut served = BTreeMap::new();
        let all: Vec<&String> = ids.iter().collect();
        for some in all.chunks(250) {
            for event in socket
                .query(&[json!({"ids": some, "limit": some.len()})])
                .await?
            {
                *served
                    .entry(event["id"].as_str().unwrap_or_default().to_owned())
                    .or_default() += 1;
            }
        }
        Ok(served)
    }

    /// Waits until each relay serves each of `ids`, and insists that each comes once.
    pub async fn wait_served_once(&self, relays: &[String], ids: &BTreeSet<String>) {
        for relay in relays {
            until(
                &format!("{relay} serves everything that got OK"),
                CONVERGE_LIMIT,
                async || {
                    let served = self.served(relay, ids).await?;
                    let missing = ids.iter().filter(|id| !served.contains_key(*id)).count();
                    let repeated: Vec<_> =
                        served.iter().filter(|(_, times)| **times != 1).collect();
                    assert!(
                        repeated.is_empty(),
                        "{relay} serves events more than once: {repeated:?}"
                    );
                    if missing == 0 {
                        Ok(())
                    } else {
                        Err(format!("{missing} of {} are missing", ids.len()))
                    }
                },
            )
            .await;
        }
    }
}

/// A live subscription, and how often each event came on it.
pub struct Subscriber {
    relay: String,
    socket: Socket,
    seen: BTreeMap<String, usize>,
}

impl Subscriber {
    /// Waits until every one of `ids` came; insists that none came twice. None if the connection ended meanwhile: such a
    /// subscriber has no promise.
    pub async fn wait_saw_once(mut self, ids: &BTreeSet<String>) -> Option<()> {
        let relay = self.relay.clone();
        until(
            &format!("live subscriber at {relay}"),
            CONVERGE_LIMIT,
            async || {
                if !self.take_frames() {
                    return Ok(None);
                }
                let missing = ids.iter().filter(|id| !self.seen.contains_key(*id)).count();
                if missing > 0 {
                    return Err(format!("missed {missing} of {}", ids.len()));
                }
                let repeated: Vec<_> = self.seen.iter().filter(|(_, times)| **times != 1).collect();
                assert!(
                    repeated.is_empty(),
                    "{relay}: seen more than once: {repeated:?}"
                );
                Ok(Some(()))
            },
        )
        .await
    }

    /// False once the connection has ended.
    fn take_frames(&mut self) -> bool {
        for received in self.socket.drain() {
            match received.frame {
                Frame::Event(_, event) => {
                    *self
                        .seen
                        .entry(event["id"].as_str().unwrap_or_default().to_owned())
                        .or_default() += 1
                }
                Frame::End(..) | Frame::Closed(..) => return false,
                _ => {}
            }
        }
        true
    }
}

/// What a publisher went through.
#[derive(Debug, Default)]
pub struct Published {
    /// Ids that got `OK true`.
    pub acknowledged: BTreeSet<String>,
    /// Times an event was sent again: no answer, or `OK false` that promised nothing.
    pub again: usize,
    /// Connections lost.
    pub reconnects: usize,
    /// Milliseconds from first sending to `OK true`, sorted.
    pub latencies_ms: Vec<u64>,
}

impl Published {
    /// Latency at a share of the events, such as 0.99.
    pub fn percentile_ms(&self, share: f64) -> u64 {
        let last = self.latencies_ms.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index below the length"
        )]
        let at = (last as f64 * share).round() as usize;
        self.latencies_ms.get(at).copied().unwrap_or(0)
    }
}

/// Publishes `events` at `rate` a second whatever happens, each again until it gets `OK true`.
pub async fn publish_steadily(relay: String, events: Vec<Signed>, rate: f64) -> Published {
    let mut publisher = Publisher {
        relay,
        socket: None,
        waiting: VecDeque::new(),
        unanswered: HashMap::new(),
        first_sent: HashMap::new(),
        last_frame: Instant::now(),
        report: Published::default(),
    };
    let total = events.len();
    let started = Instant::now();
    let mut events = events.into_iter();
    let mut due = 0_usize;
    let mut all_due_at = None;
    while publisher.report.acknowledged.len() < total {
        while due < total && started.elapsed().as_secs_f64() * rate >= due as f64 {
            publisher.waiting.extend(events.next());
            due += 1;
        }
        if due == total
            && *all_due_at.get_or_insert_with(Instant::now) + CONVERGE_LIMIT < Instant::now()
        {
            panic!(
                "{}: {} of {total} events never got OK",
                publisher.relay,
                total - publisher.report.acknowledged.len()
            );
        }
        publisher.turn().await;
        tokio::time::sleep(TICK).await;
    }
    publisher.report.latencies_ms.sort_unstable();
    publisher.report
}

struct Publisher {
    relay: String,
    socket: Option<Socket>,
    waiting: VecDeque<Signed>,
    unanswered: HashMap<String, (Signed, Instant)>,
    first_sent: HashMap<String, Instant>,
    last_frame: Instant,
    report: Published,
}

impl Publisher {
    async fn turn(&mut self) {
        if self.socket.is_none() {
            self.socket = Socket::try_open(&self.relay).await.ok();
            self.last_frame = Instant::now();
        }
        let Some(socket) = &self.socket else { return };
        let mut broken = false;
        while self.unanswered.len() < IN_FLIGHT {
            let Some(event) = self.waiting.pop_front() else {
                break;
            };
            broken |= socket
                .send(&format!("[\"EVENT\",{}]", event.json))
                .await
                .is_err();
            self.first_sent
                .entry(event.id.clone())
                .or_insert_with(Instant::now);
            self.unanswered
                .insert(event.id.clone(), (event, Instant::now()));
        }
        for received in socket.drain() {
            self.last_frame = Instant::now();
            match received.frame {
                Frame::Ok(id, accepted, message) => self.on_ok(id, accepted, &message, received.at),
                Frame::End(..) => broken = true,
                _ => {}
            }
        }
        let late: Vec<String> = self
            .unanswered
            .iter()
            .filter(|(_, (_, sent))| broken || sent.elapsed() > NO_ANSWER)
            .map(|(id, _)| id.clone())
            .collect();
        // A machine that went away closes nothing.
        broken |= !late.is_empty() && self.last_frame.elapsed() > NO_ANSWER;
        for id in late {
            self.again(&id);
        }
        if broken {
            self.socket = None;
            self.report.reconnects += 1;
        }
    }

    fn on_ok(&mut self, id: String, accepted: bool, message: &str, at: Instant) {
        if accepted {
            self.unanswered.remove(&id);
            if let Some(sent) = self.first_sent.get(&id) {
                let waited = at.duration_since(*sent).as_millis();
                self.report
                    .latencies_ms
                    .push(u64::try_from(waited).unwrap_or(u64::MAX));
            }
            self.report.acknowledged.insert(id);
        } else {
            let promised_nothing =
                message.starts_with("error:") || message.starts_with("rate-limited:");
            assert!(promised_nothing, "a good event was refused: {message}");
            self.again(&id);
        }
    }

    fn again(&mut self, id: &str) {
        if let Some((event, _)) = self.unanswered.remove(id) {
            self.report.again += 1;
            self.waiting.push_back(event);
        }
    }
}
