//! The log: publisher, follower, hints and keyring over NATS JetStream.
//!
//! Three sources bring events to a relay: the publisher's own PubAck, the hint (live delivery only, never the index) and
//! the pull consumer of each stream, which alone moves the position.

mod attempt;
mod connection;
mod ephemeral;
mod follower;
mod hints;
mod keys;
mod metrics;
mod opening;
mod place;
pub(crate) mod private_file;
pub mod publisher;
mod pull;
pub mod quarantine;
pub mod readiness;
mod rebuild;
mod spending;
mod sweeper;
mod tail;
mod writer;

use std::time::{SystemTime, UNIX_EPOCH};

pub use connection::ConnectionError;
pub use keys::{KeyWatch, Keys};
pub use metrics::LogMetrics;
pub use private_file::PrivateFileError;
pub use publisher::{PublishContext, PublishError, Published, Publisher};
pub use readiness::{Readiness, ReadinessReport, Waiting};
pub use run::{Log, LogError, LogOptions};

mod run;

/// Now, in milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Now, in seconds since the epoch.
pub(crate) fn now_s() -> u64 {
    now_ms() / 1_000
}
