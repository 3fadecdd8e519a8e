//! What a client may ask of a relay. Names are those of NIP-11 `limitation` where it has one.

use serde::{Deserialize, Serialize};

/// Limits of one relay. Every field has a default; a file names only what differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest WebSocket message from a client, in bytes, 16 KiB to 16 MiB. Default 600,000: the largest event and its frame.
    pub max_message_length: usize,
    /// Open subscriptions per connection, 1 to 10,000. Default 50.
    pub max_subscriptions: usize,
    /// Filters per REQ, 1 to 1,000. Default 20.
    pub max_filters: usize,
    /// Largest `limit` of a filter, in events, 1 to 100,000; a greater one is lowered to it. Default 5,000.
    pub max_limit: usize,
    /// `limit` of a filter that names none, in events, 1 to `max_limit`. Default 500.
    pub default_limit: usize,
    /// Longest subscription id, in bytes, 1 to 1,024. Default 64 (NIP-01).
    pub max_subid_length: usize,
    /// Tags per event, 1 to 100,000. Default 5,000.
    pub max_event_tags: usize,
    /// How far in the future `created_at` may be, in seconds, 0 to 86,400. Default 900.
    pub created_at_ahead_seconds: u64,
    /// Leading zero bits that an event's id must have (NIP-13), 0 to 64. Default 0: no proof of work is asked for. Written only when asked
    /// for, so that relays which do not know it can read the file.
    #[serde(skip_serializing_if = "is_zero")]
    pub min_pow_difficulty: u32,

    /// Events a second that a connection may publish in the long run, above 0. Default 50.
    pub events_per_second_per_connection: f64,
    /// Events that a connection may publish at once, at least 1. Default 200.
    pub events_burst_per_connection: u32,
    /// Events a second of one address (IPv4 /32, IPv6 /64), above 0. Default 200.
    pub events_per_second_per_address: f64,
    /// Events of one address at once, at least 1. Default 1,000.
    pub events_burst_per_address: u32,
    /// REQ and COUNT a second of a connection, above 0. Default 50.
    pub reqs_per_second_per_connection: f64,
    /// REQ and COUNT of a connection at once, at least 1. Default 200.
    pub reqs_burst_per_connection: u32,
    /// Part of one core that a connection's stored reads may take in the long run, in percent, 1 to 100; 2 s of it at once. Default 25. Written
    /// only when it differs.
    #[serde(skip_serializing_if = "is_default_read_percent")]
    pub read_percent_per_connection: u32,
    /// NIP-42 answers a minute of a connection, 1 to 6,000. Default 60.
    pub auth_attempts_per_minute: u32,

    /// Connections of one address (IPv4 /32, IPv6 /64), at least 1. Default 1,000.
    pub connections_per_address: usize,
    /// Connections in all, at least 1. Default 20,000.
    pub max_connections: usize,
    /// Bytes that may wait for a slow reader before its connection is closed, 64 KiB to 1 GiB. Default 1 MiB.
    pub out_queue_bytes: usize,
    /// Bytes of a connection's events that may wait for the log's acknowledgement, at least `max_message_length`. Default 4 MiB.
    pub in_flight_publish_bytes_per_connection: usize,
    /// The same for the whole relay, at least the value per connection. Default 64 MiB.
    pub in_flight_publish_bytes_per_relay: usize,
    /// Part of the region's log that events of connections without AUTH may fill, 0 to 1. Default 0.5.
    pub unauthenticated_log_share: f64,
    /// How long a publish waits for the log's acknowledgement, in milliseconds, 500 to 60,000. Default 5,000.
    pub publish_deadline_ms: u64,
    /// How long a stopping relay lets connections end, in seconds, 0 to 600. Default 5. The process ends at most 3 s later.
    pub drain_seconds: u64,
    /// A silent client is pinged each time so many seconds have passed, 5 to 3,600. Default 45. Written only when it differs.
    #[serde(skip_serializing_if = "is_default_ping")]
    pub ping_interval_seconds: u64,
    /// A client of which nothing was heard for so many seconds, not even the answer to a ping, is gone; more than `ping_interval_seconds`, up
    /// to 86,400. Default 150. Written only when it differs.
    #[serde(skip_serializing_if = "is_default_idle")]
    pub idle_timeout_seconds: u64,
}

const READ_PERCENT_PER_CONNECTION: u32 = 25;
const PING_INTERVAL_SECONDS: u64 = 45;
const IDLE_TIMEOUT_SECONDS: u64 = 150;

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_default_read_percent(value: &u32) -> bool {
    *value == READ_PERCENT_PER_CONNECTION
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_default_ping(value: &u64) -> bool {
    *value == PING_INTERVAL_SECONDS
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_default_idle(value: &u64) -> bool {
    *value == IDLE_TIMEOUT_SECONDS
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_length: 600_000,
            max_subscriptions: 50,
            max_filters: 20,
            max_limit: 5_000,
            default_limit: 500,
            max_subid_length: 64,
            max_event_tags: 5_000,
            created_at_ahead_seconds: 900,
            min_pow_difficulty: 0,
            events_per_second_per_connection: 50.0,
            events_burst_per_connection: 200,
            events_per_second_per_address: 200.0,
            events_burst_per_address: 1_000,
            reqs_per_second_per_connection: 50.0,
            reqs_burst_per_connection: 200,
            read_percent_per_connection: READ_PERCENT_PER_CONNECTION,
            auth_attempts_per_minute: 60,
            connections_per_address: 1_000,
            max_connections: 20_000,
            out_queue_bytes: 1 << 20,
            in_flight_publish_bytes_per_connection: 4 << 20,
            in_flight_publish_bytes_per_relay: 64 << 20,
            unauthenticated_log_share: 0.5,
            publish_deadline_ms: 5_000,
            drain_seconds: 5,
            ping_interval_seconds: PING_INTERVAL_SECONDS,
            idle_timeout_seconds: IDLE_TIMEOUT_SECONDS,
        }
    }
}
