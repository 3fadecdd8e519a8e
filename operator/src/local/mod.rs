//! Places a fleet plan on this machine: NATS servers, hubs and relays as child processes on loopback, state in one folder.
//!
//! [`start`] checks everything first and starts nothing when something is wrong. From then on [`LocalFleet`] reports what
//! happens as [`LocalEvent`]s, follows changes of the file, and restarts what dies. Children never outlive this process.

mod addresses;
mod console;
mod error;
mod event;
mod fleet;
mod hold;
mod leftovers;
mod lock;
mod members;
mod nats_server;
mod placement;
pub(crate) mod ports;
mod probe;
mod record;
mod region;
mod source;
mod spawner;
mod start;
mod status;
mod supervisor;
#[cfg(test)]
mod tests;
mod verb;

pub use console::{Console, Style, render};
pub use error::LocalError;
pub use event::{LocalEvent, ProcessState, ProcessStatus, RegionRelays};
pub use start::{LocalFleet, LocalHandle, LocalOptions, start};
pub use status::{FleetState, FleetStatus, ProcessEntry, read as read_status};
pub use verb::{Signals, run};
