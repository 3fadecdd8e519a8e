//! The way of an event: acknowledged, found, delivered once, and the same after a rebuild.

use std::time::{Duration, Instant};

use nostr::key::Keys;
use serde_json::json;

use crate::client::{Read, event, id, note, now};
use crate::keys;
use crate::nats::Nats;
use crate::relay::Relay;
use crate::wait::until;

#[tokio::test]
async fn what_is_acknowledged_is_found_and_outlives_the_death_of_nats() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mut nats) = Nats::start(dir.path()).await else {
        return;
    };
    let mut relay = Relay::start(dir.path(), "a-relay-0", &nats, &keys::keyring()).await;
    let mut client = relay.client().await;

    let first = note("first");
    assert_eq!(client.publish(&first).await, (true, String::new()));
    assert_eq!(client.ids(json!({"ids": [id(&first)]})).await, [id(&first)]);
    assert_eq!(relay.metric("nj_index_public_events").await, 1.0);
    assert_eq!(relay.metric("nj_index_door_violations_total").await, 0.0);
    let again = client.publish(&first).await;
    assert!(again.0 && again.1.starts_with("duplicate:"), "{again:?}");

    nats.kill();
    relay.wait_not_ready("nats-disconnected").await;
    let second = note("second");
    let (accepted, reason) = client.publish(&second).await;
    assert!(
        !accepted && reason.starts_with("error: not durable in time"),
        "{reason}"
    );

    nats.spawn().await;
    relay.wait_ready().await;
    client.publish_until_ok(&second).await;
    let mut found = client.ids(json!({"kinds": [1]})).await;
    found.sort();
    let mut expected = [id(&first), id(&second)];
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_deleted_index_is_rebuilt_with_the_same_answers() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let mut relay = Relay::start(dir.path(), "a-relay-0", &nats, &keys::keyring()).await;
    let mut client = relay.client().await;
    let author = Keys::generate();
    let at = now();

    let doomed = event(&author, 1, at - 9, &[], "doomed");
    let target = id(&doomed);
    for number in 0..20 {
        let content = format!("note {number}");
        let stored = event(&author, 1, at - 100 + number, &[], &content);
        assert!(client.publish(&stored).await.0);
    }
    for published in [
        event(&author, 0, at - 5, &[], "old profile"),
        event(&author, 0, at - 4, &[], "new profile"),
        event(&author, 0, at - 6, &[], "late and older profile"),
        doomed,
        event(&author, 5, at - 3, &[&["e", &target], &["k", "1"]], ""),
        event(&author, 30_000, at - 3, &[&["d", "x"]], "addressable"),
    ] {
        assert!(client.publish(&published).await.0, "{published}");
    }
    let everything = json!({"authors": [author.public_key().to_hex()]});
    let before = client.ids(everything.clone()).await;
    assert_eq!(
        before.len(),
        23,
        "20 notes, a profile, a deletion, an addressable event"
    );

    assert_eq!(relay.stop(), Some(0));
    std::fs::remove_dir_all(relay.index_dir()).expect("removed");
    relay.spawn();
    relay.wait_ready().await;
    assert_eq!(relay.client().await.ids(everything).await, before);
    assert!(!relay.index_dir().join("rebuilding").exists());
}

#[tokio::test]
async fn relays_of_one_stream_deliver_each_others_events_live_and_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let keyring = keys::keyring();
    let one = Relay::start(dir.path(), "a-relay-0", &nats, &keyring).await;
    let other = Relay::start(dir.path(), "a-relay-1", &nats, &keyring).await;
    let (mut here, mut there) = (one.client().await, other.client().await);
    let filter = json!({"kinds": [1, 20_001], "since": now() - 60});
    for client in [&mut here, &mut there] {
        assert!(
            matches!(client.read(filter.clone()).await, Read::Events(events) if events.is_empty())
        );
    }
    let mut publisher = one.client().await;
    let typing = event(&Keys::generate(), 20_001, now(), &[], "typing");
    assert_eq!(publisher.publish(&typing).await, (true, String::new()));
    let mut expected = vec![id(&typing)];
    for number in 0..30 {
        let note = note(&format!("{number}"));
        assert!(publisher.publish(&note).await.0);
        expected.push(id(&note));
    }
    let last = note("last");
    assert!(publisher.publish(&last).await.0);
    expected.push(id(&last));
    for client in [&mut here, &mut there] {
        // Hints of several shards may overtake each other; nothing comes twice and nothing is left out.
        let mut ids = client.live_until(&last).await;
        ids.sort();
        ids.dedup();
        while ids.len() < expected.len() {
            ids.push(id(&client.next_of(&["EVENT"]).await[2]));
        }
        let rest = client.next_within(Duration::from_millis(300)).await;
        assert_eq!(rest, None, "something came twice");
        ids.sort();
        expected.sort();
        assert_eq!(ids, expected);
    }
    // What is ephemeral is never stored, and what came live from another relay is found here too.
    let stored = there.ids(filter).await;
    assert_eq!(stored.len(), 31);
    assert!(!stored.contains(&id(&typing)));
}

#[tokio::test]
async fn a_shard_that_does_not_answer_is_joined_by_the_next() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let relay = Relay::start(dir.path(), "a-relay-0", &nats, &keys::keyring()).await;
    let jetstream = async_nats::jetstream::new(nats.admin().await);
    for stream in ["EV_a_1_0", "EV_a_1_1", "EV_a_1_2"] {
        jetstream.delete_stream(stream).await.expect("deleted");
    }
    let mut client = relay.client().await;
    for number in 0..8 {
        let note = note(&format!("{number}"));
        assert_eq!(client.publish(&note).await, (true, String::new()));
    }
    assert!(
        relay
            .metric("nj_publish_attempts_total{result=\"spilled\"}")
            .await
            > 0.0
    );
}

#[tokio::test]
async fn the_death_of_a_stream_leader_costs_no_acknowledged_event_and_repeats_none() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mut nats) = Nats::start_cluster(dir.path(), 3).await else {
        return;
    };
    let keyring = keys::keyring();
    let mut one = Relay::prepare(dir.path(), "a-relay-0", &nats, Some(&keyring));
    // One connection publishes all of them, as fast as they are acknowledged.
    one.config.limits.events_burst_per_connection = 1_000;
    one.config.limits.events_burst_per_address = 1_000;
    one.write_config();
    one.spawn();
    one.wait_ready().await;
    let other = Relay::start(dir.path(), "a-relay-1", &nats, &keyring).await;
    let mut watcher = other.client().await;
    let filter = json!({"kinds": [1], "since": now() - 60});
    assert!(matches!(
        watcher.read(filter.clone()).await,
        Read::Events(_)
    ));

    let mut publisher = one.client().await;
    let mut accepted = Vec::new();
    let mut slowest = Duration::ZERO;
    let leader = nats.leader("EV_a_1_0").await;
    nats.leave_to_others("EV_a_1_1", leader).await;
    for number in 0..300 {
        if number == 100 {
            nats.kill_one(leader);
        }
        if number == 200 {
            nats.spawn().await;
        }
        let note = note(&format!("{number}"));
        let began = Instant::now();
        publisher.publish_until_ok(&note).await;
        slowest = slowest.max(began.elapsed());
        accepted.push(id(&note));
    }
    eprintln!("slowest OK: {slowest:?}");
    assert!(
        slowest < Duration::from_secs(5),
        "a shard that still has its leader takes over: {slowest:?}"
    );
    accepted.sort();
    let mut seen = Vec::new();
    while seen.len() < accepted.len() {
        seen.push(id(&watcher.next_of(&["EVENT"]).await[2]));
    }
    assert_eq!(
        watcher.next_within(Duration::from_millis(500)).await,
        None,
        "something came twice"
    );
    seen.sort();
    assert_eq!(seen, accepted, "live");
    for relay in [&one, &other] {
        let mut client = relay.client().await;
        until("all of them stored", async || {
            let mut found = client.ids(filter.clone()).await;
            found.sort();
            if found == accepted {
                Ok(())
            } else {
                Err(found.len())
            }
        })
        .await;
    }
}
