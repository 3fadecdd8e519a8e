//! Management calls over HTTP (NIP-86): what they do to publishing and reading.

use nightjar_config::{KindAccess, WriteAccess};
use nostr::event::Event as NostrEvent;
use nostr::key::Keys;
use serde_json::{Value, json};

use super::calls::{Call, call, call_at, http, managed_by, managed_with};
use super::harness::{Client, Relay, event, event_id, wrap};
use crate::nip11::Document;

async fn refused(client: &mut Client, event: &NostrEvent) -> String {
    let answer = client.publish(event).await;
    assert_eq!(answer[2], false, "{answer}");
    answer[3].as_str().expect("a reason").to_owned()
}

#[tokio::test]
async fn a_banned_key_is_refused_hidden_and_given_back() {
    let (admin, spammer) = (Keys::generate(), Keys::generate());
    let relay = managed_by(&admin).await;
    let (old, new) = (
        event(&spammer, 1, "old", &[]),
        event(&spammer, 1, "new", &[]),
    );
    relay.publish(&[&old]).await;
    let mut reader = relay.client().await;
    let everything = json!({"kinds": [1, 20_001]});
    assert_eq!(
        reader.read("live", std::slice::from_ref(&everything)).await,
        Ok(vec![old.id.to_hex()])
    );

    let key = spammer.public_key().to_hex();
    assert_eq!(
        call(&relay, &admin, "banpubkey", json!([key, "spam"])).await,
        true
    );
    assert_eq!(
        call(&relay, &admin, "listbannedpubkeys", json!([])).await,
        json!([{"pubkey": key, "reason": "spam"}])
    );
    let mut client = relay.client().await;
    for kind in [1, 0, 20_001] {
        let event = event(&spammer, kind, "again", &[]);
        assert_eq!(
            refused(&mut client, &event).await,
            "blocked: this key is banned here"
        );
    }
    // Known or not, the answer is the same.
    assert_eq!(
        refused(&mut client, &old).await,
        "blocked: this key is banned here"
    );
    let by_id = json!({"ids": [old.id.to_hex()]});
    for way in [everything.clone(), by_id, json!({"authors": [key]})] {
        assert_eq!(
            client.read("s", std::slice::from_ref(&way)).await,
            Ok(vec![]),
            "{way}"
        );
        assert_eq!(
            client.count("c", std::slice::from_ref(&way)).await,
            Ok(0),
            "{way}"
        );
    }
    reader.check_alive().await;

    assert_eq!(
        call_at(&relay, &admin, "unbanpubkey", json!([key]), 1).await,
        true
    );
    assert_eq!(
        call(&relay, &admin, "listbannedpubkeys", json!([])).await,
        json!([])
    );
    assert_eq!(
        client.read("s", &[everything]).await,
        Ok(vec![old.id.to_hex()])
    );
    relay.publish(&[&new]).await;
    assert_eq!(event_id(&reader.receive().await), new.id.to_hex());
}

#[tokio::test]
async fn a_banned_key_may_read_its_messages_and_take_back_what_it_published() {
    let (admin, bob) = (Keys::generate(), Keys::generate());
    let relay = managed_by(&admin).await;
    let (message, note) = (wrap(1059, &bob), event(&bob, 1, "note", &[]));
    relay.publish(&[&message, &note]).await;
    call(
        &relay,
        &admin,
        "banpubkey",
        json!([bob.public_key().to_hex()]),
    )
    .await;
    let mut client = relay.authenticated(&[&bob]).await;
    let mine = [json!({"kinds": [1059]})];
    assert_eq!(client.read("m", &mine).await, Ok(vec![message.id.to_hex()]));
    let deletion = event(
        &bob,
        5,
        "",
        &[&["e", &message.id.to_hex()], &["e", &note.id.to_hex()]],
    );
    relay.publish(&[&deletion]).await;
    assert_eq!(client.read("m", &mine).await, Ok(vec![]));
    call_at(
        &relay,
        &admin,
        "unbanpubkey",
        json!([bob.public_key().to_hex()]),
        1,
    )
    .await;
    assert_eq!(client.read("n", &[json!({"kinds": [1]})]).await, Ok(vec![]));
}

#[tokio::test]
async fn a_banned_event_is_refused_also_when_it_was_never_here() {
    let (admin, author) = (Keys::generate(), Keys::generate());
    let relay = managed_by(&admin).await;
    let (here, never) = (
        event(&author, 1, "here", &[]),
        event(&author, 1, "never", &[]),
    );
    let (wrapped, unknown) = (wrap(1059, &author), wrap(1059, &author));
    relay.publish(&[&here, &wrapped]).await;
    let mut answers = Vec::new();
    for event in [&here, &never, &wrapped, &unknown] {
        let params = json!([event.id.to_hex(), "why"]);
        answers.push(
            Call::signed_by(&admin, "banevent", &params)
                .send(&relay)
                .await
                .body,
        );
        let mut client = relay.client().await;
        assert_eq!(
            refused(&mut client, event).await,
            "blocked: this event is banned here"
        );
    }
    answers.dedup();
    assert_eq!(
        answers,
        [json!({"result": true})],
        "the same whether or not it exists"
    );
    let banned = call(&relay, &admin, "listbannedevents", json!([])).await;
    assert_eq!(banned.as_array().map(Vec::len), Some(4));
    assert!(
        banned
            .as_array()
            .expect("a list")
            .iter()
            .all(|entry| entry["reason"] == "why")
    );
    let mut client = relay.authenticated(&[&author]).await;
    assert_eq!(client.read("s", &[json!({})]).await, Ok(vec![]));
    call_at(&relay, &admin, "allowevent", json!([here.id.to_hex()]), 1).await;
    assert_eq!(
        client.read("s", &[json!({})]).await,
        Ok(vec![here.id.to_hex()])
    );
}

#[tokio::test]
async fn only_keys_on_the_allow_list_publish_where_that_is_asked_for() {
    let (admin, member, guest) = (Keys::generate(), Keys::generate(), Keys::generate());
    let of_member = member.public_key().to_hex();
    let relay = managed_with(&admin, |config| {
        config.admission.write = WriteAccess::AllowedKeys;
        config.admission.allow_pubkeys = vec![of_member.clone()];
    })
    .await;
    let config = relay.services.config.load_full();
    let document = serde_json::to_value(Document::new(&config)).expect("JSON");
    assert_eq!(document["limitation"]["restricted_writes"], true);
    relay
        .publish(&[&event(&member, 1, "hello", &[]), &wrap(1059, &member)])
        .await;
    let mut client = relay.client().await;
    let refusal = refused(&mut client, &event(&guest, 1, "hello", &[])).await;
    assert!(
        refusal.starts_with("restricted: only keys on this relay's allow list"),
        "{refusal}"
    );
    let refusal = refused(&mut client, &wrap(1059, &guest)).await;
    assert!(refusal.starts_with("auth-required: "), "{refusal}");
    let mut sender = relay.authenticated(&[&member]).await;
    assert_eq!(sender.publish(&wrap(1059, &guest)).await[2], true);

    let of_guest = guest.public_key().to_hex();
    call(&relay, &admin, "allowpubkey", json!([of_guest, "a friend"])).await;
    relay
        .publish(&[&event(&guest, 1, "hello again", &[])])
        .await;
    let mut listed = vec![
        json!({"pubkey": of_guest, "reason": "a friend"}),
        json!({"pubkey": of_member, "reason": "in the fleet's configuration"}),
    ];
    let sort = |list: &mut Vec<Value>| list.sort_by_key(|entry| entry["pubkey"].to_string());
    let found = call(&relay, &admin, "listallowedpubkeys", json!([])).await;
    let mut found = found.as_array().expect("a list").clone();
    sort(&mut listed);
    sort(&mut found);
    assert_eq!(found, listed);
    let declared = Call::signed_by(&admin, "unallowpubkey", &json!([of_member]));
    declared
        .send(&relay)
        .await
        .refused(403, "restricted: this entry is in the fleet's configuration, take it out of spec.relay.admission.allowPubkeys");
}

#[tokio::test]
async fn kinds_are_disallowed_and_allowed_again() {
    let (admin, author) = (Keys::generate(), Keys::generate());
    let relay = managed_with(&admin, |config| {
        config.admission.kinds = KindAccess::AllowedKinds;
        config.admission.allow_kinds = vec![1];
    })
    .await;
    let mut client = relay.client().await;
    let seven = event(&author, 7, "+", &[]);
    let refusal = refused(&mut client, &seven).await;
    assert!(
        refusal.starts_with("blocked: only kinds on this relay's list"),
        "{refusal}"
    );
    call(&relay, &admin, "allowkind", json!([7])).await;
    assert_eq!(
        call(&relay, &admin, "listallowedkinds", json!([])).await,
        json!([7, 1])
    );
    relay.publish(&[&seven]).await;
    call(&relay, &admin, "disallowkind", json!([1])).await;
    let note = event(&author, 1, "hello", &[]);
    assert_eq!(
        refused(&mut client, &note).await,
        "blocked: kind 1 is not taken here"
    );
    assert_eq!(
        call(&relay, &admin, "listdisallowedkinds", json!([])).await,
        json!([1])
    );
}

#[tokio::test]
async fn a_relay_without_administrators_has_no_such_api() {
    let relay = Relay::start().await;
    let admin = Keys::generate();
    let answer = Call::signed_by(&admin, "supportedmethods", &json!([]))
        .send(&relay)
        .await;
    assert_eq!((answer.status, &answer.body), (405, &Value::Null));
    let config = relay.services.config.load_full();
    let document = serde_json::to_value(Document::new(&config)).expect("JSON");
    let nips = document["supported_nips"].as_array().expect("a list");
    assert!(!nips.contains(&json!(86)) && !nips.contains(&json!(98)));
    assert_eq!(document["limitation"]["restricted_writes"], false);
}

#[tokio::test]
async fn a_relay_with_administrators_says_so_and_lets_web_clients_call() {
    let admin = Keys::generate();
    let relay = managed_by(&admin).await;
    let config = relay.services.config.load_full();
    let document = serde_json::to_value(Document::new(&config)).expect("JSON");
    let nips = document["supported_nips"].as_array().expect("a list");
    assert!(
        nips.contains(&json!(86)) && nips.contains(&json!(98)),
        "{nips:?}"
    );
    let methods = call(&relay, &admin, "supportedmethods", json!([])).await;
    assert_eq!(methods.as_array().map(Vec::len), Some(16), "{methods}");
    assert!(!methods.to_string().contains("supportedmethods"));
    let preflight = http(
        &relay,
        "OPTIONS / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        preflight.contains("access-control-allow-headers: *, Authorization"),
        "{preflight}"
    );
    assert!(preflight.contains("access-control-allow-methods: GET, HEAD, POST, OPTIONS"));
    let answer = Call::signed_by(&admin, "supportedmethods", &json!([]))
        .send(&relay)
        .await;
    assert!(
        answer.head.contains("access-control-allow-origin: *"),
        "{}",
        answer.head
    );
}
