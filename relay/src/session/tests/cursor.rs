//! The arrival cursor over a connection: what a client says, and what it is told.

use std::collections::HashSet;
use std::time::Duration;

use nostr::key::Keys;
use serde_json::{Value, json};

use super::harness::{Client, Relay, event, event_at, event_id, wrap};

/// What one REQ with a cursor was answered.
struct Answer {
    ids: Vec<String>,
    finished: bool,
    cursor: String,
}

async fn ask(client: &mut Client, filters: &[Value]) -> Answer {
    let mut message = vec![json!("REQ"), json!("c")];
    message.extend_from_slice(filters);
    client.send(Value::Array(message)).await;
    let mut ids = Vec::new();
    loop {
        let frame = client.receive().await;
        match frame[0].as_str() {
            Some("EVENT") => {
                assert_eq!(frame.get(3), None, "no stored event has a cursor: {frame}");
                ids.push(event_id(&frame));
            }
            Some("EOSE") => {
                let hints = frame[2].as_array().expect("hints before the cursor");
                return Answer {
                    ids,
                    finished: hints.contains(&json!("finish")),
                    cursor: frame[3].as_str().expect("a cursor").to_owned(),
                };
            }
            _ => panic!("{frame}"),
        }
    }
}

async fn begin(client: &mut Client, filter: Value) -> Answer {
    resume(client, filter, "").await
}

async fn resume(client: &mut Client, mut filter: Value, cursor: &str) -> Answer {
    filter["cursor"] = json!(cursor);
    ask(client, &[filter]).await
}

/// The reason why a REQ is refused.
async fn refusal(client: &mut Client, filters: &[Value]) -> String {
    client.read("c", filters).await.expect_err("a refusal")
}

fn back_dated(recipient: &Keys) -> nostr::event::Event {
    let tags: &[&[&str]] = &[&["p", &recipient.public_key().to_hex()]];
    event_at(&Keys::generate(), 1059, "sealed", tags, -2 * 86_400)
}

#[tokio::test]
async fn a_late_wrap_with_an_early_date_is_found_by_its_arrival() {
    let relay = Relay::start().await;
    let bob = Keys::generate();
    relay.publish(&[&wrap(1059, &bob)]).await;
    let mut client = relay.authenticated(&[&bob]).await;
    let inbox = json!({"kinds": [1059]});
    let first = begin(&mut client, inbox.clone()).await;
    assert_eq!((first.ids.len(), first.finished), (1, true));
    drop(client);

    let late = back_dated(&bob);
    relay.publish(&[&late]).await;
    let mut client = relay.authenticated(&[&bob]).await;
    let then = resume(&mut client, inbox.clone(), &first.cursor).await;
    assert_eq!((then.ids, then.finished), (vec![late.id.to_hex()], true));
    let nothing = resume(&mut client, inbox, &then.cursor).await;
    assert_eq!((nothing.ids.len(), nothing.finished), (0, true));
}

#[tokio::test]
async fn a_live_event_brings_a_cursor_and_what_comes_after_it_is_not_lost() {
    let relay = Relay::start().await;
    let bob = Keys::generate();
    let mut client = relay.authenticated(&[&bob]).await;
    let inbox = json!({"kinds": [1059]});
    begin(&mut client, inbox.clone()).await;
    let (one, two) = (wrap(1059, &bob), back_dated(&bob));
    relay.publish(&[&one]).await;
    let live = client.receive().await;
    assert_eq!(event_id(&live), one.id.to_hex());
    let cursor = live[3].as_str().expect("a cursor").to_owned();
    drop(client);

    relay.publish(&[&two]).await;
    let mut client = relay.authenticated(&[&bob]).await;
    let then = resume(&mut client, inbox.clone(), &cursor).await;
    assert!(then.ids.contains(&two.id.to_hex()));
    // The cursor beside an event need not speak of it; the one of EOSE speaks of all that was sent.
    assert!(then.ids.len() <= 2, "{:?}", then.ids);
    assert!(
        resume(&mut client, inbox, &then.cursor)
            .await
            .ids
            .is_empty()
    );
}

#[tokio::test]
async fn pages_come_in_the_order_of_arrival_until_the_last() {
    let relay = Relay::start().await;
    let alice = Keys::generate();
    let mut client = relay.client().await;
    let notes = json!({"authors": [alice.public_key().to_hex()]});
    let start = begin(&mut client, notes.clone()).await;
    let events: Vec<_> = (0..7)
        .map(|number| event_at(&alice, 1, &number.to_string(), &[], -number * 1000))
        .collect();
    relay.publish(&events.iter().collect::<Vec<_>>()).await;
    let expected: Vec<String> = events.iter().map(|event| event.id.to_hex()).collect();
    client.send(json!(["CLOSE", "c"])).await;

    let (mut seen, mut cursor, mut pages) = (Vec::new(), start.cursor, 0);
    let mut client = relay.client().await;
    loop {
        let mut page = notes.clone();
        page["limit"] = json!(3);
        let answer = resume(&mut client, page, &cursor).await;
        seen.extend(answer.ids);
        cursor = answer.cursor;
        pages += 1;
        if answer.finished {
            break;
        }
    }
    assert_eq!((seen, pages), (expected, 3));
}

#[tokio::test]
async fn after_a_page_that_ended_early_live_events_have_no_cursor() {
    let relay = Relay::start().await;
    let alice = Keys::generate();
    let mut client = relay.client().await;
    let start = begin(&mut client, json!({"kinds": [1]})).await;
    drop(client);
    let two = [event(&alice, 1, "1", &[]), event(&alice, 1, "2", &[])];
    relay.publish(&[&two[0], &two[1]]).await;
    let mut client = relay.client().await;
    let page = resume(
        &mut client,
        json!({"kinds": [1], "limit": 1}),
        &start.cursor,
    )
    .await;
    assert_eq!((page.ids.len(), page.finished), (1, false));
    relay.publish(&[&event(&alice, 1, "3", &[])]).await;
    let live = client.receive().await;
    assert_eq!((live[0].as_str(), live.get(3)), (Some("EVENT"), None));
}

#[tokio::test]
async fn a_client_that_asks_for_no_cursor_sees_nothing_of_it() {
    let relay = Relay::start().await;
    let mut client = relay.client().await;
    client.send(json!(["REQ", "x", {"kinds": [1]}])).await;
    assert_eq!(client.receive().await, json!(["EOSE", "x", ["finish"]]));
    let note = event(&Keys::generate(), 1, "", &[]);
    relay.publish(&[&note]).await;
    assert_eq!(client.receive().await.as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn what_is_wrong_with_a_cursor_is_told_with_the_way_to_begin_again() {
    let relay = Relay::start_with(
        |config| config.log.message_retention_seconds = 30 * 86_400,
        Default::default(),
    )
    .await;
    let other = Relay::start().await;
    let mut elsewhere = other.client().await;
    let foreign = begin(&mut elsewhere, json!({"kinds": [1]})).await.cursor;
    let mut client = relay.client().await;
    let ours = begin(&mut client, json!({"kinds": [1]})).await.cursor;
    let changed = format!("{}AAAA", &ours[..ours.len() - 4]);
    for wrong in ["x", "not base64!", &foreign, &changed] {
        let reason = refusal(&mut client, &[json!({"cursor": wrong})]).await;
        assert!(reason.starts_with("invalid: cursor:"), "{reason}");
        assert!(
            reason.ends_with("begin again with an empty cursor"),
            "{reason}"
        );
    }
    for wrong in [json!(7), json!(null), json!("A".repeat(40_000))] {
        let reason = refusal(&mut client, &[json!({"cursor": wrong})]).await;
        assert!(
            reason.starts_with("invalid: filter field cursor must be a string"),
            "{reason}"
        );
    }
    let differ = [json!({"cursor": ours}), json!({"cursor": ""})];
    let reason = refusal(&mut client, &differ).await;
    assert_eq!(
        reason,
        "invalid: cursor: the filters of a REQ that name one must name the same"
    );
    let counted = client.count("n", &[json!({"cursor": ""})]).await;
    assert_eq!(
        counted.expect_err("a refusal"),
        "invalid: filter field cursor is for a REQ only"
    );
    let same = [
        json!({"kinds": [1], "cursor": ours}),
        json!({"kinds": [2]}),
        json!({"kinds": [3], "cursor": ours}),
    ];
    assert!(ask(&mut client, &same).await.finished);
}

#[tokio::test]
async fn a_cursor_from_before_an_auth_does_not_hide_private_messages() {
    let relay = Relay::start().await;
    let (bob, carol) = (Keys::generate(), Keys::generate());
    relay.publish(&[&wrap(1059, &bob)]).await;
    let mut client = relay.client().await;
    let everything = begin(&mut client, json!({})).await;
    assert!(everything.ids.is_empty(), "nobody has authenticated");
    let public = begin(&mut client, json!({"kinds": [1]})).await;
    client.authenticate(&bob).await;
    let reason = refusal(&mut client, &[json!({"cursor": everything.cursor})]).await;
    assert!(
        reason.contains("does not speak of the private messages of every key"),
        "{reason}"
    );
    let notes = json!({"kinds": [1]});
    let notes = resume(&mut client, notes, &public.cursor).await;
    assert!(notes.finished);
    // Whoever asked for notes alone was sent no gift wrap, whoever they are.
    let fresh = begin(&mut client, json!({"kinds": [1]})).await;
    for cursor in [notes.cursor, fresh.cursor] {
        let wraps = json!({"kinds": [1059], "cursor": cursor});
        let reason = refusal(&mut client, &[wraps]).await;
        assert!(reason.starts_with("invalid: cursor:"), "{reason}");
    }

    let both = relay.authenticated(&[&bob, &carol]).await;
    let mut both = both;
    let cursor = begin(&mut both, json!({})).await.cursor;
    let mut alone = relay.authenticated(&[&carol]).await;
    let fewer = resume(&mut alone, json!({}), &cursor).await;
    assert!(fewer.finished, "fewer keys than before are fine");
    let mut both = relay.authenticated(&[&bob, &carol]).await;
    let reason = refusal(&mut both, &[json!({"cursor": fewer.cursor})]).await;
    assert!(reason.starts_with("invalid: cursor:"), "{reason}");
}

#[tokio::test]
async fn nobody_learns_by_a_cursor_of_what_they_may_not_read() {
    let relay = Relay::start().await;
    let (bob, eve) = (Keys::generate(), Keys::generate());
    let mut stranger = relay.authenticated(&[&eve]).await;
    let start = begin(&mut stranger, json!({})).await;
    drop(stranger);
    for _ in 0..5 {
        relay.publish(&[&wrap(1059, &bob)]).await;
    }
    let mut stranger = relay.authenticated(&[&eve]).await;
    for filter in [json!({}), json!({"limit": 1}), json!({"kinds": [1059]})] {
        let answer = resume(&mut stranger, filter.clone(), &start.cursor).await;
        assert_eq!((answer.ids.len(), answer.finished), (0, true), "{filter}");
        assert_eq!(
            answer.cursor.len(),
            start.cursor.len(),
            "its length says nothing"
        );
    }
    let mut nobody = relay.client().await;
    let reason = refusal(&mut nobody, &[json!({"kinds": [1059], "cursor": ""})]).await;
    assert!(reason.starts_with("auth-required:"), "{reason}");
}

#[tokio::test]
async fn a_client_that_leaves_at_any_moment_and_comes_back_sees_everything() {
    let relay = Relay::start().await;
    let bob = Keys::generate();
    let events: Vec<_> = (0..120)
        .map(|number| match number % 2 {
            0 => wrap(1059, &bob),
            _ => back_dated(&bob),
        })
        .collect();
    let expected: HashSet<String> = events.iter().map(|event| event.id.to_hex()).collect();
    let mut publisher = relay.client().await;
    let publishing = tokio::spawn(async move {
        for event in &events {
            assert_eq!(publisher.publish(event).await[2], true);
        }
    });
    let inbox = json!({"kinds": [1059], "limit": 7});
    let (mut seen, mut cursor) = (HashSet::new(), String::new());
    while seen.len() < expected.len() {
        let mut client = relay.authenticated(&[&bob]).await;
        let mut once = HashSet::new();
        // The first answer is no page: whoever begins late pages back by `until`.
        let filter = if cursor.is_empty() {
            json!({"kinds": [1059]})
        } else {
            inbox.clone()
        };
        let answer = resume(&mut client, filter, &cursor).await;
        cursor = answer.cursor;
        for id in answer.ids {
            assert!(once.insert(id), "twice on one connection");
        }
        if answer.finished && !publishing.is_finished() {
            for _ in 0..3 {
                // Whoever waits for an event that came with the stored ones leaves too.
                let moment = Duration::from_millis(50);
                let Ok(frame) = tokio::time::timeout(moment, client.receive()).await else {
                    break;
                };
                assert!(once.insert(event_id(&frame)), "twice on one connection");
                if let Some(newer) = frame[3].as_str() {
                    cursor = newer.to_owned();
                }
            }
        }
        seen.extend(once);
    }
    publishing.await.expect("everything is published");
    assert_eq!(seen, expected);
}
