//! Settings that change while clients are served: at no moment is anything let through that neither the old nor the new ones allow.

use std::sync::atomic::{AtomicUsize, Ordering};

use nightjar_config::RelayConfig;
use nostr::event::Event;
use nostr::key::Keys;
use serde_json::json;

use super::harness::{Client, Relay, event, event_at, wrap};
use crate::reload;

/// How often what must be refused is tried.
const ROUNDS: usize = 300;

/// Puts settings into force as the server does: read from the file, then given to those who keep what follows from them.
fn reload(relay: &Relay, path: &std::path::Path, change: impl FnOnce(&mut RelayConfig)) {
    let services = &relay.services;
    let mut config = RelayConfig::clone(&services.config.load());
    change(&mut config);
    std::fs::write(path, config.to_yaml()).expect("written");
    assert!(reload::on_change(path, &services.config));
    services.admission.reconfigure(services.config.load_full());
}

fn many_tags(keys: &Keys, count: usize, content: &str) -> Event {
    event(keys, 1, content, &vec![&["t", "x"][..]; count])
}

/// Publishes one after the other until there were enough rounds; each must be refused for the reason that belongs to it.
async fn press(
    client: &mut Client,
    refused: &[(Event, &str)],
    welcome: &[Event],
    rounds: &AtomicUsize,
) {
    let mut welcome = welcome.iter();
    while rounds.fetch_add(1, Ordering::Relaxed) < ROUNDS {
        for (event, reason) in refused {
            let answer = client.publish(event).await;
            let text = answer[3].as_str().unwrap_or_default();
            assert!(answer[2] == false && text.contains(reason), "{answer}");
        }
        let private = [json!({"kinds": [1059]})];
        let read = client.read("s", &private).await;
        assert!(read.is_err(), "{read:?}");
        assert!(client.count("c", &private).await.is_err());
        // The relay is not merely shut.
        if let Some(event) = welcome.next() {
            assert_eq!(client.publish(event).await[2], true);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_settings_under_load_never_opens_the_gate() {
    let relay = Relay::start_with(
        |config| {
            let limits = &mut config.limits;
            limits.max_event_tags = 10;
            limits.events_burst_per_connection = u32::MAX;
            limits.events_burst_per_address = u32::MAX;
            limits.reqs_burst_per_connection = u32::MAX;
        },
        Default::default(),
    )
    .await;
    let keys = Keys::generate();
    let refused = [
        (many_tags(&keys, 25, "too many"), "max_event_tags"),
        (
            event_at(&keys, 1, "ahead", &[], 3_000),
            "ahead of this relay's clock",
        ),
        (event(&keys, 22_242, "", &[]), "credential"),
        (event(&keys, 1, "mine", &[&["-"]]), "protected"),
    ];
    relay.publish(&[&wrap(1059, &keys)]).await;
    let welcome: Vec<Event> = (0..50)
        .map(|number| many_tags(&keys, 5, &number.to_string()))
        .collect();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(relay.client().await);
    }
    let (rounds, folder) = (AtomicUsize::new(0), tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("relay.yaml");
    let pressing = futures_util::future::join_all(
        clients
            .iter_mut()
            .map(|client| press(client, &refused, &welcome, &rounds)),
    );
    let changing = async {
        let mut reloads = 0;
        while rounds.load(Ordering::Relaxed) < ROUNDS {
            reloads += 1;
            reload(&relay, &path, |config| {
                let limits = &mut config.limits;
                let is_even = reloads % 2 == 0;
                // Both refuse all of the above, each for its own number.
                limits.max_event_tags = if is_even { 10 } else { 20 };
                limits.created_at_ahead_seconds = if is_even { 100 } else { 900 };
                limits.max_subscriptions = if is_even { 40 } else { 50 };
            });
            tokio::task::yield_now().await;
        }
        reloads
    };
    let (_, reloads) = tokio::join!(pressing, changing);
    assert!(
        reloads > 20,
        "{reloads} changes while {ROUNDS} rounds were pressed"
    );
    let mut reader = relay.client().await;
    for (event, reason) in &refused {
        let found = reader
            .read("s", &[json!({"ids": [event.id.to_hex()]})])
            .await;
        assert_eq!(found, Ok(Vec::new()), "{reason}");
    }
}

#[tokio::test]
async fn a_change_of_other_settings_gives_no_address_another_burst() {
    let relay = Relay::start_with(
        |config| {
            config.limits.events_burst_per_address = 2;
            config.limits.events_per_second_per_address = 0.001;
        },
        Default::default(),
    )
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("relay.yaml");
    let keys = Keys::generate();
    let mut client = relay.client().await;
    let mut publish = async |content: &str| {
        let answer = client.publish(&event(&keys, 1, content, &[])).await;
        answer[2].as_bool().expect("a verdict")
    };
    assert!(publish("one").await && publish("two").await);
    assert!(!publish("three").await);
    reload(&relay, &path, |config| config.limits.max_subscriptions = 7);
    assert!(!publish("four").await, "its bucket is as empty as before");
    reload(&relay, &path, |config| {
        config.limits.events_burst_per_address = 3
    });
    assert!(publish("five").await, "a larger bucket is in force at once");
}
