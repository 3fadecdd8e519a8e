//! Every door of every relay of a fleet, before and after a hidden event: on the relay that stored it, on another one of its region and in
//! another region. Whoever may not read it is answered the same, byte for byte; its recipient is served by all of them.
//!
//! `relay/src/session/tests/doors.rs` walks more ways to ask, on one relay.

use std::collections::BTreeMap;

use nightjar_tests::event::{Person, Signed, now, wrap_for};
use nightjar_tests::fleet::{Fleet, READY_LIMIT};
use nightjar_tests::wait::until;
use nightjar_tests::wire::Wire;
use nightjar_tests::yaml;
use serde_json::{Value, json};

/// A negentropy message of a client that has nothing.
const NOTHING: &str = "6100000200";

/// Ways in which a relay tells of stored events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Req,
    Arrival,
    Count,
    Neg,
}

const DOORS: [Door; 4] = [Door::Req, Door::Arrival, Door::Count, Door::Neg];

/// A hidden event, and who stands around it.
struct Case {
    what: &'static str,
    event: Signed,
    sender: Person,
    recipient: Person,
}

impl Case {
    fn all() -> Vec<Case> {
        let people = || (Person::new(), Person::new());
        let about = |recipient: &Person| wrap_for(1059, &recipient.pubkey(), "sealed");
        let wrap = |kind, what| {
            let (sender, recipient) = people();
            let event = sender.event(kind, now(), &[&["p", &recipient.pubkey()]], "sealed");
            Case {
                what,
                event,
                sender,
                recipient,
            }
        };
        let (deleter, asked) = (people(), people());
        let deletion = deleter.1.event(
            5,
            now(),
            &[&["e", &about(&deleter.1).id], &["k", "1059"]],
            "",
        );
        let vanish = asked.1.event(62, now(), &[&["relay", "ALL_RELAYS"]], "");
        vec![
            wrap(1059, "a gift wrap"),
            wrap(21_059, "an ephemeral gift wrap"),
            Case {
                what: "a deletion of a wrap",
                event: deletion,
                sender: deleter.0,
                recipient: deleter.1,
            },
            Case {
                what: "a request to vanish",
                event: vanish,
                sender: asked.0,
                recipient: asked.1,
            },
        ]
    }

    fn is_stored(&self) -> bool {
        self.event.value()["kind"] != 21_059
    }

    /// Filters that it matches, and that no other event of the fleet does.
    fn ways(&self) -> Vec<Value> {
        let event = self.event.value();
        let (id, author, kind) = (&event["id"], &event["pubkey"], &event["kind"]);
        let mut ways = vec![
            json!({"ids": [id]}),
            json!({"ids": [id], "kinds": [1, kind]}),
            json!({"authors": [author]}),
            json!({"authors": [author], "kinds": [kind], "limit": 1}),
        ];
        for tag in event["tags"].as_array().into_iter().flatten() {
            let (name, value) = (&tag[0], &tag[1]);
            if let Some(name) = name.as_str().filter(|name| name.len() == 1) {
                ways.push(json!({format!("#{name}"): [value], "authors": [author]}));
            }
        }
        ways
    }
}

/// What somebody is told through a door, for each way to ask.
async fn walk(wire: &mut Wire, door: Door, case: &Case, cursor: &str) -> Vec<String> {
    let mut told = Vec::new();
    for (number, mut way) in case.ways().into_iter().enumerate() {
        let id = format!("{door:?}{number}");
        let question = match door {
            Door::Req => json!(["REQ", id, way]),
            Door::Arrival => {
                way["cursor"] = json!(cursor);
                json!(["REQ", id, way])
            }
            Door::Count => json!(["COUNT", id, way]),
            Door::Neg => json!(["NEG-OPEN", id, way, NOTHING]),
        };
        wire.send(&question).await.expect("an open connection");
        let last = loop {
            let mut frame = wire.receive().await.expect("an answer");
            if frame[1] != id.as_str() {
                continue;
            }
            let is_last = frame[0] != "EVENT";
            if let Some(cursor) = frame.get(3).and_then(Value::as_str) {
                // No two cursors are the same text.
                frame[3] = json!(cursor.len());
            }
            told.push(frame.to_string());
            if is_last {
                break frame[0].clone();
            }
        };
        // Whoever closes what is not open is read more slowly.
        let end = match last.as_str() {
            Some("EOSE") => json!(["CLOSE", id]),
            Some("NEG-MSG") => json!(["NEG-CLOSE", id]),
            _ => continue,
        };
        wire.send(&end).await.expect("an open connection");
    }
    told
}

/// A first cursor of a connection.
async fn cursor(wire: &mut Wire) -> String {
    let ask = json!(["REQ", "cursor", {"limit": 0, "cursor": ""}]);
    wire.send(&ask).await.expect("an open connection");
    loop {
        let frame = wire.receive().await.expect("an answer");
        if frame[0] == "EOSE" {
            wire.send(&json!(["CLOSE", "cursor"])).await.expect("open");
            return frame[3].as_str().expect("a cursor").to_owned();
        }
    }
}

/// A connection of somebody to each relay, with what it was told of a case so far.
struct Visitor<'a> {
    role: &'static str,
    person: Option<&'a Person>,
    /// By relay: its first cursor and what each door said before.
    before: BTreeMap<String, (String, Vec<Vec<String>>)>,
}

impl<'a> Visitor<'a> {
    async fn open(&self, relay: &str) -> Wire {
        let wire = match self.person {
            Some(person) => Wire::open_as(relay, person).await,
            None => Wire::open(relay).await,
        };
        wire.expect("the relay serves")
    }

    async fn come(
        role: &'static str,
        person: Option<&'a Person>,
        relays: &[String],
        case: &Case,
    ) -> Self {
        let mut visitor = Self {
            role,
            person,
            before: BTreeMap::new(),
        };
        for relay in relays {
            let mut wire = visitor.open(relay).await;
            let cursor = cursor(&mut wire).await;
            let mut told = Vec::new();
            for door in DOORS {
                told.push(walk(&mut wire, door, case, &cursor).await);
            }
            visitor.before.insert(relay.clone(), (cursor, told));
        }
        visitor
    }

    /// Asks again. `sees`: the event is theirs.
    async fn come_again(&self, case: &Case, sees: bool) {
        for (relay, (cursor, before)) in &self.before {
            let mut wire = self.open(relay).await;
            for (door, before) in DOORS.iter().zip(before) {
                let what = format!(
                    "{} to the {} through {door:?} of {relay}",
                    case.what, self.role
                );
                let told = walk(&mut wire, *door, case, cursor).await;
                if sees {
                    assert_ne!(&told, before, "{what}: it is served");
                } else {
                    assert_eq!(&told, before, "{what}: it leaves no trace");
                }
            }
        }
    }
}

/// Waits until the recipient has a stored event from a relay.
async fn wait_served(relay: &str, case: &Case) {
    until("the event is on the relay", READY_LIMIT, async || {
        let mut wire = Wire::open_as(relay, &case.recipient).await?;
        wire.send(&json!(["REQ", "s", {"ids": [case.event.id]}]))
            .await?;
        let frame = wire.receive().await?;
        if frame[0] == "EVENT" {
            Ok(())
        } else {
            Err(frame.to_string())
        }
    })
    .await;
}

/// Everybody listens live on every relay. With each connection: whether it is the recipient's.
async fn listen(relays: &[String], case: &Case, stranger: &Person) -> Vec<(bool, Wire)> {
    let author = case.event.value()["pubkey"].clone();
    let mut live = Vec::new();
    for relay in relays {
        for (is_recipient, person) in [
            (true, Some(&case.recipient)),
            (false, Some(stranger)),
            (false, Some(&case.sender)),
            (false, None),
        ] {
            let mut wire = match person {
                Some(person) => Wire::open_as(relay, person).await,
                None => Wire::open(relay).await,
            }
            .expect("the relay serves");
            let ask = json!(["REQ", "live", {"authors": [author], "limit": 0}]);
            wire.send(&ask).await.expect("an open connection");
            while wire.receive().await.expect("an answer")[0] != "EOSE" {}
            live.push((is_recipient, wire));
        }
    }
    live
}

#[tokio::test(flavor = "multi_thread")]
async fn no_relay_of_the_fleet_shows_anybody_but_the_recipient_that_a_hidden_event_exists() {
    let one = yaml::fleet(&["a", "b"], 1);
    let two_relays = one.replacen(
        "{name: a, relays: {replicas: 1}",
        "{name: a, relays: {replicas: 2}",
        1,
    );
    assert_ne!(one, two_relays);
    let fleet = Fleet::start("doors", &two_relays).await;
    let mut relays = fleet.relays("a");
    relays.extend(fleet.relays("b"));
    assert_eq!(relays.len(), 3);
    for case in Case::all() {
        let stranger = Person::new();
        let hidden_from = [
            Visitor::come("nobody", None, &relays, &case).await,
            Visitor::come("stranger", Some(&stranger), &relays, &case).await,
            Visitor::come("sender", Some(&case.sender), &relays, &case).await,
        ];
        let recipient = Visitor::come("recipient", Some(&case.recipient), &relays, &case).await;
        let mut live = listen(&relays, &case, &stranger).await;

        let mut publisher = Wire::open(&relays[0]).await.expect("the relay serves");
        publisher
            .send(&json!(["EVENT", case.event.value()]))
            .await
            .expect("sent");
        let answer = publisher.receive().await.expect("an OK");
        assert_eq!(
            (&answer[0], &answer[2]),
            (&json!("OK"), &json!(true)),
            "{answer}"
        );

        for (is_recipient, wire) in &mut live {
            if *is_recipient {
                let frame = wire.receive().await.expect("the event");
                assert_eq!(
                    frame[2]["id"],
                    json!(case.event.id),
                    "{}: {frame}",
                    case.what
                );
            }
        }
        if case.is_stored() {
            for relay in &relays {
                wait_served(relay, &case).await;
            }
        }
        for (is_recipient, wire) in &mut live {
            if !*is_recipient {
                // What was delivered live stands before this answer.
                wire.send(&json!(["COUNT", "last", {"limit": 0}]))
                    .await
                    .expect("open");
                let frame = wire.receive().await.expect("an answer");
                assert_eq!(frame[0], "COUNT", "{}: {frame}", case.what);
            }
        }
        for visitor in &hidden_from {
            visitor.come_again(&case, false).await;
        }
        recipient.come_again(&case, case.is_stored()).await;
    }
}
