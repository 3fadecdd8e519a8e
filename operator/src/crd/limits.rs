//! What a client may ask of a relay, as fields of the `RelayCluster`; `nightjar-config` has the same limits in the relay's units.

use nightjar_config::Limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of each relay. Every field has a default and can be changed live.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RelayLimits {
    /// Longest WebSocket message from a client, in bytes: 16,384 to 16,777,216. Default 600,000: the largest event and its frame.
    ///
    /// Example: `1200000`
    #[schemars(range(min = 16384, max = 16777216))]
    pub max_message_length: i32,

    /// Open subscriptions per connection: 1 to 10,000. Default 50.
    ///
    /// Example: `100`
    #[schemars(range(min = 1, max = 10000))]
    pub max_subscriptions: i32,

    /// Filters per REQ: 1 to 1,000. Default 20.
    ///
    /// Example: `40`
    #[schemars(range(min = 1, max = 1000))]
    pub max_filters: i32,

    /// Largest `limit` of a filter, in events; a greater one is lowered to it: 1 to 100,000. Default 5,000.
    ///
    /// Example: `10000`
    #[schemars(range(min = 1, max = 100000))]
    pub max_limit: i32,

    /// `limit` of a filter that names none, in events; at most `maxLimit`: 1 to 100,000. Default 500.
    ///
    /// Example: `1000`
    #[schemars(range(min = 1, max = 100000))]
    pub default_limit: i32,

    /// Longest subscription id, in bytes: 1 to 1,024. Default 64: what NIP-01 allows.
    ///
    /// Example: `128`
    #[schemars(range(min = 1, max = 1024))]
    pub max_subid_length: i32,

    /// Tags per event: 1 to 100,000. Default 5,000.
    ///
    /// Example: `10000`
    #[schemars(range(min = 1, max = 100000))]
    pub max_event_tags: i32,

    /// How far in the future `created_at` may be, in seconds: 0 to 86,400. Default 900.
    ///
    /// Example: `1800`
    #[schemars(range(min = 0, max = 86400))]
    pub created_at_ahead_seconds: i32,

    /// Proof of work (NIP-13) that every event must carry, gift wraps too, as leading zero bits of its id: 0 to 64. Default 0: none is asked
    /// for. Each bit doubles the work: 16 take a client well under a second, 24 take it seconds to minutes. Who sends through a client that does not do
    /// the work is refused; `nightjar` does not.
    ///
    /// Example: `16`
    #[schemars(range(min = 0, max = 64))]
    pub min_pow_difficulty: i32,

    /// Events a second that a connection may publish in the long run: 1 to 100,000. Default 50.
    ///
    /// Example: `100`
    #[schemars(range(min = 1, max = 100000))]
    pub events_per_second_per_connection: i32,

    /// Events that a connection may publish at once: 1 to 1,000,000. Default 200.
    ///
    /// Example: `400`
    #[schemars(range(min = 1, max = 1000000))]
    pub events_burst_per_connection: i32,

    /// Events a second of one address (IPv4 /32, IPv6 /64) in the long run: 1 to 1,000,000. Default 200.
    ///
    /// Example: `400`
    #[schemars(range(min = 1, max = 1000000))]
    pub events_per_second_per_address: i32,

    /// Events of one address at once: 1 to 1,000,000. Default 1,000.
    ///
    /// Example: `2000`
    #[schemars(range(min = 1, max = 1000000))]
    pub events_burst_per_address: i32,

    /// REQ and COUNT a second of a connection in the long run: 1 to 100,000. Default 50.
    ///
    /// Example: `100`
    #[schemars(range(min = 1, max = 100000))]
    pub reqs_per_second_per_connection: i32,

    /// REQ and COUNT of a connection at once: 1 to 1,000,000. Default 200.
    ///
    /// Example: `400`
    #[schemars(range(min = 1, max = 1000000))]
    pub reqs_burst_per_connection: i32,

    /// Part of one core, in percent, that a connection's stored reads may take in the long run: 1 to 100. Default 25. A connection may read for 2 s
    /// before that; then it waits, and others do not.
    ///
    /// Example: `50`
    #[schemars(range(min = 1, max = 100))]
    pub read_percent_per_connection: i32,

    /// NIP-42 answers a minute of a connection: 1 to 6,000. Default 60.
    ///
    /// Example: `120`
    #[schemars(range(min = 1, max = 6000))]
    pub auth_attempts_per_minute: i32,

    /// Connections of one address (IPv4 /32, IPv6 /64): 1 to 1,000,000. Default 1,000.
    ///
    /// Example: `2000`
    #[schemars(range(min = 1, max = 1000000))]
    pub connections_per_address: i32,

    /// Connections of a relay in all: 1 to 1,000,000. Default 20,000.
    ///
    /// Example: `40000`
    #[schemars(range(min = 1, max = 1000000))]
    pub max_connections: i32,

    /// Bytes that may wait for a slow reader before its connection is closed: 65,536 to 1,073,741,824. Default 1,048,576.
    ///
    /// Example: `2097152`
    #[schemars(range(min = 65536, max = 1073741824))]
    pub out_queue_bytes: i32,

    /// Bytes of a connection's events that may wait for the log; at least `maxMessageLength`: 16,384 to 1,073,741,824. Default 4,194,304.
    ///
    /// Example: `8388608`
    #[schemars(range(min = 16384, max = 1073741824))]
    pub in_flight_publish_bytes_per_connection: i32,

    /// The same for the whole relay; at least the value per connection: 16,384 to 2,147,483,647. Default 67,108,864.
    ///
    /// Example: `134217728`
    #[schemars(range(min = 16384, max = 2147483647))]
    pub in_flight_publish_bytes_per_relay: i32,

    /// Part of the region's log that events of connections without AUTH may fill, in percent: 0 to 100. Default 50.
    ///
    /// Example: `100`
    #[schemars(range(min = 0, max = 100))]
    pub unauthenticated_log_percent: i32,

    /// How long a publish waits for the log, in milliseconds: 500 to 60,000. Default 5,000.
    ///
    /// Example: `10000`
    #[schemars(range(min = 500, max = 60000))]
    pub publish_deadline_ms: i32,

    /// How long a stopping relay lets connections end, in seconds, 0 to 600: clients are told to go spread over this time, so that they do
    /// not all come back at once. On one machine at most 8 s count. In Kubernetes a change restarts the relays, one after the other.
    /// Default 5.
    ///
    /// Example: `5`
    #[schemars(range(min = 0, max = 600))]
    pub drain_seconds: i32,

    /// A silent client is pinged each time so many seconds have passed: 5 to 3,600. Load balancers cut connections that are silent for long, so
    /// it should be less than their limit. Holds for new connections. Default 45.
    ///
    /// Example: `25`
    #[schemars(range(min = 5, max = 3600))]
    pub ping_interval_seconds: i32,

    /// A client of which nothing was heard for so many seconds, not even the answer to a ping, is given up; more than
    /// `pingIntervalSeconds`: 6 to 86,400. Holds for new connections. Default 150.
    ///
    /// Example: `90`
    #[schemars(range(min = 6, max = 86400))]
    pub idle_timeout_seconds: i32,
}

impl Default for RelayLimits {
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
            events_per_second_per_connection: 50,
            events_burst_per_connection: 200,
            events_per_second_per_address: 200,
            events_burst_per_address: 1_000,
            reqs_per_second_per_connection: 50,
            reqs_burst_per_connection: 200,
            read_percent_per_connection: 25,
            auth_attempts_per_minute: 60,
            connections_per_address: 1_000,
            max_connections: 20_000,
            out_queue_bytes: 1_048_576,
            in_flight_publish_bytes_per_connection: 4_194_304,
            in_flight_publish_bytes_per_relay: 67_108_864,
            unauthenticated_log_percent: 50,
            publish_deadline_ms: 5_000,
            drain_seconds: 5,
            ping_interval_seconds: 45,
            idle_timeout_seconds: 150,
        }
    }
}

impl RelayLimits {
    /// The limits in the relay's own units. A negative number, which the schema forbids, counts as 0.
    pub fn to_config(&self) -> Limits {
        let size = |value: i32| usize::try_from(value).unwrap_or(0);
        let count = |value: i32| u32::try_from(value).unwrap_or(0);
        Limits {
            max_message_length: size(self.max_message_length),
            max_subscriptions: size(self.max_subscriptions),
            max_filters: size(self.max_filters),
            max_limit: size(self.max_limit),
            default_limit: size(self.default_limit),
            max_subid_length: size(self.max_subid_length),
            max_event_tags: size(self.max_event_tags),
            created_at_ahead_seconds: count(self.created_at_ahead_seconds).into(),
            min_pow_difficulty: count(self.min_pow_difficulty),
            events_per_second_per_connection: f64::from(self.events_per_second_per_connection),
            events_burst_per_connection: count(self.events_burst_per_connection),
            events_per_second_per_address: f64::from(self.events_per_second_per_address),
            events_burst_per_address: count(self.events_burst_per_address),
            reqs_per_second_per_connection: f64::from(self.reqs_per_second_per_connection),
            reqs_burst_per_connection: count(self.reqs_burst_per_connection),
            read_percent_per_connection: count(self.read_percent_per_connection),
            auth_attempts_per_minute: count(self.auth_attempts_per_minute),
            connections_per_address: size(self.connections_per_address),
            max_connections: size(self.max_connections),
            out_queue_bytes: size(self.out_queue_bytes),
            in_flight_publish_bytes_per_connection: size(
                self.in_flight_publish_bytes_per_connection,
            ),
            in_flight_publish_bytes_per_relay: size(self.in_flight_publish_bytes_per_relay),
            unauthenticated_log_share: f64::from(self.unauthenticated_log_percent) / 100.0,
            publish_deadline_ms: count(self.publish_deadline_ms).into(),
            drain_seconds: count(self.drain_seconds).into(),
            ping_interval_seconds: count(self.ping_interval_seconds).into(),
            idle_timeout_seconds: count(self.idle_timeout_seconds).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_relay() {
        assert_eq!(RelayLimits::default().to_config(), Limits::default());
    }
}
