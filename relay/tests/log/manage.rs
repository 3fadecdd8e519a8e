//! Management calls (NIP-86) through the log: a change made on one relay holds on every relay, and after a rebuild.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nostr::key::Keys;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{event, id, now};
use crate::keys;
use crate::nats::Nats;
use crate::relay::Relay;
use crate::wait::until;

/// A call as its administrator signed it: header and body.
struct Call {
    authorization: String,
    body: String,
}

fn signed(admin: &Keys, relay: &Relay, method: &str, params: Value, at: u64) -> Call {
    let body = json!({"method": method, "params": params}).to_string();
    let url = relay.url().replace("ws://", "http://");
    let payload = hex::encode(Sha256::digest(&body));
    let tags: [&[&str]; 3] = [&["u", &url], &["method", "POST"], &["payload", &payload]];
    let auth = event(admin, 27_235, at, &tags, "");
    Call {
        authorization: format!("Nostr {}", STANDARD.encode(auth.to_string())),
        body,
    }
}

/// Status and body of the answer.
async fn send(relay: &Relay, call: &Call) -> (u16, Value) {
    let Call {
        authorization,
        body,
    } = call;
    let mut stream = TcpStream::connect(relay.config.listen).await.expect("TCP");
    let request = format!(
        "POST / HTTP/1.1\r\nHost: relay\r\nContent-Type: application/nostr+json+rpc\r\nContent-Length: {}\r\n\
         Authorization: {authorization}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let status = answer.split(' ').nth(1).expect("a status");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    (
        status.parse().expect("a number"),
        serde_json::from_str(body).expect("JSON"),
    )
}

async fn call(admin: &Keys, relay: &Relay, method: &str, params: Value, at: u64) -> Value {
    let (status, body) = send(relay, &signed(admin, relay, method, params, at)).await;
    assert_eq!(status, 200, "{body}");
    body["result"].clone()
}

async fn until_listed(admin: &Keys, relay: &Relay, method: &str, expected: &Value) {
    until("the list as it should be", async || {
        let found = call(admin, relay, method, json!([]), now()).await;
        if found == *expected {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
}

/// A relay that this administrator manages.
async fn managed(
    dir: &std::path::Path,
    name: &str,
    nats: &Nats,
    keyring: &nightjar_envelope::Keyring,
    admin: &Keys,
) -> Relay {
    let mut relay = Relay::prepare(dir, name, nats, Some(keyring));
    relay.config.management.admins = vec![admin.public_key().to_hex()];
    relay.write_config();
    relay.spawn();
    relay.wait_ready().await;
    relay
}

#[tokio::test]
async fn a_ban_on_one_relay_holds_on_the_other_and_after_a_rebuild() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let (keyring, admin, spammer) = (keys::keyring(), Keys::generate(), Keys::generate());
    let one = managed(dir.path(), "a-relay-0", &nats, &keyring, &admin).await;
    let mut other = managed(dir.path(), "a-relay-1", &nats, &keyring, &admin).await;
    let mut client = one.client().await;
    let old = event(&spammer, 1, now() - 9, &[], "spam");
    assert!(client.publish(&old).await.0);

    let key = spammer.public_key().to_hex();
    let at = now();
    let ban = signed(&admin, &one, "banpubkey", json!([key, "spam"]), at);
    assert_eq!(send(&one, &ban).await, (200, json!({"result": true})));
    let listed = json!([{"pubkey": key, "reason": "spam"}]);
    until_listed(&admin, &other, "listbannedpubkeys", &listed).await;
    let (status, answer) = send(&one, &ban).await;
    let error = answer["error"].as_str().expect("an error");
    assert_eq!(status, 401);
    assert!(
        error.starts_with("auth-required: this authorization was used already"),
        "{error}"
    );

    let new = event(&spammer, 1, now(), &[], "more spam");
    for relay in [&one, &other] {
        let mut client = relay.client().await;
        let refused = (false, "blocked: this key is banned here".to_owned());
        assert_eq!(client.publish(&new).await, refused);
        assert_eq!(
            client.ids(json!({"kinds": [1]})).await,
            Vec::<String>::new()
        );
    }

    assert_eq!(other.stop(), Some(0));
    std::fs::remove_dir_all(other.index_dir()).expect("removed");
    other.spawn();
    other.wait_ready().await;
    let mut client = other.client().await;
    assert_eq!(
        client.ids(json!({"ids": [id(&old)]})).await,
        Vec::<String>::new()
    );
    assert_eq!(
        client.publish(&new).await.1,
        "blocked: this key is banned here"
    );
    until_listed(&admin, &other, "listbannedpubkeys", &listed).await;

    // Lifted there, and what was hidden here is back.
    assert_eq!(
        call(&admin, &other, "unbanpubkey", json!([key]), at + 1).await,
        true
    );
    until_listed(&admin, &one, "listbannedpubkeys", &json!([])).await;
    let mut client = one.client().await;
    assert_eq!(client.ids(json!({"kinds": [1]})).await, [id(&old)]);
    assert!(client.publish(&new).await.0);
    assert_eq!(
        one.metric("nj_management_calls_total{method=\"banpubkey\",outcome=\"ok\"}")
            .await,
        1.0
    );
    for relay in [&one, &other] {
        let log = relay.log();
        assert!(!log.contains(&key) && !log.contains(&admin.public_key().to_hex()));
    }
}

#[tokio::test]
async fn administrators_and_lists_of_the_file_change_while_the_relay_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let (keyring, admin, author) = (keys::keyring(), Keys::generate(), Keys::generate());
    let mut relay = managed(dir.path(), "a-relay-0", &nats, &keyring, &Keys::generate()).await;
    let ask = || signed(&admin, &relay, "listbannedpubkeys", json!([]), now());
    assert_eq!(send(&relay, &ask()).await.0, 403);
    let mut client = relay.client().await;
    assert!(
        client
            .publish(&event(&author, 1, now(), &[], "before"))
            .await
            .0
    );

    relay.config.management.admins = vec![admin.public_key().to_hex()];
    relay.config.admission.deny_pubkeys = vec![author.public_key().to_hex()];
    relay.write_config();
    let listed = until("the new file", async || {
        let ask = signed(&admin, &relay, "listbannedpubkeys", json!([]), now());
        match send(&relay, &ask).await {
            (200, body) => Ok(body["result"].clone()),
            other => Err(other),
        }
    })
    .await;
    let why = "in the fleet's configuration";
    assert_eq!(
        listed,
        json!([{"pubkey": author.public_key().to_hex(), "reason": why}])
    );
    let refusal = until("the lists of the new file", async || {
        let note = event(&author, 1, now(), &[], &rand::random::<u64>().to_string());
        match client.publish(&note).await {
            (false, reason) => Ok(reason),
            (true, _) => Err("still taken"),
        }
    })
    .await;
    assert_eq!(refusal, "blocked: this key is banned here");
}

#[tokio::test]
async fn a_call_that_nobody_signed_is_skipped_and_recorded() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let (keyring, admin) = (keys::keyring(), Keys::generate());
    let relay = managed(dir.path(), "a-relay-0", &nats, &keyring, &admin).await;
    let body = json!({"method": "banpubkey", "params": ["ab".repeat(32)]}).to_string();
    let payload = hex::encode(Sha256::digest(&body));
    let tags: [&[&str]; 3] = [
        &["u", "http://x/"],
        &["method", "POST"],
        &["payload", &payload],
    ];
    let mut auth = event(&admin, 27_235, now(), &tags, "");
    auth["sig"] = "00".repeat(64).into();
    let forged = json!({"auth": auth, "body": body}).to_string();
    let subject = "st.a.1.0.0";
    let envelope = keys::seal_call(&keyring, subject, &forged);
    let jetstream = async_nats::jetstream::new(nats.admin().await);
    let stored = jetstream
        .publish(subject, envelope.into())
        .await
        .expect("sent");
    stored.await.expect("stored");
    until("the entry skipped", async || {
        let skipped = relay
            .metric("nj_log_skipped_entries_total{reason=\"call\"}")
            .await;
        if skipped == 1.0 { Ok(()) } else { Err(skipped) }
    })
    .await;
    assert_eq!(
        call(&admin, &relay, "listbannedpubkeys", json!([]), now()).await,
        json!([])
    );
    assert!(relay.index_dir().join("quarantine.jsonl").exists());
}
