//! The WebSocket of one connection: frames in, bytes out. The only module that knows the WebSocket crate.
//!
//! One task per connection runs a reader and a writer side by side; neither waits for the other. What costs memory while a
//! connection idles is kept small: a 4 KiB read buffer, no write buffer, no timer but one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, Stream, StreamExt};
use nightjar_config::{Limits, RelayConfig};
use rand::Rng;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Close, Metrics};
use crate::session::Session;
use crate::session::outbox::{Frame, Next, Outbox};

/// Allocated for every connection; longer messages take what they need while they are read.
const READ_BUFFER: usize = 4 * 1024;
/// Frames up to this many bytes leave in one write.
const WRITE_BATCH: usize = 32 * 1024;
/// A message up to this many times the stated limit is read and refused with a NOTICE; a longer one ends the connection.
const OVERSIZED_READ: usize = 2;
/// How long a closing connection waits for the peer to take the close frame and answer it.
const GOODBYE: Duration = Duration::from_secs(2);
/// The same for a slow reader, which first has to take what was being written.
const GOODBYE_SLOW: Duration = Duration::from_secs(5);
/// How long a connection stays open after the close frame when its input cannot be read any more.
const LINGER: Duration = Duration::from_millis(500);
/// A drain is spread over this time for each open connection, so that few do not wait for nothing: other relays get 50
/// of our clients a second at most while time allows.
const DRAIN_PER_CONNECTION: Duration = Duration::from_millis(20);
/// Of `drain_seconds` the last connections get this for their publishes under way and their goodbye ...
const DRAIN_TAIL: Duration = Duration::from_secs(5);
/// ... or this part of it, if that is less.
const DRAIN_TAIL_SHARE: f64 = 0.4;
/// Publishes under way may take a little longer than `drain_seconds`.
const DRAIN_PUBLISHES_GRACE: Duration = Duration::from_millis(500);

/// Clocks of the public port that are no settings.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// A TLS handshake that takes longer is given up.
    pub handshake_within: Duration,
    /// A TCP connection that has not become a WebSocket by then is closed.
    pub upgrade_within: Duration,
    /// A client that takes nothing for this long while something waits for it is a slow reader.
    pub write_within: Duration,
    /// When a silent client is pinged and given up; `None`: as `limits` say, in whole seconds.
    pub silence: Option<Silence>,
}

/// What is done about a client that is not heard of.
#[derive(Debug, Clone, Copy)]
pub struct Silence {
    /// It is pinged after this time, and again each time it has passed.
    pub ping_after: Duration,
    /// After this time, half-sent frames included, it is gone.
    pub idle_after: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            handshake_within: Duration::from_secs(10),
            upgrade_within: Duration::from_secs(20),
            write_within: Duration::from_secs(30),
            silence: None,
        }
    }
}

impl Timings {
    /// The clocks of a connection that begins under these limits.
    pub fn of_connection(&self, limits: &Limits) -> Clocks {
        let of_limits = || Silence {
            ping_after: Duration::from_secs(limits.ping_interval_seconds),
            idle_after: Duration::from_secs(limits.idle_timeout_seconds),
        };
        Clocks {
            silence: self.silence.unwrap_or_else(of_limits),
            write_within: self.write_within,
        }
    }
}

/// The clocks of a WebSocket.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// For what does not come in.
    pub silence: Silence,
    /// See [`Timings::write_within`].
    pub write_within: Duration,
}

/// Sets buffers and size limits before the handshake is answered.
pub fn configure(upgrade: WebSocketUpgrade, max_message_length: usize) -> WebSocketUpgrade {
    let hard_limit = max_message_length.saturating_mul(OVERSIZED_READ);
    upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BATCH)
        .max_frame_size(hard_limit)
        .max_message_size(hard_limit)
}

/// What a connection runs with.
pub struct Connection {
    /// The session that takes the messages.
    pub session: Session,
    /// The queue that the session and live delivery fill.
    pub outbox: Outbox,
    /// Clocks.
    pub clocks: Clocks,
    /// Cancelled when the relay drains.
    pub drain: CancellationToken,
    /// Asked for `limits.drain_seconds` when the relay drains.
    pub config: Arc<ArcSwap<RelayConfig>>,
}

/// Runs a connection to its end and says why it ended.
pub async fn run(socket: WebSocket, connection: Connection, metrics: &Metrics) -> Close {
    let Connection {
        mut session,
        outbox,
        clocks,
        drain,
        config,
    } = connection;
    let (mut sink, mut stream) = socket.split();
    let reason = {
        let reader = async {
            let mut reading = Reading {
                outbox: &outbox,
                silence: clocks.silence,
                heard: tokio::time::Instant::now(),
            };
            let reason = tokio::select! {
                reason = reading.read(&mut stream, &mut session) => reason,
                publishes_until = drained(&drain, &config, metrics) => {
                    let left = publishes_until.saturating_duration_since(Instant::now());
                    session.drain(left).await;
                    Close::drain
                }
            };
            outbox.end(reason);
            reason
        };
        let writer = write(&mut sink, &outbox, clocks.write_within, metrics);
        tokio::pin!(reader, writer);
        // The writer ends last: it sends what the reader's end left in the queue.
        tokio::select! {
            reason = &mut writer => reason,
            reason = &mut reader => if reason == Close::client { reason } else { writer.await },
        }
    };
    drop(session);
    metrics.on_close(reason);
    if let Some(frame) = close_frame(reason) {
        let within = if reason == Close::slow_reader {
            GOODBYE_SLOW
        } else {
            GOODBYE
        };
        let _ = tokio::time::timeout(within, say_goodbye(&mut sink, &mut stream, frame)).await;
        if matches!(reason, Close::too_large | Close::protocol) {
            // The stream gives nothing more, so the peer's answer cannot be waited for.
            tokio::time::sleep(LINGER).await;
        }
    }
    reason
}

/// Resolves some time after the drain began, another time for each connection: clients must not come back all at once.
/// Answers until when publishes under way may take.
async fn drained(
    drain: &CancellationToken,
    config: &ArcSwap<RelayConfig>,
    metrics: &Metrics,
) -> Instant {
    drain.cancelled().await;
    let began = Instant::now();
    let within = Duration::from_secs(config.load().limits.drain_seconds);
    let share = rand::rng().random_range(0.0..1.0);
    let wait = drain_spread(within, metrics.connections.get()).mul_f64(share);
    tokio::time::sleep(wait).await;
    began + within + DRAIN_PUBLISHES_GRACE
}

/// The time over which `open` connections are told to go, of a drain that may take `within`.
fn drain_spread(within: Duration, open: i64) -> Duration {
    let tail = DRAIN_TAIL.min(within.mul_f64(DRAIN_TAIL_SHARE));
    let open = u32::try_from(open).unwrap_or(0);
    (within - tail).min(DRAIN_PER_CONNECTION.saturating_mul(open))
}

struct Reading<'a> {
    outbox: &'a Outbox,
    silence: Silence,
    heard: tokio::time::Instant,
}

impl Reading<'_> {
    async fn read(&mut self, stream: &mut SplitStream<WebSocket>, session: &mut Session) -> Close {
        loop {
            let received = match heard(stream, &mut self.heard, self.silence).await {
                Heard::Something(received) => received,
                Heard::Nothing => {
                    session.tidy();
                    self.outbox.push_ping();
                    continue;
                }
                Heard::TooLongNothing => return Close::idle,
            };
            match received {
                Some(Ok(Message::Text(text))) => session.on_text(text.into()).await,
                Some(Ok(Message::Binary(bytes))) => session.on_binary(bytes.len()).await,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Close::client,
                Some(Err(error)) => return reason_of(&error),
            }
            if self.outbox.is_ended() {
                // The writer ends the connection; nothing that is read now could be answered.
                return Close::slow_reader;
            }
        }
    }
}

/// What was heard of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard<T> {
    /// A message, or the end of the stream.
    Something(Option<T>),
    /// Time to ask.
    Nothing,
    /// It is gone.
    TooLongNothing,
}

/// Waits for the next message, the next ping or the end of patience. `last` is when something was heard last.
async fn heard<T>(
    stream: &mut (impl Stream<Item = T> + Unpin),
    last: &mut tokio::time::Instant,
    silence: Silence,
) -> Heard<T> {
    let left = silence.idle_after.saturating_sub(last.elapsed());
    match tokio::time::timeout(silence.ping_after.min(left), stream.next()).await {
        Ok(received) => {
            *last = tokio::time::Instant::now();
            Heard::Something(received)
        }
        Err(_) if last.elapsed() >= silence.idle_after => Heard::TooLongNothing,
        Err(_) => Heard::Nothing,
    }
}

/// Axum hides the WebSocket crate's error in a box, and its text is all that tells the kinds apart.
fn reason_of(error: &axum::Error) -> Close {
    let text = error.to_string();
    if text.contains("too long") || text.contains("too big") {
        Close::too_large
    } else if text.contains("Connection reset") || text.starts_with("IO error") {
        Close::client
    } else {
        Close::protocol
    }
}

/// Writes the queue until it ends. A write that is stuck is given up when the queue overflows or time is up.
async fn write(
    sink: &mut SplitSink<WebSocket, Message>,
    outbox: &Outbox,
    within: Duration,
    metrics: &Metrics,
) -> Close {
    loop {
        let frames = match outbox.next(WRITE_BATCH).await {
            Next::Frames(frames) => frames,
            Next::End(reason) => return reason,
        };
        let bytes: usize = frames.iter().map(Frame::len).sum();
        let sent = tokio::select! {
            sent = tokio::time::timeout(within, send_all(sink, frames)) => sent,
            () = outbox.overflowed() => return Close::slow_reader,
        };
        outbox.written(bytes);
        metrics.bytes_out.inc_by(bytes as u64);
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                outbox.end(Close::client);
                return Close::client;
            }
            Err(_elapsed) => {
                outbox.end(Close::slow_reader);
                return Close::slow_reader;
            }
        }
    }
}

async fn send_all(
    sink: &mut SplitSink<WebSocket, Message>,
    frames: Vec<Frame>,
) -> Result<(), axum::Error> {
    for frame in frames {
        sink.feed(message_of(frame)).await?;
    }
    sink.flush().await
}

fn message_of(frame: Frame) -> Message {
    match frame {
        Frame::Ping => Message::Ping(Bytes::new()),
        Frame::Text(text) => text_message(text),
        Frame::Event { prefix, json } => {
            let mut text = Vec::with_capacity(prefix.len() + json.len() + 1);
            text.extend_from_slice(&prefix);
            text.extend_from_slice(&json);
            text.push(b']');
            text_message(text.into())
        }
    }
}

/// Frames are made of strings and of events that were parsed as UTF-8, so the check does not fail; if it did, the bytes
/// would still go out, as a message that no client takes for an event.
fn text_message(text: Bytes) -> Message {
    match Utf8Bytes::try_from(text.clone()) {
        Ok(text) => Message::Text(text),
        Err(_) => Message::Binary(text),
    }
}

/// `None`: the peer is gone, there is nobody to tell.
fn close_frame(reason: Close) -> Option<CloseFrame> {
    let (code, text) = match reason {
        Close::client => return None,
        Close::drain => (close_code::AWAY, "going away"),
        Close::slow_reader => (
            close_code::POLICY,
            "slow reader: too many bytes waited for this connection",
        ),
        Close::idle => (close_code::POLICY, "idle: no answer to ping"),
        Close::too_large => (close_code::SIZE, "message too large"),
        Close::protocol => (close_code::PROTOCOL, "protocol error"),
    };
    Some(CloseFrame {
        code,
        reason: Utf8Bytes::from_static(text),
    })
}

/// Sends the close frame and waits for the peer's: a socket closed with unread input would reset, and the frame be lost.
async fn say_goodbye(
    sink: &mut SplitSink<WebSocket, Message>,
    stream: &mut SplitStream<WebSocket>,
    frame: CloseFrame,
) {
    if sink.send(Message::Close(Some(frame))).await.is_err() {
        return;
    }
    while let Some(Ok(_)) = stream.next().await {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_spread_over_what_it_may_take_less_the_time_for_the_last() {
        let spread = |seconds, open| drain_spread(Duration::from_secs(seconds), open).as_secs_f64();
        assert_eq!(spread(5, 20_000), 3.0);
        assert_eq!(spread(30, 20_000), 25.0);
        assert_eq!(spread(600, 20_000), 400.0);
        assert_eq!(spread(30, 10), 0.2, "few do not wait for nothing");
        assert_eq!(spread(0, 20_000), 0.0);
        assert_eq!(spread(30, -1), 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_asked_and_given_up_on_time_and_one_that_answers_is_not() {
        let clocks = Timings::default().of_connection(&Limits::default());
        let began = tokio::time::Instant::now();
        let mut last = began;
        let mut nobody = futures_util::stream::pending::<()>();
        let mut asked = Vec::new();
        while heard(&mut nobody, &mut last, clocks.silence).await == Heard::Nothing {
            asked.push(began.elapsed().as_secs());
        }
        assert_eq!(asked, [45, 90, 135]);
        assert_eq!(
            began.elapsed().as_secs(),
            150,
            "not a whole number of pings"
        );

        // One that answers each ping, a second later.
        let (answers, mut received) = tokio::sync::mpsc::channel(1);
        let mut inbox = futures_util::stream::poll_fn(move |context| received.poll_recv(context));
        let mut pings = 0;
        let mut last = tokio::time::Instant::now();
        while pings < 100 {
            match heard(&mut inbox, &mut last, clocks.silence).await {
                Heard::Nothing => {
                    pings += 1;
                    let answers = answers.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        answers.send(()).await
                    });
                }
                Heard::Something(answer) => assert!(answer.is_some()),
                Heard::TooLongNothing => panic!("given up after {pings} answered pings"),
            }
        }
    }

    #[test]
    fn the_code_that_is_counted_is_the_code_that_is_sent() {
        for reason in Close::ALL {
            let sent = close_frame(*reason).map(|frame| frame.code.to_string());
            assert_eq!(sent.as_deref().unwrap_or("none"), reason.code_text());
        }
    }
}
