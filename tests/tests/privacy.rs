//! One door for reads: nobody but an authenticated recipient is shown a 1059 or 21059, whatever the filter, stored or live.

use nightjar_tests::event::{Person, Signed, now, wrap_for};
use nightjar_tests::fleet::{Fleet, Shared};
use nightjar_tests::socket::{Frame, Socket};
use nightjar_tests::yaml;
use serde_json::{Value, json};

static FLEET: Shared = Shared::new();

async fn fleet() -> &'static Fleet {
    FLEET.get("privacy", &yaml::fleet(&["a", "b"], 1)).await
}

/// Every way to ask for a wrap: what, filter.
fn ways(wrap: &Signed, recipient: &str) -> Vec<(&'static str, Value)> {
    let author = wrap.value()["pubkey"].clone();
    vec![
        ("kind", json!({"kinds": [1059]})),
        ("ephemeral kind", json!({"kinds": [21059]})),
        ("kind among others", json!({"kinds": [1, 1059, 21059]})),
        ("no kind", json!({})),
        ("id", json!({"ids": [wrap.id]})),
        ("author", json!({"authors": [author]})),
        ("p tag", json!({"#p": [recipient]})),
        (
            "p tag and kind",
            json!({"kinds": [1059], "#p": [recipient]}),
        ),
        ("time", json!({"since": now() - 60})),
        (
            "other filters beside",
            json!({"kinds": [1059], "authors": [author], "ids": [wrap.id], "#p": [recipient]}),
        ),
    ]
}

/// What of the fleet's private kinds a connection got to see.
fn private_events(socket: &Socket) -> Vec<Value> {
    let events = socket
        .drain()
        .into_iter()
        .filter_map(|received| match received.frame {
            Frame::Event(_, event) => Some(event),
            _ => None,
        });
    events
        .filter(|event| matches!(event["kind"].as_u64(), Some(1059 | 21059)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_no_wrap_stored_or_live_authenticated_or_not() {
    let fleet = fleet().await;
    let (sender, bob, eve) = (Person::new(), Person::new(), Person::new());
    let publisher = Socket::open(&fleet.relay("a")).await;
    let stored = sender.message(&bob, "for Bob alone");
    publisher.publish_ok(&stored).await;
    let reader = Socket::open_as(&fleet.relay("b"), &bob).await;
    let bobs = json!({"kinds": [1059, 21059], "#p": [bob.pubkey()]});
    // Region b has the wrap before the stranger asks there, or the test would show nothing.
    nightjar_tests::wait::until(
        "the wrap in region b",
        nightjar_tests::fleet::READY_LIMIT,
        async || {
            let ids = reader.ids(bobs.clone()).await;
            if ids == [stored.id.clone()] {
                Ok(())
            } else {
                Err(format!("{ids:?}"))
            }
        },
    )
    .await;
    reader
        .stored("live", std::slice::from_ref(&bobs))
        .await
        .expect("Bob subscribes");

    let mut strangers = Vec::new();
    for region in ["a", "b"] {
        for authenticated in [false, true] {
            for (what, filter) in ways(&stored, &bob.pubkey()) {
                let socket = Socket::open(&fleet.relay(region)).await;
                if authenticated {
                    socket.authenticate(&eve).await;
                }
                let who = format!("region {region}, authenticated: {authenticated}, by {what}");
                match socket.stored("s", &[filter]).await {
                    Ok(events) => assert!(
                        events
                            .iter()
                            .all(|event| event["kind"] != 1059 && event["kind"] != 21059),
                        "{who}: {events:?}"
                    ),
                    Err(message) => assert!(
                        !authenticated && message.starts_with("auth-required:")
                            || message.starts_with("restricted:"),
                        "{who}: {message}"
                    ),
                }
                strangers.push((who, socket));
            }
        }
    }

    // Live: the same subscriptions are open while wraps for Bob come from both regions.
    let live = sender.message(&bob, "and this one live");
    let ephemeral = wrap_for(21059, &bob.pubkey(), "ephemeral");
    publisher.publish_ok(&live).await;
    publisher.publish_ok(&ephemeral).await;
    for _ in 0..2 {
        let event = reader.next_event("live").await.expect("Bob gets both");
        assert!(
            [&live.id, &ephemeral.id]
                .contains(&&event["id"].as_str().unwrap_or_default().to_owned()),
            "{event}"
        );
    }
    for (who, socket) in &strangers {
        socket.settle().await;
        let seen = private_events(socket);
        assert!(seen.is_empty(), "{who}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_names_a_private_kind_asks_for_auth_whether_or_not_anything_is_there() {
    let relay = fleet().await.relay("a");
    for filter in [
        json!({"kinds": [1059]}),
        json!({"kinds": [21059], "#p": [Person::new().pubkey()]}),
        json!({"kinds": [1, 1059], "ids": ["0".repeat(64)]}),
    ] {
        let socket = Socket::open(&relay).await;
        let answer = socket.stored("s", std::slice::from_ref(&filter)).await;
        assert!(
            answer
                .as_ref()
                .is_err_and(|message| message.starts_with("auth-required:")),
            "{filter}: {answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_publishing_do_not_tell_who_is_there() {
    let relay = fleet().await.relay("a");
    let (online, offline) = (Person::new(), Person::new());
    let reader = Socket::open_as(&relay, &online).await;
    reader
        .stored(
            "live",
            &[json!({"kinds": [21059], "#p": [online.pubkey()]})],
        )
        .await
        .expect("a subscription");
    let publisher = Socket::open(&relay).await;
    for person in [&online, &offline] {
        let answer = publisher
            .publish(&wrap_for(21059, &person.pubkey(), "ping"))
            .await
            .expect("an answer");
        assert_eq!(answer, (true, String::new()));
    }
    reader
        .next_event("live")
        .await
        .expect("who is online gets it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_recipient_deleted_comes_back_from_nowhere() {
    let fleet = fleet().await;
    let (sender, bob, eve) = (Person::new(), Person::new(), Person::new());
    let wrap = sender.message(&bob, "to be deleted");
    let publisher = Socket::open(&fleet.relay("a")).await;
    publisher.publish_ok(&wrap).await;
    let deletion = bob.event(5, now(), &[&["e", &wrap.id], &["k", "1059"]], "");
    let bob_a = Socket::open_as(&fleet.relay("a"), &bob).await;
    bob_a.publish_ok(&deletion).await;
    assert!(
        bob_a
            .ids(json!({"kinds": [1059], "#p": [bob.pubkey()]}))
            .await
            .is_empty()
    );
    // The same answer as for any event the relay has: it tells nothing of the deletion.
    let again = publisher.publish(&wrap).await.expect("an answer");
    assert_eq!(
        again,
        (true, "duplicate: already have this event".to_owned())
    );
    assert!(
        bob_a
            .ids(json!({"kinds": [1059], "#p": [bob.pubkey()]}))
            .await
            .is_empty()
    );

    // A deletion of a wrap tells that there was one: its author alone may read it, in every region.
    let bob_b = Socket::open_as(&fleet.relay("b"), &bob).await;
    nightjar_tests::wait::until(
        "the deletion in region b",
        nightjar_tests::fleet::READY_LIMIT,
        async || {
            let ids = bob_b
                .ids(json!({"kinds": [5], "authors": [bob.pubkey()]}))
                .await;
            if ids == [deletion.id.clone()] {
                Ok(())
            } else {
                Err(format!("{ids:?}"))
            }
        },
    )
    .await;
    assert!(
        bob_b
            .ids(json!({"kinds": [1059], "#p": [bob.pubkey()]}))
            .await
            .is_empty()
    );
    for region in ["a", "b"] {
        let socket = Socket::open_as(&fleet.relay(region), &eve).await;
        for filter in [
            json!({"kinds": [5]}),
            json!({"ids": [deletion.id]}),
            json!({"authors": [bob.pubkey()]}),
            json!({"#e": [wrap.id]}),
        ] {
            let seen = socket.ids(filter.clone()).await;
            assert!(!seen.contains(&deletion.id), "region {region}: {filter}");
        }
    }
}
