//! Limits: rates, amounts, slow readers. What is over a limit is refused with a reason and harms nobody else.

use std::time::Duration;

use futures_util::SinkExt;
use nostr::key::Keys;
use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::harness::{Relay, auth_event, event};
use crate::admission::VerifierOptions;
use crate::metrics::Close;
use crate::session::ReadBounds;
use crate::socket::Timings;

#[tokio::test]
async fn events_beyond_the_burst_are_rate_limited() {
    let relay = Relay::start_with(
        |config| {
            config.limits.events_burst_per_connection = 2;
            config.limits.events_per_second_per_connection = 0.01;
        },
        Timings::default(),
    )
    .await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    for number in 0..2 {
        assert_eq!(
            client
                .publish(&event(&keys, 1, &number.to_string(), &[]))
                .await[2],
            true
        );
    }
    let refused = client.publish(&event(&keys, 1, "third", &[])).await;
    assert_eq!(refused[2], false);
    assert!(
        refused[3]
            .as_str()
            .is_some_and(|text| text.starts_with("rate-limited: ")),
        "{refused}"
    );
    client.check_alive().await;
    relay
        .publish(&[&event(&keys, 1, "another connection", &[])])
        .await;
}

#[tokio::test]
async fn addresses_have_a_bucket_and_a_number_of_connections() {
    let relay = Relay::start_with(
        |config| {
            config.limits.events_burst_per_address = 1;
            config.limits.events_per_second_per_address = 0.01;
            config.limits.connections_per_address = 2;
        },
        Timings::default(),
    )
    .await;
    let (mut one, mut two) = (relay.client().await, relay.client().await);
    assert_eq!(
        one.publish(&event(&Keys::generate(), 1, "", &[])).await[2],
        true
    );
    assert_eq!(
        two.publish(&event(&Keys::generate(), 1, "", &[])).await[2],
        false
    );
    match tokio_tungstenite::connect_async(relay.url()).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 429),
        other => panic!("{:?}", other.map(|_| ())),
    }
    drop(one);
    relay
        .until("a place is free", |services| {
            services.metrics.connections.get() == 1
        })
        .await;
    relay.client().await.check_alive().await;
}

#[tokio::test]
async fn subscriptions_and_reqs_beyond_their_limits_are_closed() {
    let relay = Relay::start_with(
        |config| {
            config.limits.max_subscriptions = 2;
            config.limits.reqs_burst_per_connection = 4;
            config.limits.reqs_per_second_per_connection = 0.01;
        },
        Timings::default(),
    )
    .await;
    let mut client = relay.client().await;
    client.read("1", &[json!({})]).await.expect("EOSE");
    client.read("2", &[json!({})]).await.expect("EOSE");
    let refused = client.read("3", &[json!({})]).await.expect_err("the third");
    assert!(refused.contains("2 subscriptions are open"), "{refused}");
    client.read("2", &[json!({})]).await.expect("a replacement");
    let refused = client
        .read("2", &[json!({})])
        .await
        .expect_err("the fifth REQ");
    assert!(
        refused.starts_with("rate-limited: too many REQs"),
        "{refused}"
    );
}

#[tokio::test]
async fn closing_what_one_opened_is_not_slowed_down() {
    let relay = Relay::start().await;
    let mut client = relay.client().await;
    for _ in 0..150 {
        for message in [r#"["REQ","1",{"kinds":[1]}]"#, r#"["CLOSE","1"]"#] {
            let fed = client.socket.feed(Message::text(message)).await;
            fed.expect("a write");
        }
    }
    client.send(json!(["REQ", "last", {"kinds": [1]}])).await;
    client.until_eose("last").await;
    let text = relay.services.metrics.encode().expect("text");
    assert!(
        text.contains("nj_limit_refusals_total{rule=\"bad_messages\"} 0"),
        "{text}"
    );
}

#[tokio::test]
async fn values_in_the_filters_of_one_connection_are_bounded() {
    let relay = Relay::start().await;
    let mut client = relay.client().await;
    let topics: Vec<String> = (0..5_000).map(|topic| topic.to_string()).collect();
    let many = vec![json!({"#t": topics}); 4];
    client.read("1", &many).await.expect("EOSE");
    let refused = client
        .read("2", &[json!({"kinds": [1]})])
        .await
        .expect_err("one value more");
    assert!(
        refused.starts_with("rate-limited: ") && refused.contains("20000"),
        "{refused}"
    );
    client.read("1", &many).await.expect("a replacement");
    client.send(json!(["CLOSE", "1"])).await;
    client.check_alive().await;
}

#[tokio::test]
async fn auth_attempts_are_charged_before_the_signature() {
    let relay = Relay::start_with(
        |config| config.limits.auth_attempts_per_minute = 2,
        Timings::default(),
    )
    .await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    for expected in ["invalid: ", "invalid: ", "rate-limited: "] {
        client
            .send(json!([
                "AUTH",
                auth_event(&keys, "wrong", "ws://relay.test", 0)
            ]))
            .await;
        let answer = client.receive().await;
        assert!(
            answer[3]
                .as_str()
                .is_some_and(|text| text.starts_with(expected)),
            "{answer}"
        );
    }
    let right = auth_event(&keys, &client.challenge, "ws://relay.test", 0);
    client.send(json!(["AUTH", right])).await;
    assert_eq!(client.receive().await[2], false, "also the right one");
}

#[tokio::test]
async fn events_under_way_are_bounded_in_bytes_and_wait_for_nobody() {
    let relay = Relay::start_with(
        |config| config.limits.in_flight_publish_bytes_per_connection = 3000,
        Timings::default(),
    )
    .await;
    let closed = relay.publisher.gate.write().await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    let big = "x".repeat(2000);
    let (first, second) = (
        event(&keys, 1, &big, &[]),
        event(&keys, 1, &big, &[&["t", "2"]]),
    );
    client.send(json!(["EVENT", first])).await;
    client.send(json!(["EVENT", second])).await;
    let refused = client.receive().await;
    assert_eq!(
        (&refused[1], &refused[2]),
        (&json!(second.id.to_hex()), &json!(false))
    );
    assert!(
        refused[3]
            .as_str()
            .is_some_and(|text| text.starts_with("rate-limited: ")),
        "{refused}"
    );
    client.check_alive().await;
    drop(closed);
    assert_eq!(
        client.receive().await,
        json!(["OK", first.id.to_hex(), true, ""])
    );
    assert_eq!(client.publish(&second).await[2], true);
    relay
        .until("room is given back", |services| {
            services.metrics.in_flight_publish_bytes.get() == 0
        })
        .await;
}

/// A queue without room is as good as a full one: nothing waits in memory for workers that cannot keep up.
#[tokio::test]
async fn events_and_auths_that_find_the_queue_of_the_workers_full_are_refused_and_told_so() {
    let workers = VerifierOptions {
        threads: 1,
        queue: 0,
    };
    let relay =
        Relay::start_with_workers(ReadBounds::default(), workers, |_| {}, Timings::default()).await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    let note = event(&keys, 1, "hello", &[]);
    for answer in [
        client.publish(&note).await,
        client.authenticate(&keys).await,
    ] {
        let text = answer[3].as_str().expect("a message");
        assert!(
            answer[2] == false && text.starts_with("rate-limited: "),
            "{answer}"
        );
        assert!(text.contains("try again"), "{answer}");
    }
    assert_eq!(relay.publisher.published(), 0);
    client.check_alive().await;
    relay
        .until("room is given back", |services| {
            services.metrics.in_flight_publish_bytes.get() == 0
        })
        .await;
}

#[tokio::test]
async fn publishers_without_auth_have_a_share_and_others_more() {
    let relay = Relay::start_with(
        |config| config.limits.unauthenticated_log_share = 0.0,
        Timings::default(),
    )
    .await;
    let keys = Keys::generate();
    let note = event(&keys, 1, "hello", &[]);
    let mut client = relay.client().await;
    let refused = client.publish(&note).await;
    assert!(
        refused[3]
            .as_str()
            .is_some_and(|text| text.starts_with("auth-required: ")),
        "{refused}"
    );
    client.authenticate(&keys).await;
    assert_eq!(client.publish(&note).await[2], true);
}

/// Live events for a client that does not read, until its queue is full.
#[tokio::test]
async fn a_slow_reader_is_closed_with_a_reason_and_costs_only_itself() {
    let relay = Relay::start_with(
        |config| {
            config.limits.out_queue_bytes = 64 << 10;
            config.limits.events_burst_per_connection = 100_000;
            config.limits.events_burst_per_address = 100_000;
        },
        Timings::default(),
    )
    .await;
    let mut slow = relay.client().await;
    slow.read("s", &[json!({"kinds": [20_001]})])
        .await
        .expect("EOSE");
    let mut fast = relay.client().await;
    fast.read("s", &[json!({"kinds": [20_001]})])
        .await
        .expect("EOSE");
    let keys = Keys::generate();
    let mut sender = relay.client().await;
    let big = "x".repeat(60_000);
    let mut sent = 0_u32;
    while relay.services.metrics.closes(Close::slow_reader) == 0 {
        sent += 1;
        assert!(sent < 2000, "the kernel's buffers are not that large");
        sender
            .publish(&event(&keys, 20_001, &big, &[&["n", &sent.to_string()]]))
            .await;
        assert_eq!(fast.receive().await[0], "EVENT");
    }
    fast.check_alive().await;
    let closed = loop {
        match slow.receive_message().await {
            Message::Text(_) => {}
            other => break other,
        }
    };
    match closed {
        Message::Close(Some(frame)) => assert!(frame.reason.starts_with("slow reader"), "{frame}"),
        other => panic!("{other:?}"),
    }
    drop(slow);
    relay
        .until("its memory is given back", |services| {
            services.metrics.out_queue_bytes.get() == 0
        })
        .await;
}

/// A stored read is paced by the reader: it ends nobody's connection.
#[tokio::test]
async fn a_large_stored_read_is_paced_by_its_reader() {
    let relay = Relay::start_with(
        |config| {
            config.limits.out_queue_bytes = 64 << 10;
            config.limits.events_burst_per_connection = 1000;
        },
        Timings::default(),
    )
    .await;
    let keys = Keys::generate();
    let big = "x".repeat(50_000);
    let mut writer = relay.client().await;
    for number in 0..150 {
        writer
            .publish(&event(&keys, 1, &big, &[&["n", &number.to_string()]]))
            .await;
    }
    let mut reader = relay.client().await;
    reader.send(json!(["REQ", "s", {"kinds": [1]}])).await;
    // Others are served while this one does not read.
    for _ in 0..10 {
        writer.check_alive().await;
    }
    let mut count = 0;
    while reader.receive().await[0] == "EVENT" {
        count += 1;
    }
    assert_eq!(count, 150);
    assert_eq!(relay.services.metrics.closes(Close::slow_reader), 0);
}

#[tokio::test]
async fn a_client_that_sends_only_nonsense_is_answered_but_slowed_down() {
    let relay = Relay::start().await;
    let mut client = relay.client().await;
    let started = std::time::Instant::now();
    for _ in 0..110 {
        client
            .socket
            .feed(Message::text("nonsense"))
            .await
            .expect("a write");
    }
    client.socket.flush().await.expect("a write");
    for _ in 0..110 {
        assert_eq!(client.receive().await[0], "NOTICE");
    }
    assert!(
        started.elapsed() > Duration::from_millis(300),
        "ten beyond the burst take half a second"
    );
}
