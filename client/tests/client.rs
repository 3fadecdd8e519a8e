//! The client against relays in trouble: refusals, failover, lost connections, AUTH.

mod relay;

use std::time::Duration;

use nightjar_client::connection::ConnectionError;
use nightjar_client::frame::Prefix;
use nightjar_client::inbox::{Inbox, InboxEvent, InboxOptions, Received};
use nightjar_client::{Client, ClientError, Identity, Options, RelayUrl, directory};
use relay::Relay;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

fn client(identity: &Identity, via: &[&Relay]) -> Client {
    let via = via.iter().map(|relay| relay.url.clone()).collect();
    Client::new(
        identity.clone(),
        Options {
            via,
            ..Options::default()
        },
    )
}

fn publish_list(owner: &Identity, at: &Relay, relays: &[&Relay]) {
    let urls: Vec<RelayUrl> = relays.iter().map(|relay| relay.url.clone()).collect();
    at.store(owner.sign(directory::inbox_list(&urls)).unwrap());
}

async fn inbox(identity: &Identity, relays: &[&Relay], live: bool) -> Inbox {
    let mut client = client(identity, relays);
    let urls: Vec<RelayUrl> = relays.iter().map(|relay| relay.url.clone()).collect();
    let groups = client.groups(&urls).await;
    let options = InboxOptions {
        since: None,
        live,
        loopback_only: true,
        observer: None,
    };
    Inbox::open(identity, groups, &options)
}

async fn next_message(inbox: &mut Inbox) -> Box<Received> {
    let next = async {
        loop {
            match inbox.next().await.expect("the inbox goes on") {
                InboxEvent::Message(received) => return received,
                InboxEvent::Refused { reason, .. } => panic!("{reason}"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(LIMIT, next)
        .await
        .expect("a message in time")
}

async fn caught_up(inbox: &mut Inbox) {
    let next = async {
        while !matches!(
            inbox.next().await.expect("the inbox goes on"),
            InboxEvent::CaughtUp { .. }
        ) {}
    };
    tokio::time::timeout(LIMIT, next)
        .await
        .expect("caught up in time");
}

#[tokio::test]
async fn message_reaches_the_recipient_and_our_own_devices_with_one_id() {
    let (alice, bob) = (Identity::generate(), Identity::generate());
    let (bobs, alices) = (
        Relay::start(None, "a").await,
        Relay::start(Some("f"), "b").await,
    );
    publish_list(&bob, &bobs, &[&bobs]);
    publish_list(&alice, &bobs, &[&alices]);
    let mut client = client(&alice, &[&bobs]);
    let sent = client.send(&[bob.public_key()], "hello").await.unwrap();
    assert_eq!((sent.copies.len(), sent.own.len()), (1, 1));

    let mut read = inbox(&bob, &[&bobs], false).await;
    let received = next_message(&mut read).await;
    assert_eq!(
        (received.message.content.as_str(), received.message.id),
        ("hello", sent.id)
    );
    assert_eq!(
        received.took(),
        None,
        "nobody knows when a stored message arrived"
    );
    let mut own = inbox(&alice, &[&alices], false).await;
    let received = next_message(&mut own).await;
    assert_eq!(
        (received.message.id, received.region.as_deref()),
        (sent.id, Some("b"))
    );
    assert_eq!(
        bobs.state().auths,
        1,
        "reading wraps takes AUTH, sending took none"
    );
}

#[tokio::test]
async fn fleet_gets_one_copy_and_another_door_takes_over() {
    let (alice, bob) = (Identity::generate(), Identity::generate());
    let (first, second, lone) = (
        Relay::start(Some("f"), "a").await,
        Relay::start(Some("f"), "b").await,
        Relay::start(None, "").await,
    );
    publish_list(&bob, &lone, &[&first, &second, &lone]);
    first.state().refuse = Some("error: not durable in time, send it again".into());
    let sent = client(&alice, &[&lone])
        .send(&[bob.public_key()], "hello")
        .await
        .unwrap();
    let deliveries = &sent.copies[0].1;
    assert_eq!(
        deliveries.len(),
        2,
        "one for the fleet, one for the lone relay"
    );
    assert_eq!(deliveries[0].taken.as_ref().unwrap().url, second.url);
    assert_eq!(deliveries[0].failed.len(), 1);
    assert_eq!(
        (first.state().events.len(), second.state().events.len()),
        (0, 1)
    );
    assert_eq!(lone.state().events.len(), 2, "the list and the wrap");
}

#[tokio::test]
async fn relay_that_asks_to_slow_down_gets_the_same_event_later() {
    let (alice, bob) = (Identity::generate(), Identity::generate());
    let relay = Relay::start(None, "").await;
    publish_list(&bob, &relay, &[&relay]);
    relay.state().slow_down = 2;
    let sent = client(&alice, &[&relay])
        .send(&[bob.public_key()], "hello")
        .await
        .unwrap();
    assert!(sent.copies[0].1[0].taken.is_some());
    assert_eq!(relay.state().events.len(), 2, "the list and one wrap");
}

#[tokio::test]
async fn recipient_whose_relays_fail_is_named_and_keeps_nothing_from_the_others() {
    let (alice, bob, carol) = (
        Identity::generate(),
        Identity::generate(),
        Identity::generate(),
    );
    let (works, refuses) = (Relay::start(None, "").await, Relay::start(None, "").await);
    publish_list(&bob, &works, &[&refuses]);
    publish_list(&carol, &works, &[&works]);
    refuses.state().refuse = Some("blocked: no".into());
    let sent = client(&alice, &[&works])
        .send(&[bob.public_key(), carol.public_key()], "hello")
        .await
        .unwrap();
    let not_taken = sent.not_taken();
    assert_eq!(not_taken.len(), 1);
    assert_eq!(not_taken[0].0, bob.public_key());
    assert_eq!(not_taken[0].1[0].0, refuses.url);
    let mut carols = inbox(&carol, &[&works], false).await;
    assert_eq!(next_message(&mut carols).await.message.content, "hello");
}

#[tokio::test]
async fn wrap_under_the_id_of_another_does_not_keep_that_one_away() {
    let (alice, bob) = (Identity::generate(), Identity::generate());
    let relay = Relay::start(None, "").await;
    let wrap = |text| {
        nightjar_client::wrap::Rumor::text(&alice, &[bob.public_key()], text, 0)
            .unwrap()
            .wrap_for(&alice, &bob.public_key())
            .unwrap()
    };
    let (real, mut forged) = (wrap("real"), wrap("forged"));
    forged.id = real.id;
    let mut inbox = inbox(&bob, &[&relay], true).await;
    caught_up(&mut inbox).await;
    relay.store(forged);
    relay.store(real);
    let mut refused = 0;
    let text = tokio::time::timeout(LIMIT, async {
        loop {
            match inbox.next().await.expect("the inbox goes on") {
                InboxEvent::Message(received) => return received.message.content,
                InboxEvent::Refused { .. } => refused += 1,
                _ => {}
            }
        }
    })
    .await
    .expect("the real message in time");
    assert_eq!((text.as_str(), refused), ("real", 1));
}

#[tokio::test]
async fn recipient_without_a_list_gets_nothing() {
    let (alice, bob) = (Identity::generate(), Identity::generate());
    let relay = Relay::start(None, "").await;
    let error = client(&alice, &[&relay])
        .send(&[bob.public_key()], "hello")
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::NoInbox { .. }), "{error}");
    assert!(relay.state().events.is_empty());
}

#[tokio::test]
async fn auth_is_made_when_a_relay_asks_and_its_refusal_is_told() {
    let (alice, bob) = (Identity::generate(), Identity::generate());
    let relay = Relay::start(None, "").await;
    publish_list(&bob, &relay, &[&relay]);
    relay.state().refuse = Some("auth-required: members only".into());
    relay.state().refuse_auth = Some("restricted: not a member".into());
    let error = client(&alice, &[&relay])
        .send(&[bob.public_key()], "hello")
        .await
        .unwrap_err();
    let ClientError::NotTaken(failed) = error else {
        panic!("{error}")
    };
    assert_eq!(
        failed[0].1,
        ConnectionError::AuthFailed("restricted: not a member".into())
    );

    relay.state().refuse_auth = None;
    let error = client(&alice, &[&relay])
        .send(&[bob.public_key()], "hello")
        .await
        .unwrap_err();
    let ClientError::NotTaken(failed) = error else {
        panic!("{error}")
    };
    assert!(
        matches!(
            failed[0].1,
            ConnectionError::Refused {
                prefix: Prefix::AuthRequired,
                ..
            }
        ),
        "asked once, not for ever"
    );
    assert_eq!(relay.state().auths, 1);
}

#[tokio::test]
async fn lost_connection_is_made_again_and_nothing_is_missed_or_shown_twice() {
    let (alice, bob) = (Identity::generate(), Identity::generate());
    let relay = Relay::start(None, "").await;
    publish_list(&bob, &relay, &[&relay]);
    let mut sender = client(&alice, &[&relay]);
    sender.send(&[bob.public_key()], "before").await.unwrap();

    let mut inbox = inbox(&bob, &[&relay], true).await;
    assert_eq!(next_message(&mut inbox).await.message.content, "before");
    caught_up(&mut inbox).await;
    sender.send(&[bob.public_key()], "live").await.unwrap();
    let live = next_message(&mut inbox).await;
    assert!(live.live && live.took().is_some());

    relay.disconnect_all();
    sender
        .send(&[bob.public_key()], "while away")
        .await
        .unwrap();
    assert_eq!(next_message(&mut inbox).await.message.content, "while away");
    assert!(relay.state().connections >= 2);
}

#[tokio::test]
async fn inbox_reads_more_than_a_relay_gives_at_once() {
    let (alice, bob) = (Identity::generate(), Identity::generate());
    let relay = Relay::start(None, "").await;
    publish_list(&bob, &relay, &[&relay]);
    relay.state().page = 3;
    let mut sender = client(&alice, &[&relay]);
    for number in 0..10 {
        sender
            .send(&[bob.public_key()], &number.to_string())
            .await
            .unwrap();
    }
    let mut inbox = inbox(&bob, &[&relay], false).await;
    let mut read = Vec::new();
    while let Some(event) = inbox.next().await {
        if let InboxEvent::Message(received) = event {
            read.push(received.message.content);
        }
    }
    read.sort();
    assert_eq!(
        read,
        (0..10).map(|number| number.to_string()).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn message_wrapped_twice_is_shown_once() {
    let (alice, bob) = (Identity::generate(), Identity::generate());
    let (first, second) = (Relay::start(None, "").await, Relay::start(None, "").await);
    let rumor = nightjar_client::wrap::Rumor::text(&alice, &[bob.public_key()], "once", 0).unwrap();
    first.store(rumor.wrap_for(&alice, &bob.public_key()).unwrap());
    second.store(rumor.wrap_for(&alice, &bob.public_key()).unwrap());
    let mut inbox = inbox(&bob, &[&first, &second], false).await;
    let mut count = 0;
    while let Some(event) = inbox.next().await {
        count += usize::from(matches!(event, InboxEvent::Message(_)));
    }
    assert_eq!(count, 1);
}

#[tokio::test]
async fn identity_of_this_machine_talks_to_nobody_outside() {
    let options = Options {
        via: vec![RelayUrl::parse("ws://192.0.2.1:7777").unwrap()],
        loopback_only: true,
        ..Options::default()
    };
    let bob = Identity::generate().public_key();
    let error = Client::new(Identity::generate(), options)
        .send(&[bob], "hello")
        .await
        .unwrap_err();
    let ClientError::NobodyAnswered(failed) = error else {
        panic!("{error}")
    };
    assert_eq!(failed[0].1, ConnectionError::NotLoopback);
}

#[tokio::test]
async fn relay_that_is_not_there_is_named() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let options = Options {
        via: vec![RelayUrl::parse(&format!("ws://{gone}")).unwrap()],
        ..Options::default()
    };
    let bob = Identity::generate().public_key();
    let error = Client::new(Identity::generate(), options)
        .send(&[bob], "hello")
        .await
        .unwrap_err();
    let ClientError::NobodyAnswered(failed) = error else {
        panic!("{error}")
    };
    assert!(
        matches!(failed[0].1, ConnectionError::Unreachable(_)),
        "{failed:?}"
    );
}
