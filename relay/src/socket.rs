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
use futures_util::{SinkExt, StreamExt};
use nightjar_config::RelayConfig;
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

/// The clocks of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// A TCP connection that has not become a WebSocket by then is closed.
    pub upgrade_within: Duration,
    /// A silent client is pinged after this time.
    pub ping_after: Duration,
    /// A client silent for this long, half-sent frames included, is gone.
    pub idle_after: Duration,
    /// A client that takes nothing for this long while something waits for it is a slow reader.
    pub write_within: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            upgrade_within: Duration::from_secs(20),
            ping_after: Duration::from_secs(45),
            idle_after: Duration::from_secs(150),
            write_within: Duration::from_secs(30),
        }
    }
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
    pub timings: Timings,
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
        timings,
        drain,
        config,
    } = connection;
    let (mut sink, mut stream) = socket.split();
    let reason = {
        let reader = async {
            let mut reading = Reading {
                outbox: &outbox,
                timings,
                heard: Instant::now(),
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
        let writer = write(&mut sink, &outbox, timings, metrics);
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
    timings: Timings,
    heard: Instant,
}

impl Reading<'_> {
    async fn read(&mut self, stream: &mut SplitStream<WebSocket>, session: &mut Session) -> Close {
        loop {
            let Ok(received) = tokio::time::timeout(self.timings.ping_after, stream.next()).await
            else {
                if self.heard.elapsed() >= self.timings.idle_after {
                    return Close::idle;
                }
                session.tidy();
                self.outbox.push_ping();
                continue;
            };
            self.heard = Instant::now();
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
    timings: Timings,
    metrics: &Metrics,
) -> Close {
    loop {
        let frames = match outbox.next(WRITE_BATCH).await {
            Next::Frames(frames) => frames,
            Next::End(reason) => return reason,
        };
        let bytes: usize = frames.iter().map(Frame::len).sum();
        let sent = tokio::select! {
            sent = tokio::time::timeout(timings.write_within, send_all(sink, frames)) => sent,
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

    #[test]
    fn the_code_that_is_counted_is_the_code_that_is_sent() {
        for reason in Close::ALL {
            let sent = close_frame(*reason).map(|frame| frame.code.to_string());
            assert_eq!(sent.as_deref().unwrap_or("none"), reason.code_text());
        }
    }
}
