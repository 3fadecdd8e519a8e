//! How far a relay has applied the log: the highest sequence of every stream.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stream::StreamName;

/// Stream to highest applied sequence. A stream that is absent counts as 0 (sequences begin at 1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PositionVector(BTreeMap<StreamName, u64>);

impl PositionVector {
    /// The empty vector: nothing applied.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The stream's sequence, 0 when absent.
    #[must_use]
    pub fn get(&self, stream: &StreamName) -> u64 {
        self.0.get(stream).copied().unwrap_or(0)
    }

    /// Moves the stream forward to `sequence`, never back. Says whether it moved.
    pub fn advance(&mut self, stream: &StreamName, sequence: u64) -> bool {
        let moves = sequence > self.get(stream);
        if moves {
            self.0.insert(stream.clone(), sequence);
        }
        moves
    }

    /// Takes the greater sequence of each stream.
    pub fn merge_max(&mut self, other: &Self) {
        for (stream, sequence) in &other.0 {
            self.advance(stream, *sequence);
        }
    }

    /// Whether every stream of `other` is at or below this vector.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|(stream, sequence)| self.get(stream) >= *sequence)
    }

    /// The streams and their sequences, in order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&StreamName, u64)> {
        self.0.iter().map(|(stream, sequence)| (stream, *sequence))
    }

    /// How many streams the vector names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was applied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(StreamName, u64)> for PositionVector {
    fn from_iter<I: IntoIterator<Item = (StreamName, u64)>>(entries: I) -> Self {
        let mut vector = Self::new();
        for (stream, sequence) in entries {
            vector.advance(&stream, sequence);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_vector() -> impl Strategy<Value = PositionVector> {
        proptest::collection::vec(("(EV|ST)_[ab]_1_[01]", 1..9_u64), 0..8).prop_map(|entries| {
            entries
                .into_iter()
                .map(|(stream, sequence)| (stream.parse().unwrap(), sequence))
                .collect()
        })
    }

    #[test]
    fn a_position_never_moves_back() {
        let stream: StreamName = "EV_a_1_0".parse().unwrap();
        let mut vector = PositionVector::new();
        assert!(vector.advance(&stream, 5));
        assert!(!vector.advance(&stream, 5) && !vector.advance(&stream, 4));
        assert_eq!(vector.get(&stream), 5);
    }

    proptest! {
        #[test]
        fn the_merge_is_the_least_vector_that_covers_both(a in any_vector(), b in any_vector()) {
            let mut merged = a.clone();
            merged.merge_max(&b);
            prop_assert!(merged.covers(&a) && merged.covers(&b));
            for (stream, sequence) in merged.iter() {
                prop_assert_eq!(sequence, a.get(stream).max(b.get(stream)));
            }
        }
    }
}
