//! Every message of a relay, and its information document, against the schemas of `@nostrability/schemata`. Where these lag behind
//! the NIPs a test says so by its name, and fails when they have caught up.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use nightjar_tests::event::{Person, Signed, now, wrap_for};
use nightjar_tests::fleet::http_get;
use nightjar_tests::interop::{Checked, validate};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::fleet;

const SOON: Duration = Duration::from_secs(15);

/// A connection that keeps every message as it came.
struct Recorder {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    relay: String,
    heard: Vec<Value>,
}

impl Recorder {
    async fn open() -> Recorder {
        let relay = fleet().await.relay("a");
        let (socket, _) = tokio_tungstenite::connect_async(&relay)
            .await
            .expect("a connection");
        let mut recorder = Recorder {
            socket,
            relay,
            heard: Vec::new(),
        };
        recorder.hear("AUTH").await;
        recorder
    }

    /// Reads up to the next message with this verb, and answers with it.
    async fn hear(&mut self, verb: &str) -> Value {
        loop {
            let next = tokio::time::timeout(SOON, self.socket.next()).await;
            let message = next.unwrap_or_else(|_| panic!("no {verb} came"));
            let message = message.expect("it is open").expect("a message");
            let Message::Text(text) = message else {
                continue;
            };
            let value: Value = serde_json::from_str(&text).expect("JSON");
            self.heard.push(value.clone());
            if value[0] == verb {
                return value;
            }
        }
    }

    async fn ask(&mut self, message: &str, verb: &str) -> Value {
        self.socket
            .send(Message::text(message))
            .await
            .expect("it is sent");
        self.hear(verb).await
    }

    /// Publishes, and insists on an answer that begins so.
    async fn publish(&mut self, event: &Signed, accepted: bool, prefix: &str) {
        let answer = self.ask(&format!("[\"EVENT\",{}]", event.json), "OK").await;
        let message = answer[3].as_str().expect("a message");
        assert!(
            answer[2] == accepted && message.starts_with(prefix),
            "{answer}"
        );
    }

    async fn authenticate(&mut self, person: &Person) {
        let challenge = self.heard[0][1].as_str().expect("a challenge").to_owned();
        let auth = person.auth(&self.relay, &challenge);
        let answer = self.ask(&format!("[\"AUTH\",{}]", auth.json), "OK").await;
        assert_eq!(answer[2], true, "{answer}");
    }
}

fn schema_of(message: &Value) -> &'static str {
    match message[0].as_str() {
        Some("AUTH") => "nips/nip-42/messages/relay-auth",
        Some("OK") => "nips/nip-01/messages/relay-ok",
        Some("EVENT") => "nips/nip-01/messages/relay-event",
        Some("EOSE") => "nips/nip-01/messages/relay-eose",
        Some("CLOSED") => "nips/nip-01/messages/relay-closed",
        Some("NOTICE") => "nips/nip-01/messages/relay-notice",
        Some("COUNT") => "nips/nip-45/messages/relay-count",
        Some("NEG-MSG") => "nips/nip-77/messages/relay-neg-msg",
        Some("NEG-ERR") => "nips/nip-77/messages/relay-neg-err",
        _ => panic!("a verb that no NIP knows: {message}"),
    }
}

/// Validates messages and expects these faults of each; `None` means that there is no such schema.
fn check(test: &str, messages: Vec<Value>, expected: Option<&[&str]>) {
    let checked: Vec<Checked> = messages
        .into_iter()
        .map(|value| Checked {
            schema: schema_of(&value),
            value,
        })
        .collect();
    let Some(faults) = validate(&checked, test) else {
        return;
    };
    assert_eq!(faults.len(), checked.len());
    for (checked, faults) in checked.iter().zip(faults) {
        assert_eq!(
            faults,
            json!(expected),
            "{}: {}",
            checked.schema,
            checked.value
        );
    }
}

/// OKs of every prefix that a client can cause at a relay with default limits.
async fn hear_oks(recorder: &mut Recorder) {
    let (alice, bob) = (Person::new(), Person::new());
    let note = alice.note("hello 🐢");
    recorder.publish(&note, true, "").await;
    recorder.publish(&note, true, "duplicate: ").await;
    let mut forged = note.value();
    forged["content"] = json!("another");
    let forged = Signed {
        id: note.id.clone(),
        json: forged.to_string(),
    };
    recorder.publish(&forged, false, "invalid: ").await;
    let ahead = alice.event(1, now() + 100_000, &[], "ahead");
    recorder.publish(&ahead, false, "invalid: ").await;
    let credential = alice.event(27_235, now(), &[], "");
    recorder.publish(&credential, false, "blocked: ").await;
    let protected = alice.event(1, now(), &[&["-"]], "mine");
    recorder.publish(&protected, false, "auth-required: ").await;
    recorder.authenticate(&bob).await;
    recorder.publish(&protected, false, "restricted: ").await;
    let mut limited = false;
    for _ in 0..100 {
        let refused = recorder
            .ask(&format!("[\"AUTH\",{}]", note.json), "OK")
            .await;
        assert_eq!(refused[2], false, "{refused}");
        limited |= refused[3]
            .as_str()
            .is_some_and(|text| text.starts_with("rate-limited: "));
    }
    assert!(limited, "AUTH attempts are limited");
}

/// EVENT, EOSE, CLOSED, COUNT and NOTICE.
async fn hear_reads(recorder: &mut Recorder) {
    let alice = Person::new();
    for text in ["one", "two"] {
        recorder.publish(&alice.note(text), true, "").await;
    }
    let author = alice.pubkey();
    let question = |verb: &str, more: &Value| {
        let mut filter = json!({"authors": [author]});
        filter["limit"] = more.clone();
        json!([verb, "s", filter]).to_string()
    };
    recorder.ask(&question("REQ", &json!(1)), "EOSE").await;
    // Before its OK or after it: both are read on the way.
    recorder.publish(&alice.note("live"), true, "").await;
    recorder
        .ask(&question("REQ", &json!("all")), "CLOSED")
        .await;
    recorder.ask(&question("COUNT", &json!(2)), "COUNT").await;
    for verb in ["REQ", "COUNT"] {
        let private = json!([verb, "p", {"kinds": [1059]}]);
        recorder.ask(&private.to_string(), "CLOSED").await;
    }
    recorder.ask(r#"["REQ","p"]"#, "CLOSED").await;
    for nonsense in ["hello", "[]", r#"["TOPIC","s"]"#, r#"["EVENT",{}]"#] {
        recorder.ask(nonsense, "NOTICE").await;
    }
}

/// The two sorts of EOSE: without hints, and with (NIP-67).
async fn hear_eoses(recorder: &mut Recorder) -> (Value, Value) {
    let alice = Person::new();
    for text in ["one", "two"] {
        recorder.publish(&alice.note(text), true, "").await;
    }
    let some = json!(["REQ", "s", {"authors": [alice.pubkey()], "limit": 1}]);
    let all = json!(["REQ", "a", {"authors": [alice.pubkey()]}]);
    let some = recorder.ask(&some.to_string(), "EOSE").await;
    let all = recorder.ask(&all.to_string(), "EOSE").await;
    assert_eq!(
        (&some, &all),
        (&json!(["EOSE", "s"]), &json!(["EOSE", "a", ["finish"]]))
    );
    (some, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_validates_against_its_schema() {
    let mut recorder = Recorder::open().await;
    hear_reads(&mut recorder).await;
    hear_eoses(&mut recorder).await;
    hear_oks(&mut recorder).await;
    // A wrap as its recipient gets it.
    let mut reader = Recorder::open().await;
    let bob = Person::new();
    recorder
        .publish(&wrap_for(1059, &bob.pubkey(), "sealed"), true, "")
        .await;
    reader.authenticate(&bob).await;
    reader.ask(r#"["REQ","w",{"kinds":[1059]}]"#, "EVENT").await;
    let mut heard = recorder.heard;
    heard.extend(reader.heard);
    let has_hints = |message: &Value| message[0] == "EOSE" && message.get(2).is_some();
    heard.retain(|message| !has_hints(message));
    for verb in ["AUTH", "OK", "EVENT", "EOSE", "CLOSED", "NOTICE", "COUNT"] {
        assert!(heard.iter().any(|message| message[0] == verb), "{verb}");
    }
    check("schemata of messages", heard, Some(&[]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_of_eose_does_not_know_the_hints_of_nip_67_yet() {
    let (without, with) = hear_eoses(&mut Recorder::open().await).await;
    check("schema of EOSE", vec![without], Some(&[]));
    check(
        "schema of EOSE with hints",
        vec![with],
        Some(&[" must NOT have more than 2 items"]),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_schemas_of_nip_77_yet() {
    let mut recorder = Recorder::open().await;
    let answer = recorder
        .ask(r#"["NEG-OPEN","n",{"kinds":[1]},"6100000200"]"#, "NEG-MSG")
        .await;
    let refusal = recorder
        .ask(r#"["NEG-MSG","m","6100000200"]"#, "NEG-ERR")
        .await;
    check("schemata of NIP-77", vec![answer, refusal], None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_information_document_validates_against_its_schema() {
    let relay = fleet().await.relay("b");
    let address = relay.trim_start_matches("ws://").trim_end_matches('/');
    let (status, document) = http_get(address, "/", "application/nostr+json")
        .await
        .expect("a document");
    assert_eq!(status, 200, "{document}");
    // What may be configured beside the defaults is held against the schema too.
    let least: Value = body_of(&document);
    let mut most = least.clone();
    for (field, value) in [
        ("description", "a relay"),
        ("contact", "mailto:admin@example.com"),
        ("icon", "https://example.com/icon.png"),
        ("posting_policy", "https://example.com/posting"),
        ("pubkey", &"ab".repeat(32)),
    ] {
        most[field] = json!(value);
    }
    most["limitation"]["min_pow_difficulty"] = json!(20);
    let checked = [least, most].map(|value| Checked {
        schema: "nips/nip-11",
        value,
    });
    if let Some(faults) = validate(&checked, "schema of NIP-11") {
        assert_eq!(faults, [json!([]), json!([])], "{}", checked[0].value);
    }
}

/// The body may come in chunks.
fn body_of(text: &str) -> Value {
    let (from, to) = (text.find('{'), text.rfind('}'));
    let (Some(from), Some(to)) = (from, to) else {
        panic!("no document: {text}");
    };
    serde_json::from_str(&text[from..=to]).expect("JSON")
}
