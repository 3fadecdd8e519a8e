//! One attempt to append an envelope to one shard, and what its answer means.

use async_nats::HeaderMap;
use nightjar_config::RegionLog;
use nightjar_envelope::{Class, Route, StreamName};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttemptEnd {
    /// Durable at this place; also when NATS says "duplicate" with a sequence.
    Stored {
        /// The stream.
        stream: StreamName,
        /// The sequence.
        sequence: u64,
    },
    /// The stream is at its byte limit (`discard: new`).
    Full,
    /// It may or may not become durable.
    InDoubt,
}

/// JetStream: "maximum bytes exceeded" / "maximum messages exceeded" under `discard: new`.
const STREAM_STORE_FAILED: u64 = 10_077;
/// JetStream: the server's or account's storage is used up.
const RESOURCES_EXCEEDED: [u64; 3] = [10_002, 10_023, 10_047];

#[derive(Deserialize)]
struct Answer {
    stream: Option<String>,
    seq: Option<u64>,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Shards that a region has for a class; none for ephemeral events.
pub(crate) fn shards_of(class: Class, log: &RegionLog) -> u8 {
    match class {
        Class::Messages => log.message_shards,
        Class::State => log.state_shards,
        Class::Ephemeral => 0,
    }
}

/// The home shard first, then the next ones in a ring.
pub(crate) fn shard_of_attempt(home: u8, number: u32, shards: u8) -> u8 {
    let at = (u32::from(home) + number % u32::from(shards)) % u32::from(shards);
    u8::try_from(at).unwrap_or(home)
}

/// Publishes and waits for the answer until `deadline`.
pub(crate) async fn send(
    client: async_nats::Client,
    route: &Route,
    envelope: Vec<u8>,
    message_id: String,
    deadline: Instant,
) -> AttemptEnd {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", message_id.as_str());
    let request = async_nats::Request::new()
        .headers(headers)
        .payload(envelope.into())
        .timeout(None);
    match timeout_at(deadline, client.send_request(route.subject(), request)).await {
        Ok(Ok(message)) => read_answer(&message.payload, route),
        Ok(Err(error)) => {
            tracing::debug!(nats.subject = route.subject(), %error, "publish in doubt");
            AttemptEnd::InDoubt
        }
        Err(_) => AttemptEnd::InDoubt,
    }
}

/// Reads a PubAck. Whatever is not clearly stored or clearly full is in doubt.
fn read_answer(payload: &[u8], route: &Route) -> AttemptEnd {
    let Ok(answer) = serde_json::from_slice::<Answer>(payload) else {
        return AttemptEnd::InDoubt;
    };
    if let Some(error) = answer.error {
        tracing::debug!(
            nats.error = error.err_code,
            description = error.description,
            "publish refused"
        );
        let store_full =
            error.err_code == STREAM_STORE_FAILED && error.description.contains("exceeded");
        return if store_full || RESOURCES_EXCEEDED.contains(&error.err_code) {
            AttemptEnd::Full
        } else {
            AttemptEnd::InDoubt
        };
    }
    match (answer.stream, answer.seq, route.stream()) {
        (Some(stream), Some(sequence), Some(expected))
            if sequence > 0 && stream == expected.to_string() =>
        {
            AttemptEnd::Stored {
                stream: expected,
                sequence,
            }
        }
        _ => AttemptEnd::InDoubt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        Route::from_subject("ev.a.1.2.6").expect("a route")
    }

    #[test]
    fn every_shard_has_its_turn_beginning_at_home() {
        let order: Vec<u8> = (0..6)
            .map(|number| shard_of_attempt(2, number, 4))
            .collect();
        assert_eq!(order, [2, 3, 0, 1, 2, 3]);
        assert_eq!(shard_of_attempt(1, u32::MAX, 2), 0);
    }

    #[test]
    fn an_acknowledged_duplicate_is_durable() {
        let stored = read_answer(
            br#"{"stream":"EV_a_1_2","seq":9,"duplicate":true}"#,
            &route(),
        );
        assert!(
            matches!(stored, AttemptEnd::Stored { sequence: 9, .. }),
            "{stored:?}"
        );
    }

    #[test]
    fn what_is_not_clear_is_in_doubt() {
        for answer in [
            &br#"{"error":{"code":400,"err_code":10158,"description":"duplicate message id is in process"}}"#[..],
            br#"{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}"#,
            br#"{"stream":"EV_b_1_2","seq":9}"#,
            br#"{"stream":"EV_a_1_2","seq":0,"duplicate":true}"#,
            b"",
        ] {
            assert_eq!(read_answer(answer, &route()), AttemptEnd::InDoubt);
        }
    }

    #[test]
    fn a_full_stream_is_named_as_full() {
        let answer =
            br#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}"#;
        assert_eq!(read_answer(answer, &route()), AttemptEnd::Full);
    }
}
