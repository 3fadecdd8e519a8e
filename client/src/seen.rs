//! A bounded memory of what was already handed out, oldest forgotten first.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

/// Remembers up to `capacity` items.
#[derive(Debug)]
pub struct Seen<T> {
    capacity: usize,
    order: VecDeque<T>,
    items: HashSet<T>,
}

impl<T: Copy + Eq + Hash> Seen<T> {
    /// An empty memory of `capacity` items, at least one.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            order: VecDeque::new(),
            items: HashSet::new(),
        }
    }

    /// Remembers `item`; true when it was not known.
    pub fn insert(&mut self, item: T) -> bool {
        if !self.items.insert(item) {
            return false;
        }
        self.order.push_back(item);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.items.remove(&oldest);
        }
        true
    }

    /// Whether `item` is known.
    pub fn contains(&self, item: &T) -> bool {
        self.items.contains(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_oldest_first() {
        let mut seen = Seen::new(2);
        assert!(seen.insert(1) && seen.insert(2) && !seen.insert(1));
        assert!(seen.insert(3));
        assert!(!seen.contains(&1) && seen.contains(&2) && seen.contains(&3));
    }
}
