//! What a Nightjar fleet writes on the wire between its relays: names, subjects, streams, positions, keys and the sealed envelope. Pure: no I/O, no clock.
//!
//! The layout, byte by byte, is in `docs/reference/envelope.md`; `tests/vectors/` pins it.

mod backup;
mod cursor;
mod keyring;
mod name;
mod position;
mod route;
mod seal;
mod size;
mod small;
mod spending;
mod stream;

pub use backup::BackupError;
pub use cursor::{Cursor, CursorError, CursorSealError, MAX_CURSOR_CHARS, ReaderTag};
pub use keyring::{BucketLabel, KeyState, Keyring, KeyringError};
pub use name::{Class, FleetId, KeyEpoch, NameError, RegionName};
pub use position::PositionVector;
pub use route::{BUCKETS, MESSAGE_SHARDS, Route, RouteError, STATE_SHARDS};
pub use seal::{
    Body, BodyKind, DamageReason, OpenError, OpenedBody, SealError, TraceContext, VERSION, open,
    seal,
};
pub use size::{MAX_ENVELOPE_BYTES, MAX_EVENT_BYTES};
pub use spending::{MAX_SPENDING_KEYS, Spending, SpendingError};
pub use stream::StreamName;
