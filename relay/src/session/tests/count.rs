//! COUNT: the number that a REQ with the same filters would send, bounded and refused as a REQ is.

use std::time::Duration;

use nostr::key::Keys;
use serde_json::json;

use super::harness::{Relay, event, event_at, event_id, wrap};
use crate::session::Lane;
use crate::session::ReadBounds;

#[tokio::test]
async fn a_count_is_what_a_req_would_send_and_each_event_counts_once() {
    let relay = Relay::start_with(
        |config| (config.limits.default_limit, config.limits.max_limit) = (1, 2),
        Default::default(),
    )
    .await;
    let keys = Keys::generate();
    let notes: Vec<_> = (0..5)
        .map(|age| event_at(&keys, 1, "note", &[], -age * 10))
        .collect();
    relay.publish(&notes.iter().collect::<Vec<_>>()).await;
    let author = keys.public_key().to_hex();
    let mut client = relay.client().await;
    for (filters, expected) in [
        (vec![json!({"kinds": [1]})], 5),
        (vec![json!({"kinds": [1]}), json!({"authors": [author]})], 5),
        (vec![json!({"kinds": [1], "limit": 3})], 3),
        (vec![json!({"kinds": [1], "limit": 9})], 5),
        (vec![json!({"kinds": [1], "limit": 0})], 0),
        (
            vec![
                json!({"ids": [notes[4].id.to_hex()]}),
                json!({"kinds": [1], "limit": 2}),
            ],
            3,
        ),
        (vec![json!({"since": notes[1].created_at.as_secs()})], 2),
        (vec![json!({"kinds": []})], 0),
        (vec![json!({"kinds": [2]})], 0),
    ] {
        assert_eq!(
            client.count("c", &filters).await,
            Ok(expected),
            "{filters:?}"
        );
    }
    client.check_alive().await;
}

#[tokio::test]
async fn a_count_opens_nothing_and_leaves_a_subscription_of_its_id_alone() {
    let relay = Relay::start_with(
        |config| config.limits.max_subscriptions = 2,
        Default::default(),
    )
    .await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    client
        .read("s", &[json!({"kinds": [1]})])
        .await
        .expect("EOSE");
    for _ in 0..5 {
        assert_eq!(client.count("s", &[json!({"kinds": [1]})]).await, Ok(0));
        assert_eq!(client.count("c", &[json!({"kinds": [1]})]).await, Ok(0));
    }
    client.send(json!(["COUNT", "s", 7])).await;
    assert_eq!(client.receive().await[0], "CLOSED");
    let note = event(&keys, 1, "note", &[]);
    relay.publish(&[&note]).await;
    assert_eq!(event_id(&client.receive().await), note.id.to_hex());
    client.send(json!(["CLOSE", "s"])).await;
    client.check_alive().await;
}

#[tokio::test]
async fn a_count_that_would_look_at_too_much_is_closed_with_a_reason() {
    let bounds = ReadBounds {
        first_slice: Duration::ZERO,
        slice: Duration::ZERO,
        looked_at: 3,
        ..ReadBounds::default()
    };
    let relay = Relay::start_within(bounds, |_| {}, Default::default()).await;
    let keys = Keys::generate();
    let notes: Vec<_> = (0..6)
        .map(|number| event(&keys, 1, &number.to_string(), &[]))
        .collect();
    relay.publish(&notes.iter().collect::<Vec<_>>()).await;
    let mut client = relay.client().await;
    let refused = client
        .count("c", &[json!({"kinds": [1]})])
        .await
        .expect_err("six are more than three");
    assert!(
        refused.starts_with("blocked: ") && refused.contains("more than 3 events"),
        "{refused}"
    );
    assert_eq!(
        client
            .count("c", &[json!({"kinds": [1], "limit": 2})])
            .await,
        Ok(2)
    );
    client.check_alive().await;
}

#[tokio::test]
async fn a_count_is_refused_for_the_reasons_of_a_req() {
    let relay = Relay::start_with(
        |config| {
            config.limits.reqs_burst_per_connection = 4;
            config.limits.reqs_per_second_per_connection = 0.01;
        },
        Default::default(),
    )
    .await;
    let mut client = relay.client().await;
    let refused = client
        .count("c", &[json!({"kinds": [1059]})])
        .await
        .expect_err("nobody authenticated");
    assert!(refused.starts_with("auth-required: "), "{refused}");
    let refused = client
        .count("c", &[json!({"kinds": ["x"]})])
        .await
        .expect_err("no filter");
    assert!(refused.starts_with("invalid: "), "{refused}");
    relay.services.readiness.set(
        "EV_a_1_0",
        crate::log::Waiting::Rebuilding {
            stream: "EV_a_1_0".to_owned(),
            applied: 1,
            head: 9,
        },
    );
    let refused = client
        .count("c", &[json!({})])
        .await
        .expect_err("half an index");
    assert!(refused.starts_with("error: "), "{refused}");
    relay.services.readiness.clear("EV_a_1_0");
    assert_eq!(client.count("c", &[json!({})]).await, Ok(0));
    let refused = client
        .count("c", &[json!({})])
        .await
        .expect_err("the fifth");
    assert!(refused.starts_with("rate-limited: "), "{refused}");
}

#[tokio::test]
async fn a_recipient_counts_its_own_wraps_and_nobody_elses() {
    let relay = Relay::start().await;
    let (bob, carol) = (Keys::generate(), Keys::generate());
    let wraps = [wrap(1059, &bob), wrap(1059, &bob), wrap(1059, &carol)];
    relay.publish(&wraps.iter().collect::<Vec<_>>()).await;
    let all = [json!({"kinds": [1059]}), json!({})];
    for (keys, expected) in [
        (vec![&bob], 2),
        (vec![&carol], 1),
        (vec![&bob, &carol], 3),
        (vec![&Keys::generate()], 0),
    ] {
        let mut client = relay.authenticated(&keys).await;
        assert_eq!(client.count("c", &all).await, Ok(expected));
    }
    assert_eq!(relay.client().await.count("c", &all[1..]).await, Ok(0));
}

#[tokio::test]
async fn a_count_is_given_up_with_its_connection_or_by_a_close() {
    let relay = Relay::start().await;
    let threads = relay.services.reads.free();
    let mut busy = Vec::new();
    for _ in 0..threads {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let reads = relay.services.reads.clone();
        busy.push((
            release,
            tokio::spawn(async move { reads.run(Lane::First, move || held.recv()).await.is_ok() }),
        ));
    }
    relay
        .until("every thread is taken", |services| {
            services.reads.free() == 0
        })
        .await;
    let mut client = relay.client().await;
    let mut gone = relay.client().await;
    client.send(json!(["COUNT", "c", {}])).await;
    client.send(json!(["CLOSE", "c"])).await;
    client.send(json!(["COUNT", "kept", {}])).await;
    gone.send(json!(["COUNT", "c", {}])).await;
    // Its answer shows that what was sent before it has been taken.
    gone.send_text("[]").await;
    assert_eq!(gone.receive().await[0], "NOTICE");
    drop(gone);
    relay
        .until("one is gone", |services| {
            services.metrics.connections.get() == 1
        })
        .await;
    for (release, task) in busy {
        drop(release);
        assert!(task.await.expect("a read"));
    }
    assert_eq!(
        client.receive().await,
        json!(["COUNT", "kept", {"count": 0}])
    );
    client.check_alive().await;
    let text = relay.services.metrics.encode().expect("text");
    assert!(text.contains("nj_count_seconds_count 1"), "given up");
}
