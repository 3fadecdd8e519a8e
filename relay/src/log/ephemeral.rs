//! Ephemeral events from other relays: opened, at most 60 s old, each id once, to live subscriptions only. What keys spent there comes under
//! subjects of the same sort and goes to `spending`.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use nightjar_envelope::{Class, Route, Spending};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::metrics::Heard;
use super::opening;
use super::spending::{self, SharedSpending};
use super::tail::Shared;
use crate::event::EventId;
use crate::index::Logged;
use crate::live::Source;

/// A message that was admitted longer ago, or so far ahead, is refused. In milliseconds.
const WINDOW_MS: u64 = 60_000;
/// Ids are remembered for the window on both sides of now.
const REMEMBER: Duration = Duration::from_millis(2 * WINDOW_MS);
/// Ids remembered at most; more than this in two minutes and the oldest are forgotten early.
const MOST_IDS: usize = 200_000;
/// Pause before the subscription is made again.
const RESUBSCRIBE: Duration = Duration::from_millis(500);

/// Ids of ephemeral events seen in the last two minutes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replays {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<EventId>,
    order: VecDeque<(Instant, EventId)>,
}

impl Replays {
    /// Whether the id is seen for the first time; it is remembered.
    pub(crate) fn is_new(&self, id: EventId) -> bool {
        self.is_new_at(id, Instant::now())
    }

    fn is_new_at(&self, id: EventId, now: Instant) -> bool {
        let mut seen = self
            .seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        while let Some((at, oldest)) = seen.order.front().copied() {
            if seen.order.len() < MOST_IDS && now.saturating_duration_since(at) <= REMEMBER {
                break;
            }
            seen.order.pop_front();
            seen.ids.remove(&oldest);
        }
        let new = seen.ids.insert(id);
        if new {
            seen.order.push_back((now, id));
        }
        new
    }

    /// An id that was not sent after all may be sent again.
    pub(crate) fn forget(&self, id: &EventId) {
        let mut seen = self
            .seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.ids.remove(id);
        seen.order.retain(|(_, other)| other != id);
    }
}

/// Listens to `eph.>` until stopped.
pub(crate) async fn run(
    connection: Connection,
    shared: Arc<Shared>,
    replays: Replays,
    spent: SharedSpending,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        match connection.client.subscribe("eph.>").await {
            Ok(mut messages) => {
                while let Some(Some(message)) = stop.run_until_cancelled(messages.next()).await {
                    let (subject, payload) = (&message.subject, &message.payload);
                    if let Some(region) = Spending::region_of(subject) {
                        if let Some(heard) = spending::hear(&shared, &spent, &region, payload) {
                            shared.metrics.on_spending(heard);
                        }
                        continue;
                    }
                    let heard = on_message(&shared, &replays, subject, payload);
                    shared.metrics.on_ephemeral(heard);
                }
            }
            Err(error) => tracing::warn!(%error, "no subscription to ephemeral messages"),
        }
        stop.run_until_cancelled(tokio::time::sleep(RESUBSCRIBE))
            .await;
    }
}

fn on_message(shared: &Shared, replays: &Replays, subject: &str, envelope: &[u8]) -> Heard {
    let Ok(route) = Route::from_subject(subject) else {
        return Heard::refused;
    };
    let Some(keyring) = shared.keys.current() else {
        return Heard::refused;
    };
    if route.class != Class::Ephemeral {
        return Heard::refused;
    }
    let Ok(opened) = opening::open(&keyring, &shared.fleet, &route, envelope) else {
        return Heard::refused;
    };
    let Logged::Event(event) = &opened.content else {
        return Heard::refused;
    };
    if super::now_ms().abs_diff(opened.admitted_ms) > WINDOW_MS || !replays.is_new(event.id) {
        return Heard::replayed;
    }
    let is_expired = event.expiration().is_some_and(|at| at <= super::now_s());
    // Its relay may not have heard of the ban yet. An index that does not answer must not let it through.
    if is_expired || shared.index.is_banned(event).unwrap_or(true) {
        return Heard::stale;
    }
    shared.live.deliver(event, Source::Ephemeral);
    Heard::delivered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once_in_two_minutes() {
        let replays = Replays::default();
        let now = Instant::now();
        assert!(replays.is_new_at([1; 32], now));
        assert!(!replays.is_new_at([1; 32], now + Duration::from_secs(119)));
        assert!(replays.is_new_at([1; 32], now + Duration::from_secs(121)));
    }

    #[test]
    fn a_message_that_was_not_sent_may_be_sent_again() {
        let replays = Replays::default();
        assert!(replays.is_new([2; 32]));
        replays.forget(&[2; 32]);
        assert!(replays.is_new([2; 32]));
    }
}
