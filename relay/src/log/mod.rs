//! The log: publisher, follower, hints and keyring over NATS JetStream.
//!
//! Three sources bring events to a relay: the publisher's own PubAck, the hint (live delivery only, never the index) and
//! the pull consumer of each stream, which alone moves the position.

pub mod publisher;
pub mod readiness;

pub use publisher::{PublishContext, PublishError, Published};
pub use readiness::{Readiness, ReadinessReport, Waiting};
