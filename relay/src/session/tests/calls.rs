//! Management calls as an administrator makes them, piece by piece, so that each piece can be wrong.

use std::sync::Arc;

use base64::Engine as _;
use nightjar_config::RelayConfig;
use nostr::event::Event as NostrEvent;
use nostr::key::Keys;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{Relay, event_at};
use crate::event::Event;
use crate::http_auth::BASE64;
use crate::log::PublishContext;
use crate::management::call::{self, Call as NipCall};
use crate::management::record::SignedChange;
use crate::session::{Publish, unix_millis};
use crate::socket::Timings;

/// The URL of [`Relay`] by which its calls are signed.
pub(super) const URL: &str = "http://relay.test:4001/";
pub(super) const CONTENT_TYPE: &str = "application/nostr+json+rpc";

pub(super) async fn managed_by(admin: &Keys) -> Relay {
    managed_with(admin, |_| ()).await
}

pub(super) async fn managed_with(admin: &Keys, adjust: impl FnOnce(&mut RelayConfig)) -> Relay {
    let admin = admin.public_key().to_hex();
    Relay::start_with(
        |config| {
            config.management.admins = vec![admin];
            adjust(config);
        },
        Timings::default(),
    )
    .await
}

/// A request, piece by piece, so that each can be wrong.
pub(super) struct Call {
    pub(super) path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) authorization: Option<String>,
    pub(super) body: String,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Value,
}

impl Answer {
    #[track_caller]
    pub(super) fn refused(&self, status: u16, expected: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let error = self.body["error"].as_str().expect("an error");
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(self.body["result"], Value::Null);
        let told = self.head.contains("www-authenticate: Nostr");
        assert_eq!(told, status == 401, "{}", self.head);
    }
}

pub(super) fn body_of(method: &str, params: &Value) -> String {
    json!({"method": method, "params": params}).to_string()
}

pub(super) fn signed(keys: &Keys, tags: &[(&str, &str)], offset: i64) -> NostrEvent {
    let tags: Vec<Vec<&str>> = tags
        .iter()
        .map(|(name, value)| vec![*name, *value])
        .collect();
    let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
    event_at(keys, 27_235, "", &tags, offset)
}

pub(super) fn header_of(event: &NostrEvent) -> String {
    format!("Nostr {}", BASE64.encode(json!(event).to_string()))
}

pub(super) fn auth(keys: &Keys, body: &str, offset: i64) -> NostrEvent {
    let payload = hex::encode(Sha256::digest(body));
    let tags = [
        ("u", URL),
        ("method", "POST"),
        ("payload", payload.as_str()),
    ];
    signed(keys, &tags, offset)
}

impl Call {
    pub(super) fn signed_by(keys: &Keys, method: &str, params: &Value) -> Self {
        Self::signed_at(keys, method, params, 0)
    }

    pub(super) fn signed_at(keys: &Keys, method: &str, params: &Value, offset: i64) -> Self {
        let body = body_of(method, params);
        Self {
            authorization: Some(header_of(&auth(keys, &body, offset))),
            ..Self::unsigned(body)
        }
    }

    pub(super) fn unsigned(body: String) -> Self {
        Self {
            path: "/",
            content_type: CONTENT_TYPE,
            authorization: None,
            body,
        }
    }

    pub(super) async fn send(&self, relay: &Relay) -> Answer {
        let authorization = self.authorization.as_ref();
        let authorization = authorization.map(|value| format!("Authorization: {value}\r\n"));
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n{}",
            self.path,
            self.content_type,
            self.body.len(),
            authorization.unwrap_or_default(),
            self.body
        );
        let answer = http(relay, &request).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        let status = head.split(' ').nth(1).expect("a status");
        Answer {
            status: status.parse().expect("a number"),
            head: head.to_owned(),
            body: serde_json::from_str(body).unwrap_or(Value::Null),
        }
    }
}

pub(super) async fn http(relay: &Relay, request: &str) -> String {
    let mut stream = TcpStream::connect(relay.port.address()).await.expect("TCP");
    stream.write_all(request.as_bytes()).await.expect("a write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

/// The result of a call that must succeed. Calls of one test about one entry are signed at growing times.
pub(super) async fn call_at(
    relay: &Relay,
    admin: &Keys,
    method: &str,
    params: Value,
    offset: i64,
) -> Value {
    let answer = Call::signed_at(admin, method, &params, offset)
        .send(relay)
        .await;
    assert_eq!(answer.status, 200, "{method} {params}: {answer:?}");
    assert!(answer.body.get("error").is_none(), "{answer:?}");
    answer.body["result"].clone()
}

pub(super) async fn call(relay: &Relay, admin: &Keys, method: &str, params: Value) -> Value {
    call_at(relay, admin, method, params, 0).await
}

/// A change as if another relay had admitted it: past this one's HTTP port and administrators.
pub(super) async fn change(relay: &Relay, method: &str, params: &Value) {
    let body = body_of(method, params);
    let signed = json!(auth(&Keys::generate(), &body, 0)).to_string();
    let signed = Event::parse(signed.as_bytes()).expect("an event");
    let Ok(NipCall::Change(change)) = call::parse(body.as_bytes()).1 else {
        panic!("no change: {body}");
    };
    let change = Arc::new(SignedChange::new(&signed, &body, change).expect("a record"));
    let context = PublishContext {
        admitted_ms: unix_millis(),
    };
    let stands = relay.publisher.publish_change(change, context).await;
    assert_eq!(stands, Ok(true));
}
