//! Budgets of keys over the fleet: each second every relay tells what keys spent at it, sealed, over core NATS. Whoever does not hear it lets
//! a key spend more for a while; nobody waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nightjar_envelope::{MAX_SPENDING_KEYS, RegionName, Spending};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::metrics::Heard;
use super::tail::Shared;
use crate::admission::KeyBudgets;

/// What keys spent is told this often.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A message that was sent longer ago, or so far ahead, is refused. In milliseconds.
const WINDOW_MS: u64 = 60_000;
/// Relays of which the last message is remembered.
const MOST_SENDERS: usize = 1_000;

/// The budgets, and what is needed to hear each message of other relays once.
#[derive(Clone, Debug)]
pub(crate) struct SharedSpending {
    budgets: KeyBudgets,
    /// This relay's own, by which it knows what it said itself.
    sender: [u8; 16],
    heard: Arc<Mutex<Senders>>,
}

impl SharedSpending {
    pub(crate) fn new(budgets: KeyBudgets) -> Self {
        Self {
            budgets,
            sender: rand::random(),
            heard: Arc::default(),
        }
    }
}

/// The last message of each sender: its serial, and when it was sent.
#[derive(Debug, Default)]
struct Senders(HashMap<[u8; 16], (u64, u64)>);

impl Senders {
    /// Whether this message is new; it is remembered. A replayed one would take from a key what it has not spent.
    fn is_new(&mut self, message: &Spending, now_ms: u64) -> bool {
        if now_ms.abs_diff(message.sent_ms) > WINDOW_MS {
            return false;
        }
        let last = self.0.get(&message.sender);
        if last.is_some_and(|(serial, _)| *serial >= message.serial) {
            return false;
        }
        if last.is_none() && self.0.len() >= MOST_SENDERS {
            self.0
                .retain(|_, (_, sent_ms)| now_ms.abs_diff(*sent_ms) <= 2 * WINDOW_MS);
            if self.0.len() >= MOST_SENDERS {
                return false;
            }
        }
        self.0
            .insert(message.sender, (message.serial, message.sent_ms));
        true
    }
}

/// Tells until stopped.
pub(crate) async fn tell(
    connection: Connection,
    shared: Arc<Shared>,
    spending: SharedSpending,
    stop: CancellationToken,
) {
    let region = shared.config.load().region.clone();
    let subject = Spending::subject(&region);
    let mut ticks = tokio::time::interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut serial = 0;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        // Also while it cannot be told: old news would punish a key for what it has since been given back.
        let spent = spending.budgets.take_spent();
        let Some(keyring) = shared.keys.current() else {
            continue;
        };
        if !connection.is_connected() {
            continue;
        }
        for spent in spent.chunks(MAX_SPENDING_KEYS) {
            serial += 1;
            let message = Spending {
                sent_ms: super::now_ms(),
                sender: spending.sender,
                serial,
                spent: spent.to_vec(),
            };
            let sealed = match message.seal(&keyring, &shared.fleet, &region) {
                Ok(sealed) => sealed,
                Err(error) => {
                    tracing::warn!(%error, "what keys spent is not told");
                    continue;
                }
            };
            let told = connection.client.publish(subject.clone(), sealed.into());
            let told = tokio::time::timeout(TELL_EVERY, told).await;
            if !matches!(told, Ok(Ok(()))) {
                tracing::debug!("what keys spent was not told in time");
            }
        }
    }
}

/// Takes off what another relay tells. `None`: this relay said it itself.
pub(crate) fn hear(
    shared: &Shared,
    spending: &SharedSpending,
    region: &RegionName,
    message: &[u8],
) -> Option<Heard> {
    let Some(keyring) = shared.keys.current() else {
        return Some(Heard::refused);
    };
    let Ok(message) = Spending::open(&keyring, &shared.fleet, region, message) else {
        return Some(Heard::refused);
    };
    if message.sender == spending.sender {
        return None;
    }
    let is_new = spending
        .heard
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .is_new(&message, super::now_ms());
    if !is_new {
        return Some(Heard::replayed);
    }
    spending
        .budgets
        .spent_elsewhere(&message.spent, Instant::now());
    Some(Heard::delivered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sender: u64, serial: u64, sent_ms: u64) -> Spending {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&sender.to_be_bytes());
        Spending {
            sent_ms,
            sender: id,
            serial,
            spent: Vec::new(),
        }
    }

    #[test]
    fn a_message_counts_once_and_only_while_it_is_news() {
        let mut senders = Senders::default();
        let now = 1_000_000;
        assert!(senders.is_new(&message(1, 5, now), now));
        assert!(!senders.is_new(&message(1, 5, now), now), "again");
        assert!(!senders.is_new(&message(1, 4, now), now), "late");
        assert!(senders.is_new(&message(1, 6, now), now));
        assert!(senders.is_new(&message(2, 1, now), now), "another sender");
        assert!(!senders.is_new(&message(3, 1, now - 60_001), now), "old");
        assert!(!senders.is_new(&message(3, 1, now + 60_001), now), "ahead");
    }

    #[test]
    fn senders_are_bounded_and_old_ones_make_room() {
        let mut senders = Senders::default();
        let now = 1_000_000;
        for sender in 0..MOST_SENDERS as u64 {
            assert!(senders.is_new(&message(sender, 1, now), now));
        }
        assert!(!senders.is_new(&message(9_999, 1, now), now));
        let later = now + 2 * WINDOW_MS + 1;
        assert!(senders.is_new(&message(9_999, 1, later), later));
        assert_eq!(senders.0.len(), 1);
    }
}
