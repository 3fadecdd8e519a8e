//! What goes into the index and what comes out.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nightjar_envelope::{PositionVector, StreamName};

use crate::event::{Event, EventId};
use crate::management::record::SignedChange;

/// Where and how large.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// Folder of the index; made if absent. Only the index's own files in it are ever touched.
    pub dir: PathBuf,
    /// Most bytes in use. A full index refuses to apply, [`super::IndexError::Full`], but still erases what expires. The
    /// file may become an eighth larger.
    pub max_bytes: u64,
    /// How long messages (streams `EV_*`) are kept, counted from their NATS timestamp.
    pub message_retention: Duration,
    /// Which fleet this is a cache of (the fleet id). An index of another fleet is wiped.
    pub fleet: String,
}

/// How [`super::Index::open`] found the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenedAs {
    /// As it was left; follow the log from [`super::Index::position`].
    Resumed,
    /// Empty; the log is to be read from its beginning.
    Fresh(FreshReason),
}

/// Why the index starts empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FreshReason {
    /// There was none.
    New,
    /// The machine went down without a clean close, so pages may be missing (the index is not synced to disk).
    UncleanBoot,
    /// Written in another format version.
    OtherFormat {
        /// The version found.
        found: u32,
    },
    /// Of another fleet.
    OtherFleet,
    /// The marker file or the database could not be read.
    Unreadable(String),
}

impl fmt::Display for FreshReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FreshReason::New => f.write_str("there was no index"),
            FreshReason::UncleanBoot => {
                f.write_str("the machine went down before the index was closed")
            }
            FreshReason::OtherFormat { found } => write!(f, "the index had format {found}"),
            FreshReason::OtherFleet => f.write_str("the index belonged to another fleet"),
            FreshReason::Unreadable(why) => write!(f, "the index could not be read: {why}"),
        }
    }
}

/// A place in the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// Stream; a mirror has the same name as its origin.
    pub stream: StreamName,
    /// Sequence number, from 1.
    pub seq: u64,
}

/// What an entry of the log holds.
#[derive(Debug, Clone)]
pub enum Logged {
    /// An event, verified as its origin asks.
    Event(Arc<Event>),
    /// A change of the fleet's lists.
    Change(Arc<SignedChange>),
}

impl From<Arc<Event>> for Logged {
    fn from(event: Arc<Event>) -> Self {
        Logged::Event(event)
    }
}

/// One entry and where the log has it.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// What it holds.
    pub content: Logged,
    /// Its position; `None` if not known yet (the pull consumer will bring it).
    pub at: Option<(StreamName, u64)>,
    /// When the log took it.
    pub log_time: LogTime,
}

/// When the log took an entry, in Unix milliseconds. Retention counts from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTime {
    /// The NATS timestamp, as the pull consumer sees it: final.
    Nats(u64),
    /// The time of admission, from a publisher, who is not told the NATS timestamp. Gives way to that.
    Provisional(u64),
}

impl LogTime {
    /// Unix milliseconds.
    pub fn millis(self) -> u64 {
        match self {
            LogTime::Nats(millis) | LogTime::Provisional(millis) => millis,
        }
    }
}

/// What became of an entry. `New` means: visible now, for the first time on this relay; of a change of lists: it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Visible now, for the first time on this relay.
    New,
    /// Was visible already.
    Duplicate,
    /// A newer version of the replaceable or addressable event exists, or existed; a later change of the same lists stands.
    Superseded,
    /// Deleted by its author, by a wrap's recipient, or by a request to vanish.
    Deleted,
    /// Past its expiration (NIP-40) or its retention. Ephemeral kinds, which are never stored, too.
    Expired,
    /// Stored, and hidden as long as an administrator's ban of it or of its author lasts.
    Banned,
}

/// What the index knows of an event that is published again. Everything but `Unknown` and `Superseded` is answered
/// `duplicate:` without a difference, so that nobody learns that a wrap was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Never applied, or aged out of the log: publish it.
    Unknown,
    /// Stored.
    Present,
    /// Below the floor of its coordinate.
    Superseded,
    /// Deleted.
    Deleted,
    /// Past its NIP-40 expiration.
    Expired,
}

/// A new position of one stream. Given by the pull consumer alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// Stream.
    pub stream: StreamName,
    /// Everything up to and including this sequence number has been applied or skipped for good.
    pub seq: u64,
}

/// How much one batch of a query may take. The first limit reached ends it.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Most events.
    pub events: usize,
    /// Stop after the event that reaches this many bytes of JSON.
    pub bytes: usize,
    /// Most time.
    pub time: Duration,
}

impl Default for BatchLimits {
    fn default() -> BatchLimits {
        BatchLimits {
            events: 200,
            bytes: 256 * 1024,
            time: Duration::from_millis(10),
        }
    }
}

/// A stored event that these readers may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Event id.
    pub id: EventId,
    /// Compact JSON of the event.
    pub json: Bytes,
}

/// Part of an answer, newest first.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Events in the order of the whole answer: `created_at` descending, then id ascending.
    pub events: Vec<Found>,
    /// No more will come.
    pub done: bool,
    /// With `done`: nothing was left out for a `limit`. Depends only on what the readers may read; `false` if it is not known.
    pub complete: bool,
}

/// Part of a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountBatch {
    /// Events counted in this part.
    pub events: u64,
    /// No more will come.
    pub done: bool,
}

/// Part of an answer, without the events themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaceBatch {
    /// `created_at` in seconds and id of each event, in the order of the answer.
    pub places: Vec<(u64, EventId)>,
    /// No more will come.
    pub done: bool,
}

/// Figures for `/metrics` and the admin port.
#[derive(Debug, Clone, Default)]
pub struct IndexStats {
    /// Public events stored.
    pub public_events: u64,
    /// Rows in private keyspaces.
    pub private_events: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Coordinates with a floor.
    pub coordinates: u64,
    /// Log entries that a sweeper may remove, some of them not yet.
    pub superseded_entries: u64,
    /// Bytes of pages in use.
    pub used_bytes: u64,
    /// The limit in bytes.
    pub max_bytes: u64,
    /// Events that a query found in a keyspace where its readers may not read. Must be 0.
    pub door_violations: u64,
    /// Position in every stream.
    pub position: PositionVector,
}
