//! REQ and CLOSE: stored, then EOSE, then live; each event once.

use std::collections::HashSet;

use nostr::key::Keys;
use serde_json::json;

use super::harness::{Relay, event, event_at, event_id};

#[tokio::test]
async fn stored_events_come_newest_first_and_the_limit_is_honoured() {
    let relay = Relay::start().await;
    let keys = Keys::generate();
    let notes: Vec<_> = (0..5)
        .map(|age| event_at(&keys, 1, "note", &[], -age * 10))
        .collect();
    relay.publish(&notes.iter().collect::<Vec<_>>()).await;
    let ids: Vec<String> = notes.iter().map(|note| note.id.to_hex()).collect();
    let mut client = relay.client().await;
    assert_eq!(
        client.read("all", &[json!({"kinds": [1]})]).await,
        Ok(ids.clone())
    );
    assert_eq!(
        client
            .read("two", &[json!({"kinds": [1], "limit": 2})])
            .await,
        Ok(ids[..2].to_vec())
    );
    let since = notes[1].created_at.as_secs();
    assert_eq!(
        client.read("since", &[json!({"since": since})]).await,
        Ok(ids[..2].to_vec())
    );
    let overlapping = [
        json!({"kinds": [1]}),
        json!({"authors": [keys.public_key().to_hex()]}),
    ];
    assert_eq!(client.read("overlap", &overlapping).await, Ok(ids));
}

#[tokio::test]
async fn eose_says_finish_if_nothing_was_left_out_for_a_limit() {
    let relay = Relay::start_with(
        |config| (config.limits.default_limit, config.limits.max_limit) = (4, 5),
        Default::default(),
    )
    .await;
    let keys = Keys::generate();
    let author = keys.public_key().to_hex();
    let mut notes: Vec<_> = (0..4)
        .map(|age| event_at(&keys, 1, "note", &[], -age * 10))
        .collect();
    notes.push(event(&keys, 0, "{}", &[]));
    relay.publish(&notes.iter().collect::<Vec<_>>()).await;
    let id = notes[0].id.to_hex();
    let finish = Some(json!(["finish"]));
    let mut client = relay.client().await;
    for (filters, expected) in [
        (vec![json!({"kinds": [1], "limit": 5})], &finish),
        (vec![json!({"kinds": [2]})], &finish),
        (vec![json!({"kinds": []})], &finish),
        // As many as the limit: whether there are more was not looked for.
        (vec![json!({"kinds": [1]})], &None),
        (vec![json!({"kinds": [1], "limit": 3})], &None),
        (vec![json!({"kinds": [1], "limit": 0})], &None),
        (vec![json!({"kinds": [2]}), json!({"limit": 1})], &None),
        // There cannot be more.
        (vec![json!({"ids": [id], "limit": 1})], &finish),
        (
            vec![json!({"kinds": [0], "authors": [author], "limit": 1})],
            &finish,
        ),
        (vec![json!({"kinds": [0], "limit": 1})], &None),
    ] {
        let mut message = vec![json!("REQ"), json!("s")];
        message.extend(filters.clone());
        client.send(message.into()).await;
        assert_eq!(&client.until_eose("s").await, expected, "{filters:?}");
    }
}

#[tokio::test]
async fn limit_0_reads_nothing_stored_and_everything_live() {
    let relay = Relay::start().await;
    let keys = Keys::generate();
    relay.publish(&[&event(&keys, 1, "before", &[])]).await;
    let mut client = relay.client().await;
    assert_eq!(
        client.read("s", &[json!({"kinds": [1], "limit": 0})]).await,
        Ok(vec![])
    );
    let after = event(&keys, 1, "after", &[]);
    relay.publish(&[&after]).await;
    assert_eq!(event_id(&client.receive().await), after.id.to_hex());
}

#[tokio::test]
async fn close_ends_a_subscription_and_counters_return_to_zero() {
    let relay = Relay::start().await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    client
        .read(
            "gone",
            &[json!({"kinds": [1]}), json!({"ids": ["11".repeat(32)]})],
        )
        .await
        .expect("EOSE");
    client
        .read("kept", &[json!({"authors": [keys.public_key().to_hex()]})])
        .await
        .expect("EOSE");
    client.send(json!(["CLOSE", "gone"])).await;
    relay
        .until("one is closed", |services| {
            services.metrics.subscriptions.get() == 1
        })
        .await;
    let note = event(&keys, 1, "hello", &[]);
    relay.publish(&[&note]).await;
    let received = client.receive().await;
    assert_eq!(
        (&received[1], event_id(&received)),
        (&json!("kept"), note.id.to_hex())
    );
    client.check_alive().await;
    drop(client);
    relay
        .until("nothing is left", |services| {
            let metrics = &services.metrics;
            metrics.subscriptions.get() == 0
                && metrics.filters.get() == 0
                && metrics.connections.get() == 0
                && metrics.out_queue_bytes.get() == 0
                && services.live.index_entries() == 0
        })
        .await;
}

#[tokio::test]
async fn a_req_with_a_known_id_replaces_the_subscription() {
    let relay = Relay::start_with(
        |config| config.limits.max_subscriptions = 1,
        Default::default(),
    )
    .await;
    let (old, new) = (Keys::generate(), Keys::generate());
    let mut client = relay.client().await;
    client
        .read("s", &[json!({"authors": [old.public_key().to_hex()]})])
        .await
        .expect("EOSE");
    client
        .read("s", &[json!({"authors": [new.public_key().to_hex()]})])
        .await
        .expect("the only one is replaced");
    let (unseen, seen) = (event(&old, 1, "old", &[]), event(&new, 1, "new", &[]));
    relay.publish(&[&unseen, &seen]).await;
    assert_eq!(event_id(&client.receive().await), seen.id.to_hex());
}

#[tokio::test]
async fn nothing_is_doubled_or_missed_between_stored_and_live() {
    const EVENTS: usize = 120;
    let relay = Relay::start_with(
        |config| {
            config.limits.events_burst_per_connection = 1000;
            config.limits.reqs_burst_per_connection = 1000;
        },
        Default::default(),
    )
    .await;
    let keys = Keys::generate();
    let notes: Vec<_> = (0..EVENTS)
        .map(|n| event(&keys, 1, &n.to_string(), &[]))
        .collect();
    let mut writer = relay.client().await;
    let publishing = tokio::spawn({
        let notes = notes.clone();
        async move {
            for note in &notes {
                writer.publish(note).await;
            }
        }
    });
    // Subscriptions open all the while; each must see every event exactly once in the end.
    let mut readers = Vec::new();
    while !publishing.is_finished() && readers.len() < 30 {
        let mut client = relay.client().await;
        client.send(json!(["REQ", "s", {"kinds": [1]}])).await;
        readers.push(client);
    }
    publishing.await.expect("all are published");
    let last = event(&keys, 1, "last", &[]);
    relay.publish(&[&last]).await;
    for mut client in readers {
        let mut seen = HashSet::new();
        loop {
            let frame = client.receive().await;
            if frame[0] == "EVENT" {
                let id = event_id(&frame);
                let is_last = id == last.id.to_hex();
                assert!(seen.insert(id), "doubled: {frame}");
                if is_last {
                    break;
                }
            }
        }
        assert_eq!(seen.len(), EVENTS + 1);
    }
}

/// The two moments at which an event can come between the two halves of a REQ, one after the other and not by chance.
#[tokio::test]
async fn an_event_that_comes_between_the_live_and_the_stored_half_of_a_req_comes_once() {
    let relay = Relay::start().await;
    let keys = Keys::generate();
    let mut client = relay.client().await;

    // It is live already and its stored read has not begun: all threads of the readers are busy.
    let (busy, free) = std::sync::mpsc::channel::<()>();
    let free = std::sync::Arc::new(std::sync::Mutex::new(free));
    let threads = relay.services.reads.free();
    for _ in 0..threads {
        let (reads, free) = (relay.services.reads.clone(), free.clone());
        tokio::spawn(async move {
            reads
                .run(crate::session::Lane::First, move || {
                    drop(free.lock().map(|free| free.recv()))
                })
                .await
        });
    }
    relay
        .until("no thread is free", |services| services.reads.free() == 0)
        .await;
    client.send(json!(["REQ", "s", {"kinds": [1]}])).await;
    relay
        .until("the subscription is open", |services| {
            services.metrics.subscriptions.get() == 1
        })
        .await;
    let between = event(&keys, 1, "before the stored read", &[]);
    relay.publish(&[&between]).await;
    for _ in 0..threads {
        busy.send(()).expect("they wait");
    }
    let live = client.receive().await;
    assert_eq!(
        (&live[0], event_id(&live)),
        (&json!("EVENT"), between.id.to_hex())
    );
    assert_eq!(client.receive().await[0], "EOSE", "and not once more");

    // The stored read found it, and its live delivery comes after that.
    let late = event(&keys, 1, "after the stored read", &[]);
    let late_event = crate::event::Event::parse(json!(late).to_string().as_bytes());
    let late_event = std::sync::Arc::new(late_event.expect("an event"));
    let entry = crate::index::LogEntry {
        content: late_event.clone().into(),
        at: None,
        log_time: crate::index::LogTime::Provisional(crate::session::unix_millis()),
    };
    let services = &relay.services;
    services
        .index
        .apply(&[entry], &[], crate::session::unix_seconds())
        .expect("it is applied");
    let both = client.read("t", &[json!({"kinds": [1]})]).await;
    assert_eq!(both.map(|ids| ids.len()), Ok(2));
    services
        .live
        .deliver(&late_event, crate::live::Source::Consumer);
    let live = client.receive().await;
    assert_eq!(
        (&live[1], event_id(&live)),
        (&json!("s"), late.id.to_hex()),
        "new to the first"
    );
    client.check_alive().await;
}

#[tokio::test]
async fn a_read_is_refused_while_the_index_is_rebuilt() {
    let relay = Relay::start().await;
    relay.services.readiness.set(
        "EV_a_1_0",
        crate::log::Waiting::Rebuilding {
            stream: "EV_a_1_0".to_owned(),
            applied: 1,
            head: 9,
        },
    );
    let mut client = relay.client().await;
    let refused = client
        .read("s", &[json!({})])
        .await
        .expect_err("no EOSE over half an index");
    assert!(refused.starts_with("error: "), "{refused}");
    relay.services.readiness.clear("EV_a_1_0");
    client.check_alive().await;
}
