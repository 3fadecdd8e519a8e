//! NEG-OPEN, NEG-MSG and NEG-CLOSE (NIP-77): both sides learn what is missing; bounds and refusals have their reasons.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use nostr::key::Keys;
use serde_json::{Value, json};

use super::harness::{Client, NOTHING, Relay, event, wrap};
use crate::event::Event;
use crate::index::{LogEntry, LogTime};
use crate::session::{ReadBounds, unix_millis};

/// Made-up events, straight into the index: number, and a time that ten of them share.
fn store(relay: &Relay, numbers: impl Iterator<Item = u16>) {
    let entries: Vec<LogEntry> = numbers
        .map(|number| {
            let json = json!({
                "id": hex::encode(id_of(number)), "pubkey": "01".repeat(32), "created_at": time_of(number),
                "kind": 1, "tags": [], "content": "", "sig": "00".repeat(64),
            });
            LogEntry {
                content: Arc::new(Event::parse(json.to_string().as_bytes()).expect("an event"))
                    .into(),
                at: None,
                log_time: LogTime::Provisional(unix_millis()),
            }
        })
        .collect();
    let now_s = unix_millis() / 1000;
    relay
        .services
        .index
        .apply(&entries, &[], now_s)
        .expect("they are applied");
}

fn id_of(number: u16) -> [u8; 32] {
    let mut id = [7; 32];
    // Ids are spread, as hashes are.
    id[..2].copy_from_slice(&number.wrapping_mul(40_503).to_be_bytes());
    id[2..4].copy_from_slice(&number.to_be_bytes());
    id
}

fn time_of(number: u16) -> u64 {
    1_700_000_000 + u64::from(number / 10)
}

/// A client's side with these events.
fn side(numbers: impl Iterator<Item = u16>) -> Negentropy<'static, NegentropyStorageVector> {
    let mut storage = NegentropyStorageVector::new();
    for number in numbers {
        let id = Id::from_byte_array(id_of(number));
        storage.insert(time_of(number), id).expect("room");
    }
    storage.seal().expect("a set");
    Negentropy::owned(storage, 4_096).expect("a side")
}

/// The answer under an id: the message of a NEG-MSG, or the reason of a NEG-ERR.
async fn answer(client: &mut Client, id: &str) -> Result<Vec<u8>, String> {
    let frame = client.receive().await;
    assert_eq!(frame[1], id, "{frame}");
    let text = frame[2].as_str().expect("a text").to_owned();
    match frame[0].as_str() {
        Some("NEG-MSG") => Ok(hex::decode(text).expect("hex")),
        Some("NEG-ERR") => Err(text),
        _ => panic!("no answer of a reconciliation: {frame}"),
    }
}

async fn open(client: &mut Client, id: &str, filter: Value) -> Result<Vec<u8>, String> {
    client.send(json!(["NEG-OPEN", id, filter, NOTHING])).await;
    answer(client, id).await
}

/// Ids in the answer to a client without events, as far as they are there as ids.
fn holds(answer: &[u8], id: &[u8; 32]) -> bool {
    answer.windows(32).any(|window| window == id)
}

#[tokio::test]
async fn two_sets_reconcile_in_frames_of_the_message_limit() {
    const LIMIT: usize = 9_000;
    let relay = Relay::start_with(
        |config| {
            config.limits.max_message_length = LIMIT;
            config.limits.reqs_burst_per_connection = 1_000;
        },
        Default::default(),
    )
    .await;
    store(&relay, 0..6_000);
    let missing = |number: &u16| number.is_multiple_of(7);
    let mut ours = side(
        (0..6_000)
            .filter(|number| !missing(number))
            .chain(6_000..6_500),
    );
    let mut client = relay.client().await;
    let first = hex::encode(ours.initiate().expect("a message"));
    client
        .send(json!(["NEG-OPEN", "n", {"kinds": [1]}, first]))
        .await;
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut rounds = 0;
    loop {
        rounds += 1;
        let said = answer(&mut client, "n").await.expect("an answer");
        assert!(said.len() * 2 < LIMIT, "{}", said.len());
        match ours.reconcile_with_ids(&said, &mut have, &mut need) {
            Ok(Some(next)) => {
                client
                    .send(json!(["NEG-MSG", "n", hex::encode(next)]))
                    .await
            }
            Ok(None) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(rounds > 2, "{rounds}");
    let ids = |ids: Vec<Id>| ids.iter().map(|id| **id).collect::<BTreeSet<[u8; 32]>>();
    assert_eq!(ids(have), (6_000..6_500).map(id_of).collect());
    assert_eq!(ids(need), (0..6_000).filter(missing).map(id_of).collect());
    assert_eq!(relay.services.metrics.reconciled_events.get(), 6_000);
    client.send(json!(["NEG-CLOSE", "n"])).await;
    client.check_alive().await;
    assert_eq!(relay.services.metrics.reconciled_events.get(), 0);
}

#[tokio::test]
async fn a_recipients_set_has_its_own_wraps_and_honours_the_filter() {
    let relay = Relay::start().await;
    let (bob, carol) = (Keys::generate(), Keys::generate());
    let (to_bob, to_carol) = (wrap(1059, &bob), wrap(1059, &carol));
    relay.publish(&[&to_bob, &to_carol]).await;
    let mut client = relay.authenticated(&[&bob]).await;
    let set = open(&mut client, "n", json!({"kinds": [1059]})).await;
    let set = set.expect("an answer");
    assert!(holds(&set, &to_bob.id.to_bytes()) && !holds(&set, &to_carol.id.to_bytes()));
    let until = json!({"until": to_bob.created_at.as_secs() - 1});
    let set = open(&mut client, "n", until).await.expect("an answer");
    assert!(!holds(&set, &to_bob.id.to_bytes()));
    let mut stranger = relay.client().await;
    let set = open(&mut stranger, "n", json!({}))
        .await
        .expect("an answer");
    assert!(!holds(&set, &to_bob.id.to_bytes()));
}

#[tokio::test]
async fn refusals_are_neg_errs_with_their_reason() {
    let relay = Relay::start().await;
    let mut client = relay.client().await;
    for (message, expected) in [
        (
            json!(["NEG-OPEN", "n", {"kinds": [1059]}, NOTHING]),
            "auth-required: ",
        ),
        (
            json!(["NEG-OPEN", "n", {"kinds": ["x"]}, NOTHING]),
            "invalid: ",
        ),
        (json!(["NEG-OPEN", "n", {}, "xyz"]), "invalid: "),
        (json!(["NEG-OPEN", "n", {}, ""]), "invalid: "),
        (json!(["NEG-OPEN", "n", {}, "610000ff"]), "invalid: "),
        (json!(["NEG-OPEN", "n", {}, 16, NOTHING]), "invalid: "),
        (json!(["NEG-MSG", "n", NOTHING]), "closed: "),
    ] {
        client.send(message.clone()).await;
        let refused = answer(&mut client, "n").await.expect_err("a refusal");
        assert!(refused.starts_with(expected), "{message}: {refused}");
    }
    // Another version of the protocol is told ours, and may go on with it.
    client.send(json!(["NEG-OPEN", "n", {}, "62"])).await;
    assert_eq!(answer(&mut client, "n").await, Ok(vec![0x61]));
    client.send(json!(["NEG-MSG", "n", NOTHING])).await;
    answer(&mut client, "n").await.expect("an answer");
    client.check_alive().await;
    relay.services.readiness.set(
        "EV_a_1_0",
        crate::log::Waiting::Rebuilding {
            stream: "EV_a_1_0".to_owned(),
            applied: 1,
            head: 9,
        },
    );
    let refused = open(&mut client, "m", json!({}))
        .await
        .expect_err("half an index");
    assert!(refused.starts_with("error: "), "{refused}");
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_its_reconciliation_and_says_so_under_its_id() {
    const LIMIT: usize = 20_000;
    let relay = Relay::start_with(
        |config| config.limits.max_message_length = LIMIT,
        Default::default(),
    )
    .await;
    store(&relay, 0..8);
    let mut client = relay.client().await;
    let long = "61".repeat(LIMIT / 2);
    for message in [
        json!(["NEG-MSG", "n", long]),
        json!(["NEG-OPEN", "n", {}, long]),
        json!(["NEG-MSG", "n", format!("{long}x")]),
    ] {
        open(&mut client, "n", json!({})).await.expect("an answer");
        client.send(message).await;
        let refused = answer(&mut client, "n").await.expect_err("too long");
        assert!(refused.contains("max_message_length"), "{refused}");
        assert_eq!(relay.services.metrics.reconciled_events.get(), 0);
    }
    client.check_alive().await;
}

#[tokio::test]
async fn sets_are_bounded_for_each_connection_and_for_the_relay() {
    let bounds = ReadBounds {
        sync_events: 10,
        relay_sync_events: 15,
        ..ReadBounds::default()
    };
    let relay = Relay::start_within(
        bounds,
        |config| config.limits.max_subscriptions = 3,
        Default::default(),
    )
    .await;
    store(&relay, 0..8);
    let (mut client, mut other) = (relay.client().await, relay.client().await);
    open(&mut client, "1", json!({})).await.expect("8 of 10");
    let refused = open(&mut client, "2", json!({}))
        .await
        .expect_err("16 of 10");
    assert!(
        refused.starts_with("blocked: this query is too big") && refused.contains("10 events"),
        "{refused}"
    );
    open(&mut client, "1", json!({}))
        .await
        .expect("a replacement");
    open(&mut client, "2", json!({"limit": 2}))
        .await
        .expect("10 of 10");
    let refused = open(&mut other, "1", json!({}))
        .await
        .expect_err("18 of 15");
    assert!(refused.starts_with("rate-limited: "), "{refused}");
    open(&mut client, "3", json!({"kinds": [7]}))
        .await
        .expect("nothing");
    let refused = open(&mut client, "4", json!({"kinds": [7]})).await;
    assert!(refused.is_err_and(|reason| reason.contains("max_subscriptions")));
    drop(client);
    relay
        .until("its room is given back", |services| {
            services.metrics.reconciled_events.get() == 0
        })
        .await;
    open(&mut other, "1", json!({})).await.expect("8 of 15");
}

#[tokio::test]
async fn what_is_too_big_reconciles_in_parts_one_after_the_other() {
    let bounds = ReadBounds {
        sync_events: 10,
        ..ReadBounds::default()
    };
    let relay = Relay::start_within(bounds, |_| {}, Default::default()).await;
    store(&relay, 0..45);
    let mut client = relay.client().await;
    let (mut refusals, mut found) = (0, BTreeSet::new());
    let mut parts = vec![(time_of(0), time_of(45))];
    while let Some((since, until)) = parts.pop() {
        let part = json!({"since": since, "until": until});
        match open(&mut client, "n", part).await {
            Ok(set) => {
                found.extend((0..45).filter(|number| holds(&set, &id_of(*number))));
                client.send(json!(["NEG-CLOSE", "n"])).await;
            }
            Err(reason) => {
                assert!(
                    reason.starts_with("blocked: this query is too big"),
                    "{reason}"
                );
                refusals += 1;
                let middle = since.midpoint(until);
                parts.extend([(since, middle), (middle + 1, until)]);
            }
        }
    }
    assert_eq!(found, (0..45).collect());
    assert!(refusals > 0);
}

#[tokio::test]
async fn a_filter_that_looks_at_too_much_is_too_big() {
    let bounds = ReadBounds {
        first_slice: Duration::ZERO,
        slice: Duration::ZERO,
        looked_at: 3,
        ..ReadBounds::default()
    };
    let relay = Relay::start_within(bounds, |_| {}, Default::default()).await;
    store(&relay, 0..8);
    let mut client = relay.client().await;
    let refused = open(&mut client, "n", json!({"#t": ["x"], "kinds": [1]})).await;
    assert_eq!(refused, Ok(vec![0x61, 0, 0, 2, 0]), "no event has the tag");
    let refused = open(&mut client, "n", json!({})).await.expect_err("8 of 3");
    assert!(
        refused.starts_with("blocked: this query is too big"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_silent_client_is_told_that_its_reconciliation_ended() {
    let bounds = ReadBounds {
        sync_idle: Duration::from_millis(200),
        ..ReadBounds::default()
    };
    let relay = Relay::start_within(bounds, |_| {}, Default::default()).await;
    let note = event(&Keys::generate(), 1, "note", &[]);
    relay.publish(&[&note]).await;
    let mut client = relay.client().await;
    let set = open(&mut client, "n", json!({})).await.expect("an answer");
    assert!(holds(&set, &note.id.to_bytes()));
    let ended = answer(&mut client, "n").await.expect_err("its end");
    assert!(ended.starts_with("closed: "), "{ended}");
    assert_eq!(relay.services.metrics.reconciled_events.get(), 0);
    client.send(json!(["NEG-MSG", "n", NOTHING])).await;
    let refused = answer(&mut client, "n").await.expect_err("nothing is open");
    assert!(refused.starts_with("closed: "), "{refused}");
    client.check_alive().await;
}
