//! What one connection has open: subscriptions, counts under way, and reconciliations. All of it shares the connection's limits and ends
//! with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::reconciliation::Side;
use crate::live::OpenSubscription;

/// One open subscription, and the stored read that may still go on for it.
pub(super) struct Entry {
    pub(super) open: OpenSubscription,
    pub(super) read: Option<AbortHandle>,
    /// Values in its filters.
    pub(super) values: usize,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(read) = &self.read {
            read.abort();
        }
    }
}

/// One question that has not been answered: a COUNT, or a REQ that waits for the read policy. Given up when dropped.
pub(super) struct Unanswered {
    pub(super) task: AbortHandle,
    /// Values in its filters.
    pub(super) values: usize,
    /// Tells it from others that had its id.
    pub(super) serial: u64,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One open reconciliation. Ends when dropped.
pub(super) struct OpenSync {
    /// Builds the relay's side, then ends it when the client is silent for too long.
    pub(super) task: AbortHandle,
    /// Values in its filter.
    pub(super) values: usize,
    /// Tells it from others that had its id.
    pub(super) serial: u64,
    /// Events on the relay's side so far.
    pub(super) events: usize,
    /// `None` until it is built, and while a message is being answered.
    pub(super) side: Option<Side>,
    /// When the client was heard last.
    pub(super) heard: Instant,
}

impl Drop for OpenSync {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a REQ has made; it ends when this is dropped.
pub(super) enum Subscribed {
    /// A subscription.
    Open(#[allow(dead_code, reason = "held for its drop")] Entry),
    /// A question to the read policy.
    Asking(#[allow(dead_code, reason = "held for its drop")] Unanswered),
}

/// Everything open on one connection, by the ids that the client chose. Subscriptions, counts and reconciliations do not
/// meet: one id may stand for one of each.
#[derive(Default)]
pub(super) struct Open {
    pub(super) subscriptions: HashMap<String, Entry>,
    /// REQs that are no subscriptions yet; of one id there is one or the other.
    pub(super) asking: HashMap<String, Unanswered>,
    pub(super) counts: HashMap<String, Unanswered>,
    pub(super) syncs: HashMap<String, OpenSync>,
    serial: u64,
}

/// Shared by the session and the tasks that answer for it.
pub(super) type SharedOpen = Arc<Mutex<Open>>;

/// Takes the lock. A task that panicked holding it left whole entries behind.
pub(super) fn lock(open: &SharedOpen) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Open {
    /// What counts against `max_subscriptions`.
    pub(super) fn len(&self) -> usize {
        self.subscriptions.len() + self.asking.len() + self.counts.len() + self.syncs.len()
    }

    /// Values in the filters of all that is open.
    pub(super) fn values(&self) -> usize {
        let subscriptions = self.subscriptions.values().map(|entry| entry.values);
        let asking = self.asking.values().map(|asking| asking.values);
        let counts = self.counts.values().map(|count| count.values);
        let syncs = self.syncs.values().map(|sync| sync.values);
        let all = subscriptions.chain(asking).chain(counts).chain(syncs);
        all.sum()
    }

    /// Takes out what a REQ of this id has opened, or waits to open. Drop it after the lock.
    #[must_use]
    pub(super) fn take_subscription(&mut self, id: &str) -> Option<Subscribed> {
        let open = self.subscriptions.remove(id).map(Subscribed::Open);
        open.or_else(|| self.asking.remove(id).map(Subscribed::Asking))
    }

    /// Takes out the REQ of this id, if it still is this one and waits.
    pub(super) fn take_asking(&mut self, id: &str, serial: u64) -> Option<Unanswered> {
        let is_this = self
            .asking
            .get(id)
            .is_some_and(|asking| asking.serial == serial);
        is_this.then(|| self.asking.remove(id)).flatten()
    }

    /// Events in all its reconciliations.
    pub(super) fn sync_events(&self) -> usize {
        self.syncs.values().map(|sync| sync.events).sum()
    }

    /// The reconciliation of this id, if it still is this one.
    pub(super) fn sync(&mut self, id: &str, serial: u64) -> Option<&mut OpenSync> {
        self.syncs.get_mut(id).filter(|sync| sync.serial == serial)
    }

    /// A number that no other entry of this connection has.
    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}
