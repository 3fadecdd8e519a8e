//! Live delivery: every new event to the open subscriptions that match it and may read it.
//!
//! An event may be offered several times (own publisher, hint, pull consumer); each subscription gets it at most once.
//! Matching runs in the caller's thread under a read lock and only ever pushes into bounded out-queues, so it never waits.

mod registry;
mod repeats;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub use subscription::{SharedReaders, StoredEnd, Subscription};

use arc_swap::ArcSwap;
use nightjar_envelope::{PositionVector, StreamName};

use crate::cursor::Resume;
use crate::event::{Audience, Event};
use crate::filter::Filter;
use crate::metrics::{Door, LiveSource, Metrics};
use crate::session::outbox::Outbox;
use crate::visibility::may_read_audience;
use registry::Registry;
use repeats::Repeats;

/// Where an event came from. The delivery is the same; the metrics differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// This relay's own publisher, after the commit to the index.
    Publisher,
    /// A core NATS hint.
    Hint,
    /// The pull consumer, after the commit to the index.
    Consumer,
    /// An ephemeral message.
    Ephemeral,
}

impl From<Source> for LiveSource {
    fn from(source: Source) -> Self {
        match source {
            Source::Publisher => Self::publisher,
            Source::Hint => Self::hint,
            Source::Consumer => Self::consumer,
            Source::Ephemeral => Self::ephemeral,
        }
    }
}

/// The open subscriptions of this relay. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: RwLock<Registry>,
    repeats: Mutex<Repeats>,
    /// What the pull consumer has applied and every subscription was offered. Written by the index writer alone.
    delivered: ArcSwap<PositionVector>,
    /// Open subscriptions that want a cursor with their events.
    with_cursor: AtomicUsize,
    /// Number of the latest delivery; also the age of subscriptions. Grows under the read lock, is read under the write lock.
    serial: AtomicU64,
    metrics: Arc<Metrics>,
}

/// Keeps a subscription open; closes it when dropped.
#[derive(Debug)]
pub struct OpenSubscription {
    live: Live,
    subscription: Arc<Subscription>,
}

impl OpenSubscription {
    /// The subscription itself.
    pub fn subscription(&self) -> &Arc<Subscription> {
        &self.subscription
    }
}

/// One event on its way through the subscriptions.
struct Offer<'a> {
    event: &'a Event,
    /// Its place in the log, if known.
    at: Option<&'a (StreamName, u64)>,
    audience: &'a Audience,
    /// Number of the delivery that offered it before.
    offered_before: Option<u64>,
    /// What a cursor beside it may speak of.
    delivered: &'a PositionVector,
}

impl Drop for OpenSubscription {
    fn drop(&mut self) {
        self.live.close(&self.subscription);
    }
}

impl Live {
    /// No subscriptions yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            inner: Arc::new(Inner {
                registry: RwLock::default(),
                repeats: Mutex::default(),
                delivered: ArcSwap::default(),
                with_cursor: AtomicUsize::new(0),
                serial: AtomicU64::new(0),
                metrics,
            }),
        }
    }

    /// Opens a subscription: from now on live events are pushed into `outbox`. The stored read comes after, and ends in
    /// the last [`Subscription::send_stored`].
    pub fn open(
        &self,
        subscription_id: &str,
        filters: Vec<Filter>,
        readers: SharedReaders,
        outbox: Outbox,
        resume: Option<Arc<Resume>>,
    ) -> OpenSubscription {
        let inner = &self.inner;
        let mut registry = inner
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let opened = inner.serial.load(Ordering::Relaxed);
        let subscription = Arc::new(Subscription::new(
            subscription_id,
            filters,
            readers,
            outbox,
            opened,
            resume,
        ));
        registry.insert(&subscription);
        if subscription.has_cursor() {
            inner.with_cursor.fetch_add(1, Ordering::Relaxed);
        }
        drop(registry);
        inner.metrics.subscriptions.inc();
        inner.metrics.filters.inc_by(subscription.filter_count());
        OpenSubscription {
            live: self.clone(),
            subscription,
        }
    }

    /// Offers an event to every open subscription. Non-blocking. Each subscription gets an event id at most once, as long
    /// as fewer than 65,536 other events come in between (other hints, for an event that came as a hint first).
    pub fn deliver(&self, event: &Arc<Event>, source: Source) {
        self.deliver_at(event, source, None);
    }

    /// As [`Live::deliver`], for an event whose place in the log is known: who was sent it by a relay that was further is left out.
    pub fn deliver_at(&self, event: &Arc<Event>, source: Source, at: Option<&(StreamName, u64)>) {
        let inner = &self.inner;
        let span = tracing::debug_span!("deliver", ?source, sent = tracing::field::Empty).entered();
        let registry = inner
            .registry
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let serial = inner.serial.fetch_add(1, Ordering::Relaxed) + 1;
        let offered_before = inner
            .repeats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(&event.id, serial, source == Source::Hint);
        let audience = event.audience();
        let delivered = inner.delivered.load();
        let mut sent = 0;
        // The stamp saves most of the work, but another delivery at the same time may have written its own number over it.
        let mut reached = HashSet::new();
        registry.for_each_candidate(event, |subscription| {
            if subscription.visit(serial)
                && subscription.matches(event)
                && reached.insert(std::ptr::from_ref(subscription))
            {
                let offer = Offer {
                    event,
                    at,
                    audience: &audience,
                    offered_before,
                    delivered: &delivered,
                };
                sent += u64::from(self.offer(subscription, &offer));
            }
        });
        drop(registry);
        span.record("sent", sent);
        inner.metrics.on_live(source.into(), sent);
    }

    /// Notes that the pull consumer came so far, and that everything up to there was offered by this thread or another.
    pub fn advance<'a>(&self, advances: impl Iterator<Item = (&'a StreamName, u64)>) {
        let inner = &self.inner;
        let mut delivered = PositionVector::clone(&inner.delivered.load());
        let mut moved = false;
        for (stream, seq) in advances {
            moved |= delivered.advance(stream, seq);
        }
        if !moved {
            return;
        }
        if inner.with_cursor.load(Ordering::Relaxed) > 0 {
            // A hint for one of these events may still be on its way through the subscriptions: no cursor may speak of it before.
            drop(
                inner
                    .registry
                    .write()
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
        inner.delivered.store(Arc::new(delivered));
    }

    /// Whether the event was sent.
    fn offer(&self, subscription: &Subscription, offer: &Offer<'_>) -> bool {
        let Some(permit) = may_read_audience(offer.audience, &subscription.readers()) else {
            self.inner.metrics.on_read_refused(Door::live);
            return false;
        };
        // Whoever was open at the previous offer had the event then.
        let had_it = offer
            .offered_before
            .is_some_and(|before| subscription.opened() < before)
            || subscription.was_sent_elsewhere(offer.at);
        if had_it || !subscription.send_live(permit, offer.event, offer.delivered) {
            self.inner.metrics.live_repeats.inc();
            return false;
        }
        true
    }

    fn close(&self, subscription: &Arc<Subscription>) {
        self.inner
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(subscription);
        if subscription.has_cursor() {
            self.inner.with_cursor.fetch_sub(1, Ordering::Relaxed);
        }
        // A delivery that found it before the removal must not send after the client's CLOSE was taken.
        subscription.close();
        self.inner.metrics.subscriptions.dec();
        self.inner
            .metrics
            .filters
            .dec_by(subscription.filter_count());
    }

    /// Entries in the inverted index; 0 when no subscription is open.
    pub fn index_entries(&self) -> usize {
        self.inner
            .registry
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .entries()
    }
}
