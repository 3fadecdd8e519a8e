//! Relay management (NIP-86): administrators keep lists of keys, events and kinds for the whole fleet.
//!
//! A call is authorized by NIP-98. One that changes something goes into the log as its administrator signed it, and takes effect on every
//! relay, in every region, also after an index was rebuilt. Nothing here is offered unless the configuration names administrators.

pub(crate) mod api;
pub mod call;
pub mod lists;
pub mod record;
