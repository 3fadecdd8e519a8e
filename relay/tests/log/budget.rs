//! Budgets of keys over two relays and a real nats-server: what a key spent at one it has not at the other, and NATS learns no key.

use std::path::Path;
use std::time::Duration;

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use nightjar_envelope::{Keyring, Spending};
use nostr::key::Keys;

use crate::client::{event, now};
use crate::keys;
use crate::nats::Nats;
use crate::relay::Relay;
use crate::wait::until;

const BURST: i64 = 5;

/// Two relays on which keys have a small budget.
async fn two_relays(dir: &Path, nats: &Nats, keyring: &Keyring) -> Vec<Relay> {
    let mut relays = Vec::new();
    for name in ["a-relay-0", "a-relay-1"] {
        let mut relay = Relay::prepare(dir, name, nats, Some(keyring));
        // Nothing comes back while the test runs.
        relay.config.admission.key_budget.events_per_minute = 1;
        relay.config.admission.key_budget.burst = BURST as u32;
        relay.write_config();
        relay.spawn();
        relay.wait_ready().await;
        relays.push(relay);
    }
    relays
}

/// What is told until the key has spent its burst, every message. None shows the key to NATS.
async fn told_of(author: &Keys, told: &mut Subscriber, keyring: &Keyring) -> Vec<Bytes> {
    let key = author.public_key().to_bytes();
    let hex = author.public_key().to_hex();
    let (mut messages, mut spent) = (Vec::new(), 0);
    while spent < BURST as u32 {
        let message = tokio::time::timeout(Duration::from_secs(20), told.next())
            .await
            .expect("it is told in time")
            .expect("a message");
        assert!(!message.payload.windows(4).any(|part| part == &key[..4]));
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        assert!(!text.contains(&hex[..8]));
        let region = "a".parse().expect("a name");
        let opened = Spending::open(keyring, &keys::fleet(), &region, &message.payload);
        spent += opened.expect("a message of the fleet").spent[0].1;
        messages.push(message.payload);
    }
    assert_eq!(spent, BURST as u32);
    messages
}

#[tokio::test]
async fn what_a_key_spends_at_one_relay_it_has_not_at_another() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let keyring = keys::keyring();
    let mut relays = two_relays(dir.path(), &nats, &keyring).await;
    let mut told = nats
        .admin()
        .await
        .subscribe("eph.a.spent")
        .await
        .expect("a subscription");
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let (mut here, mut there) = (relays[0].client().await, relays[1].client().await);
    for number in 0..BURST {
        let note = event(&alice, 1, now(), &[], &format!("{number}"));
        assert_eq!(here.publish(&note).await, (true, String::new()));
    }
    let hex = alice.public_key().to_hex();
    let mut messages = told_of(&alice, &mut told, &keyring).await;

    let told = messages.len() as f64;
    until("the other relay has heard", async || {
        match relays[1]
            .metric("nj_log_spending_total{result=\"delivered\"}")
            .await
        {
            heard if heard >= told => Ok(()),
            heard => Err(heard),
        }
    })
    .await;
    let (taken, reason) = there
        .publish(&event(&alice, 1, now(), &[], "one too many"))
        .await;
    assert!(
        !taken && reason.starts_with("rate-limited: too many events of this key"),
        "{reason}"
    );
    let others = event(&bob, 1, now(), &[], "another key");
    assert_eq!(there.publish(&others).await, (true, String::new()));

    // The same message again takes nothing from anyone.
    let admin = nats.admin().await;
    admin
        .publish("eph.a.spent", messages.remove(0))
        .await
        .expect("sent");
    admin.flush().await.expect("sent");
    until("the repetition was refused", async || {
        match relays[1]
            .metric("nj_log_spending_total{result=\"replayed\"}")
            .await
        {
            refused if refused >= 1.0 => Ok(()),
            refused => Err(refused),
        }
    })
    .await;
    // Nothing of it is an ephemeral event that could not be read.
    for relay in &relays {
        let refused = relay
            .metric("nj_log_ephemeral_total{result=\"refused\"}")
            .await;
        assert_eq!(refused, 0.0);
    }
    for (relay, name) in relays.iter_mut().zip(["a-relay-0", "a-relay-1"]) {
        assert_eq!(relay.stop(), Some(0));
        let log = std::fs::read_to_string(dir.path().join(name).join("relay.log")).expect("a log");
        assert!(!log.contains(&hex), "a key in the log");
    }
}
