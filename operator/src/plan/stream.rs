//! The streams that one region's JetStream holds: those it writes, and copies of everybody else's.

use std::time::Duration;

use nightjar_envelope::{RegionName, StreamName};

/// One stream as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPlan {
    /// Its name, the same in the region that writes it and in every mirror.
    pub name: StreamName,
    /// Written here or copied.
    pub kind: StreamKind,
    /// 1 or 3.
    pub replicas: u8,
    /// Upper limit in bytes, `discard: new` beyond. Mirrors have none: they must hold what the origin accepted.
    pub max_bytes: Option<u64>,
    /// How long entries are kept; `None` keeps them until they are removed one by one.
    pub max_age: Option<Duration>,
    /// JetStream drops a repeated `Nats-Msg-Id` within this window. Mirrors have none.
    pub duplicate_window: Option<Duration>,
    /// Any replica may answer direct gets.
    pub allow_direct: bool,
}

/// Who writes a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamKind {
    /// This region's relays.
    Writer {
        /// The one subject pattern it binds, for example `ev.a.1.0.*`.
        subjects: Vec<String>,
        /// Republished on core NATS as hints: from this pattern ...
        republish_from: String,
        /// ... to this one, with headers and payload.
        republish_to: String,
    },
    /// Another region's; this is a copy with the same sequence numbers.
    Mirror {
        /// The region that writes it.
        of: RegionName,
        /// Prefix of that region's JetStream API, `$JS.<region>.API`.
        external_api: String,
    },
}
