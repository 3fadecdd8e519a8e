//! A NIP-17 client as a library: identity, wrapping, sending, receiving. It reads no files, knows no terminal and holds
//! no key of the fleet: what it can do, any Nostr client can do.
//!
//! | Module | What |
//! |---|---|
//! | [`identity`] | a secret key that never shows itself, NIP-49 at rest |
//! | [`wrap`], [`unwrap`] | rumor, seal and gift wrap (NIP-17, NIP-44, NIP-59), and every check on the way back |
//! | [`frame`] | the frames of NIP-01 and NIP-42 as text, without a socket |
//! | [`connection`] | one WebSocket to one relay, AUTH included |
//! | [`info`] | what a relay says of itself (NIP-11), its fleet and region |
//! | [`directory`] | where a person wants messages (kind 10050) |
//! | [`delivery`] | one copy to each fleet or relay, with failover inside a fleet |
//! | [`inbox`] | messages as they come, once each, over reconnects |
//! | [`client`] | the parts above together: send, publish, look up |

pub mod client;
pub mod connection;
pub mod delivery;
pub mod directory;
pub mod frame;
pub mod identity;
pub mod inbox;
pub mod info;
pub mod pager;
pub mod seen;
mod tls;
pub mod unwrap;
pub mod wrap;

pub use client::{Client, ClientError, Options, Sent};
pub use connection::{Connection, ConnectionError, Observer, Step};
pub use identity::Identity;
pub use nostr::types::RelayUrl;
pub use nostr::{
    event::Event, event::EventId, event::Kind, filter::Filter, key::PublicKey, types::Timestamp,
};
