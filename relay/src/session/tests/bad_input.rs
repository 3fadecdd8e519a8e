//! Bad input is answered as NIP-01 says, and the connection is unharmed.

use futures_util::SinkExt;
use nostr::key::Keys;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::harness::{Client, Relay, auth_event, event};

async fn check_answer(client: &mut Client, message: &str, verb: &str, expected: &str) {
    client.send_text(message).await;
    let answer = client.receive().await;
    let shown: String = message.chars().take(80).collect();
    assert_eq!(answer[0], verb, "{shown}: {answer}");
    let text = answer
        .as_array()
        .and_then(|parts| parts.last())
        .and_then(Value::as_str)
        .expect("a text");
    assert!(text.starts_with("invalid: "), "{shown}: {text}");
    assert!(text.contains(expected), "{shown}: {text} lacks {expected}");
    client.check_alive().await;
}

#[tokio::test]
async fn malformed_messages_get_a_notice_or_closed_that_names_the_problem() {
    let relay = Relay::start().await;
    let client = &mut relay.client().await;
    for (message, verb, expected) in [
        ("hello", "NOTICE", "not JSON"),
        ("", "NOTICE", "it ends early"),
        ("{\"kind\":1}", "NOTICE", "JSON array"),
        ("[]", "NOTICE", "empty"),
        ("[1,2]", "NOTICE", "verb as a string"),
        ("[\"HELLO\",{}]", "NOTICE", "unknown verb HELLO"),
        ("[\"COUNT\"]", "NOTICE", "at least one filter"),
        ("[\"COUNT\",\"s\",7]", "CLOSED", "must be an object"),
        ("[\"COUNT\",\"s\",{\"ids\":[\"xyz\"]}]", "CLOSED", "ids"),
        ("[\"EVENT\",\"x\"]", "NOTICE", "must be an object"),
        ("[\"EVENT\",{}]", "NOTICE", "the event has no field id"),
        ("[\"REQ\",5,{}]", "NOTICE", "must be a string"),
        ("[\"CLOSE\"]", "NOTICE", "CLOSE takes"),
        ("[\"REQ\",\"s\"]", "CLOSED", "at least one filter"),
        ("[\"REQ\",\"s\",7]", "CLOSED", "must be an object"),
        ("[\"REQ\",\"s\",{\"ids\":[\"xyz\"]}]", "CLOSED", "ids"),
        ("[\"REQ\",\"s\",{\"kinds\":[-1]}]", "CLOSED", "kinds"),
        ("[\"REQ\",\"s\",{\"limit\":\"many\"}]", "CLOSED", "limit"),
        ("[\"REQ\",\"s\",{\"authors\":{}}]", "CLOSED", "authors"),
    ] {
        check_answer(client, message, verb, expected).await;
    }
    let long = format!("[\"REQ\",\"{}\",{{}}]", "s".repeat(65));
    check_answer(client, &long, "NOTICE", "1 to 64 characters").await;
    let filters = vec!["{}"; 21].join(",");
    check_answer(
        client,
        &format!("[\"REQ\",\"s\",{filters}]"),
        "CLOSED",
        "at most 20 filters, this one has 21",
    )
    .await;
}

#[tokio::test]
async fn malformed_events_get_an_ok_false_for_their_id() {
    let relay = Relay::start().await;
    let good = json!(event(&Keys::generate(), 1, "hello", &[]));
    let id = good["id"].as_str().expect("an id").to_owned();
    let with = |field: &str, value: Value| {
        let mut event = good.clone();
        event[field] = value;
        event
    };
    let client = &mut relay.client().await;
    for (bad, expected) in [
        (with("content", json!("changed")), "id does not match"),
        (
            with("sig", json!("0".repeat(128))),
            "signature does not verify",
        ),
        (with("sig", json!("short")), "sig must be"),
        (with("kind", json!("1")), "kind must be"),
        (with("kind", json!(65_536)), "kind must be"),
        (with("created_at", json!(-1)), "created_at must be"),
        (
            with("tags", json!([["t", 1]])),
            "tag 0 is not an array of strings",
        ),
        (with("tags", json!([[]])), "tag 0 is empty"),
        (with("pubkey", json!("A".repeat(64))), "pubkey must be"),
    ] {
        client.send(json!(["EVENT", bad])).await;
        let answer = client.receive().await;
        assert_eq!(
            (&answer[0], &answer[1], &answer[2]),
            (&json!("OK"), &json!(id), &json!(false)),
            "{answer}"
        );
        let text = answer[3].as_str().expect("a message");
        assert!(
            text.starts_with("invalid: ") && text.contains(expected),
            "{text} lacks {expected}"
        );
    }
    client.check_alive().await;
    assert_eq!(relay.publisher.published(), 0);
}

#[tokio::test]
async fn binary_and_oversized_messages_get_a_notice() {
    let relay = Relay::start_with(
        |config| config.limits.max_message_length = 100_000,
        Default::default(),
    )
    .await;
    let mut client = relay.client().await;
    client
        .socket
        .send(Message::binary(vec![1, 2, 3]))
        .await
        .expect("a write");
    assert_eq!(
        client.receive().await[1],
        "invalid: messages are text, this one is binary (3 bytes)"
    );
    client.check_alive().await;
    client.send_text(&"x".repeat(150_000)).await;
    let answer = client.receive().await;
    assert_eq!(
        answer[1],
        "invalid: the message has 150000 bytes, the limit is 100000 bytes (max_message_length)"
    );
    client.check_alive().await;
}

#[tokio::test]
async fn a_message_far_beyond_the_limit_closes_the_connection_with_a_reason() {
    let relay = Relay::start_with(
        |config| config.limits.max_message_length = 100_000,
        Default::default(),
    )
    .await;
    let mut client = relay.client().await;
    client.send_text(&"x".repeat(300_000)).await;
    match client.receive_message().await {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1009),
        other => panic!("{other:?}"),
    }
    relay
        .until("the connection is counted out", |services| {
            services.metrics.connections.get() == 0
        })
        .await;
    relay.client().await.check_alive().await;
}

#[tokio::test]
async fn half_a_frame_and_half_a_handshake_cost_only_their_own_connection() {
    let timings = crate::socket::Timings {
        silence: Some(crate::socket::Silence {
            ping_after: std::time::Duration::from_millis(50),
            idle_after: std::time::Duration::from_millis(200),
        }),
        upgrade_within: std::time::Duration::from_millis(500),
        ..Default::default()
    };
    let relay = Relay::start_with(|_| {}, timings).await;
    let mut half_handshake = tokio::net::TcpStream::connect(relay.port.address())
        .await
        .expect("TCP");
    half_handshake
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n")
        .await
        .expect("a write");
    let mut raw = tokio::net::TcpStream::connect(relay.port.address())
        .await
        .expect("TCP");
    let handshake = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    raw.write_all(handshake.as_bytes()).await.expect("a write");
    relay
        .until("the session is open", |services| {
            services.metrics.connections.get() == 1
        })
        .await;
    // A text frame of 100 bytes, of which 3 come.
    raw.write_all(&[0x81, 0x80 | 100, 1, 2, 3, 4, b'a', b'b', b'c'])
        .await
        .expect("a write");
    let mut client = relay.client().await;
    client.check_alive().await;
    relay
        .until("the silent connection is closed", |services| {
            services.metrics.closes(crate::metrics::Close::idle) >= 1
        })
        .await;
    let mut rest = Vec::new();
    half_handshake
        .read_to_end(&mut rest)
        .await
        .expect("the relay gives up");
    rest.clear();
    raw.read_to_end(&mut rest).await.expect("an orderly end");
    assert!(
        rest.windows(4).any(|bytes| bytes == b"idle"),
        "the close frame gives the reason"
    );
}

#[tokio::test]
async fn auth_is_refused_unless_it_answers_this_connections_challenge_here_and_now() {
    let relay = Relay::start().await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    let challenge = client.challenge.clone();
    let mut forged = json!(auth_event(&keys, &challenge, "ws://relay.test", 0));
    forged["sig"] = json!("0".repeat(128));
    for (event, expected) in [
        (
            json!(auth_event(&keys, "other", "ws://relay.test", 0)),
            "challenge",
        ),
        (
            json!(auth_event(&keys, &challenge, "ws://evil.test", 0)),
            "relay tag",
        ),
        (
            json!(auth_event(&keys, &challenge, "ws://relay.test", -700)),
            "clock",
        ),
        (
            json!(auth_event(&keys, &challenge, "ws://relay.test", 700)),
            "clock",
        ),
        (json!(event(&keys, 1, "", &[])), "kind 22242"),
        (forged, "signature"),
    ] {
        client.send(json!(["AUTH", event])).await;
        let answer = client.receive().await;
        assert_eq!(
            (&answer[0], &answer[2]),
            (&json!("OK"), &json!(false)),
            "{answer}"
        );
        let text = answer[3].as_str().expect("a message");
        assert!(
            text.starts_with("invalid: ") && text.contains(expected),
            "{text} lacks {expected}"
        );
    }
    let refused = client.read("s", &[json!({"kinds": [1059]})]).await;
    assert!(
        refused.is_err_and(|reason| reason.starts_with("auth-required: ")),
        "nobody authenticated"
    );
    assert_eq!(client.authenticate(&keys).await[2], true);
    assert_eq!(
        client.read("s", &[json!({"kinds": [1059]})]).await,
        Ok(vec![])
    );
    let mut by_address = relay.client().await;
    let event = auth_event(&keys, &by_address.challenge, "ws://localhost:9", 0);
    by_address.send(json!(["AUTH", event])).await;
    assert_eq!(
        by_address.receive().await[2],
        true,
        "one of the public URLs is on the loopback interface"
    );
}

#[test]
fn arbitrary_messages_never_harm_the_relay() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let relay = runtime.block_on(Relay::start());
    let piece = prop_oneof![
        Just("EVENT"),
        Just("REQ"),
        Just("CLOSE"),
        Just("AUTH"),
        Just("\""),
        Just("["),
        Just("]"),
        Just("{"),
        Just("}"),
        Just(","),
        Just(":"),
        Just("null"),
        Just("\"s\""),
        Just("\"ids\""),
        Just("\"#p\""),
        Just("1059"),
        Just("-1e999"),
        Just("\\u0000"),
        Just("\u{1F426}"),
        Just("\"limit\""),
        Just("{}"),
    ];
    let message = proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat());
    let mut runner = TestRunner::new(Config {
        cases: 16,
        failure_persistence: None,
        ..Config::default()
    });
    let messages = proptest::collection::vec(message, 1..20);
    runner
        .run(&messages, |messages| {
            runtime.block_on(async {
                let mut client = relay.client().await;
                for message in &messages {
                    client.send_text(message).await;
                }
                client.check_answers().await;
            });
            Ok(())
        })
        .expect("no panic and an answer");
}
