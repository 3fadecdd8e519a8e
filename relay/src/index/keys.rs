//! Keys of the index tables: fixed-width big-endian parts, so that LMDB's byte order is the order of an answer. Pure.
//!
//! The longest key is 138 bytes (private tag row), well below LMDB's 511: tag values over 64 bytes are hashed.

use sha2::{Digest, Sha256};

use crate::event::{Coordinate, EventId, PublicKey};

/// Longest tag value stored as it is.
const MAX_PLAIN_VALUE: usize = 64;
/// Marks a hashed value; a plain value starts with its length, 0 to 64.
const HASHED: u8 = 0xff;
/// Bytes of a [`Place`] in a key.
pub(super) const PLACE_LEN: usize = 40;

/// Where an event stands in an answer: newest first, then by id. The order of the fields is the order of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// `u64::MAX - created_at`.
    age: u64,
    /// Event id.
    pub(super) id: EventId,
}

impl Place {
    pub(super) fn new(created_at: u64, id: EventId) -> Place {
        Place {
            age: u64::MAX - created_at,
            id,
        }
    }

    /// `created_at` of the event, in seconds.
    pub(super) fn created_at(&self) -> u64 {
        u64::MAX - self.age
    }

    /// The first place an event of this or an earlier time can have.
    pub(super) fn newest(until: Option<u64>) -> Place {
        Place::new(until.unwrap_or(u64::MAX), [0; 32])
    }

    /// The last place an event of this or a later time can have.
    pub(super) fn oldest(since: Option<u64>) -> Place {
        Place::new(since.unwrap_or(0), [0xff; 32])
    }

    /// Reads the last 40 bytes of a key.
    pub(super) fn from_key(key: &[u8]) -> Option<Place> {
        let (age, id) = key.last_chunk::<PLACE_LEN>()?.split_first_chunk::<8>()?;
        Some(Place {
            age: u64::from_be_bytes(*age),
            id: id.try_into().ok()?,
        })
    }

    /// `prefix` and this place as a key.
    pub(super) fn under(&self, prefix: &[u8]) -> Vec<u8> {
        [prefix, &self.age.to_be_bytes(), &self.id].concat()
    }
}

/// Prefix of the rows of one author and kind.
pub(super) fn author_kind(author: &PublicKey, kind: u16) -> Vec<u8> {
    [author.as_slice(), &kind.to_be_bytes()].concat()
}

/// Prefix of the rows of one tag letter and value.
pub(super) fn tag(letter: u8, value: &str) -> Vec<u8> {
    let mut key = vec![letter];
    push_value(&mut key, value);
    key
}

/// Key of a coordinate.
pub(super) fn coordinate(coordinate: &Coordinate) -> Vec<u8> {
    let mut key = author_kind(&coordinate.pubkey, coordinate.kind);
    push_value(&mut key, &coordinate.d);
    key
}

/// No encoded value is a prefix of another one.
fn push_value(key: &mut Vec<u8>, value: &str) {
    match u8::try_from(value.len()) {
        Ok(len) if value.len() <= MAX_PLAIN_VALUE => {
            key.push(len);
            key.extend_from_slice(value.as_bytes());
        }
        _ => {
            key.push(HASHED);
            key.extend_from_slice(&Sha256::digest(value.as_bytes()));
        }
    }
}

/// Key of a private row: the reader comes first, always.
pub(super) fn private(reader: &PublicKey, rest: &[u8]) -> Vec<u8> {
    [reader.as_slice(), rest].concat()
}

/// Two ids one after the other: a tombstone (target, deleter).
pub(super) fn pair(first: &[u8; 32], second: &[u8; 32]) -> [u8; 64] {
    let mut key = [0; 64];
    key[..32].copy_from_slice(first);
    key[32..].copy_from_slice(second);
    key
}

/// A queue row: time, then id.
pub(super) fn due(time: u64, id: &EventId) -> [u8; PLACE_LEN] {
    let mut key = [0; PLACE_LEN];
    key[..8].copy_from_slice(&time.to_be_bytes());
    key[8..].copy_from_slice(id);
    key
}

/// The first bytes of a key or value as a number.
pub(super) fn read_u64(bytes: &[u8]) -> Option<u64> {
    bytes
        .first_chunk::<8>()
        .map(|bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_events_and_lower_ids_come_first() {
        let places = [
            Place::new(9, [1; 32]),
            Place::new(9, [2; 32]),
            Place::new(8, [0; 32]),
            Place::new(0, [0; 32]),
        ];
        assert!(places.is_sorted());
        let keys = places.map(|place| place.under(b"x"));
        assert!(keys.is_sorted());
        assert_eq!(Place::from_key(&keys[1]), Some(places[1]));
    }

    #[test]
    fn no_value_is_a_prefix_of_another() {
        let long = "v".repeat(65);
        let values = ["", "a", "aa", &"a".repeat(64), &long, "\u{ff}"];
        for (index, one) in values.iter().enumerate() {
            for (other_index, other) in values.iter().enumerate() {
                assert!(
                    index == other_index || !tag(b't', one).starts_with(&tag(b't', other)),
                    "{one} {other}"
                );
            }
        }
    }

    #[test]
    fn the_longest_key_fits_into_lmdb() {
        let key = private(
            &[0; 32],
            &Place::new(0, [0; 32]).under(&tag(b't', &"x".repeat(MAX_PLAIN_VALUE))),
        );
        assert_eq!(key.len(), 138);
    }
}
