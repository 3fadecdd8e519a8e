//! A read policy: it refuses REQ, COUNT and NEG-OPEN, and what it lets through is answered as if there were none.

use std::path::Path;
use std::time::Duration;

use nightjar_config::{OnFailure, Plugin};
use nostr::key::Keys;
use serde_json::{Value, json};

use super::harness::{NOTHING, Relay, event, event_id, wrap};
use super::plugin_program::{reading_under, script, script_with};
use crate::socket::Timings;

/// Refuses filters with `limit` 7 or kind 1059, and wants AUTH for those with kind 7.
const BY_FILTER: &str = r#"
while next; do
  case $line in
    *'"limit":7'*) reject "too curious";;
    *'"kinds":[7]'*) reject "auth-required: first AUTH";;
    *'"kinds":[1059]'*) reject "restricted: no wraps for you";;
    *) accept;;
  esac
done"#;

/// Answers once the file `$GATE` is there.
const GATED: &str = r#"while next; do while [ ! -e "$GATE" ]; do sleep 0.02; done; accept; done"#;

const IN_FLIGHT: &str = "nj_plugin_in_flight{plugin=\"read\"}";

async fn gated(gate: &Path) -> Relay {
    reading_under(script_with(GATED, "GATE", gate)).await
}

#[tokio::test]
async fn req_count_and_neg_open_are_refused_with_the_reason() {
    let relay = reading_under(script(BY_FILTER)).await;
    let keys = Keys::generate();
    let note = event(&keys, 1, "x", &[]);
    relay.publish(&[&note]).await;
    let mut client = relay.authenticated(&[&keys]).await;
    for (filter, reason) in [
        (json!({"kinds": [1], "limit": 7}), "blocked: too curious"),
        (json!({"kinds": [7]}), "auth-required: first AUTH"),
        (json!({"kinds": [1059]}), "restricted: no wraps for you"),
    ] {
        let filters = [filter.clone()];
        assert_eq!(client.read("s", &filters).await, Err(reason.to_owned()));
        assert_eq!(client.count("s", &filters).await, Err(reason.to_owned()));
        client.send(json!(["NEG-OPEN", "s", filter, NOTHING])).await;
        assert_eq!(client.receive().await, json!(["NEG-ERR", "s", reason]));
    }
    let fine = json!({"kinds": [1]});
    assert_eq!(
        client.read("s", std::slice::from_ref(&fine)).await,
        Ok(vec![note.id.to_hex()])
    );
    assert_eq!(client.count("s", std::slice::from_ref(&fine)).await, Ok(1));
    client.send(json!(["NEG-OPEN", "s", fine, NOTHING])).await;
    assert_eq!(client.receive().await[0], "NEG-MSG");
    assert_eq!(
        relay.series("nj_plugin_answers_total{plugin=\"read\",answer=\"rejected\"}"),
        9
    );
    // What was refused is not open.
    client.send(json!(["CLOSE", "s"])).await;
    client.check_alive().await;
}

/// A policy can refuse, never widen.
#[tokio::test]
async fn what_the_relay_refuses_by_itself_is_not_asked() {
    let relay = reading_under(script(super::plugin_program::ACCEPT)).await;
    let bob = Keys::generate();
    relay.publish(&[&wrap(1059, &bob)]).await;
    let mut stranger = relay.client().await;
    let refused = stranger.read("s", &[json!({"kinds": [1059]})]).await;
    assert!(refused.expect_err("a gate").starts_with("auth-required: "));
    let mut other = relay.authenticated(&[&Keys::generate()]).await;
    assert_eq!(
        other.read("s", &[json!({"kinds": [1059]})]).await,
        Ok(vec![])
    );
    assert_eq!(relay.series("nj_plugin_asked_total{plugin=\"read\"}"), 1);
}

#[tokio::test]
async fn nothing_is_missed_or_sent_twice_around_the_question() {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("open");
    let relay = gated(&gate).await;
    let keys = Keys::generate();
    let (before, during) = (
        event(&keys, 1, "before", &[]),
        event(&keys, 1, "during", &[]),
    );
    relay.publish(&[&before]).await;
    let mut reader = relay.client().await;
    reader
        .send(json!(["REQ", "s", {"authors": [keys.public_key().to_hex()]}]))
        .await;
    relay.until_series(IN_FLIGHT, 1).await;
    relay.publish(&[&during]).await;
    std::fs::write(&gate, "").expect("written");
    let mut found = [
        event_id(&reader.receive().await),
        event_id(&reader.receive().await),
    ];
    let mut expected = [before.id.to_hex(), during.id.to_hex()];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(reader.receive().await[0], "EOSE");
    let after = event(&keys, 1, "after", &[]);
    relay.publish(&[&after]).await;
    assert_eq!(event_id(&reader.receive().await), after.id.to_hex());
}

#[tokio::test]
async fn the_connection_goes_on_while_the_policy_thinks() {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("open");
    let relay = gated(&gate).await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    client.send(json!(["REQ", "s", {"kinds": [1]}])).await;
    relay.until_series(IN_FLIGHT, 1).await;
    let note = event(&keys, 1, "x", &[]);
    assert_eq!(client.publish(&note).await[2], true);
    assert_eq!(client.authenticate(&keys).await[2], true);
    std::fs::write(&gate, "").expect("written");
    assert_eq!(event_id(&client.receive().await), note.id.to_hex());
    assert_eq!(client.receive().await[0], "EOSE");
}

#[tokio::test]
async fn a_req_that_is_closed_or_asked_anew_meanwhile_is_not_opened() {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("open");
    let relay = gated(&gate).await;
    let keys = Keys::generate();
    relay.publish(&[&event(&keys, 1, "x", &[])]).await;
    let mut client = relay.client().await;
    client.send(json!(["REQ", "closed", {"kinds": [1]}])).await;
    client.send(json!(["REQ", "anew", {"kinds": [1]}])).await;
    client
        .send(json!(["COUNT", "counted", {"kinds": [1]}]))
        .await;
    relay.until_series(IN_FLIGHT, 3).await;
    client.send(json!(["CLOSE", "closed"])).await;
    client.send(json!(["CLOSE", "counted"])).await;
    client.send(json!(["REQ", "anew", {"kinds": [9]}])).await;
    relay.until_series(IN_FLIGHT, 4).await;
    std::fs::write(&gate, "").expect("written");
    // The new question of the same id alone is answered.
    let answer = client.receive().await;
    assert_eq!((&answer[0], &answer[1]), (&json!("EOSE"), &json!("anew")));
    assert_eq!(relay.services.metrics.subscriptions.get(), 1);
    client.check_alive().await;
}

#[tokio::test]
async fn what_waits_for_the_policy_counts_as_open_and_ends_with_the_relay() {
    let dir = tempfile::tempdir().expect("a folder");
    let plugin = script_with(GATED, "GATE", &dir.path().join("never"));
    let relay = Relay::start_with(
        |config| {
            config.plugins.read = Some(plugin);
            config.limits.max_subscriptions = 2;
            config.limits.drain_seconds = 0;
        },
        Timings::default(),
    )
    .await;
    let mut client = relay.client().await;
    for id in ["one", "two", "three"] {
        client.send(json!(["REQ", id, {"kinds": [1]}])).await;
    }
    let refused = client.receive().await;
    assert_eq!(
        (&refused[0], &refused[1]),
        (&json!("CLOSED"), &json!("three"))
    );
    assert!(
        refused[2]
            .as_str()
            .is_some_and(|reason| reason.starts_with("rate-limited: "))
    );
    relay.services.drain.cancel();
    let mut told: Vec<Value> = vec![client.receive().await, client.receive().await];
    told.sort_by_key(|frame| frame[1].to_string());
    let reason = "error: this relay is going away";
    assert_eq!(
        told,
        [
            json!(["CLOSED", "one", reason]),
            json!(["CLOSED", "two", reason])
        ]
    );
}

#[tokio::test]
async fn a_read_policy_that_fails_is_open_or_closed_as_configured() {
    // `shadowReject` is no answer to a read.
    let shadowing = "while next; do shadow; done";
    for (text, timeout_ms) in [("sleep 60", 100), (shadowing, 10_000)] {
        for on_failure in [OnFailure::Reject, OnFailure::Accept] {
            let relay = reading_under(Plugin {
                timeout_ms,
                on_failure,
                ..script(text)
            })
            .await;
            let mut client = relay.client().await;
            let filter = json!({"kinds": [1]});
            let (read, count) = (
                client.read("s", std::slice::from_ref(&filter)).await,
                client.count("s", &[filter]).await,
            );
            if on_failure == OnFailure::Accept {
                assert_eq!((read, count), (Ok(vec![]), Ok(0)));
            } else {
                let reason = "error: the read policy does not answer, try again later".to_owned();
                assert_eq!((read, count), (Err(reason.clone()), Err(reason)));
            }
        }
    }
}

/// A client that goes away leaves nothing behind.
#[tokio::test]
async fn a_connection_that_ends_gives_its_questions_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("open");
    let relay = gated(&gate).await;
    let mut client = relay.client().await;
    client.send(json!(["REQ", "s", {"kinds": [1]}])).await;
    relay.until_series(IN_FLIGHT, 1).await;
    drop(client);
    relay
        .until("the connection is gone", |services| {
            services.metrics.connections.get() == 0
        })
        .await;
    std::fs::write(&gate, "").expect("written");
    relay
        .until("the question is answered to nobody", |_| {
            relay.series(IN_FLIGHT) == 0
        })
        .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(relay.services.metrics.subscriptions.get(), 0);
}
