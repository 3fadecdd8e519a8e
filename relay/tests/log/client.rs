//! A Nostr client over a real WebSocket, and signed events.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use nostr::event::{EventBuilder, FinalizeEvent, Kind, Tag};
use nostr::key::Keys;
use nostr::types::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::wait::{LIMIT, until};

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs()
}

/// A signed event.
pub(crate) fn event(keys: &Keys, kind: u16, at: u64, tags: &[&[&str]], content: &str) -> Value {
    let tags = tags
        .iter()
        .map(|tag| Tag::parse(tag.iter().copied()).expect("a tag"));
    let event = EventBuilder::new(Kind::from(kind), content)
        .tags(tags)
        .custom_created_at(Timestamp::from(at))
        .finalize(keys)
        .expect("signed");
    serde_json::to_value(event).expect("JSON")
}

/// A signed note of somebody new.
pub(crate) fn note(content: &str) -> Value {
    event(&Keys::generate(), 1, now(), &[], content)
}

/// How a stored read ended.
#[derive(Debug)]
pub(crate) enum Read {
    /// EOSE, after these events.
    Events(Vec<Value>),
    /// CLOSED, with this reason.
    Closed(String),
}

/// One connection.
pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    reads: usize,
}

impl Client {
    pub(crate) async fn connect(url: &str) -> Self {
        let socket = until("a connection", async || {
            tokio_tungstenite::connect_async(url).await
        })
        .await
        .0;
        Self { socket, reads: 0 }
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.socket
            .send(Message::text(message.to_string()))
            .await
            .expect("sent");
    }

    /// The next message within `within`.
    pub(crate) async fn next_within(&mut self, within: Duration) -> Option<Value> {
        let text = async {
            loop {
                if let Message::Text(text) = self.socket.next().await?.ok()? {
                    return serde_json::from_str(&text).ok();
                }
            }
        };
        tokio::time::timeout(within, text).await.ok().flatten()
    }

    /// Reads until the relay closes the connection; answers the close code.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        let closed = async {
            loop {
                if let Message::Close(frame) = self.socket.next().await?.ok()? {
                    return Some(frame?.code.into());
                }
            }
        };
        tokio::time::timeout(LIMIT, closed).await.ok().flatten()
    }

    /// The next message of one of these kinds; others are passed over.
    pub(crate) async fn next_of(&mut self, kinds: &[&str]) -> Value {
        loop {
            let message = self
                .next_within(LIMIT)
                .await
                .unwrap_or_else(|| panic!("none of {kinds:?} came"));
            if kinds.iter().any(|kind| message[0] == **kind) {
                return message;
            }
        }
    }

    /// Authenticates as somebody (NIP-42), with the challenge that a relay sends first.
    pub(crate) async fn authenticate(&mut self, url: &str, keys: &Keys) {
        let challenge = self.next_of(&["AUTH"]).await[1].clone();
        let challenge = challenge.as_str().expect("a challenge");
        let tags: [&[&str]; 2] = [&["relay", url], &["challenge", challenge]];
        let answer = event(keys, 22_242, now(), &tags, "");
        self.send(json!(["AUTH", answer])).await;
        let ok = self.next_of(&["OK"]).await;
        assert_eq!((&ok[1], &ok[2]), (&answer["id"], &json!(true)), "{ok}");
    }

    /// Publishes and returns the OK: accepted, and its text.
    pub(crate) async fn publish(&mut self, event: &Value) -> (bool, String) {
        self.send(json!(["EVENT", event])).await;
        let ok = self.next_of(&["OK"]).await;
        assert_eq!(ok[1], event["id"]);
        (ok[2] == true, ok[3].as_str().unwrap_or_default().to_owned())
    }

    /// Publishes until it is accepted, as a client does whose event was not durable in time.
    pub(crate) async fn publish_until_ok(&mut self, event: &Value) {
        let mut refusals = Vec::new();
        for _ in 0..20 {
            let (accepted, text) = self.publish(event).await;
            if accepted {
                return;
            }
            refusals.push(text);
        }
        panic!("never accepted: {refusals:?}");
    }

    /// Opens a subscription and returns when stored events are done.
    pub(crate) async fn read(&mut self, filter: Value) -> Read {
        self.reads += 1;
        let name = format!("r{}", self.reads);
        self.send(json!(["REQ", name, filter])).await;
        let mut events = Vec::new();
        loop {
            let message = self.next_of(&["EVENT", "EOSE", "CLOSED"]).await;
            if message[1] != name.as_str() {
                continue;
            }
            match message[0].as_str() {
                Some("EVENT") => events.push(message[2].clone()),
                Some("EOSE") => return Read::Events(events),
                _ => return Read::Closed(message[2].as_str().unwrap_or_default().to_owned()),
            }
        }
    }

    /// The ids that a filter finds, in the order they came. The subscription is closed again.
    pub(crate) async fn ids(&mut self, filter: Value) -> Vec<String> {
        let read = self.read(filter).await;
        self.send(json!(["CLOSE", format!("r{}", self.reads)]))
            .await;
        match read {
            Read::Events(events) => events.iter().map(id).collect(),
            Read::Closed(reason) => panic!("closed: {reason}"),
        }
    }

    /// Ids of the live events that come until `last` has come.
    pub(crate) async fn live_until(&mut self, last: &Value) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.last() != Some(&id(last)) {
            ids.push(id(&self.next_of(&["EVENT"]).await[2]));
        }
        ids
    }
}

/// The id of an event.
pub(crate) fn id(event: &Value) -> String {
    event["id"].as_str().expect("an id").to_owned()
}
