//! Creates, corrects and watches the streams of a region, through its JetStream API. The same for a laptop and a cluster.
//!
//! Nothing here ever deletes a stream: what it holds was acknowledged to somebody.

mod admin;
mod desired;
mod links;
mod watchdog;

pub use admin::{Change, Login, RegionAdmin, StreamError};
pub use links::{Links, ServerLinks, ServerState};
pub use watchdog::{MirrorHealth, Watchdog};

#[cfg(test)]
mod reload_tests;
