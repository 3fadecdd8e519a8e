//! What one connection has open: subscriptions, and counts under way. All of it shares the connection's limits and ends
//! with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

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

/// One COUNT that has not been answered. Given up when dropped.
pub(super) struct Count {
    pub(super) task: AbortHandle,
    /// Values in its filters.
    pub(super) values: usize,
    /// Tells it from others that had its id.
    pub(super) serial: u64,
}

impl Drop for Count {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Everything open on one connection, by the ids that the client chose. A subscription and a count do not meet: one id may
/// stand for both.
#[derive(Default)]
pub(super) struct Open {
    pub(super) subscriptions: HashMap<String, Entry>,
    pub(super) counts: HashMap<String, Count>,
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
        self.subscriptions.len() + self.counts.len()
    }

    /// Values in the filters of all that is open.
    pub(super) fn values(&self) -> usize {
        let subscriptions = self.subscriptions.values().map(|entry| entry.values);
        let counts = self.counts.values().map(|count| count.values);
        subscriptions.chain(counts).sum()
    }

    /// A number that no other entry of this connection has.
    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}
