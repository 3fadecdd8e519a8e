//! No private content reaches a policy program: one that writes down every line it is given.

use std::path::Path;

use nightjar_config::Plugin;
use nostr::key::Keys;
use serde_json::{Value, json};

use super::harness::{NOTHING, Relay, event};
use super::plugin_program::script_with;
use crate::socket::Timings;

const SECRET: &str = "the sealed words of this test";

/// Writes down what it is asked, and accepts.
fn recorder(record: &Path) -> Plugin {
    script_with(
        r#"while next; do printf '%s\n' "$line" >> "$RECORD"; accept; done"#,
        "RECORD",
        record,
    )
}

fn lines(record: &Path) -> (String, Vec<Value>) {
    let text = std::fs::read_to_string(record).expect("a record");
    let values = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    (text, values)
}

#[tokio::test]
async fn neither_content_nor_recipient_of_private_events_nor_who_asks_for_which_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let (writes, reads) = (dir.path().join("writes"), dir.path().join("reads"));
    let relay = Relay::start_with(
        |config| {
            config.plugins.write = Some(recorder(&writes));
            config.plugins.read = Some(recorder(&reads));
        },
        Timings::default(),
    )
    .await;
    let bob = Keys::generate();
    let recipient = bob.public_key().to_hex();
    let once = Keys::generate();
    let author = once.public_key().to_hex();
    let tags: [&[&str]; 3] = [
        &["p", &recipient, "wss://inbox.test"],
        &["nonce", "1", "0"],
        &["expiration", "4000000000"],
    ];
    let stored = event(&once, 1059, SECRET, &tags);
    let ephemeral = event(&once, 21_059, SECRET, &tags);
    let id = stored.id.to_hex();
    let mut sender = relay.client().await;
    for wrap in [&stored, &ephemeral] {
        assert_eq!(sender.publish(wrap).await[2], true);
    }
    let (text, asked) = lines(&writes);
    for hidden in [SECRET, recipient.as_str(), "inbox.test"] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
    for (question, wrap) in asked.iter().zip([&stored, &ephemeral]) {
        let mut envelope = serde_json::to_value(wrap).expect("JSON");
        envelope["content"] = json!("");
        envelope["tags"] = json!([["nonce", "1", "0"], ["expiration", "4000000000"]]);
        assert_eq!(question["event"], envelope);
    }

    // The recipient reads it by every door, and deletes it.
    let mut client = relay.authenticated(&[&bob]).await;
    for filter in [
        json!({"kinds": [1059], "#p": [recipient]}),
        json!({"ids": [id]}),
        json!({"authors": [author], "kinds": [1, 1059]}),
        json!({"#p": [recipient]}),
    ] {
        assert_eq!(
            client.read("s", std::slice::from_ref(&filter)).await,
            Ok(vec![id.clone()])
        );
        assert_eq!(
            client.count("s", std::slice::from_ref(&filter)).await,
            Ok(1)
        );
        client.send(json!(["NEG-OPEN", "s", filter, NOTHING])).await;
        assert_eq!(client.receive().await[0], "NEG-MSG");
    }
    let deletion = event(&bob, 5, SECRET, &[&["e", &id], &["k", "1059"]]);
    assert_eq!(client.publish(&deletion).await[2], true);
    let (text, asked) = lines(&reads);
    assert_eq!(asked.len(), 12);
    for hidden in [id.as_str(), author.as_str(), SECRET] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
    for question in &asked {
        assert_eq!(question["authed"], json!([recipient]));
        let filter = question["filters"][0].as_object().expect("a filter");
        assert!(filter.contains_key("withheld"), "{question}");
    }
    let last = lines(&writes).1.pop().expect("the deletion");
    assert_eq!(
        (&last["event"]["tags"], &last["event"]["content"]),
        (&json!([]), &json!(""))
    );
}

#[tokio::test]
async fn public_events_and_filters_for_them_are_told_in_full() {
    let dir = tempfile::tempdir().expect("a folder");
    let (writes, reads) = (dir.path().join("writes"), dir.path().join("reads"));
    let relay = Relay::start_with(
        |config| {
            config.plugins.write = Some(recorder(&writes));
            config.plugins.read = Some(recorder(&reads));
        },
        Timings::default(),
    )
    .await;
    let note = event(
        &Keys::generate(),
        1,
        "hello\n\"world\" \u{1F426}",
        &[&["t", "bird"]],
    );
    relay.publish(&[&note]).await;
    assert_eq!(
        lines(&writes).1[0]["event"],
        serde_json::to_value(&note).expect("JSON")
    );
    let filter = json!({"kinds": [1], "#t": ["bird"], "ids": [note.id.to_hex()], "limit": 3});
    let mut client = relay.client().await;
    assert_eq!(
        client.read("s", std::slice::from_ref(&filter)).await,
        Ok(vec![note.id.to_hex()])
    );
    let asked = &lines(&reads).1[0];
    assert_eq!(asked["filters"], json!([filter]));
    assert_eq!(
        (&asked["type"], &asked["verb"]),
        (&json!("read"), &json!("REQ"))
    );
}
