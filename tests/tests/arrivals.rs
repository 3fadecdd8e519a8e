//! Back-dated gift wraps reach a client that hops between the relays of three regions with its cursor, and leaves whenever it likes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nightjar_tests::event::{Person, Signed, now, wrap_at};
use nightjar_tests::fleet::Fleet;
use nightjar_tests::load::publish_steadily;
use nightjar_tests::report::measured;
use nightjar_tests::wire::Wire;
use nightjar_tests::yaml;
use rand::Rng;
use serde_json::{Value, json};

const REGIONS: [&str; 3] = ["a", "b", "c"];
const WRAPS: usize = 10_000;
const TWO_DAYS: u64 = 2 * 86_400;
/// Wraps a second, in each region.
const RATE: f64 = 300.0;

/// A client that keeps nothing but its cursor and what it has seen.
struct Hopper {
    person: Person,
    cursor: String,
    /// How often each event came, on all connections.
    seen: BTreeMap<String, usize>,
    connections: usize,
}

impl Hopper {
    /// Connects to a relay, asks for a page, listens for a moment if that was the last one, and is gone without a word. The error says
    /// why the relay did not serve.
    async fn visit(&mut self, relay: &str) -> Result<(), String> {
        let mut wire = Wire::open_as(relay, &self.person).await?;
        // Nothing may come twice on one connection.
        let mut here = BTreeSet::new();
        self.connections += 1;
        let mut filter = json!({"kinds": [1059], "cursor": self.cursor});
        if !self.cursor.is_empty() {
            filter["limit"] = json!(rand::rng().random_range(1..2_000));
        }
        wire.send(&json!(["REQ", "inbox", filter])).await?;
        let moment = Duration::from_millis(rand::rng().random_range(0..150));
        let mut until = None;
        loop {
            let next = wire.receive();
            let frame = match until {
                None => next.await?,
                Some(until) => match tokio::time::timeout_at(until, next).await {
                    Ok(frame) => frame?,
                    Err(_) => return Ok(()),
                },
            };
            match frame[0].as_str() {
                Some("EVENT") => self.take(&mut here, &frame),
                Some("EOSE") => {
                    let cursor = frame[3].as_str().ok_or("EOSE without a cursor")?;
                    cursor.clone_into(&mut self.cursor);
                    let hints = frame[2].as_array().ok_or("EOSE without hints")?;
                    if !hints.contains(&json!("finish")) {
                        return Ok(());
                    }
                    until = Some(tokio::time::Instant::now() + moment);
                }
                _ => return Err(format!("refused: {frame}")),
            }
        }
    }

    fn take(&mut self, here: &mut BTreeSet<String>, frame: &Value) {
        let id = frame[2]["id"].as_str().expect("an event").to_owned();
        assert!(here.insert(id.clone()), "twice on one connection: {id}");
        *self.seen.entry(id).or_default() += 1;
        if let Some(cursor) = frame[3].as_str() {
            self.cursor = cursor.to_owned();
        }
    }
}

/// Gift wraps with any date of the last two days.
fn wraps(count: usize, to: &Person) -> Vec<Signed> {
    let wrap = |number: usize| {
        let date = now() - rand::rng().random_range(0..TWO_DAYS);
        wrap_at(date, &to.pubkey(), &format!("wrap {number}"))
    };
    (0..count).map(wrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hops_between_regions_sees_every_back_dated_wrap() {
    let fleet = Fleet::start("arrivals", &yaml::fleet(&REGIONS, 1)).await;
    let person = Person::new();
    let wraps = wraps(WRAPS, &person);
    let expected: BTreeSet<String> = wraps.iter().map(|wrap| wrap.id.clone()).collect();
    let mut hopper = Hopper {
        person,
        cursor: String::new(),
        seen: BTreeMap::new(),
        connections: 0,
    };
    hopper
        .visit(&fleet.relay("a"))
        .await
        .expect("a first cursor");
    let publishers: Vec<_> = wraps
        .chunks(WRAPS.div_ceil(REGIONS.len()))
        .zip(REGIONS)
        .map(|(part, region)| {
            tokio::spawn(publish_steadily(fleet.relay(region), part.to_vec(), RATE))
        })
        .collect();

    let mut faults = [WRAPS / 4, WRAPS / 2].into_iter().peekable();
    while hopper.seen.len() < expected.len() {
        let region = REGIONS[rand::rng().random_range(0..REGIONS.len())];
        let before = hopper.seen.len();
        let visited = hopper.visit(&fleet.relay(region)).await;
        if visited.is_err() {
            // A relay that was killed, or rebuilds its index: another one serves.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if faults.peek().is_some_and(|at| hopper.seen.len() >= *at) {
            faults.next();
            match faults.peek() {
                Some(_) => drop(fleet.kill("b-relay-0")),
                None => {
                    let index = fleet.process_dir("c-relay-0").join("index");
                    let _ = fleet.kill("c-relay-0");
                    std::fs::remove_dir_all(index).expect("the index folder goes");
                }
            }
        }
        let done = publishers.iter().all(tokio::task::JoinHandle::is_finished);
        let caught_up = visited.is_ok() && done && hopper.seen.len() == before;
        if caught_up && hopper.connections > 10_000 {
            break;
        }
    }
    let mut acknowledged = BTreeSet::new();
    for publisher in publishers {
        acknowledged.extend(publisher.await.expect("published").acknowledged);
    }
    assert_eq!(acknowledged, expected, "all were acknowledged");
    let missing = expected.iter().filter(|id| !hopper.seen.contains_key(*id));
    assert_eq!(missing.count(), 0, "wraps were missed");
    let again: usize = hopper.seen.values().map(|times| times - 1).sum();
    measured(&format!(
        "arrival cursor: {WRAPS} back-dated wraps seen on {} connections to three regions, {again} of them again on another connection",
        hopper.connections
    ));
}
