//! `admission.trust`: who is in the web may publish, nobody else; and until the web is known, nobody.

use nostr::event::Event as NostrEvent;
use nostr::key::Keys;
use serde_json::json;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::harness::{Client, Relay, event, event_at, verdict, wrap};
use crate::log::readiness::Waiting;
use crate::trust::TrustTask;

const READING: &str = "error: the web of trust is still being read, send it again";

/// A root, whom it follows, whom that one follows, and an outsider.
struct People {
    root: Keys,
    friend: Keys,
    second: Keys,
    outsider: Keys,
}

fn follows(keys: &Keys, whom: &[&Keys], offset: i64) -> NostrEvent {
    let keys_hex: Vec<String> = whom.iter().map(|key| key.public_key().to_hex()).collect();
    let tags: Vec<Vec<&str>> = keys_hex.iter().map(|key| vec!["p", key.as_str()]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
    event_at(keys, 3, "", &tags, offset)
}

impl People {
    /// Their lists of follows are stored.
    async fn of(relay: &Relay) -> Self {
        let people = Self {
            root: Keys::generate(),
            friend: Keys::generate(),
            second: Keys::generate(),
            outsider: Keys::generate(),
        };
        relay
            .publish(&[
                &follows(&people.root, &[&people.friend], -9),
                &follows(&people.friend, &[&people.second], -9),
                &follows(&people.outsider, &[&people.outsider], -9),
            ])
            .await;
        people
    }
}

impl Relay {
    fn ask_trust(&self, root: &Keys, depth: u8) {
        self.reconfigure(|config| {
            config.admission.trust.roots = vec![root.public_key().to_hex()];
            config.admission.trust.depth = depth;
            config.admission.trust.refresh_seconds = 1;
        });
    }

    /// Computes webs from now on, until dropped.
    fn compute_trust(&self) -> DropGuard {
        let task = TrustTask::of(&self.services);
        let gates = self.services.admission.trust_gates();
        let stop = CancellationToken::new();
        tokio::spawn(task.run(gates, stop.clone()));
        stop.drop_guard()
    }
}

impl Client {
    /// The text of the refusal of a note; `None` if it was taken.
    async fn refusal(&mut self, keys: &Keys) -> Option<String> {
        let unique = format!("{}", rand::random::<u64>());
        let answer = self.publish(&event(keys, 1, &unique, &[])).await;
        let (taken, text) = verdict(&answer);
        (!taken).then(|| text.to_owned())
    }

    /// The refusal once the web is known.
    async fn settled(&mut self, keys: &Keys) -> Option<String> {
        self.until(keys, |refusal| refusal != Some(READING)).await
    }

    /// The first answer to a note that `fits`. Every other one must be a refusal or a note taken, so this ends.
    async fn until(&mut self, keys: &Keys, fits: impl Fn(Option<&str>) -> bool) -> Option<String> {
        let asking = async {
            loop {
                let refusal = self.refusal(keys).await;
                if fits(refusal.as_deref()) {
                    return refusal;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(super::harness::SOON, asking)
            .await
            .expect("that answer in time")
    }
}

fn is_restricted(refusal: Option<&str>) -> bool {
    refusal.is_some_and(|text| text.starts_with("restricted: "))
}

#[tokio::test]
async fn nobody_passes_before_the_web_is_known_and_members_do_then() {
    let relay = Relay::start().await;
    let people = People::of(&relay).await;
    relay.ask_trust(&people.root, 1);
    let mut client = relay.client().await;
    for keys in [&people.root, &people.friend, &people.outsider] {
        assert_eq!(client.refusal(keys).await.as_deref(), Some(READING));
    }
    let _computing = relay.compute_trust();
    assert_eq!(client.settled(&people.root).await, None);
    assert_eq!(client.refusal(&people.friend).await, None);
    for keys in [&people.second, &people.outsider] {
        let refusal = client.refusal(keys).await;
        assert!(is_restricted(refusal.as_deref()), "{refusal:?}");
    }
    let text = relay.services.metrics.encode().expect("text");
    assert!(text.contains("nj_trust_keys 2\n"), "{text}");
    assert!(!text.contains("nj_trust_read_timestamp_seconds 0\n"));
}

#[tokio::test]
async fn depth_two_takes_whom_they_follow_in_turn() {
    let relay = Relay::start().await;
    let people = People::of(&relay).await;
    let _computing = relay.compute_trust();
    relay.ask_trust(&people.root, 2);
    let mut client = relay.client().await;
    assert_eq!(client.settled(&people.second).await, None);
    let refusal = client.refusal(&people.outsider).await;
    assert!(is_restricted(refusal.as_deref()), "{refusal:?}");
}

#[tokio::test]
async fn a_gift_wrap_is_taken_from_a_connection_of_a_member() {
    let relay = Relay::start().await;
    let people = People::of(&relay).await;
    relay.ask_trust(&people.root, 1);
    let _computing = relay.compute_trust();
    let mut client = relay.client().await;
    assert_eq!(client.settled(&people.root).await, None);
    for kind in [1059, 21_059] {
        let mut client = relay.client().await;
        for (keys, prefix) in [
            (None, "auth-required: "),
            (Some(&people.outsider), "restricted: "),
            (Some(&people.friend), ""),
        ] {
            if let Some(keys) = keys {
                client.authenticate(keys).await;
            }
            // The recipient is not asked.
            let answer = client.publish(&wrap(kind, &people.outsider)).await;
            let (taken, text) = verdict(&answer);
            assert_eq!(taken, prefix.is_empty(), "{text}");
            assert!(text.starts_with(prefix), "{text}");
        }
    }
}

#[tokio::test]
async fn a_changed_list_is_followed_without_a_restart() {
    let relay = Relay::start().await;
    let people = People::of(&relay).await;
    relay.ask_trust(&people.root, 1);
    let _computing = relay.compute_trust();
    let mut client = relay.client().await;
    assert_eq!(client.settled(&people.friend).await, None);
    let list = follows(&people.root, &[&people.second], 0);
    assert_eq!(verdict(&client.publish(&list).await), (true, ""));
    client.until(&people.friend, is_restricted).await;
    assert_eq!(client.refusal(&people.second).await, None);
}

#[tokio::test]
async fn half_an_index_makes_no_web() {
    let relay = Relay::start().await;
    let people = People::of(&relay).await;
    let rebuilding = Waiting::Rebuilding {
        stream: "STATE_a_1_0".to_owned(),
        applied: 1,
        head: 2,
    };
    relay.services.readiness.set("index", rebuilding);
    relay.ask_trust(&people.root, 1);
    let _computing = relay.compute_trust();
    let mut client = relay.client().await;
    for _ in 0..5 {
        let refusal = client.refusal(&people.friend).await;
        assert_eq!(refusal.as_deref(), Some(READING));
        tokio::task::yield_now().await;
    }
    relay.services.readiness.clear("index");
    assert_eq!(client.settled(&people.friend).await, None);
}

#[tokio::test]
async fn who_is_no_member_may_still_take_back_what_is_theirs() {
    let relay = Relay::start().await;
    let people = People::of(&relay).await;
    let (note, message) = (
        event(&people.outsider, 1, "regretted", &[]),
        wrap(1059, &people.outsider),
    );
    relay.publish(&[&note, &message]).await;
    relay.ask_trust(&people.root, 1);
    let _computing = relay.compute_trust();
    let mut client = relay.authenticated(&[&people.outsider]).await;
    assert!(is_restricted(
        client.settled(&people.outsider).await.as_deref()
    ));
    for event_id in [note.id, message.id] {
        let request = event(&people.outsider, 5, "", &[&["e", &event_id.to_hex()]]);
        assert_eq!(verdict(&client.publish(&request).await), (true, ""));
    }
    let ids = json!({"ids": [note.id.to_hex(), message.id.to_hex()]});
    assert_eq!(client.read("gone", &[ids]).await, Ok(Vec::new()));
}

/// The roots change again and again while the web is computed: an outsider never passes, and in the end the members do.
#[tokio::test]
async fn no_change_of_the_roots_opens_the_gate() {
    let relay = Relay::start().await;
    let people = People::of(&relay).await;
    let published = relay.publisher.published();
    relay.ask_trust(&people.root, 1);
    let _computing = relay.compute_trust();
    let mut client = relay.client().await;
    let notes = 150;
    for number in 0..notes {
        let note = event(&people.outsider, 1, &number.to_string(), &[]);
        client.send(json!(["EVENT", note])).await;
    }
    let answers = async {
        for _ in 0..notes {
            let answer = client.receive().await;
            let (taken, text) = verdict(&answer);
            assert!(
                !taken && (text == READING || is_restricted(Some(text))),
                "{text}"
            );
        }
    };
    let changes = async {
        for turn in 0_u32.. {
            let (root, depth) = match turn % 3 {
                0 => (&people.root, 1),
                1 => (&people.friend, 1),
                _ => (&people.root, 2),
            };
            relay.ask_trust(root, depth);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = answers => {}
        () = changes => unreachable!("changes go on until all are answered"),
    }
    assert_eq!(relay.publisher.published(), published);
    relay.ask_trust(&people.root, 1);
    assert_eq!(client.settled(&people.friend).await, None);
}
