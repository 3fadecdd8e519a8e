//! Every door, for every private kind, before every sort of reader. Two relays that differ in one hidden event are asked the
//! same: whoever may not read it gets the same bytes from both, whoever may gets it from one.

use nostr::event::Event;
use nostr::key::Keys;
use serde_json::{Value, json};

use nightjar_envelope::PositionVector;

use super::calls;
use super::harness::{Client, NOTHING, Relay, event, event_at, wrap};
use crate::metrics::Door;
use crate::session::unix_seconds;
use crate::visibility::Readers;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nobody has authenticated.
    Nobody,
    /// A key that the event does not know.
    Stranger,
    /// The key that signed the gift wrap, or the wrap that the event is about.
    Sender,
    /// The one key that may read it.
    Recipient,
}

/// The doors through which what is stored is asked for.
const STORED_DOORS: [Door; 5] = [
    Door::req,
    Door::stored,
    Door::arrival,
    Door::count,
    Door::neg,
];

const ROLES: [Role; 4] = [Role::Nobody, Role::Stranger, Role::Sender, Role::Recipient];

/// One hidden event and the keys around it.
struct Case {
    what: &'static str,
    event: Event,
    sender: Keys,
    recipient: Keys,
    stranger: Keys,
}

impl Case {
    fn all() -> Vec<Case> {
        let wrap_by = |kind, what| {
            let (sender, recipient) = (Keys::generate(), Keys::generate());
            let to = recipient.public_key().to_hex();
            Case {
                what,
                event: event(&sender, kind, "sealed", &[&["p", &to]]),
                sender,
                recipient,
                stranger: Keys::generate(),
            }
        };
        let from_recipient = |kind, what, tags: &dyn Fn(&Event) -> Vec<Vec<String>>| {
            let (sender, recipient) = (Keys::generate(), Keys::generate());
            let about = event(
                &sender,
                1059,
                "sealed",
                &[&["p", &recipient.public_key().to_hex()]],
            );
            let tags = tags(&about);
            let tags: Vec<Vec<&str>> = tags
                .iter()
                .map(|tag| tag.iter().map(String::as_str).collect())
                .collect();
            let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
            Case {
                what,
                event: event(&recipient, kind, "", &tags),
                sender,
                recipient,
                stranger: Keys::generate(),
            }
        };
        let tag = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
        vec![
            wrap_by(1059, "a gift wrap"),
            wrap_by(21_059, "an ephemeral gift wrap"),
            from_recipient(5, "a deletion of a wrap", &|about| {
                vec![
                    tag("e", &about.id.to_hex()),
                    tag("k", "1059"),
                    tag("p", &about.pubkey.to_hex()),
                ]
            }),
            from_recipient(5, "a deletion of what may be a wrap", &|about| {
                vec![tag("e", &about.id.to_hex())]
            }),
            from_recipient(62, "a request to vanish", &|about| {
                vec![tag("relay", "ALL_RELAYS"), tag("p", &about.pubkey.to_hex())]
            }),
        ]
    }

    fn is_stored(&self) -> bool {
        self.event.kind.as_u16() != 21_059
    }

    /// Who authenticates; nobody has no keys.
    fn keys(&self, role: Role) -> Option<&Keys> {
        match role {
            Role::Nobody => None,
            Role::Stranger => Some(&self.stranger),
            Role::Sender => Some(&self.sender),
            Role::Recipient => Some(&self.recipient),
        }
    }

    fn readers(&self, role: Role) -> Readers {
        let keys = self.keys(role).into_iter();
        keys.map(|keys| keys.public_key().to_bytes()).collect()
    }

    async fn client(&self, relay: &Relay, role: Role) -> Client {
        let keys: Vec<&Keys> = self.keys(role).into_iter().collect();
        relay.authenticated(&keys).await
    }

    /// The questions for a door.
    fn ways_through(&self, door: Door, relay: &Relay, role: Role) -> Vec<Value> {
        match door {
            Door::arrival => from_the_beginning(relay, &self.readers(role), self.ways()),
            _ => self.ways(),
        }
    }

    /// Every way to ask for it: by each of its fields, by several, by none, and with room for one event only.
    fn ways(&self) -> Vec<Value> {
        let event = &self.event;
        let (id, author, kind) = (
            event.id.to_hex(),
            event.pubkey.to_hex(),
            event.kind.as_u16(),
        );
        let time = event.created_at.as_secs();
        let mut ways = vec![
            json!({}),
            json!({"limit": 1}),
            json!({"ids": [id]}),
            json!({"ids": [id], "kinds": [1, kind]}),
            json!({"ids": [id], "limit": 1}),
            json!({"authors": [author]}),
            json!({"authors": [author], "limit": 1}),
            json!({"authors": [author], "kinds": [kind]}),
            json!({"kinds": [kind]}),
            json!({"kinds": [kind], "limit": 1}),
            json!({"kinds": [1, kind], "limit": 2}),
            json!({"kinds": [0, 3, 5, 6, 62, kind]}),
            json!({"since": time - 1, "until": time + 1}),
            json!({"since": time}),
            json!({"until": time, "limit": 1}),
        ];
        for tag in event.tags.iter().map(|tag| tag.as_slice()) {
            if let [name, value, ..] = tag
                && name.len() == 1
            {
                let name = format!("#{name}");
                ways.push(json!({&name: [value]}));
                ways.push(json!({&name: [value], "kinds": [kind]}));
                ways.push(json!({&name: [value], "ids": [id], "authors": [author]}));
            }
        }
        ways
    }
}

/// What a client was sent, byte for byte.
type Transcript = Vec<String>;

/// What these filters get through a door, each asked for by itself and all together, under the ids `0`, `1` and so on.
///
/// The match has no other arm: a new door does not compile until it is walked here.
async fn walk(
    door: Door,
    client: &mut Client,
    ways: &[Value],
    publish: impl AsyncFn(),
) -> Transcript {
    match door {
        Door::req => {
            let wraps: Vec<Value> = ways
                .iter()
                .filter(|way| way["kinds"].is_array())
                .cloned()
                .collect();
            ask("REQ", client, &wraps).await
        }
        Door::stored | Door::arrival => ask("REQ", client, ways).await,
        Door::count => ask("COUNT", client, ways).await,
        Door::neg => reconcile(client, ways).await,
        Door::live => {
            ask("REQ", client, ways).await;
            publish().await;
            // What was delivered live stands in the queue before this answer.
            client.send(json!(["COUNT", "last", {"limit": 0}])).await;
            until(client, "last").await
        }
    }
}

async fn ask(verb: &str, client: &mut Client, ways: &[Value]) -> Transcript {
    let mut transcript = Vec::new();
    let mut questions: Vec<Vec<Value>> = ways.iter().map(|way| vec![way.clone()]).collect();
    questions.push(ways.to_vec());
    questions.push(
        ways.iter()
            .filter(|way| way["kinds"].is_null())
            .cloned()
            .collect(),
    );
    for (number, filters) in questions.into_iter().enumerate() {
        let id = number.to_string();
        let mut message = vec![json!(verb), json!(id)];
        message.extend(filters);
        client.send(Value::Array(message)).await;
        transcript.extend(until(client, &id).await);
    }
    transcript
}

/// What the relay says to a client that has nothing: all that it would let this client know.
async fn reconcile(client: &mut Client, ways: &[Value]) -> Transcript {
    let mut transcript = Vec::new();
    for (number, way) in ways.iter().enumerate() {
        let id = number.to_string();
        client.send(json!(["NEG-OPEN", id, way, NOTHING])).await;
        transcript.extend(until(client, &id).await);
        // A range whose fingerprint nobody has: the relay answers with what it has there.
        let fingerprint = format!("61000001{}", "00".repeat(16));
        client.send(json!(["NEG-MSG", id, fingerprint])).await;
        transcript.extend(until(client, &id).await);
    }
    transcript
}

/// Up to the answer that ends the question of this id.
async fn until(client: &mut Client, id: &str) -> Transcript {
    let mut transcript = Vec::new();
    loop {
        let message = client.receive_message().await;
        let text = message.to_text().expect("a text").to_owned();
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        transcript.push(without_cursor(&frame).unwrap_or(text));
        if frame[0] != "EVENT" && frame[1] == id {
            return transcript;
        }
    }
}

/// No two cursors are the same text, and all of these have the same length.
fn without_cursor(frame: &Value) -> Option<String> {
    let cursor = frame.get(3)?.as_str()?;
    (frame[0] == "EOSE").then(|| json!([frame[0], frame[1], frame[2], cursor.len()]).to_string())
}

/// The same questions, for what arrived after the beginning.
fn from_the_beginning(relay: &Relay, readers: &Readers, ways: Vec<Value>) -> Vec<Value> {
    let cursors = &relay.services.cursors;
    let resume = cursors
        .take("", readers, true, 0, 0)
        .expect("nothing wrong");
    let cursor = resume.cursor(PositionVector::new(), unix_seconds());
    let cursor = cursor.expect("the relay has keys");
    let ask = |mut way: Value| {
        way["cursor"] = json!(cursor);
        way
    };
    ways.into_iter().map(ask).collect()
}

/// A relay with public events around the hidden one, some of the same people.
async fn relay_with(case: &Case, public: &[&Event]) -> Relay {
    let relay = Relay::start_with(
        |config| {
            config.limits.max_subscriptions = 200;
            config.limits.max_filters = 100;
            config.limits.reqs_burst_per_connection = 10_000;
        },
        Default::default(),
    )
    .await;
    assert!(case.ways().len() < 98, "{}", case.what);
    relay.publish(public).await;
    relay
}

fn public_events(case: &Case) -> Vec<Event> {
    let to = case.recipient.public_key().to_hex();
    // Dated after what a request to vanish reaches, or it would hide them on one relay only.
    vec![
        event_at(&case.recipient, 1, "of the recipient", &[], 60),
        event_at(&case.sender, 1, "to the recipient", &[&["p", &to]], 60),
        event_at(&Keys::generate(), 1, "older", &[], -60),
        event_at(
            &Keys::generate(),
            5,
            "",
            &[&["e", &"00".repeat(32)], &["k", "1"]],
            0,
        ),
    ]
}

async fn check(case: &Case, role: Role, door: Door) {
    let public = public_events(case);
    let public: Vec<&Event> = public.iter().collect();
    let (with, without) = (
        relay_with(case, &public).await,
        relay_with(case, &public).await,
    );
    let publish = async || with.publish(&[&case.event]).await;
    if door != Door::live {
        publish().await;
    }
    let ways = |relay: &Relay| case.ways_through(door, relay, role);
    let mut client = case.client(&with, role).await;
    let shown = walk(door, &mut client, &ways(&with), publish).await;
    let mut client = case.client(&without, role).await;
    let expected = walk(door, &mut client, &ways(&without), async || {}).await;

    let what = format!("{} to {role:?} through {door:?}", case.what);
    if role == Role::Recipient && (case.is_stored() || door == Door::live) {
        assert_ne!(shown, expected, "{what}: it is served");
    } else {
        assert_eq!(shown, expected, "{what}: it leaves no trace");
        let id = case.event.id.to_hex();
        assert!(shown.iter().all(|frame| !frame.contains(&id)), "{what}");
    }
    for relay in [&with, &without] {
        assert_eq!(
            relay.services.metrics.reads_refused(Door::stored),
            0,
            "{what}"
        );
        let stats = relay.services.index.stats().expect("figures");
        assert_eq!(stats.door_violations, 0, "{what}");
    }
}

#[tokio::test]
async fn no_door_shows_anybody_but_its_recipient_that_a_hidden_event_exists() {
    for case in Case::all() {
        for role in ROLES {
            for door in Door::ALL {
                check(&case, role, *door).await;
            }
        }
    }
}

#[tokio::test]
async fn each_way_to_ask_serves_the_recipient_through_each_door() {
    for case in Case::all().iter().filter(|case| case.is_stored()) {
        let relay = relay_with(case, &[]).await;
        relay.publish(&[&case.event]).await;
        let mut client = case.client(&relay, Role::Recipient).await;
        let id = case.event.id.to_hex();
        for way in case.ways() {
            let what = format!("{} by {way}", case.what);
            let later =
                from_the_beginning(&relay, &case.readers(Role::Recipient), vec![way.clone()]);
            let way = [way];
            assert_eq!(client.count("c", &way).await, Ok(1), "{what}");
            assert_eq!(client.read("s", &way).await, Ok(vec![id.clone()]), "{what}");
            assert_eq!(
                client.read("s", &later).await,
                Ok(vec![id.clone()]),
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn a_wrap_that_its_recipient_deleted_looks_like_one_that_never_was() {
    let (bob, eve) = (Keys::generate(), Keys::generate());
    let deleted = wrap(1059, &bob);
    let deletion = event(&bob, 5, "", &[&["e", &deleted.id.to_hex()], &["k", "1059"]]);
    let case = Case {
        what: "a deleted wrap",
        event: deleted,
        sender: eve,
        recipient: bob,
        stranger: Keys::generate(),
    };
    let (with, without) = (relay_with(&case, &[]).await, relay_with(&case, &[]).await);
    with.publish(&[&case.event, &deletion]).await;
    without.publish(&[&deletion]).await;
    for role in ROLES {
        for door in STORED_DOORS {
            let mut transcripts = Vec::new();
            for relay in [&with, &without] {
                let mut client = case.client(relay, role).await;
                let ways = case.ways_through(door, relay, role);
                transcripts.push(walk(door, &mut client, &ways, async || {}).await);
            }
            assert_eq!(transcripts[0], transcripts[1], "{role:?} through {door:?}");
        }
    }
}

/// Hidden or public, whoever asks: a ban leaves nothing to tell an event that is here from one that is not.
#[tokio::test]
async fn a_banned_event_looks_like_one_that_never_was() {
    let author = Keys::generate();
    let mut cases: Vec<Case> = Case::all();
    cases.retain(Case::is_stored);
    cases.push(Case {
        what: "a note",
        event: event(&author, 1, "hello", &[&["t", "topic"]]),
        sender: author.clone(),
        recipient: author,
        stranger: Keys::generate(),
    });
    for case in &cases {
        let (with, without) = (relay_with(case, &[]).await, relay_with(case, &[]).await);
        with.publish(&[&case.event]).await;
        for relay in [&with, &without] {
            calls::change(relay, "banevent", &json!([case.event.id.to_hex()])).await;
        }
        for role in ROLES {
            let mut transcripts = Vec::new();
            for relay in [&with, &without] {
                let mut client = case.client(relay, role).await;
                let mut transcript = vec![client.publish(&case.event).await.to_string()];
                for door in STORED_DOORS {
                    let mut client = case.client(relay, role).await;
                    let ways = case.ways_through(door, relay, role);
                    transcript.extend(walk(door, &mut client, &ways, async || {}).await);
                }
                transcripts.push(transcript);
            }
            assert_eq!(transcripts[0], transcripts[1], "{} to {role:?}", case.what);
            let refusal = &transcripts[0][0];
            assert!(
                refusal.contains("blocked: this event is banned here"),
                "{refusal}"
            );
        }
    }
}
