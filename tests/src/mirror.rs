//! A client that keeps events, reconciles them with a relay's (NIP-77), and moves what one of the two lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use serde_json::{Value, json};

use crate::event::{Person, Signed, now};
use crate::wire::Wire;

/// Most bytes of a message of ours before it becomes hex: far below what a relay takes, as other clients have it.
const MESSAGE_BYTES: u64 = 60_000;
/// Ids in one REQ.
const FETCH: usize = 500;
/// Events that wait for their OK.
const PUBLISH: usize = 100;
/// Before an event that the relay would not take so fast is sent again.
const PAUSE: Duration = Duration::from_millis(100);

/// What one relay and we lack, and what it took to learn that.
#[derive(Debug, Default)]
pub struct Found {
    /// Ids of what the relay lacks.
    pub have: BTreeSet<String>,
    /// Ids of what we lack.
    pub need: BTreeSet<String>,
    /// Reconciliations: more than one where the relay found the whole too big.
    pub opened: usize,
    /// Answers of the relay.
    pub rounds: usize,
    /// The longest wait for an answer.
    pub slowest: Duration,
    /// From the first question to the last answer.
    pub took: Duration,
}

impl Found {
    /// For a line of figures.
    pub fn cost(&self) -> String {
        format!(
            "{} missing there and {} here, in {} reconciliations of {} rounds, {:.1} s, slowest answer {} ms",
            self.have.len(),
            self.need.len(),
            self.opened,
            self.rounds,
            self.took.as_secs_f64(),
            self.slowest.as_millis()
        )
    }
}

/// A stretch of `created_at`, both ends included, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    since: u64,
    until: u64,
}

impl Window {
    /// Whether an event of this time is in it.
    pub fn holds(self, created_at: u64) -> bool {
        (self.since..=self.until).contains(&created_at)
    }

    /// The filter, within this window.
    pub fn narrowed(self, filter: &Value) -> Value {
        let mut filter = filter.clone();
        filter["since"] = json!(self.since);
        filter["until"] = json!(self.until);
        filter
    }
}

/// What is still to be reconciled: all times at first, and halves of what a relay found too big.
pub struct Windows {
    waiting: Vec<Window>,
}

impl Windows {
    /// All times that a relay takes events of.
    pub fn all() -> Self {
        Windows {
            waiting: vec![Window {
                since: 0,
                until: now() + 3_600,
            }],
        }
    }

    /// The next one.
    pub fn take(&mut self) -> Option<Window> {
        self.waiting.pop()
    }

    /// Takes the two halves of a window instead of it, if the reason of a NEG-ERR asks for that; else it is the error.
    pub fn halve(&mut self, window: Window, reason: String) -> Result<(), String> {
        if !reason.starts_with("blocked: this query is too big") || window.since >= window.until {
            return Err(reason);
        }
        let middle = window.since.midpoint(window.until);
        self.waiting.push(Window {
            until: middle,
            ..window
        });
        self.waiting.push(Window {
            since: middle + 1,
            ..window
        });
        Ok(())
    }
}

struct Held {
    created_at: u64,
    kind: u64,
    event: Signed,
}

/// Events that somebody keeps.
pub struct Mirror {
    /// Nobody in particular, without AUTH, if none.
    person: Option<Person>,
    events: BTreeMap<String, Held>,
}

impl Mirror {
    /// An empty one.
    pub fn new(person: Option<&Person>) -> Self {
        Mirror {
            person: person.cloned(),
            events: BTreeMap::new(),
        }
    }

    /// Ids of all that is kept.
    pub fn ids(&self) -> BTreeSet<String> {
        self.events.keys().cloned().collect()
    }

    /// Keeps an event.
    pub fn keep(&mut self, event: Signed) {
        let value = event.value();
        let number = |key: &str| value[key].as_u64().expect("an event");
        let held = Held {
            created_at: number("created_at"),
            kind: number("kind"),
            event,
        };
        self.events.insert(held.event.id.clone(), held);
    }

    async fn connect(&self, relay: &str) -> Result<Wire, String> {
        match &self.person {
            Some(person) => Wire::open_as(relay, person).await,
            None => Wire::open(relay).await,
        }
    }

    /// What a relay and we lack of these kinds; of all kinds if there are none. The error is the reason of a NEG-ERR, or why there was
    /// no answer. Where the relay finds the whole too big, it is reconciled in parts.
    pub async fn reconcile(&self, relay: &str, kinds: &[u64]) -> Result<Found, String> {
        let started = Instant::now();
        let mut wire = self.connect(relay).await?;
        let filter = match kinds {
            [] => json!({}),
            kinds => json!({ "kinds": kinds }),
        };
        let mut found = Found::default();
        let mut windows = Windows::all();
        while let Some(window) = windows.take() {
            let ours = self.events.values().filter(|held| {
                window.holds(held.created_at) && (kinds.is_empty() || kinds.contains(&held.kind))
            });
            let side = side(ours);
            let asked = reconcile(&mut wire, &window.narrowed(&filter), side, &mut found).await?;
            if let Err(reason) = asked {
                windows.halve(window, reason)?;
            }
        }
        found.took = started.elapsed();
        Ok(found)
    }

    /// Reconciles, takes what is missing here, and publishes what is missing there.
    pub async fn exchange(&mut self, relay: &str, kinds: &[u64]) -> Result<Found, String> {
        let found = self.reconcile(relay, kinds).await?;
        let mut wire = self.connect(relay).await?;
        let need: Vec<&String> = found.need.iter().collect();
        for some in need.chunks(FETCH) {
            for event in fetch(&mut wire, some).await? {
                self.keep(event);
            }
        }
        let have = found.have.iter().filter_map(|id| self.events.get(id));
        publish(&mut wire, have.map(|held| &held.event)).await?;
        Ok(found)
    }
}

/// Our side of a reconciliation.
fn side<'a>(
    events: impl Iterator<Item = &'a Held>,
) -> Negentropy<'static, NegentropyStorageVector> {
    let mut storage = NegentropyStorageVector::new();
    for held in events {
        let mut id = [0; 32];
        hex::decode_to_slice(&held.event.id, &mut id).expect("an id");
        let inserted = storage.insert(held.created_at, Id::from_byte_array(id));
        inserted.expect("it is not sealed");
    }
    storage.seal().expect("no id is there twice");
    Negentropy::owned(storage, MESSAGE_BYTES).expect("a limit that the protocol knows")
}

/// One reconciliation. The inner error is the reason of a NEG-ERR.
async fn reconcile(
    wire: &mut Wire,
    filter: &Value,
    mut side: Negentropy<'static, NegentropyStorageVector>,
    found: &mut Found,
) -> Result<Result<(), String>, String> {
    let failed = |error: negentropy::Error| error.to_string();
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let first = hex::encode(side.initiate().map_err(failed)?);
    let mut question = json!(["NEG-OPEN", "mirror", filter, first]);
    loop {
        let asked = Instant::now();
        wire.send(&question).await?;
        let frame = wire.receive().await?;
        let text = frame[2].as_str().unwrap_or_default();
        match frame[0].as_str() {
            Some("NEG-MSG") => {}
            Some("NEG-ERR") => return Ok(Err(text.to_owned())),
            _ => return Err(format!("no answer of a reconciliation: {frame}")),
        }
        found.rounds += 1;
        found.slowest = found.slowest.max(asked.elapsed());
        let answer = hex::decode(text).map_err(|error| error.to_string())?;
        let next = side.reconcile_with_ids(&answer, &mut have, &mut need);
        match next.map_err(failed)? {
            Some(next) => question = json!(["NEG-MSG", "mirror", hex::encode(next)]),
            None => break,
        }
    }
    wire.send(&json!(["NEG-CLOSE", "mirror"])).await?;
    found.opened += 1;
    let text = |id: Id| hex::encode(*id);
    found.have.extend(have.into_iter().map(text));
    found.need.extend(need.into_iter().map(text));
    Ok(Ok(()))
}

/// Events by their ids. The error names what did not come.
async fn fetch(wire: &mut Wire, ids: &[&String]) -> Result<Vec<Signed>, String> {
    let filter = json!({"ids": ids, "limit": ids.len()});
    wire.send(&json!(["REQ", "fetch", filter])).await?;
    let mut events = Vec::new();
    loop {
        let frame = wire.receive().await?;
        match frame[0].as_str() {
            Some("EVENT") => events.push(Signed {
                id: frame[2]["id"].as_str().unwrap_or_default().to_owned(),
                json: frame[2].to_string(),
            }),
            Some("EOSE") => break,
            _ => return Err(format!("no stored event: {frame}")),
        }
    }
    wire.send(&json!(["CLOSE", "fetch"])).await?;
    if events.len() == ids.len() {
        Ok(events)
    } else {
        Err(format!("{} of {} events came", events.len(), ids.len()))
    }
}

/// Publishes, a few at a time, and insists on OK for each; what came too fast is sent again.
pub async fn publish(wire: &mut Wire, events: impl Iterator<Item = &Signed>) -> Result<(), String> {
    let events: Vec<&Signed> = events.collect();
    for some in events.chunks(PUBLISH) {
        let mut waiting: BTreeMap<&str, &Signed> = some
            .iter()
            .map(|event| (event.id.as_str(), *event))
            .collect();
        while !waiting.is_empty() {
            for event in waiting.values() {
                wire.send_text(format!("[\"EVENT\",{}]", event.json))
                    .await?;
            }
            let mut again = false;
            for _ in 0..waiting.len() {
                let frame = wire.receive().await?;
                let reason = frame[3].as_str().unwrap_or_default();
                if frame[2] == true {
                    waiting.remove(frame[1].as_str().unwrap_or_default());
                } else if reason.starts_with("rate-limited:") {
                    again = true;
                } else {
                    return Err(format!("a good event was refused: {frame}"));
                }
            }
            if again {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}
