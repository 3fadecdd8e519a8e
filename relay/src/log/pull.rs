//! A pull consumer of our own on one stream: ephemeral, unacknowledged, in memory, with a 500 ms heartbeat.
//!
//! The library's ordered consumers notice a lost leader after tens of seconds. Here two missed heartbeats, a gap in the
//! consumer sequence, a new connection or any refusal end the consumer, and the caller makes the next one from its
//! position. Without acknowledgements the server never sends again, so the consumer sequence must have no gap; gaps in
//! the stream sequence are normal (retention, deletions).

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::{StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::Connection;
use super::place::Place;

/// The server says this often that it has nothing.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Two missed heartbeats and some room for the way.
const HEARTBEATS_MISSED: Duration = Duration::from_millis(1_150);
/// A pull request ends after this and is made again.
const PULL_EXPIRES: Duration = Duration::from_secs(20);
/// Entries of one pull request.
const PULL_MESSAGES: usize = 512;
/// Bytes of one pull request; an envelope has at most 512 KiB.
const PULL_BYTES: usize = 8 * 1024 * 1024;
/// The server forgets a consumer that nobody pulls from after this.
const INACTIVE: Duration = Duration::from_secs(30);

/// One entry as the stream delivered it.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    /// The subject under which it was published; mirrors keep it.
    pub(crate) subject: String,
    /// The envelope.
    pub(crate) payload: Bytes,
    /// Its sequence in the stream.
    pub(crate) sequence: u64,
    /// NATS's timestamp in milliseconds since the epoch; mirrors keep it.
    pub(crate) time_ms: u64,
    /// How many entries of the stream are still to come.
    pub(crate) pending: u64,
}

/// What a wait brought.
#[derive(Debug)]
pub(crate) enum Pulled {
    /// Entries in sequence order, at least one.
    Entries(Vec<Delivery>),
    /// Nothing new; everything up to this sequence was delivered or is gone.
    Idle {
        /// The last sequence the server has looked at.
        scanned: u64,
    },
}

/// Why a consumer ended. All of them mean: make the next one from the position.
#[derive(Debug, Error)]
pub(crate) enum PullError {
    /// The stream does not exist here (yet).
    #[error("the stream does not exist here")]
    NoStream,
    /// The consumer could not be made.
    #[error("no consumer: {0}")]
    NotCreated(String),
    /// Nothing was heard for two heartbeats.
    #[error("two heartbeats missed")]
    HeartbeatsMissed,
    /// An entry was sent and did not arrive.
    #[error("entry {expected} of the consumer was lost on the way")]
    Lost {
        /// The consumer sequence that should have come.
        expected: u64,
    },
    /// The connection was made anew.
    #[error("the connection was made anew")]
    Reconnected,
    /// The server ended it.
    #[error("ended by the server: {0}")]
    Ended(String),
}

#[derive(Serialize)]
struct PullRequest {
    batch: usize,
    expires: u128,
    idle_heartbeat: u128,
    max_bytes: usize,
}

/// A running consumer.
pub(crate) struct PullConsumer {
    client: async_nats::Client,
    connects: watch::Receiver<u64>,
    subscriber: Subscriber,
    inbox: String,
    request_subject: String,
    /// Entries still to come of the running request; 0 asks for the next one.
    open: usize,
    last_consumer_seq: u64,
    /// Entries of the stream that were to come when the consumer was made.
    pub(crate) pending_at_start: u64,
}

impl PullConsumer {
    /// Makes a consumer that begins at sequence `from` of `stream`.
    pub(crate) async fn create(
        connection: &Connection,
        stream: &str,
        from: u64,
    ) -> Result<Self, PullError> {
        let mut connects = connection.connects.clone();
        connects.mark_unchanged();
        let client = connection.client.clone();
        let inbox = client.new_inbox();
        let subscriber = client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| PullError::NotCreated(error.to_string()))?;
        let config = pull::Config {
            name: Some(format!("f{:016x}", rand::random::<u64>())),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: from.max(1),
            },
            ack_policy: AckPolicy::None,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: INACTIVE,
            ..Default::default()
        };
        let consumer = connection
            .jetstream
            .create_consumer_on_stream(config, stream)
            .await
            .map_err(not_created)?;
        let info = consumer.cached_info();
        Ok(Self {
            client,
            connects,
            subscriber,
            request_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{}", info.name),
            inbox,
            open: 0,
            last_consumer_seq: info.delivered.consumer_sequence,
            pending_at_start: info.num_pending,
        })
    }

    /// Waits for entries: as soon as one is there, it and all that have already arrived, at most `most`.
    pub(crate) async fn next(&mut self, most: usize) -> Result<Pulled, PullError> {
        loop {
            self.request_more().await?;
            let message = tokio::select! {
                message = timeout(HEARTBEATS_MISSED, self.subscriber.next()) => message,
                _ = self.connects.changed() => return Err(PullError::Reconnected),
            };
            let message = message
                .map_err(|_| PullError::HeartbeatsMissed)?
                .ok_or_else(|| PullError::Ended("the subscription ended".into()))?;
            match self.on_message(message)? {
                Some(Pulled::Entries(mut entries)) => {
                    self.take_arrived(&mut entries, most)?;
                    return Ok(Pulled::Entries(entries));
                }
                Some(idle) => return Ok(idle),
                None => {}
            }
        }
    }

    fn take_arrived(&mut self, entries: &mut Vec<Delivery>, most: usize) -> Result<(), PullError> {
        while entries.len() < most {
            let Some(Some(message)) = self.subscriber.next().now_or_never() else {
                break;
            };
            if let Some(Pulled::Entries(more)) = self.on_message(message)? {
                entries.extend(more);
            }
        }
        Ok(())
    }

    async fn request_more(&mut self) -> Result<(), PullError> {
        if self.open > 0 {
            return Ok(());
        }
        let request = PullRequest {
            batch: PULL_MESSAGES,
            expires: PULL_EXPIRES.as_nanos(),
            idle_heartbeat: HEARTBEAT.as_nanos(),
            max_bytes: PULL_BYTES,
        };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        let sent = self.client.publish_with_reply(
            self.request_subject.clone(),
            self.inbox.clone(),
            body.into(),
        );
        // A disconnected client blocks once its command queue is full.
        timeout(HEARTBEATS_MISSED, sent)
            .await
            .map_err(|_| PullError::HeartbeatsMissed)?
            .map_err(|error| PullError::Ended(error.to_string()))?;
        self.open = PULL_MESSAGES;
        Ok(())
    }

    fn on_message(&mut self, message: async_nats::Message) -> Result<Option<Pulled>, PullError> {
        match message.status {
            None | Some(StatusCode::OK) => self.on_entry(message).map(Some),
            Some(StatusCode::IDLE_HEARTBEAT) => self.on_heartbeat(&message),
            // The request has ended: expired, nothing there, or its bytes are used up.
            Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => {
                self.open = 0;
                Ok(None)
            }
            Some(status) => {
                let text = message.description.as_deref().unwrap_or_default();
                if text.contains("MaxBytes") || text.contains("Batch Completed") {
                    self.open = 0;
                    return Ok(None);
                }
                Err(PullError::Ended(format!("{status} {text}")))
            }
        }
    }

    fn on_entry(&mut self, message: async_nats::Message) -> Result<Pulled, PullError> {
        let place = message
            .reply
            .as_ref()
            .and_then(|reply| Place::parse(reply))
            .ok_or_else(|| PullError::Ended("an entry without its place".into()))?;
        let expected = self.last_consumer_seq + 1;
        if place.consumer_sequence != expected {
            return Err(PullError::Lost { expected });
        }
        self.last_consumer_seq = expected;
        self.open = self.open.saturating_sub(1);
        Ok(Pulled::Entries(vec![Delivery {
            subject: message.subject.to_string(),
            payload: message.payload,
            sequence: place.stream_sequence,
            time_ms: place.time_ns / 1_000_000,
            pending: place.pending,
        }]))
    }

    fn on_heartbeat(&mut self, message: &async_nats::Message) -> Result<Option<Pulled>, PullError> {
        let number = |name: &str| -> Option<u64> {
            message.headers.as_ref()?.get(name)?.as_str().parse().ok()
        };
        let (Some(consumer), Some(scanned)) =
            (number("Nats-Last-Consumer"), number("Nats-Last-Stream"))
        else {
            return Ok(None);
        };
        if consumer > self.last_consumer_seq {
            return Err(PullError::Lost {
                expected: self.last_consumer_seq + 1,
            });
        }
        // A heartbeat that was sent before the last entries says nothing about now.
        Ok((consumer == self.last_consumer_seq).then_some(Pulled::Idle { scanned }))
    }
}

fn not_created(error: async_nats::jetstream::stream::ConsumerError) -> PullError {
    use async_nats::jetstream::ErrorCode;
    use async_nats::jetstream::stream::ConsumerErrorKind;
    match error.kind() {
        ConsumerErrorKind::JetStream(error)
            if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
        {
            PullError::NoStream
        }
        _ => PullError::NotCreated(error.to_string()),
    }
}
