//! One open subscription as live delivery sees it: filters, readers, out-queue, and what it has sent while it reads.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use nightjar_envelope::{PositionVector, StreamName};

use crate::cursor::{Resume, beside};
use crate::event::{Event, EventId};
use crate::filter::Filter;
use crate::index::{Batch, Found};
use crate::log::now_s;
use crate::message;
use crate::session::outbox::Outbox;
use crate::visibility::{Permit, Readers};

/// The keys that authenticated on a connection, shared with its subscriptions: an AUTH counts for those already open.
pub type SharedReaders = Arc<ArcSwap<Readers>>;

/// How long the ids sent from the index are kept after EOSE. An event is offered live right after its commit to the
/// index; this covers one that a stored read found between the two.
const STORED_IDS_KEPT: Duration = Duration::from_secs(10);

/// Most ids kept of one stored read: the newest events come first, and only new ones can still be offered live.
const STORED_IDS_MAX: usize = 8_192;

/// One subscription of one connection.
#[derive(Debug)]
pub struct Subscription {
    id: String,
    filters: Vec<Filter>,
    readers: SharedReaders,
    outbox: Outbox,
    prefix: Bytes,
    /// Number of the latest delivery when this was opened.
    opened: u64,
    /// Number of the delivery that looked at this last, so that none looks twice.
    visited: AtomicU64,
    state: Mutex<State>,
    /// What it asks for by a cursor.
    resume: Option<Arc<Resume>>,
    /// What a cursor beside a live event speaks of, together with what was delivered since. Set with EOSE, unless the stored read
    /// left out what arrived.
    reached: OnceLock<PositionVector>,
}

/// How far a stored read came.
#[derive(Debug, Clone)]
pub struct StoredEnd {
    /// What a cursor speaks of.
    pub position: PositionVector,
    /// Live events follow without a gap: they get a cursor too.
    pub live: bool,
}

#[derive(Debug)]
enum State {
    /// The stored read goes on, or ended a moment ago: ids sent by either way are kept, so that the other leaves them out.
    Reading {
        sent: HashSet<u64>,
        eose_at: Option<Instant>,
    },
    /// Only live.
    Live,
    /// Nothing may be sent.
    Closed,
}

impl Subscription {
    pub(super) fn new(
        id: &str,
        filters: Vec<Filter>,
        readers: SharedReaders,
        outbox: Outbox,
        opened: u64,
        resume: Option<Arc<Resume>>,
    ) -> Self {
        Self {
            id: id.to_owned(),
            prefix: message::event_prefix(id),
            filters,
            readers,
            outbox,
            opened,
            visited: AtomicU64::new(opened),
            state: Mutex::new(State::Reading {
                sent: HashSet::new(),
                eose_at: None,
            }),
            resume,
            reached: OnceLock::new(),
        }
    }

    /// Sends a batch of stored events, without those already sent live, and EOSE after the last batch. All in one go, so
    /// that they leave in few writes. Answers how many were sent; `None`: the subscription was closed.
    ///
    /// `end` comes with the last batch.
    pub fn send_stored(&self, batch: &Batch, end: Option<StoredEnd>) -> Option<usize> {
        let cursor = self.resume.as_ref().zip(end.as_ref());
        let cursor = cursor.and_then(|(resume, end)| resume.cursor(end.position.clone(), now_s()));
        let mut state = self.lock();
        let State::Reading { sent, eose_at } = &mut *state else {
            return None;
        };
        let mut fresh: Vec<&Found> = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let key = short_key(&event.id);
            if sent.contains(&key) {
                continue;
            }
            if sent.len() < STORED_IDS_MAX {
                sent.insert(key);
            }
            fresh.push(event);
        }
        let eose = batch
            .done
            .then(|| message::eose(&self.id, batch.complete, cursor.as_deref()));
        if let Some(end) = end.filter(|end| end.live) {
            let _ = self.reached.set(end.position);
        }
        self.outbox.push_stored(&self.prefix, &fresh, eose);
        if batch.done {
            *eose_at = Some(Instant::now());
            if sent.is_empty() {
                *state = State::Live;
            }
        }
        Some(fresh.len())
    }

    /// Gives up the memory of a stored read that ended long enough ago. Called now and then by the connection.
    pub fn forget_stored(&self, now: Instant) {
        let mut state = self.lock();
        if let State::Reading {
            eose_at: Some(at), ..
        } = &*state
            && now.duration_since(*at) > STORED_IDS_KEPT
        {
            *state = State::Live;
        }
    }

    /// Sends a live event, unless this subscription has sent it already or was closed.
    ///
    /// `delivered`: what a cursor beside it may speak of.
    pub(super) fn send_live(
        &self,
        permit: Permit,
        event: &Event,
        delivered: &PositionVector,
    ) -> bool {
        let mut state = self.lock();
        match &mut *state {
            State::Closed => return false,
            State::Reading {
                eose_at: Some(at), ..
            } if at.elapsed() > STORED_IDS_KEPT => {
                *state = State::Live;
            }
            State::Reading { sent, .. } => {
                if !sent.insert(short_key(&event.id)) {
                    return false;
                }
            }
            State::Live => {}
        }
        // Under the lock: EOSE and the end of the subscription are ordered with it.
        match self.live_cursor(delivered) {
            Some(cursor) => {
                let json = beside(event.json(), &cursor);
                self.outbox.push_live(permit, &self.prefix, &json);
            }
            None => self.outbox.push_live(permit, &self.prefix, event.json()),
        }
        true
    }

    fn live_cursor(&self, delivered: &PositionVector) -> Option<String> {
        let (resume, reached) = self.resume.as_ref().zip(self.reached.get())?;
        let mut position = reached.clone();
        position.merge_max(delivered);
        resume.cursor(position, now_s())
    }

    /// Whether cursors are wanted.
    pub(super) fn has_cursor(&self) -> bool {
        self.resume.is_some()
    }

    /// Whether the client had an event at this place before it came here.
    pub(super) fn was_sent_elsewhere(&self, at: Option<&(StreamName, u64)>) -> bool {
        let resume = self.resume.as_ref().zip(at);
        resume.is_some_and(|(resume, (stream, seq))| resume.was_sent(stream, *seq))
    }

    pub(super) fn close(&self) {
        *self.lock() = State::Closed;
    }

    /// `false` if delivery number `serial` has looked at this already. `true` tells less: a delivery at the same time may
    /// have looked in between.
    pub(super) fn visit(&self, serial: u64) -> bool {
        self.visited.swap(serial, Ordering::Relaxed) != serial
    }

    pub(super) fn matches(&self, event: &Event) -> bool {
        self.filters.iter().any(|filter| filter.matches(event))
    }

    pub(super) fn filters(&self) -> &[Filter] {
        &self.filters
    }

    pub(super) fn filter_count(&self) -> i64 {
        i64::try_from(self.filters.len()).unwrap_or(i64::MAX)
    }

    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    pub(super) fn readers(&self) -> arc_swap::Guard<Arc<Readers>> {
        self.readers.load()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 64 bits of an id under a key of this process, so that nobody can make two ids collide.
fn short_key(id: &EventId) -> u64 {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    HASHER.hash_one(id)
}
