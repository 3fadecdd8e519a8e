//! The Nightjar relay: Nostr clients on one side, the sealed log on NATS JetStream on the other, an index in between.
//!
//! Data path: `session` -> `admission` -> `plugin`, if there is one -> `log::publisher` -> PubAck -> `index` and `live` -> OK; the follower of every
//! relay brings the same entries from the log to its own `index` and `live`. `server` wires it all.

pub mod admin;
pub mod admission;
pub mod cursor;
pub mod event;
pub mod filter;
pub mod http;
pub mod http_auth;
pub mod index;
mod index_metrics;
pub mod live;
pub mod log;
pub mod management;
pub mod message;
pub mod metrics;
pub mod nip11;
mod page;
#[cfg(test)]
mod plain;
pub mod plugin;
pub mod reload;
pub mod server;
pub mod session;
pub mod socket;
pub mod telemetry;
mod trust;
pub mod visibility;
