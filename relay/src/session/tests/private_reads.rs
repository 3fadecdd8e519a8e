//! A stranger, authenticated or not, gets no gift wrap and no hint that one exists, in whatever way it asks.

use nostr::event::Event;
use nostr::key::Keys;
use serde_json::{Value, json};

use super::harness::{Client, Relay, event, event_id, wrap};
use crate::metrics::Door;

/// Every way to ask for a wrap.
fn ways(wrap: &Event, recipient: &Keys) -> Vec<(&'static str, Value)> {
    let recipient = recipient.public_key().to_hex();
    vec![
        ("kind", json!({"kinds": [wrap.kind.as_u16()]})),
        ("kindless", json!({})),
        ("id", json!({"ids": [wrap.id.to_hex()]})),
        ("author", json!({"authors": [wrap.pubkey.to_hex()]})),
        ("recipient", json!({"#p": [recipient]})),
        (
            "kind and recipient",
            json!({"kinds": [wrap.kind.as_u16()], "#p": [recipient]}),
        ),
        (
            "id and kind",
            json!({"ids": [wrap.id.to_hex()], "kinds": [1, wrap.kind.as_u16()]}),
        ),
        (
            "time",
            json!({"since": wrap.created_at.as_secs() - 1, "until": wrap.created_at.as_secs() + 1}),
        ),
    ]
}

async fn check_stored(client: &mut Client, wrap: &Event, recipient: &Keys, expected: &[String]) {
    for (way, filter) in ways(wrap, recipient) {
        match client.read("s", &[filter]).await {
            Ok(ids) => assert_eq!(ids, expected, "by {way}"),
            Err(reason) => {
                assert!(expected.is_empty(), "by {way}: {reason}");
                assert!(
                    way.contains("kind") && way != "kindless",
                    "by {way}: {reason}"
                );
                assert!(reason.starts_with("auth-required: "), "by {way}: {reason}");
            }
        }
        client.send(json!(["CLOSE", "s"])).await;
    }
}

#[tokio::test]
async fn a_stored_wrap_is_served_to_its_authenticated_recipient_only() {
    let relay = Relay::start().await;
    let (bob, mallory) = (Keys::generate(), Keys::generate());
    let sent = wrap(1059, &bob);
    relay.publish(&[&sent]).await;

    check_stored(&mut relay.client().await, &sent, &bob, &[]).await;
    check_stored(
        &mut relay.authenticated(&[&mallory]).await,
        &sent,
        &bob,
        &[],
    )
    .await;
    let found = [sent.id.to_hex()];
    check_stored(&mut relay.authenticated(&[&bob]).await, &sent, &bob, &found).await;
    check_stored(
        &mut relay.authenticated(&[&mallory, &bob]).await,
        &sent,
        &bob,
        &found,
    )
    .await;
    assert_eq!(relay.services.metrics.reads_refused(Door::stored), 0);
}

#[tokio::test]
async fn a_live_wrap_goes_to_its_authenticated_recipient_only() {
    let relay = Relay::start().await;
    let (bob, mallory) = (Keys::generate(), Keys::generate());
    let mut sender = relay.client().await;
    for kind in [1059, 21059] {
        let sent = wrap(kind, &bob);
        let mut strangers = [relay.client().await, relay.authenticated(&[&mallory]).await];
        let mut recipient = relay.authenticated(&[&bob]).await;
        for client in strangers.iter_mut().chain([&mut recipient]) {
            for (number, (_, filter)) in ways(&sent, &bob).into_iter().enumerate() {
                let _ = client.read(&number.to_string(), &[filter]).await;
            }
        }
        sender.publish(&sent).await;
        for _ in ways(&sent, &bob) {
            assert_eq!(event_id(&recipient.receive().await), sent.id.to_hex());
        }
        // The next thing the strangers see is something public: the wrap was not before it.
        let public = event(&Keys::generate(), 1, "public", &[]);
        sender.publish(&public).await;
        for stranger in &mut strangers {
            assert_eq!(event_id(&stranger.receive().await), public.id.to_hex());
        }
        assert!(relay.services.metrics.reads_refused(Door::live) > 0);
    }
}

#[tokio::test]
async fn refusals_do_not_depend_on_what_is_stored() {
    let relay = Relay::start().await;
    let (bob, nobody) = (Keys::generate(), Keys::generate());
    let (sent, unsent) = (wrap(1059, &bob), wrap(1059, &nobody));
    relay.publish(&[&sent]).await;
    let mut client = relay.client().await;
    for ((_, one), (_, other)) in ways(&sent, &bob).into_iter().zip(ways(&unsent, &nobody)) {
        assert_eq!(
            client.read("s", &[one]).await,
            client.read("s", &[other]).await
        );
    }
}

#[tokio::test]
async fn deletions_of_wraps_are_served_to_their_author_only() {
    let relay = Relay::start().await;
    let bob = Keys::generate();
    let sent = wrap(1059, &bob);
    let deletion = event(&bob, 5, "", &[&["e", &sent.id.to_hex()], &["k", "1059"]]);
    relay.publish(&[&sent, &deletion]).await;
    let asked = [
        json!({"kinds": [5]}),
        json!({"authors": [bob.public_key().to_hex()]}),
        json!({"ids": [deletion.id.to_hex()]}),
    ];
    assert_eq!(relay.client().await.read("s", &asked).await, Ok(vec![]));
    assert_eq!(
        relay.authenticated(&[&bob]).await.read("s", &asked).await,
        Ok(vec![deletion.id.to_hex()])
    );
}

#[tokio::test]
async fn an_auth_counts_for_subscriptions_that_are_open_already() {
    let relay = Relay::start().await;
    let bob = Keys::generate();
    let mut client = relay.client().await;
    assert_eq!(
        client
            .read("mine", &[json!({"#p": [bob.public_key().to_hex()]})])
            .await,
        Ok(vec![])
    );
    client.authenticate(&bob).await;
    let sent = wrap(1059, &bob);
    relay.publish(&[&sent]).await;
    assert_eq!(event_id(&client.receive().await), sent.id.to_hex());
}
