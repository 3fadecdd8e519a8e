//! EVENT: what OK promises and how refusals read.

use nostr::key::Keys;
use serde_json::json;

use super::harness::{Relay, event, event_at, wrap};

#[tokio::test]
async fn an_ok_event_is_visible_to_the_next_req_of_anyone() {
    let relay = Relay::start().await;
    let keys = Keys::generate();
    let note = event(&keys, 1, "hello\n\"world\" \u{1F426}", &[&["t", "bird"]]);
    let mut author = relay.client().await;
    assert_eq!(
        author.publish(&note).await,
        json!(["OK", note.id.to_hex(), true, ""])
    );

    let mut reader = relay.client().await;
    let filter = json!({"#t": ["bird"], "kinds": [1]});
    assert_eq!(
        reader.read("s", &[filter]).await,
        Ok(vec![note.id.to_hex()])
    );
}

#[tokio::test]
async fn a_known_event_is_a_duplicate_and_does_not_reach_the_log_again() {
    let relay = Relay::start().await;
    let note = event(&Keys::generate(), 1, "once", &[]);
    let mut client = relay.client().await;
    client.publish(&note).await;
    let again = client.publish(&note).await;
    assert_eq!(again[2], true);
    assert_eq!(again[3], "duplicate: already have this event");
    assert_eq!(relay.publisher.published(), 1);
}

#[tokio::test]
async fn a_deleted_an_expired_and_a_known_wrap_are_answered_alike() {
    let relay = Relay::start().await;
    let bob = Keys::generate();
    let (known, deleted) = (wrap(1059, &bob), wrap(1059, &bob));
    let recipient = bob.public_key().to_hex();
    let expired = event(
        &Keys::generate(),
        1059,
        "x",
        &[&["p", &recipient], &["expiration", "1700000000"]],
    );
    relay.publish(&[&known, &deleted]).await;
    let deletion = event(&bob, 5, "", &[&["e", &deleted.id.to_hex()], &["k", "1059"]]);
    relay.publish(&[&deletion]).await;

    let mut client = relay.client().await;
    for wrap in [&known, &deleted, &expired] {
        let answer = client.publish(wrap).await;
        assert_eq!(
            (&answer[2], &answer[3]),
            (&json!(true), &json!("duplicate: already have this event"))
        );
    }
    let mut bob_reads = relay.authenticated(&[&bob]).await;
    assert_eq!(
        bob_reads.read("s", &[json!({"kinds": [1059]})]).await,
        Ok(vec![known.id.to_hex()])
    );
}

#[tokio::test]
async fn an_ephemeral_wrap_is_ok_whether_or_not_anyone_listens_and_never_stored() {
    let relay = Relay::start().await;
    let bob = Keys::generate();
    let mut sender = relay.client().await;
    let unheard = wrap(21059, &bob);
    assert_eq!(
        sender.publish(&unheard).await,
        json!(["OK", unheard.id.to_hex(), true, ""])
    );

    let mut listener = relay.authenticated(&[&bob]).await;
    assert_eq!(
        listener.read("live", &[json!({"kinds": [21059]})]).await,
        Ok(vec![])
    );
    let heard = wrap(21059, &bob);
    assert_eq!(
        sender.publish(&heard).await,
        json!(["OK", heard.id.to_hex(), true, ""])
    );
    let received = listener.receive().await;
    assert_eq!(received[2]["id"], heard.id.to_hex());
    assert_eq!(
        listener.read("stored", &[json!({"kinds": [21059]})]).await,
        Ok(vec![])
    );
}

#[tokio::test]
async fn every_refusal_has_its_prefix_and_names_the_limit() {
    let relay = Relay::start_with(
        |config| config.limits.max_event_tags = 3,
        Default::default(),
    )
    .await;
    let keys = Keys::generate();
    let many: Vec<&[&str]> = vec![&["t", "x"]; 4];
    let mut client = relay.client().await;
    for (event, expected) in [
        (
            event_at(&keys, 1, "", &[], 1000),
            "s ahead of this relay's clock, the limit is 900 s",
        ),
        (
            event(&keys, 1, "", &[&["expiration", "1700000000"]]),
            "invalid: the event expired",
        ),
        (
            event(&keys, 22_242, "", &[]),
            "blocked: kind 22242 is a credential",
        ),
        (
            event(&keys, 27_235, "", &[]),
            "blocked: kind 27235 is a credential",
        ),
        (
            event(&keys, 1, "", &many),
            "invalid: the event has 4 tags, the limit is 3 (max_event_tags)",
        ),
        (
            event(&keys, 1, "", &[&["-"]]),
            "auth-required: this event is protected",
        ),
        (
            event(&keys, 62, "", &[&["relay", "wss://elsewhere.test"]]),
            "invalid: this request to vanish names other",
        ),
        (
            event(&keys, 1059, "", &[]),
            "invalid: kind 1059 needs exactly one p tag",
        ),
    ] {
        let answer = client.publish(&event).await;
        assert_eq!(answer[2], false, "{answer}");
        let text = answer[3].as_str().expect("a message");
        assert!(text.contains(expected), "{text} lacks {expected}");
    }
    assert_eq!(relay.publisher.published(), 0);
    client.check_alive().await;
}

#[tokio::test]
async fn a_wrap_dated_back_by_a_week_is_taken_and_one_14_minutes_ahead_too() {
    let relay = Relay::start().await;
    let bob = Keys::generate().public_key().to_hex();
    let mut client = relay.client().await;
    for offset in [-7 * 86_400, 14 * 60] {
        let wrap = event_at(&Keys::generate(), 1059, "sealed", &[&["p", &bob]], offset);
        assert_eq!(client.publish(&wrap).await[2], true);
    }
}

#[tokio::test]
async fn a_protected_event_needs_its_author_and_may_not_be_reposted() {
    let relay = Relay::start().await;
    let (author, other) = (Keys::generate(), Keys::generate());
    let protected = event(&author, 1, "mine", &[&["-"]]);
    let mut client = relay.authenticated(&[&other]).await;
    let refused = client.publish(&protected).await;
    assert_eq!(
        refused[3],
        "restricted: this event is protected, only its author may publish it"
    );
    client.authenticate(&author).await;
    assert_eq!(client.publish(&protected).await[2], true);
    let json = serde_json::to_string(&protected).expect("JSON");
    let repost = event(&other, 6, &json, &[]);
    assert_eq!(
        client.publish(&repost).await[3],
        "blocked: this repost carries a protected event"
    );
}

#[tokio::test]
async fn a_request_to_vanish_removes_its_authors_events_and_wraps_to_it() {
    let relay = Relay::start().await;
    let (bob, carol) = (Keys::generate(), Keys::generate());
    let note = event_at(&bob, 1, "soon gone", &[], -10);
    let to_bob = event_at(
        &carol,
        1059,
        "sealed",
        &[&["p", &bob.public_key().to_hex()]],
        -10,
    );
    let other = event_at(&carol, 1, "stays", &[], -10);
    relay.publish(&[&note, &to_bob, &other]).await;
    let vanish = event(&bob, 62, "", &[&["relay", "wss://relay.test/any"]]);
    relay.publish(&[&vanish]).await;
    let mut reader = relay.authenticated(&[&bob]).await;
    let filters = [json!({"kinds": [1, 1059]})];
    assert_eq!(
        reader.read("s", &filters).await,
        Ok(vec![other.id.to_hex()])
    );
    let again = reader.publish(&note).await;
    assert_eq!(
        (&again[2], &again[3]),
        (
            &json!(false),
            &json!("blocked: this event was deleted by its author")
        )
    );
    // Whoever sends to a vanished key gets the answers that a sender always gets, and cannot find out when it vanished.
    let too_late = event_at(
        &carol,
        1059,
        "sealed later",
        &[&["p", &bob.public_key().to_hex()]],
        -10,
    );
    let known = json!("duplicate: already have this event");
    for (wrap, text) in [
        (&to_bob, &known),
        (&too_late, &json!("")),
        (&too_late, &known),
    ] {
        let answer = reader.publish(wrap).await;
        assert_eq!((&answer[2], &answer[3]), (&json!(true), text));
    }
    assert_eq!(
        reader.read("s", &filters).await,
        Ok(vec![other.id.to_hex()])
    );
}
