//! Which events were offered before, and when: one bounded memory for all subscriptions, instead of a set in each.

use std::collections::{HashMap, VecDeque};

use crate::event::EventId;

/// Events remembered of hints, and as many of all else. At 1,000 events a second this is more than a minute between a hint
/// and the pull consumer.
pub(super) const REMEMBERED: usize = 65_536;

/// Half an id: 128 bits of a hash, which nobody can make collide.
type ShortId = [u8; 16];

/// For each of the latest events, the number of its latest delivery. Hints are kept apart: a pull consumer that catches up
/// offers any number of events before it comes to those that hints brought.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    hints: Memory,
    others: Memory,
}

#[derive(Debug, Default)]
struct Memory {
    latest: HashMap<ShortId, u64>,
    order: VecDeque<ShortId>,
}

impl Repeats {
    /// Notes a delivery and answers the number of the one before, if there was one.
    pub(super) fn note(&mut self, id: &EventId, serial: u64, is_hint: bool) -> Option<u64> {
        let short = shorten(id);
        let known = self.hints.repeat(short, serial);
        if let Some(before) = known.or_else(|| self.others.repeat(short, serial)) {
            return Some(before);
        }
        let memory = if is_hint {
            &mut self.hints
        } else {
            &mut self.others
        };
        memory.add(short, serial);
        None
    }
}

impl Memory {
    fn repeat(&mut self, short: ShortId, serial: u64) -> Option<u64> {
        let latest = self.latest.get_mut(&short)?;
        let before = *latest;
        // Two threads may note in the other order than they were numbered.
        *latest = before.max(serial);
        Some(before)
    }

    fn add(&mut self, short: ShortId, serial: u64) {
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.latest.remove(&oldest);
        }
        self.latest.insert(short, serial);
        self.order.push_back(short);
    }
}

fn shorten(id: &EventId) -> ShortId {
    let mut short = ShortId::default();
    short.copy_from_slice(&id[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> EventId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        id
    }

    #[test]
    fn a_repeat_names_the_delivery_before_and_memory_is_bounded() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.note(&id(1), 1, true), None);
        assert_eq!(repeats.note(&id(1), 7, false), Some(1));
        assert_eq!(repeats.note(&id(1), 8, true), Some(7));
        for number in 2..=REMEMBERED as u64 + 1 {
            assert_eq!(repeats.note(&id(number), number + 10, true), None);
        }
        assert_eq!(repeats.hints.order.len(), REMEMBERED);
        assert_eq!(repeats.hints.latest.len(), REMEMBERED);
        assert_eq!(
            repeats.note(&id(1), 99_999, true),
            None,
            "the oldest is forgotten"
        );
    }

    #[test]
    fn a_consumer_that_catches_up_does_not_push_hints_out() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.note(&id(1), 1, true), None);
        for number in 2..=REMEMBERED as u64 + 2 {
            assert_eq!(repeats.note(&id(number), number, false), None);
        }
        assert_eq!(repeats.note(&id(1), 99_999, false), Some(1));
    }
}
