//! A relay and its clients for tests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use nightjar_config::RelayConfig;
use nightjar_envelope::{Class, Keyring, PositionVector, StreamName};
use nostr::event::{Event as NostrEvent, EventBuilder, FinalizeEvent, Kind, Tag};
use nostr::key::Keys;
use nostr::types::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::admission::{Admission, VerifierOptions};
use crate::cursor::Cursors;
use crate::event::Event;
use crate::http::{self, PublicPort};
use crate::index::{Advance, Applied, Index, IndexError, IndexOptions, LogEntry, Logged};
use crate::live::{Live, Source};
use crate::log::{Keys as LogKeys, PublishContext, PublishError, Published, Readiness};
use crate::management::record::SignedChange;
use crate::metrics::Metrics;
use crate::plugin::{Pace, PluginMetrics, Plugins};
use crate::session::{Parts, Publish, ReadBounds, Services, unix_seconds};
use crate::socket::Timings;

/// How long any answer may take.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// The first negentropy message of a client without events: version, no upper bound, a list of 0 ids.
pub(super) const NOTHING: &str = "6100000200";

/// Failed plugins come back soon.
const PACE: Pace = Pace {
    least_pause: Duration::from_millis(100),
    longest_pause: Duration::from_secs(1),
    start_within: Duration::from_secs(30),
    look_every: Duration::from_millis(50),
};

const CONFIG: &str = r#"
fleet: {id: 00112233445566778899aabbccddeeff, name: test-fleet}
region: a
name: a-relay-0
listen: 127.0.0.1:0
admin: 127.0.0.1:0
public_urls: ["ws://relay.test:4001", "ws://127.0.0.1:4001"]
nats: {servers: ["nats://127.0.0.1:4222"], nkey_seed_file: unused}
keyring_file: unused
index: {dir: unused, max_bytes: 1073741824}
log:
  replicas: 1
  message_retention_seconds: 7776000
  regions: [{region: a, generation: 1, message_shards: 4, state_shards: 2}]
"#;

/// A relay on a port of its own.
pub(super) struct Relay {
    pub(super) port: PublicPort,
    pub(super) services: Arc<Services>,
    pub(super) publisher: Arc<DirectPublisher>,
    pub(super) _folder: TempDir,
}

/// Applies to the index and offers to live, as the log's publisher and follower do once an event is durable: a log of one stream for
/// each class.
pub(super) struct DirectPublisher {
    index: Index,
    live: Live,
    published: AtomicU64,
    /// Last sequence of each stream.
    sequences: Arc<Mutex<PositionVector>>,
    /// While held, publishes wait.
    pub(super) gate: tokio::sync::RwLock<()>,
}

impl DirectPublisher {
    /// Events that reached the log.
    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    async fn publish_now(
        &self,
        event: Arc<Event>,
        context: PublishContext,
    ) -> Result<Published, PublishError> {
        let _open = self.gate.read().await;
        self.published.fetch_add(1, Ordering::Relaxed);
        if event.class() == Class::Ephemeral {
            self.live.deliver(&event, Source::Ephemeral);
            return Ok(Published::HandedOver);
        }
        let (index, live, sequences) = (
            self.index.clone(),
            self.live.clone(),
            self.sequences.clone(),
        );
        let entry_event = event.clone();
        let applied = tokio::task::spawn_blocking(move || {
            let mut sequences = sequences.lock().expect("no test panics with it");
            let stream = StreamName::new(entry_event.class(), "a".parse().expect("a name"), 1, 0)
                .expect("no ephemeral event");
            let seq = sequences.get(&stream) + 1;
            let entry = LogEntry {
                content: entry_event.clone().into(),
                at: Some((stream.clone(), seq)),
                log_time: crate::index::LogTime::Provisional(context.admitted_ms),
            };
            let advance = Advance {
                stream: stream.clone(),
                seq,
            };
            let applied = index.apply(
                std::slice::from_ref(&entry),
                &[advance],
                context.admitted_ms / 1000,
            )?;
            sequences.advance(&stream, seq);
            if applied == [Applied::New] {
                live.deliver_at(&entry_event, Source::Publisher, entry.at.as_ref());
            }
            live.advance(std::iter::once((&stream, seq)));
            Ok::<_, IndexError>(applied)
        })
        .await
        .map_err(|_| PublishError::IndexUnavailable)?
        .map_err(|_| PublishError::IndexUnavailable)?;
        if applied == [Applied::New] {
            return Ok(Published::Stored);
        }
        Ok(if event.is_private() || applied == [Applied::Banned] {
            Published::Stored
        } else {
            Published::Duplicate
        })
    }

    async fn change_now(
        &self,
        change: Arc<SignedChange>,
        context: PublishContext,
    ) -> Result<bool, PublishError> {
        self.published.fetch_add(1, Ordering::Relaxed);
        let index = self.index.clone();
        let entry = LogEntry {
            content: Logged::Change(change),
            at: None,
            log_time: crate::index::LogTime::Provisional(context.admitted_ms),
        };
        let applied = tokio::task::spawn_blocking(move || {
            index.apply(&[entry], &[], context.admitted_ms / 1000)
        })
        .await
        .map_err(|_| PublishError::IndexUnavailable)?
        .map_err(|_| PublishError::IndexUnavailable)?;
        Ok(applied != [Applied::Superseded])
    }
}

impl Publish for DirectPublisher {
    fn publish(
        &self,
        event: Arc<Event>,
        context: PublishContext,
    ) -> BoxFuture<'_, Result<Published, PublishError>> {
        self.publish_now(event, context).boxed()
    }

    fn publish_change(
        &self,
        change: Arc<SignedChange>,
        context: PublishContext,
    ) -> BoxFuture<'_, Result<bool, PublishError>> {
        self.change_now(change, context).boxed()
    }
}

impl Relay {
    /// A relay with default limits.
    pub(super) async fn start() -> Self {
        Self::start_with(|_| {}, Timings::default()).await
    }

    pub(super) async fn start_with(
        adjust: impl FnOnce(&mut RelayConfig),
        timings: Timings,
    ) -> Self {
        Self::start_within(ReadBounds::default(), adjust, timings).await
    }

    pub(super) async fn start_within(
        bounds: ReadBounds,
        adjust: impl FnOnce(&mut RelayConfig),
        timings: Timings,
    ) -> Self {
        let workers = VerifierOptions {
            threads: 1,
            queue: 1000,
        };
        Self::start_with_workers(bounds, workers, adjust, timings).await
    }

    pub(super) async fn start_with_workers(
        bounds: ReadBounds,
        workers: VerifierOptions,
        adjust: impl FnOnce(&mut RelayConfig),
        timings: Timings,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = RelayConfig::from_yaml(CONFIG).expect("a configuration");
        adjust(&mut config);
        let options = IndexOptions {
            dir: folder.path().to_owned(),
            max_bytes: 64 << 20,
            message_retention: Duration::from_secs(config.log.message_retention_seconds),
            fleet: config.fleet.id.to_string(),
        };
        let (index, _) = Index::open(&options).expect("an index");
        let metrics = Arc::new(Metrics::new());
        let live = Live::new(metrics.clone());
        let publisher = Arc::new(DirectPublisher {
            index: index.clone(),
            live: live.clone(),
            published: AtomicU64::new(0),
            sequences: Arc::default(),
            gate: tokio::sync::RwLock::default(),
        });
        let fleet = config.fleet.id;
        let keyring = Keyring::generate().expect("a key");
        let config = Arc::new(config);
        let admission = Admission::new(config.clone(), workers, metrics.clone());
        let mut counted = None;
        metrics.register(|registry| counted = Some(PluginMetrics::register(registry)));
        let counted = counted.expect("metrics of plugins");
        let plugins = Plugins::start_at(&config.plugins, &counted, PACE);
        let parts = Parts {
            config: Arc::new(ArcSwap::new(config)),
            index,
            live,
            publisher: publisher.clone(),
            metrics,
            readiness: Readiness::default(),
            admission: Arc::new(admission),
            cursors: Cursors::new(LogKeys::fixed(keyring), fleet),
            plugins,
        };
        let services = Services::within(parts, bounds);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let files = services.config.load().tls.clone();
        let tls = files.map(|files| {
            let opened = http::open_tls(&files, &services.metrics);
            let (watch, tls) = opened.expect("a certificate");
            tokio::spawn(watch.run(services.drain.clone()));
            tls
        });
        let port = http::serve(listener, tls, services.clone(), timings).expect("a listener");
        Self {
            port,
            services,
            publisher,
            _folder: folder,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("ws://{}/", self.port.address())
    }

    /// A client that has read its challenge.
    pub(super) async fn client(&self) -> Client {
        let (socket, _) = tokio_tungstenite::connect_async(self.url())
            .await
            .expect("a handshake");
        Client::greeted(socket).await
    }

    /// Whether the metrics have this line.
    pub(super) fn shows(&self, line: &str) -> bool {
        let text = self.services.metrics.encode().expect("text");
        text.lines().any(|found| found == line)
    }

    /// A client on which these keys have authenticated.
    pub(super) async fn authenticated(&self, keys: &[&Keys]) -> Client {
        let mut client = self.client().await;
        for keys in keys {
            let answer = client.authenticate(keys).await;
            assert_eq!(answer[2], true, "{answer}");
        }
        client
    }

    /// Takes another configuration, as after a reload.
    pub(super) fn reconfigure(&self, change: impl FnOnce(&mut RelayConfig)) {
        let services = &self.services;
        let mut config = RelayConfig::clone(&services.config.load());
        change(&mut config);
        let config = Arc::new(config);
        services.config.store(config.clone());
        services.admission.reconfigure(config);
    }

    /// Makes events visible and waits for their OK.
    pub(super) async fn publish(&self, events: &[&NostrEvent]) {
        let mut client = self.client().await;
        for event in events {
            let answer = client.publish(event).await;
            assert_eq!(answer[2], true, "{answer}");
        }
    }

    /// Waits until `holds`, or fails.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Services) -> bool) {
        let waiting = async {
            while !holds(&self.services) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, waiting)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }
}

/// One WebSocket connection.
pub(super) struct Client {
    pub(super) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(super) challenge: String,
}

impl Client {
    /// Reads the challenge.
    pub(super) async fn greeted(socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        let mut client = Self {
            socket,
            challenge: String::new(),
        };
        let challenge = client.receive().await;
        assert_eq!(challenge[0], "AUTH");
        client.challenge = challenge[1].as_str().expect("a challenge").to_owned();
        client
    }

    pub(super) async fn send(&mut self, message: Value) {
        self.send_text(&message.to_string()).await;
    }

    pub(super) async fn send_text(&mut self, text: &str) {
        self.socket
            .send(Message::text(text))
            .await
            .expect("a write");
    }

    /// The next message, pings left out.
    pub(super) async fn receive_message(&mut self) -> Message {
        loop {
            let received = tokio::time::timeout(SOON, self.socket.next())
                .await
                .expect("an answer in time");
            match received.expect("an open connection").expect("a message") {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    pub(super) async fn receive(&mut self) -> Value {
        let message = self.receive_message().await;
        let text = message
            .to_text()
            .unwrap_or_else(|_| panic!("a text, not {message:?}"));
        serde_json::from_str(text).unwrap_or_else(|error| panic!("JSON, not {text} ({error})"))
    }

    pub(super) async fn publish(&mut self, event: &NostrEvent) -> Value {
        self.send(json!(["EVENT", event])).await;
        let answer = self.receive().await;
        assert_eq!(
            (&answer[0], &answer[1]),
            (&json!("OK"), &json!(event.id.to_hex())),
            "{answer}"
        );
        answer
    }

    pub(super) async fn authenticate(&mut self, keys: &Keys) -> Value {
        let event = auth_event(keys, &self.challenge, "ws://relay.test", 0);
        self.send(json!(["AUTH", event])).await;
        let answer = self.receive().await;
        assert_eq!(
            (&answer[0], &answer[1]),
            (&json!("OK"), &json!(event.id.to_hex())),
            "{answer}"
        );
        answer
    }

    /// Everything up to EOSE; ids of the events. A CLOSED is returned as an error.
    pub(super) async fn read(
        &mut self,
        id: &str,
        filters: &[Value],
    ) -> Result<Vec<String>, String> {
        let mut message = vec![json!("REQ"), json!(id)];
        message.extend_from_slice(filters);
        self.send(Value::Array(message)).await;
        let mut ids = Vec::new();
        loop {
            let answer = self.receive().await;
            match answer[0].as_str() {
                Some("EVENT") if answer[1] == id => ids.push(event_id(&answer)),
                Some("EOSE") if answer[1] == id => return Ok(ids),
                Some("CLOSED") if answer[1] == id => {
                    return Err(answer[2].as_str().expect("a reason").to_owned());
                }
                _ => panic!("not of this read: {answer}"),
            }
        }
    }

    /// The answer to a COUNT. A CLOSED is returned as an error.
    pub(super) async fn count(&mut self, id: &str, filters: &[Value]) -> Result<u64, String> {
        let mut message = vec![json!("COUNT"), json!(id)];
        message.extend_from_slice(filters);
        self.send(Value::Array(message)).await;
        let answer = self.receive().await;
        assert_eq!(answer[1], id, "{answer}");
        match answer[0].as_str() {
            Some("COUNT") => {
                let count = answer[2]["count"].as_u64().expect("a number");
                assert_eq!(answer, json!(["COUNT", id, {"count": count}]));
                Ok(count)
            }
            Some("CLOSED") => Err(answer[2].as_str().expect("a reason").to_owned()),
            _ => panic!("no answer to a COUNT: {answer}"),
        }
    }

    /// Reads until something asked now is answered, whatever comes before.
    pub(super) async fn check_answers(&mut self) {
        self.send(json!(["REQ", "last", {"ids": ["00".repeat(32)]}]))
            .await;
        self.until_eose("last").await;
    }

    /// Reads up to the EOSE of a subscription, whatever comes before. Answers with its hints, if it has any.
    pub(super) async fn until_eose(&mut self, id: &str) -> Option<Value> {
        loop {
            let frame = self.receive().await;
            if frame[0] == "EOSE" && frame[1] == id {
                return frame.get(2).cloned();
            }
        }
    }

    /// Shows that the connection is unharmed, and that nothing else was waiting in it.
    pub(super) async fn check_alive(&mut self) {
        let nothing = json!({"ids": ["00".repeat(32)]});
        assert_eq!(self.read("alive", &[nothing]).await, Ok(Vec::new()));
        self.send(json!(["CLOSE", "alive"])).await;
    }
}

pub(super) fn event_id(frame: &Value) -> String {
    frame[2]["id"].as_str().expect("an event").to_owned()
}

/// Whether an event was taken, and the text of its OK.
pub(super) fn verdict(answer: &Value) -> (bool, &str) {
    let taken = answer[2].as_bool().expect("true or false");
    (taken, answer[3].as_str().expect("a text"))
}

/// Seconds relative to now.
fn at(offset: i64) -> Timestamp {
    Timestamp::from_secs(unix_seconds().saturating_add_signed(offset))
}

pub(super) fn event(keys: &Keys, kind: u16, content: &str, tags: &[&[&str]]) -> NostrEvent {
    event_at(keys, kind, content, tags, 0)
}

pub(super) fn event_at(
    keys: &Keys,
    kind: u16,
    content: &str,
    tags: &[&[&str]],
    offset: i64,
) -> NostrEvent {
    let tags: Vec<Tag> = tags
        .iter()
        .map(|tag| Tag::parse(tag.iter().copied()).expect("a tag"))
        .collect();
    EventBuilder::new(Kind::from_u16(kind), content)
        .tags(tags)
        .custom_created_at(at(offset))
        .finalize(keys)
        .expect("a signature")
}

/// A gift wrap as it looks from outside: a one-time author, a recipient, opaque content.
pub(super) fn wrap(kind: u16, recipient: &Keys) -> NostrEvent {
    event(
        &Keys::generate(),
        kind,
        "sealed",
        &[&["p", &recipient.public_key().to_hex()]],
    )
}

pub(super) fn auth_event(keys: &Keys, challenge: &str, relay: &str, offset: i64) -> NostrEvent {
    event_at(
        keys,
        22_242,
        "",
        &[&["relay", relay], &["challenge", challenge]],
        offset,
    )
}
