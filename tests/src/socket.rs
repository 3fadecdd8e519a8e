//! A small Nostr client over a WebSocket, sharing no code with ours: sends any frame, keeps every frame that comes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

use crate::event::{Person, Signed};

/// A relay that says nothing for so long is broken.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// What a relay sends (NIP-01, NIP-42).
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Subscription and event.
    Event(String, Value),
    /// Event id, accepted, message.
    Ok(String, bool, String),
    /// Subscription.
    Eose(String),
    /// Subscription and message.
    Closed(String, String),
    /// Message.
    Notice(String),
    /// Challenge.
    Auth(String),
    /// Close code and reason; code 1006 when the connection broke without one.
    End(u16, String),
    /// Anything else, as it came.
    Other(String),
}

/// A frame and when it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// The frame.
    pub frame: Frame,
    /// When the reader had it.
    pub at: Instant,
}

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One connection.
pub struct Socket {
    url: String,
    sink: tokio::sync::Mutex<SplitSink<Stream, Message>>,
    inbox: Arc<Inbox>,
    reader: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Inbox {
    frames: Mutex<VecDeque<Received>>,
    came: Notify,
}

impl Socket {
    /// Opens a connection; the error says why not.
    pub async fn try_open(url: &str) -> Result<Socket, String> {
        Socket::try_open_with(url, None, &[]).await
    }

    /// Like [`Socket::try_open`], as a browser or a proxy with headers of its own; `wss://` trusts whom `trust` trusts.
    pub async fn try_open_with(
        url: &str,
        trust: Option<Arc<ClientConfig>>,
        headers: &[(&'static str, &str)],
    ) -> Result<Socket, String> {
        let address = url
            .trim_start_matches("wss://")
            .trim_start_matches("ws://")
            .trim_end_matches('/')
            .to_owned();
        let mut request = url
            .into_client_request()
            .map_err(|error| error.to_string())?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|error| error.to_string())?;
            let name = HeaderName::from_static(name);
            request.headers_mut().insert(name, value);
        }
        let connector = trust.map_or(Connector::Plain, Connector::Rustls);
        let connect = async {
            let stream = TcpStream::connect(&address)
                .await
                .map_err(|error| error.to_string())?;
            stream
                .set_nodelay(true)
                .map_err(|error| error.to_string())?;
            tokio_tungstenite::client_async_tls_with_config(request, stream, None, Some(connector))
                .await
                .map_err(|error| error.to_string())
        };
        let (stream, _) = tokio::time::timeout(ANSWER_LIMIT, connect)
            .await
            .map_err(|_| "no answer to the upgrade".to_owned())??;
        let (sink, stream) = stream.split();
        let inbox = Arc::new(Inbox::default());
        let reader = tokio::spawn(read(stream, Arc::clone(&inbox)));
        Ok(Socket {
            url: url.to_owned(),
            sink: tokio::sync::Mutex::new(sink),
            inbox,
            reader,
        })
    }

    /// Opens a connection.
    pub async fn open(url: &str) -> Socket {
        Socket::try_open(url)
            .await
            .unwrap_or_else(|error| panic!("connect to {url}: {error}"))
    }

    /// Opens a connection and answers the challenge as `person`.
    pub async fn open_as(url: &str, person: &Person) -> Socket {
        let socket = Socket::open(url).await;
        socket.authenticate(person).await;
        socket
    }

    /// Answers the relay's challenge; more than one person may do so on a connection.
    pub async fn authenticate(&self, person: &Person) {
        if let Err(error) = self.try_authenticate(person).await {
            panic!("AUTH at {}: {error}", self.url);
        }
    }

    /// Like [`Socket::authenticate`]; the error says why not.
    pub async fn try_authenticate(&self, person: &Person) -> Result<(), String> {
        let challenge = self
            .peek(|frame| {
                if let Frame::Auth(challenge) = frame {
                    Some(challenge.clone())
                } else {
                    None
                }
            })
            .await?;
        let auth = person.auth(&self.url, &challenge);
        self.send(&format!("[\"AUTH\",{}]", auth.json)).await?;
        match self.ok(&auth.id).await? {
            (true, _) => Ok(()),
            (false, message) => Err(format!("refused: {message}")),
        }
    }

    /// Sends a text frame.
    pub async fn send(&self, text: &str) -> Result<(), String> {
        self.send_message(Message::text(text)).await
    }

    /// Sends any WebSocket message.
    pub async fn send_message(&self, message: Message) -> Result<(), String> {
        self.sink
            .lock()
            .await
            .send(message)
            .await
            .map_err(|error| error.to_string())
    }

    /// Publishes, and returns the relay's OK: accepted, message. The error says that no OK came.
    pub async fn publish(&self, event: &Signed) -> Result<(bool, String), String> {
        self.send(&format!("[\"EVENT\",{}]", event.json)).await?;
        self.ok(&event.id).await
    }

    /// Publishes and insists on `OK true`.
    pub async fn publish_ok(&self, event: &Signed) {
        let (accepted, message) = self.publish(event).await.expect("an answer to EVENT");
        assert!(accepted, "{} refused: {message}", event.json);
    }

    /// The OK for an event id.
    pub async fn ok(&self, id: &str) -> Result<(bool, String), String> {
        let wanted = |frame: &Frame| match frame {
            Frame::Ok(for_id, accepted, message) if for_id == id => {
                Some((*accepted, message.clone()))
            }
            _ => None,
        };
        self.take(wanted).await
    }

    /// Sends a REQ without waiting for anything.
    pub async fn subscribe(&self, subscription: &str, filters: &[Value]) {
        self.try_subscribe(subscription, filters)
            .await
            .expect("the connection is open");
    }

    /// Like [`Socket::subscribe`]; the error says that the connection is not open.
    pub async fn try_subscribe(&self, subscription: &str, filters: &[Value]) -> Result<(), String> {
        let mut frame = vec![json!("REQ"), json!(subscription)];
        frame.extend_from_slice(filters);
        self.send(&Value::Array(frame).to_string()).await
    }

    /// Stored events of a REQ in the order they came, until EOSE; the subscription stays open. The error is the CLOSED message.
    pub async fn stored(
        &self,
        subscription: &str,
        filters: &[Value],
    ) -> Result<Vec<Value>, String> {
        self.subscribe(subscription, filters).await;
        let mut events = Vec::new();
        loop {
            let next = |frame: &Frame| match frame {
                Frame::Event(for_sub, event) if for_sub == subscription => {
                    Some(Ok(Some(event.clone())))
                }
                Frame::Eose(for_sub) if for_sub == subscription => Some(Ok(None)),
                Frame::Closed(for_sub, message) if for_sub == subscription => {
                    Some(Err(message.clone()))
                }
                _ => None,
            };
            match self.take(next).await? {
                Ok(Some(event)) => events.push(event),
                Ok(None) => return Ok(events),
                Err(message) => return Err(message),
            }
        }
    }

    /// Like [`Socket::stored`], and closes the subscription.
    pub async fn query(&self, filters: &[Value]) -> Result<Vec<Value>, String> {
        let events = self.stored("query", filters).await;
        if events.is_ok() {
            self.send(r#"["CLOSE","query"]"#).await?;
        }
        events
    }

    /// Ids of the stored events that match one filter.
    pub async fn ids(&self, filter: Value) -> Vec<String> {
        let events = self
            .query(&[filter])
            .await
            .expect("the relay answers the REQ");
        events
            .iter()
            .map(|event| event["id"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The next event on a subscription.
    pub async fn next_event(&self, subscription: &str) -> Result<Value, String> {
        let wanted = |frame: &Frame| match frame {
            Frame::Event(for_sub, event) if for_sub == subscription => Some(event.clone()),
            _ => None,
        };
        self.take(wanted).await
    }

    /// Removes and returns the first frame, come or coming, that `wanted` wants. The error tells of a closed connection or silence.
    pub async fn take<T>(&self, wanted: impl Fn(&Frame) -> Option<T>) -> Result<T, String> {
        self.find(wanted, true, ANSWER_LIMIT).await
    }

    /// Like [`Socket::take`], and leaves the frame where it is.
    pub async fn peek<T>(&self, wanted: impl Fn(&Frame) -> Option<T>) -> Result<T, String> {
        self.find(wanted, false, ANSWER_LIMIT).await
    }

    /// Like [`Socket::take`] with a limit of the caller's.
    pub async fn take_within<T>(
        &self,
        limit: Duration,
        wanted: impl Fn(&Frame) -> Option<T>,
    ) -> Result<T, String> {
        self.find(wanted, true, limit).await
    }

    async fn find<T>(
        &self,
        wanted: impl Fn(&Frame) -> Option<T>,
        remove: bool,
        limit: Duration,
    ) -> Result<T, String> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let came = self.inbox.came.notified();
            {
                let mut frames = self.inbox.frames.lock().expect("the reader did not panic");
                let found = frames
                    .iter()
                    .enumerate()
                    .find_map(|(at, received)| wanted(&received.frame).map(|value| (at, value)));
                if let Some((at, value)) = found {
                    if remove {
                        frames.remove(at);
                    }
                    return Ok(value);
                }
                if let Some(Frame::End(code, reason)) =
                    frames.back().map(|received| &received.frame)
                {
                    return Err(format!("the connection ended ({code} {reason})"));
                }
            }
            if tokio::time::timeout_at(deadline, came).await.is_err() {
                return Err(format!(
                    "no such frame within {limit:?}; there are {:?}",
                    self.tail()
                ));
            }
        }
    }

    /// Takes all frames that came so far.
    pub fn drain(&self) -> Vec<Received> {
        self.inbox
            .frames
            .lock()
            .expect("the reader did not panic")
            .drain(..)
            .collect()
    }

    /// Whether the connection has ended.
    pub fn ended(&self) -> bool {
        self.reader.is_finished()
    }

    /// Proves that the relay has handled everything sent before: a REQ that matches nothing, up to its EOSE.
    pub async fn settle(&self) {
        let nothing = json!({"ids": ["0".repeat(64)], "kinds": [1]});
        let events = self
            .query(&[nothing])
            .await
            .expect("the connection still serves");
        assert!(events.is_empty(), "{events:?}");
    }

    fn tail(&self) -> Vec<Frame> {
        let frames = self.inbox.frames.lock().expect("the reader did not panic");
        frames
            .iter()
            .rev()
            .take(5)
            .map(|received| received.frame.clone())
            .collect()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(mut stream: SplitStream<Stream>, inbox: Arc<Inbox>) {
    let mut end = (1006, String::new());
    while let Some(message) = stream.next().await {
        let frame = match message {
            Ok(Message::Text(text)) => parse(&text),
            Ok(Message::Close(close)) => {
                let CloseFrame { code, reason } = close.unwrap_or(CloseFrame {
                    code: 1005.into(),
                    reason: "".into(),
                });
                end = (code.into(), reason.to_string());
                continue;
            }
            Ok(_) => continue,
            Err(error) => {
                if end.0 == 1006 {
                    end.1 = error.to_string();
                }
                break;
            }
        };
        push(&inbox, frame);
    }
    push(&inbox, Frame::End(end.0, end.1));
}

fn push(inbox: &Inbox, frame: Frame) {
    inbox
        .frames
        .lock()
        .expect("no taker panicked")
        .push_back(Received {
            frame,
            at: Instant::now(),
        });
    inbox.came.notify_waiters();
}

fn parse(text: &str) -> Frame {
    let other = || Frame::Other(text.to_owned());
    let Ok(Value::Array(parts)) = serde_json::from_str(text) else {
        return other();
    };
    let word = |at: usize| parts.get(at).and_then(Value::as_str).map(str::to_owned);
    let frame = match (word(0).as_deref(), parts.len()) {
        (Some("EVENT"), 3) => word(1).map(|sub| Frame::Event(sub, parts[2].clone())),
        (Some("OK"), 4) => word(1)
            .zip(parts[2].as_bool())
            .zip(word(3))
            .map(|((id, accepted), message)| Frame::Ok(id, accepted, message)),
        (Some("EOSE"), 2..) => word(1).map(Frame::Eose),
        (Some("CLOSED"), 3) => word(1)
            .zip(word(2))
            .map(|(sub, message)| Frame::Closed(sub, message)),
        (Some("NOTICE"), 2) => word(1).map(Frame::Notice),
        (Some("AUTH"), 2) => word(1).map(Frame::Auth),
        _ => None,
    };
    frame.unwrap_or_else(other)
}
