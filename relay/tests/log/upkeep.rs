//! What goes on beside the way of an event: reload, sweeping, ephemeral messages, signals.

use std::time::Duration;

use nightjar_config::RegionLog;
use nostr::key::Keys;
use rustix::process::Signal;
use serde_json::json;

use crate::client::{Read, event, id, note, now};
use crate::keys;
use crate::nats::Nats;
use crate::relay::Relay;
use crate::wait::until;

#[tokio::test]
async fn a_region_that_is_added_is_followed_and_one_that_is_removed_is_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let keyring = keys::keyring();
    let mut relay = Relay::start(dir.path(), "a-relay-0", &nats, &keyring).await;
    nats.make_streams("b").await;
    let jetstream = async_nats::jetstream::new(nats.admin().await);
    let far = note("from region b");
    let envelope = keys::seal(&keyring, "ev.b.1.0.4", &far.to_string());
    let ack = jetstream.publish("ev.b.1.0.4", envelope.into()).await;
    ack.expect("sent").await.expect("stored");

    relay.config.log.regions.push(RegionLog {
        region: "b".parse().expect("a name"),
        generation: 1,
        message_shards: 4,
        state_shards: 2,
    });
    relay.write_config();
    let mut client = relay.client().await;
    let filter = json!({"ids": [id(&far)]});
    until("the event of region b", async || {
        let found = client.ids(filter.clone()).await;
        if found.len() == 1 { Ok(()) } else { Err(found) }
    })
    .await;

    relay.config.log.regions.pop();
    relay.write_config();
    relay.signal(Signal::HUP);
    until("region b is forgotten", async || {
        let (_, text) = relay.get("/metrics").await?;
        if text.contains("EV_b_1_0") {
            Err(text)
        } else {
            Ok(())
        }
    })
    .await;
    assert_eq!(
        client.ids(filter).await,
        [id(&far)],
        "what was applied stays"
    );
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn superseded_state_leaves_the_log_and_nothing_else_does() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let relay = Relay::start(dir.path(), "a-relay-0", &nats, &keys::keyring()).await;
    let mut client = relay.client().await;
    let author = Keys::generate();
    let mut last = note("stays");
    assert!(client.publish(&last).await.0);
    for version in 0..5 {
        let content = format!("version {version}");
        last = event(&author, 0, now() - 10 + version, &[], &content);
        assert!(client.publish(&last).await.0);
    }
    let jetstream = async_nats::jetstream::new(nats.admin().await);
    until("one profile and one note are left", async || {
        let mut left = (0, 0);
        for (class, shards) in [("EV", 4), ("ST", 2)] {
            for shard in 0..shards {
                let name = format!("{class}_a_1_{shard}");
                let stream = jetstream
                    .get_stream(name)
                    .await
                    .map_err(|error| error.to_string())?;
                let messages = stream.cached_info().state.messages;
                if class == "EV" {
                    left.0 += messages
                } else {
                    left.1 += messages
                }
            }
        }
        if left == (1, 1) {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await;
    let found = client
        .ids(json!({"authors": [author.public_key().to_hex()]}))
        .await;
    assert_eq!(found, [id(&last)]);
    assert_eq!(relay.metric("nj_log_swept_entries_total").await, 4.0);
}

#[tokio::test]
async fn an_ephemeral_message_is_delivered_once_and_not_when_it_is_old() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let keyring = keys::keyring();
    let relay = Relay::start(dir.path(), "a-relay-0", &nats, &keyring).await;
    let mut watcher = relay.client().await;
    assert!(matches!(
        watcher.read(json!({"kinds": [20_001]})).await,
        Read::Events(_)
    ));
    let ephemeral = |content: &str| event(&Keys::generate(), 20_001, now(), &[], content);
    let (old, fresh, fence) = (ephemeral("old"), ephemeral("fresh"), ephemeral("fence"));
    let subject = "eph.b.0.0.4";
    let seal =
        |event: &serde_json::Value, at| keys::seal_at(&keyring, subject, &event.to_string(), at);
    let admin = nats.admin().await;
    for envelope in [
        seal(&old, now() - 70),
        seal(&fresh, now()),
        seal(&fresh, now()),
        seal(&note("stored kinds do not come this way"), now()),
        seal(&fence, now()),
    ] {
        admin.publish(subject, envelope.into()).await.expect("sent");
    }
    admin.flush().await.expect("flushed");
    assert_eq!(watcher.live_until(&fence).await, [id(&fresh), id(&fence)]);
    assert_eq!(watcher.next_within(Duration::from_millis(200)).await, None);
}

#[tokio::test]
async fn a_relay_that_starts_before_nats_waits_and_serves_what_it_has() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(mut nats) = Nats::start(dir.path()).await else {
        return;
    };
    let mut relay = Relay::start(dir.path(), "a-relay-0", &nats, &keys::keyring()).await;
    let kept = note("kept");
    assert!(relay.client().await.publish(&kept).await.0);
    assert_eq!(relay.stop(), Some(0));
    nats.kill();

    relay.spawn();
    relay.wait_not_ready("nats-disconnected").await;
    let mut client = relay.client().await;
    assert_eq!(client.ids(json!({"ids": [id(&kept)]})).await, [id(&kept)]);
    let typing = event(&Keys::generate(), 20_001, now(), &[], "typing");
    let (accepted, reason) = client.publish(&typing).await;
    assert!(
        !accepted && reason == "error: not handed on in time, send it again",
        "{reason}"
    );
    nats.spawn().await;
    relay.wait_ready().await;
    assert!(client.publish(&note("again")).await.0);
}
