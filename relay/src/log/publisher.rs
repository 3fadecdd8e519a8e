//! The publisher: an event becomes a sealed entry of the log, and OK follows its commit to the index.

use thiserror::Error;

/// What goes with an event from the session to the publisher.
#[derive(Clone, Copy, Debug)]
pub struct PublishContext {
    /// When the event was admitted, in milliseconds since the epoch.
    pub admitted_ms: u64,
}

/// How a publish ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Durable, and visible on this relay.
    Stored,
    /// The index already knew the event (also as deleted, superseded or expired): `OK true "duplicate: ..."`.
    Duplicate,
    /// An ephemeral event was handed to NATS.
    HandedOver,
}

/// Why an event was not published. The text says what the client can do; [`PublishError::prefix`] is its NIP-01 prefix.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PublishError {
    /// No acknowledgement in time. The event may still become durable: sending it again is safe.
    #[error("not durable in time, send it again")]
    NotDurableInTime,
    /// The event does not fit into the largest envelope.
    #[error("the event has {len} bytes, the limit is {limit} bytes (max_message_length)")]
    TooLarge {
        /// The largest event in bytes.
        limit: usize,
        /// This event in bytes.
        len: usize,
    },
    /// Too many bytes wait for their acknowledgement on this relay.
    #[error("the relay has {limit} bytes of events in flight, slow down and send it again")]
    Overloaded {
        /// The bound in bytes.
        limit: usize,
    },
    /// The relay has no key to seal with.
    #[error("the relay has no sealing key yet, send it again later")]
    NoKey,
    /// The index takes no entries.
    #[error("the relay's index takes no entries now, send it again later")]
    IndexUnavailable,
    /// The log of the region is full.
    #[error("the log of this region is full, send it again later")]
    LogFull,
    /// The relay stops.
    #[error("the relay stops, send it again to another relay")]
    Stopping,
}

impl PublishError {
    /// The machine-readable NIP-01 prefix of the OK message, without the colon.
    pub fn prefix(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "invalid",
            Self::Overloaded { .. } => "rate-limited",
            _ => "error",
        }
    }
}
