//! A write policy: what it decides, what it is asked, and that nobody else waits for it.

use std::collections::BTreeSet;

use nightjar_config::Plugin;
use nostr::key::Keys;
use serde_json::{Value, json};

use super::harness::{Relay, event, wrap};
use super::plugin_program::{ACCEPT, script, script_with, send_many, writing_under};
use crate::nip11::Document;

/// Decides by the content.
const BY_CONTENT: &str = r#"
while next; do
  case $line in
    *'"content":"no"'*) reject "not here";;
    *'"content":"slower"'*) reject "rate-limited: slow down";;
    *'"content":"silently"'*) shadow;;
    *) accept;;
  esac
done"#;

#[tokio::test]
async fn what_is_accepted_is_published_and_what_is_rejected_is_not() {
    let relay = writing_under(script(BY_CONTENT)).await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    for kind in [1, 20_001] {
        for (content, ok, reason, published) in [
            ("yes", true, "", true),
            ("no", false, "blocked: not here", false),
            ("slower", false, "rate-limited: slow down", false),
            ("silently", true, "", false),
        ] {
            let before = relay.publisher.published();
            let sent = event(&keys, kind, content, &[]);
            let answer = client.publish(&sent).await;
            assert_eq!((&answer[2], &answer[3]), (&json!(ok), &json!(reason)));
            let reached = relay.publisher.published() - before;
            assert_eq!(reached == 1, published, "kind {kind}, {content}");
        }
    }
    let own = [json!({"authors": [keys.public_key().to_hex()]})];
    let found = client.read("s", &own).await.expect("stored events");
    assert_eq!(found.len(), 1);
    for (series, count) in [
        ("nj_plugin_asked_total{plugin=\"write\"}", 8),
        (
            "nj_plugin_answers_total{plugin=\"write\",answer=\"accepted\"}",
            2,
        ),
        (
            "nj_plugin_answers_total{plugin=\"write\",answer=\"rejected\"}",
            4,
        ),
        (
            "nj_plugin_answers_total{plugin=\"write\",answer=\"shadow_rejected\"}",
            2,
        ),
        ("nj_plugin_seconds_count{plugin=\"write\"}", 8),
        ("nj_plugin_running{plugin=\"write\"}", 1),
        ("nj_events_in_total{result=\"blocked\"}", 2),
        ("nj_events_in_total{result=\"rate_limited\"}", 2),
    ] {
        assert_eq!(relay.series(series), count, "{series}");
    }
}

#[tokio::test]
async fn what_the_relay_refuses_or_knows_is_no_question() {
    let relay = writing_under(script(ACCEPT)).await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    let known = event(&keys, 1, "once", &[]);
    assert_eq!(client.publish(&known).await[2], true);
    assert_eq!(
        client.publish(&known).await[3],
        "duplicate: already have this event"
    );
    let mut forged = serde_json::to_value(event(&keys, 1, "forged", &[])).expect("JSON");
    forged["sig"] = json!("0".repeat(128));
    client.send(json!(["EVENT", forged])).await;
    assert_eq!(client.receive().await[2], false);
    let early = super::harness::event_at(&keys, 1, "early", &[], 7_200);
    assert_eq!(client.publish(&early).await[2], false);
    assert_eq!(relay.series("nj_plugin_asked_total{plugin=\"write\"}"), 1);
}

#[tokio::test]
async fn a_relay_without_a_policy_asks_nobody_and_says_so() {
    let relay = Relay::start().await;
    relay
        .publish(&[&event(&Keys::generate(), 1, "x", &[])])
        .await;
    assert_eq!(relay.series("nj_plugin_asked_total{plugin=\"write\"}"), 0);
    assert_eq!(relay.series("nj_plugin_running{plugin=\"write\"}"), 0);
    let restricted = |relay: &Relay| {
        let config = relay.services.config.load();
        let document = serde_json::to_value(Document::new(&config)).expect("JSON");
        document["limitation"]["restricted_writes"].clone()
    };
    assert_eq!(restricted(&relay), false);
    assert_eq!(restricted(&writing_under(script(ACCEPT)).await), true);
}

/// All 200 are before the program at once: it answers none before it has read the last.
#[tokio::test]
async fn two_hundred_events_are_asked_at_once_and_answered_in_any_order() {
    let backwards = r#"
ids=; n=0; while [ $n -lt 200 ] && next; do n=$((n+1)); ids="$id $ids"; done
for id in $ids; do accept; done
while next; do accept; done"#;
    let relay = writing_under(Plugin {
        max_in_flight: 200,
        ..script(backwards)
    })
    .await;
    let mut client = relay.client().await;
    let expected = send_many(&mut client, 200).await;
    let mut answered = BTreeSet::new();
    for _ in 0..200 {
        let answer = client.receive().await;
        assert_eq!(answer[2], true, "{answer}");
        answered.insert(answer[1].as_str().expect("an id").to_owned());
    }
    assert_eq!(answered, expected);
    relay
        .until("nothing is in flight", |_| {
            relay.series("nj_plugin_in_flight{plugin=\"write\"}") == 0
        })
        .await;
}

/// A program that takes one at a time, as those written for strfry do, gets the others when it is their turn.
#[tokio::test]
async fn more_events_than_turns_wait_and_are_all_answered() {
    let relay = writing_under(Plugin {
        max_in_flight: 1,
        ..script(ACCEPT)
    })
    .await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    for number in 0..11 {
        let sent = event(&keys, 1, &number.to_string(), &[]);
        client.send(json!(["EVENT", sent])).await;
    }
    for _ in 0..11 {
        let answer = client.receive().await;
        assert_eq!(answer[2], true, "{answer}");
    }
}

/// Two clients with the same event: two questions of one id.
#[tokio::test]
async fn the_same_event_of_two_clients_is_answered_to_both() {
    let relay = writing_under(script(
        "next; next; accept; accept; while next; do accept; done",
    ))
    .await;
    let sent = event(&Keys::generate(), 1, "both", &[]);
    let (mut one, mut two) = (relay.client().await, relay.client().await);
    one.send(json!(["EVENT", sent])).await;
    two.send(json!(["EVENT", sent])).await;
    for client in [&mut one, &mut two] {
        let answer = client.receive().await;
        assert_eq!(answer[2], true, "{answer}");
    }
}

#[tokio::test]
async fn nobody_waits_for_a_program_that_takes_its_time() {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("open");
    let patient = r#"while next; do while [ ! -e "$GATE" ]; do sleep 0.02; done; accept; done"#;
    let relay = writing_under(script_with(patient, "GATE", &gate)).await;
    let mut author = relay.client().await;
    let sent = event(&Keys::generate(), 1, "waits", &[]);
    author.send(json!(["EVENT", sent])).await;
    relay
        .until_series("nj_plugin_in_flight{plugin=\"write\"}", 1)
        .await;
    // Neither the same connection nor another one.
    author.check_alive().await;
    relay.client().await.check_alive().await;
    assert_eq!(relay.publisher.published(), 0);
    std::fs::write(&gate, "").expect("written");
    assert_eq!(
        author.receive().await,
        json!(["OK", sent.id.to_hex(), true, ""])
    );
}

#[tokio::test]
async fn a_program_that_is_replaced_is_started_anew_and_no_event_is_lost() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("policy");
    let write = |decision: &str| {
        let whole = script(&format!("while next; do {decision}; done"));
        let new = dir.path().join("new");
        std::fs::write(&new, &whole.command[2]).expect("written");
        std::fs::rename(&new, &path).expect("replaced");
    };
    write("accept");
    let relay = writing_under(Plugin {
        command: ["/bin/sh", path.to_str().expect("UTF-8")]
            .map(str::to_owned)
            .into(),
        watch: vec![path.to_str().expect("UTF-8").to_owned()],
        ..script("")
    })
    .await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    assert_eq!(
        client.publish(&event(&keys, 1, "before", &[])).await[2],
        true
    );
    write("reject changed");
    relay
        .until_series("nj_plugin_respawns_total{plugin=\"write\"}", 1)
        .await;
    let answer = client.publish(&event(&keys, 1, "after", &[])).await;
    assert_eq!(answer[3], "blocked: changed");
    for reason in ["timeout", "exit", "nonsense", "down", "full"] {
        let series = format!("nj_plugin_failures_total{{plugin=\"write\",reason=\"{reason}\"}}");
        assert_eq!(relay.series(&series), 0, "{series}");
    }
}

#[tokio::test]
async fn a_program_has_path_and_its_own_variables_and_is_told_a_hash_of_the_address() {
    let dir = tempfile::tempdir().expect("a folder");
    let seen = dir.path().join("seen");
    let telling = r#"env > "$SEEN"; pwd >> "$SEEN"; while next; do printf '%s\n' "$line" >> "$SEEN"; accept; done"#;
    for give_address in [false, true] {
        let _ = std::fs::remove_file(&seen);
        let relay = writing_under(Plugin {
            give_address,
            ..script_with(telling, "SEEN", &seen)
        })
        .await;
        let keys = Keys::generate();
        let mut client = relay.authenticated(&[&keys]).await;
        assert_eq!(client.publish(&event(&keys, 1, "x", &[])).await[2], true);
        let text = std::fs::read_to_string(&seen).expect("what it saw");
        let (about, question) = text.trim_end().rsplit_once('\n').expect("two lines");
        let names: BTreeSet<&str> = about
            .lines()
            .filter_map(|line| line.split_once('=').map(|(name, _)| name))
            // The shell sets these itself.
            .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
            .collect();
        assert_eq!(names, ["PATH", "SEEN"].into(), "{about}");
        assert_eq!(about.lines().last(), Some("/"));
        let question: Value = serde_json::from_str(question).expect("JSON");
        assert_eq!(question["type"], "new");
        assert_eq!(question["sourceType"], "IP4");
        assert_eq!(question["authed"], json!([keys.public_key().to_hex()]));
        let told = question["sourceInfo"].as_str().expect("a text");
        if give_address {
            assert_eq!(told, "127.0.0.1");
        } else {
            let is_hash = told.len() == 16 && told.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_hash, "{told}");
        }
    }
}

#[tokio::test]
async fn a_gift_wrap_is_asked_for_like_any_event() {
    let relay = writing_under(script(
        r#"while next; do case $line in *'"kind":1059'*) reject "no wraps";; *) accept;; esac; done"#,
    ))
    .await;
    let bob = Keys::generate();
    let mut client = relay.client().await;
    assert_eq!(
        client.publish(&wrap(1059, &bob)).await[3],
        "blocked: no wraps"
    );
    assert_eq!(client.publish(&wrap(21_059, &bob)).await[2], true);
}
