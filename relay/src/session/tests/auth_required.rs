//! `admission.auth_required`: what a client must authenticate for, at every door, and that it depends on the connection alone.

use nightjar_config::{AuthRequired, RelayConfig};
use nostr::key::Keys;
use serde_json::{Value, json};

use super::harness::{Client, NOTHING, Relay, event, verdict, wrap};
use crate::nip11::Document;
use crate::socket::Timings;

const TO_PUBLISH: &str =
    "auth-required: this relay takes events from clients that have authenticated";
const TO_READ: &str = "auth-required: this relay answers clients that have authenticated";

async fn relay_with(auth_required: AuthRequired) -> Relay {
    Relay::start_with(
        |config| config.admission.auth_required = auth_required,
        Timings::default(),
    )
    .await
}

/// What the doors of reading say to one filter: REQ, COUNT, NEG-OPEN. `None` is an answer.
async fn doors(client: &mut Client, filter: &Value) -> [Option<String>; 3] {
    let req = client.read("r", std::slice::from_ref(filter)).await.err();
    client.send(json!(["CLOSE", "r"])).await;
    let count = client.count("c", std::slice::from_ref(filter)).await.err();
    client.send(json!(["NEG-OPEN", "n", filter, NOTHING])).await;
    let answer = client.receive().await;
    let neg = (answer[0] == "NEG-ERR").then(|| answer[2].as_str().expect("a reason").to_owned());
    client.send(json!(["NEG-CLOSE", "n"])).await;
    [req, count, neg]
}

#[tokio::test]
async fn to_publish_needs_auth_and_to_read_does_not() {
    let relay = relay_with(AuthRequired::Writes).await;
    let (keys, recipient) = (Keys::generate(), Keys::generate());
    let mut client = relay.client().await;
    let events = [
        event(&keys, 1, "hello", &[]),
        event(&keys, 10_050, "", &[]),
        event(&keys, 5, "", &[&["e", &"11".repeat(32)]]),
        wrap(1059, &recipient),
        wrap(21_059, &recipient),
    ];
    for event in &events {
        let answer = client.publish(event).await;
        assert_eq!(verdict(&answer), (false, TO_PUBLISH));
    }
    assert_eq!(relay.publisher.published(), 0);
    let nothing = [None, None, None];
    assert_eq!(doors(&mut client, &json!({"kinds": [1]})).await, nothing);

    // Who it is does not matter: wraps are signed by throw-away keys.
    client.authenticate(&Keys::generate()).await;
    for event in &events {
        let answer = client.publish(event).await;
        assert_eq!(verdict(&answer), (true, ""));
    }
}

#[tokio::test]
async fn every_door_is_shut_before_auth_whatever_is_asked_and_stored() {
    let relay = relay_with(AuthRequired::Always).await;
    let keys = Keys::generate();
    let note = event(&keys, 1, "hello", &[]);
    relay.authenticated(&[&keys]).await.publish(&note).await;
    let mut client = relay.client().await;
    let shut = || [TO_READ, TO_READ, TO_READ].map(|text| Some(text.to_owned()));
    for filter in [
        json!({"kinds": [1]}),
        json!({"kinds": [1059]}),
        json!({"ids": [note.id.to_hex()]}),
        json!({"ids": ["00".repeat(32)]}),
        json!({"kinds": "nonsense"}),
    ] {
        assert_eq!(doors(&mut client, &filter).await, shut(), "{filter}");
    }
    let answer = client.publish(&event(&keys, 1, "more", &[])).await;
    assert_eq!(verdict(&answer), (false, TO_PUBLISH));

    client.authenticate(&keys).await;
    let nothing = [None, None, None];
    assert_eq!(doors(&mut client, &json!({"kinds": [1]})).await, nothing);
    let found = client.read("all", &[json!({"kinds": [1]})]).await;
    assert_eq!(found, Ok(vec![note.id.to_hex()]));
}

#[tokio::test]
async fn auth_is_asked_from_the_moment_it_is_configured() {
    let relay = Relay::start().await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    let answer = client.publish(&event(&keys, 1, "one", &[])).await;
    assert_eq!(verdict(&answer), (true, ""));
    relay.reconfigure(|config| config.admission.auth_required = AuthRequired::Writes);
    let answer = client.publish(&event(&keys, 1, "two", &[])).await;
    assert_eq!(verdict(&answer), (false, TO_PUBLISH));
    // What is stored is not told to who may not ask for it by an EVENT.
    let answer = client.publish(&event(&keys, 1, "one", &[])).await;
    assert_eq!(verdict(&answer), (false, TO_PUBLISH));
}

#[tokio::test]
async fn the_information_document_says_what_is_asked_for() {
    let relay = Relay::start().await;
    let document = |change: &dyn Fn(&mut RelayConfig)| {
        let mut config = RelayConfig::clone(&relay.services.config.load());
        change(&mut config);
        let document = serde_json::to_value(Document::new(&config)).expect("JSON");
        let limitation = &document["limitation"];
        (
            limitation["auth_required"].as_bool(),
            limitation["restricted_writes"].as_bool(),
        )
    };
    let auth = |auth_required| {
        document(&|config: &mut RelayConfig| config.admission.auth_required = auth_required)
    };
    assert_eq!(auth(AuthRequired::Never), (Some(false), Some(false)));
    assert_eq!(auth(AuthRequired::Writes), (Some(false), Some(true)));
    assert_eq!(auth(AuthRequired::Always), (Some(true), Some(true)));
    let trust = document(&|config| config.admission.trust.roots = vec!["11".repeat(32)]);
    assert_eq!(trust, (Some(false), Some(true)));
}
