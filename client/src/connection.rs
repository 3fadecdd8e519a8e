//! One WebSocket to one relay: frames out, frames in, AUTH on the way (NIP-01, NIP-42).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use nostr::event::{Event, EventId};
use nostr::filter::Filter;
use nostr::key::PublicKey;
use nostr::types::RelayUrl;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Bytes, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream};

use crate::frame::{self, Prefix, RelayFrame};
use crate::identity::{Identity, IdentityError};
use crate::tls;

/// Time to connect, TLS and upgrade included.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Time for an answer to an event, a REQ or AUTH. A Nightjar relay answers an event within 5 s.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long we wait for a challenge that the relay's refusal promised.
const CHALLENGE_WITHIN: Duration = Duration::from_secs(5);
/// How long we wait for a challenge that may never come: most relays that send one do so as soon as they are connected.
const OFFER_WITHIN: Duration = Duration::from_millis(300);
/// Largest frame taken from a relay, in bytes.
const MAX_FRAME: usize = 16 << 20;

/// What happens on a connection, for who wants to watch.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// The TCP connection is being made.
    Connecting,
    /// The WebSocket is open.
    Connected,
    /// The relay sent a challenge.
    Challenged,
    /// Our signed answer to the challenge is out.
    Authenticating(&'a PublicKey),
    /// The relay knows us now.
    Authenticated(&'a PublicKey),
    /// A frame went out.
    Sent(&'a str),
    /// A frame came in.
    Received(&'a str),
}

/// Told of each step. Called on the connection's own path: be quick.
pub type Observer = Arc<dyn Fn(&RelayUrl, Step<'_>) + Send + Sync>;

/// Why a connection did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// No connection.
    #[error("{0}")]
    Unreachable(String),
    /// The relay ended the connection, or it broke.
    #[error("the connection ended: {0}")]
    Ended(String),
    /// No answer in time.
    #[error("no answer to {what} within {} s", within.as_secs())]
    TooLate {
        /// What was asked.
        what: &'static str,
        /// How long we waited.
        within: Duration,
    },
    /// The relay said no.
    #[error("{message}")]
    Refused {
        /// The prefix of `message`.
        prefix: Prefix,
        /// The relay's own words.
        message: String,
    },
    /// AUTH is needed and was refused, or could not be made.
    #[error("AUTH failed: {0}")]
    AuthFailed(String),
    /// This identity may talk to this machine only (demo identities, whose keys lie open).
    #[error("this identity may only be used with relays on this machine")]
    NotLoopback,
    /// The relay broke the protocol.
    #[error("{0}")]
    Protocol(#[from] frame::FrameError),
    /// Our own key could not sign.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A relay took an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Whether it said that it had the event already.
    pub duplicate: bool,
    /// From sending to the OK.
    pub took: Duration,
}

/// An open connection. Dropping it closes the socket without a close frame; use [`Connection::close`] to be polite.
pub struct Connection {
    url: RelayUrl,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    observer: Option<Observer>,
    challenge: Option<String>,
    authenticated: Vec<PublicKey>,
    backlog: VecDeque<RelayFrame>,
    subscriptions: u64,
    heard: Instant,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("url", &self.url.as_str())
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens a WebSocket to `url` with TCP_NODELAY.
    pub async fn open(url: &RelayUrl, observer: Option<Observer>) -> Result<Self, ConnectionError> {
        if let Some(observer) = &observer {
            observer(url, Step::Connecting);
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(32 * 1024)
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let connector = Connector::Rustls(tls::client_config());
        let connecting = tokio_tungstenite::connect_async_tls_with_config(
            url.as_str(),
            Some(config),
            true,
            Some(connector),
        );
        let (socket, _) = tokio::time::timeout(CONNECT_WITHIN, connecting)
            .await
            .map_err(|_| ConnectionError::TooLate {
                what: "the connection",
                within: CONNECT_WITHIN,
            })?
            .map_err(|error| ConnectionError::Unreachable(reason(&error)))?;
        let connection = Self {
            url: url.clone(),
            socket,
            observer,
            challenge: None,
            authenticated: Vec::new(),
            backlog: VecDeque::new(),
            subscriptions: 0,
            heard: Instant::now(),
        };
        connection.tell(Step::Connected);
        Ok(connection)
    }

    /// The relay's address.
    pub fn url(&self) -> &RelayUrl {
        &self.url
    }

    /// The next frame, whenever it comes. Cancel-safe.
    pub async fn next_frame(&mut self) -> Result<RelayFrame, ConnectionError> {
        if let Some(frame) = self.backlog.pop_front() {
            return Ok(frame);
        }
        self.read_frame().await
    }

    /// Sends an event without waiting for its answer; the OK comes through [`Connection::next_frame`].
    pub async fn send_event(&mut self, json: &str) -> Result<(), ConnectionError> {
        self.send(frame::event(json)).await
    }

    /// Publishes an event and waits for its OK. When the relay asks for AUTH, authenticates as `identity` and tries again,
    /// once.
    pub async fn publish(
        &mut self,
        event: &Event,
        identity: Option<&Identity>,
    ) -> Result<Accepted, ConnectionError> {
        let json = event.as_json();
        match (self.publish_once(&event.id, &json).await, identity) {
            (
                Err(ConnectionError::Refused {
                    prefix: Prefix::AuthRequired,
                    ..
                }),
                Some(identity),
            ) => {
                self.authenticate(identity).await?;
                self.publish_once(&event.id, &json).await
            }
            (answer, _) => answer,
        }
    }

    async fn publish_once(
        &mut self,
        id: &EventId,
        json: &str,
    ) -> Result<Accepted, ConnectionError> {
        let started = Instant::now();
        self.send_event(json).await?;
        let message = self.wait_ok(&id.to_hex(), "the event").await?;
        Ok(Accepted {
            duplicate: Prefix::of(&message) == Prefix::Duplicate,
            took: started.elapsed(),
        })
    }

    async fn wait_ok(
        &mut self,
        wanted: &str,
        what: &'static str,
    ) -> Result<String, ConnectionError> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            match self.read_before(deadline, what).await? {
                RelayFrame::Ok {
                    id,
                    accepted,
                    message,
                } if id == wanted => {
                    if accepted {
                        return Ok(message);
                    }
                    return Err(ConnectionError::Refused {
                        prefix: Prefix::of(&message),
                        message,
                    });
                }
                other => self.backlog.push_back(other),
            }
        }
    }

    /// Proves to the relay who we are (NIP-42). Does nothing when it knows already.
    pub async fn authenticate(&mut self, identity: &Identity) -> Result<(), ConnectionError> {
        let me = identity.public_key();
        if self.authenticated.contains(&me) {
            return Ok(());
        }
        if !self.wait_challenge(CHALLENGE_WITHIN).await? {
            return Err(ConnectionError::AuthFailed(
                "the relay asks for AUTH and sent no challenge".into(),
            ));
        }
        let challenge = self.challenge.clone().unwrap_or_default();
        let answer = identity.answer_challenge(&self.url, &challenge)?;
        self.tell(Step::Authenticating(&me));
        self.send(frame::auth(&answer)).await?;
        match self.wait_ok(&answer.id.to_hex(), "AUTH").await {
            Ok(_) => {
                self.authenticated.push(me);
                self.tell(Step::Authenticated(&me));
                Ok(())
            }
            Err(ConnectionError::Refused { message, .. }) => {
                Err(ConnectionError::AuthFailed(message))
            }
            Err(other) => Err(other),
        }
    }

    /// Authenticates when the relay offers a challenge soon; true when it knows us then. Relays that never ask are left
    /// alone.
    pub async fn authenticate_if_challenged(
        &mut self,
        identity: &Identity,
    ) -> Result<bool, ConnectionError> {
        if self.wait_challenge(OFFER_WITHIN).await? {
            self.authenticate(identity).await?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether the relay sent a challenge that nobody answered yet.
    pub fn is_challenged(&self) -> bool {
        self.challenge.is_some() && self.authenticated.is_empty()
    }

    /// Waits for the relay's challenge; true when there is one.
    async fn wait_challenge(&mut self, within: Duration) -> Result<bool, ConnectionError> {
        let deadline = Instant::now() + within;
        while self.challenge.is_none() {
            match timeout_at(deadline, self.read_step()).await {
                Ok(step) => self.backlog.extend(step?),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Opens a subscription; events, EOSE and CLOSED of it come through [`Connection::next_frame`].
    pub async fn subscribe(&mut self, filters: &[Filter]) -> Result<String, ConnectionError> {
        self.subscribe_from(filters, None).await
    }

    /// As [`Connection::subscribe`], for what arrived after a cursor, at a relay that offers one. An empty cursor asks for one.
    pub async fn subscribe_from(
        &mut self,
        filters: &[Filter],
        cursor: Option<&str>,
    ) -> Result<String, ConnectionError> {
        self.subscriptions += 1;
        let subscription = format!("nj{}", self.subscriptions);
        self.send(frame::req(&subscription, filters, cursor))
            .await?;
        Ok(subscription)
    }

    /// Ends a subscription.
    pub async fn unsubscribe(&mut self, subscription: &str) -> Result<(), ConnectionError> {
        self.send(frame::close(subscription)).await
    }

    /// Everything stored that matches, one page as large as the relay gives. Authenticates as `identity` and asks again,
    /// once, when the relay wants that.
    pub async fn fetch(
        &mut self,
        filters: &[Filter],
        identity: Option<&Identity>,
    ) -> Result<Vec<Box<RawValue>>, ConnectionError> {
        match (self.fetch_once(filters).await, identity) {
            (
                Err(ConnectionError::Refused {
                    prefix: Prefix::AuthRequired,
                    ..
                }),
                Some(identity),
            ) => {
                self.authenticate(identity).await?;
                self.fetch_once(filters).await
            }
            (answer, _) => answer,
        }
    }

    async fn fetch_once(
        &mut self,
        filters: &[Filter],
    ) -> Result<Vec<Box<RawValue>>, ConnectionError> {
        let wanted = self.subscribe(filters).await?;
        let mut events = Vec::new();
        loop {
            let deadline = Instant::now() + ANSWER_WITHIN;
            match self.read_before(deadline, "REQ").await? {
                RelayFrame::Event {
                    subscription,
                    event,
                    ..
                } if subscription == wanted => {
                    events.push(event);
                }
                RelayFrame::Eose { subscription, .. } if subscription == wanted => break,
                RelayFrame::Closed {
                    subscription,
                    message,
                } if subscription == wanted => {
                    return Err(ConnectionError::Refused {
                        prefix: Prefix::of(&message),
                        message,
                    });
                }
                other => self.backlog.push_back(other),
            }
        }
        self.unsubscribe(&wanted).await?;
        Ok(events)
    }

    /// How long the other side has been silent, pongs included.
    pub fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }

    /// Sends a WebSocket ping, to learn whether the other side is still there.
    pub async fn ping(&mut self) -> Result<(), ConnectionError> {
        self.socket
            .send(Message::Ping(Bytes::new()))
            .await
            .map_err(|error| ended(&error))
    }

    /// Closes the connection; errors on the way out do not matter.
    pub async fn close(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.socket.close(None)).await;
    }

    async fn send(&mut self, text: String) -> Result<(), ConnectionError> {
        self.tell(Step::Sent(&text));
        let sending = self.socket.send(Message::text(text));
        tokio::time::timeout(ANSWER_WITHIN, sending)
            .await
            .map_err(|_| ConnectionError::TooLate {
                what: "a frame we sent",
                within: ANSWER_WITHIN,
            })?
            .map_err(|error| ended(&error))
    }

    async fn read_before(
        &mut self,
        deadline: Instant,
        what: &'static str,
    ) -> Result<RelayFrame, ConnectionError> {
        timeout_at(deadline, self.read_frame())
            .await
            .unwrap_or(Err(ConnectionError::TooLate {
                what,
                within: ANSWER_WITHIN,
            }))
    }

    /// The next frame from the socket that is no challenge.
    async fn read_frame(&mut self) -> Result<RelayFrame, ConnectionError> {
        loop {
            if let Some(frame) = self.read_step().await? {
                return Ok(frame);
            }
        }
    }

    /// The next message from the socket: a frame, or `None` for what is dealt with here. Challenges are noted, pings are
    /// answered by the socket.
    async fn read_step(&mut self) -> Result<Option<RelayFrame>, ConnectionError> {
        let message = self.socket.next().await;
        self.heard = Instant::now();
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => {
                let why = frame.map_or_else(String::new, |frame| {
                    format!("{} {}", u16::from(frame.code), frame.reason)
                });
                let why = format!("closed by the relay {why}");
                return Err(ConnectionError::Ended(why.trim().into()));
            }
            Some(Ok(_)) => return Ok(None),
            Some(Err(error)) => return Err(ended(&error)),
            None => return Err(ConnectionError::Ended("closed by the relay".into())),
        };
        self.tell(Step::Received(&text));
        match RelayFrame::parse(&text)? {
            RelayFrame::Auth { challenge } => {
                self.challenge = Some(challenge);
                self.tell(Step::Challenged);
                Ok(None)
            }
            frame => Ok(Some(frame)),
        }
    }

    fn tell(&self, step: Step<'_>) {
        if let Some(observer) = &self.observer {
            observer(&self.url, step);
        }
    }
}

fn ended(error: &tungstenite::Error) -> ConnectionError {
    ConnectionError::Ended(reason(error))
}

/// The reason without the layers above it: "Connection refused", not "IO error: ...".
fn reason(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Io(error) => error.to_string(),
        tungstenite::Error::Http(response) => {
            format!("HTTP status {} instead of a WebSocket", response.status())
        }
        other => other.to_string(),
    }
}
