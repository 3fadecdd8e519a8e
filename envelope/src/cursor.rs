//! The arrival cursor: a position vector that clients hold and cannot read.
//!
//! Text: base64url without padding of `version u8 | key epoch u32 | nonce 24 | ciphertext and tag`, numbers big-endian. The key is derived from the
//! epoch's key under the label `cursor`. Plaintext, padded with zeros to a multiple of 128 bytes:
//! `issued u64 | readers u8 | readers x 8 | groups u16 | groups`, a group being
//! `class u8 | region length u8 | region | generation u32 | positions u8 | positions x (shard u8, sequence LEB128)`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::keyring::{Keyring, Purpose};
use crate::name::{Class, FleetId, RegionName};
use crate::position::PositionVector;
use crate::small::{self, HEADER_BYTES, NoRandom, NotOpened, TAG_BYTES, VERSION, take};
use crate::stream::StreamName;

/// Longest text of a cursor, in characters: some 2,000 streams.
pub const MAX_CURSOR_CHARS: usize = 32 * 1024;

/// Plaintexts are padded to a multiple of this, so that a cursor's length tells nothing of the log.
const BLOCK_BYTES: usize = 128;

/// The first bytes of a reader's public key: enough to tell the readers of one client apart.
pub type ReaderTag = [u8; 8];

/// What a cursor says: whoever holds it was sent every match of its subscription at or below `position` that its readers may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// How far the log was sent.
    pub position: PositionVector,
    /// When it was made: Unix time in seconds.
    pub issued_s: u64,
    /// Who had authenticated then, at most 255.
    pub readers: Vec<ReaderTag>,
}

/// Why a cursor is refused. No message repeats any part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Longer than any cursor.
    #[error("it has {chars} characters, the limit is {MAX_CURSOR_CHARS}")]
    TooLong {
        /// Characters given.
        chars: usize,
    },
    /// No base64url, too short, or not sealed under this fleet's key.
    #[error("it was not made by this fleet, or it was changed")]
    Foreign,
    /// Made by a later version.
    #[error("it has version {0}, this relay reads version {VERSION}")]
    Version(u8),
    /// Its key is gone, or has not arrived here yet.
    #[error("the key that it was made with is not in use any more")]
    Key,
}

/// Why a cursor could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorSealError {
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
    /// More streams than fit into [`MAX_CURSOR_CHARS`].
    #[error("{streams} streams do not fit into a cursor")]
    TooLarge {
        /// Streams in the position vector.
        streams: usize,
    },
}

impl Cursor {
    /// The tag of a reader's public key.
    #[must_use]
    pub fn reader_tag(pubkey: &[u8; 32]) -> ReaderTag {
        let mut tag = ReaderTag::default();
        tag.copy_from_slice(&pubkey[..8]);
        tag
    }

    /// Seals the cursor under the sealing epoch and a fresh random nonce: two cursors are never equal as text.
    pub fn seal(&self, keyring: &Keyring, fleet: &FleetId) -> Result<String, CursorSealError> {
        let too_large = CursorSealError::TooLarge {
            streams: self.position.len(),
        };
        let mut body = Vec::with_capacity(2 * BLOCK_BYTES);
        self.write(&mut body).ok_or(too_large)?;
        let padded = body.len().next_multiple_of(BLOCK_BYTES);
        // Four characters stand for three bytes.
        if (HEADER_BYTES + padded + TAG_BYTES).div_ceil(3) * 4 > MAX_CURSOR_CHARS {
            return Err(too_large);
        }
        let bytes = small::seal(keyring, Purpose::Cursor, &[fleet.as_bytes()], &body, padded)
            .map_err(|NoRandom| CursorSealError::Random)?;
        Ok(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Opens a cursor that a client presents.
    pub fn open(keyring: &Keyring, fleet: &FleetId, text: &str) -> Result<Cursor, CursorError> {
        if text.len() > MAX_CURSOR_CHARS {
            return Err(CursorError::TooLong { chars: text.len() });
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| CursorError::Foreign)?;
        let plaintext = small::open(keyring, Purpose::Cursor, &[fleet.as_bytes()], &bytes)
            .map_err(|error| match error {
                NotOpened::Version(version) => CursorError::Version(version),
                NotOpened::Key => CursorError::Key,
                NotOpened::Foreign => CursorError::Foreign,
            })?;
        Cursor::read(&plaintext).ok_or(CursorError::Foreign)
    }

    fn write(&self, bytes: &mut Vec<u8>) -> Option<()> {
        bytes.extend(self.issued_s.to_be_bytes());
        bytes.push(u8::try_from(self.readers.len()).ok()?);
        bytes.extend(self.readers.iter().flatten());
        let streams: Vec<(&StreamName, u64)> = self.position.iter().collect();
        let groups: Vec<&[(&StreamName, u64)]> = streams
            .chunk_by(|(one, _), (other, _)| {
                (one.class, &one.region, one.generation)
                    == (other.class, &other.region, other.generation)
            })
            .collect();
        bytes.extend(u16::try_from(groups.len()).ok()?.to_be_bytes());
        for group in groups {
            let (first, _) = group.first()?;
            let region = first.region.as_str().as_bytes();
            bytes.push(class_number(first.class)?);
            bytes.push(u8::try_from(region.len()).ok()?);
            bytes.extend(region);
            bytes.extend(first.generation.to_be_bytes());
            bytes.push(u8::try_from(group.len()).ok()?);
            for (stream, sequence) in group {
                bytes.push(stream.shard);
                write_leb128(bytes, *sequence);
            }
        }
        Some(())
    }

    fn read(mut rest: &[u8]) -> Option<Cursor> {
        let rest = &mut rest;
        let issued_s = u64::from_be_bytes(take(rest)?);
        let [readers] = take(rest)?;
        let readers = (0..readers).map(|_| take(rest)).collect::<Option<_>>()?;
        let groups = u16::from_be_bytes(take(rest)?);
        let mut position = PositionVector::new();
        for _ in 0..groups {
            let [class, region_len] = take(rest)?;
            let (region, after) = rest.split_at_checked(usize::from(region_len))?;
            *rest = after;
            let region: RegionName = std::str::from_utf8(region).ok()?.parse().ok()?;
            let generation = u32::from_be_bytes(take(rest)?);
            let [positions] = take(rest)?;
            for _ in 0..positions {
                let [shard] = take(rest)?;
                let sequence = read_leb128(rest)?;
                let class = class_of_number(class)?;
                let stream = StreamName::new(class, region.clone(), generation, shard)?;
                position.advance(&stream, sequence);
            }
        }
        rest.iter().all(|byte| *byte == 0).then_some(Cursor {
            position,
            issued_s,
            readers,
        })
    }
}

fn class_number(class: Class) -> Option<u8> {
    match class {
        Class::Messages => Some(0),
        Class::State => Some(1),
        Class::Ephemeral => None,
    }
}

fn class_of_number(number: u8) -> Option<Class> {
    match number {
        0 => Some(Class::Messages),
        1 => Some(Class::State),
        _ => None,
    }
}

fn write_leb128(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        bytes.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn read_leb128(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take(rest)?;
        let part = u64::from(byte & 0x7f);
        value |= part
            .checked_shl(shift)
            .filter(|moved| moved >> shift == part)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fleet(byte: u8) -> FleetId {
        FleetId::from_bytes([byte; 16])
    }

    fn any_cursor() -> impl Strategy<Value = Cursor> {
        let stream = ("(EV|ST)_[a-z][a-z0-9]{0,12}_[1-9]_[0-9]", 1..=u64::MAX);
        let position = proptest::collection::vec(stream, 0..40).prop_map(|entries| {
            let parsed = entries.into_iter().map(|(name, seq)| {
                let stream: StreamName = name.parse().unwrap();
                (stream, seq)
            });
            parsed.collect::<PositionVector>()
        });
        (
            position,
            any::<u64>(),
            proptest::collection::vec(any::<ReaderTag>(), 0..70),
        )
            .prop_map(|(position, issued_s, readers)| Cursor {
                position,
                issued_s,
                readers,
            })
    }

    #[test]
    fn a_cursor_says_nothing_by_its_length() {
        let keyring = Keyring::generate().unwrap();
        let length = |sequence: u64| {
            let shards = (0..4).map(|shard| (format!("EV_a_1_{shard}").parse().unwrap(), sequence));
            let cursor = Cursor {
                position: shards.collect(),
                issued_s: 1,
                readers: vec![],
            };
            cursor.seal(&keyring, &fleet(1)).unwrap().len()
        };
        assert_eq!(length(1), length(u64::MAX));
    }

    #[test]
    fn two_cursors_of_one_position_differ() {
        let keyring = Keyring::generate().unwrap();
        let cursor = Cursor {
            position: PositionVector::new(),
            issued_s: 1,
            readers: vec![],
        };
        let seal = || cursor.seal(&keyring, &fleet(1)).unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn a_cursor_of_another_fleet_or_key_is_refused() {
        let (ours, theirs) = (Keyring::generate().unwrap(), Keyring::generate().unwrap());
        let cursor = Cursor {
            position: PositionVector::new(),
            issued_s: 1,
            readers: vec![],
        };
        let text = cursor.seal(&ours, &fleet(1)).unwrap();
        assert_eq!(Cursor::open(&ours, &fleet(1), &text), Ok(cursor));
        assert_eq!(
            Cursor::open(&ours, &fleet(2), &text),
            Err(CursorError::Foreign)
        );
        assert_eq!(
            Cursor::open(&theirs, &fleet(1), &text),
            Err(CursorError::Foreign)
        );
        assert_eq!(
            Cursor::open(&ours, &fleet(1), &"A".repeat(MAX_CURSOR_CHARS + 1)),
            Err(CursorError::TooLong {
                chars: MAX_CURSOR_CHARS + 1
            })
        );
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened(cursor in any_cursor()) {
            let keyring = Keyring::generate().unwrap();
            let text = cursor.seal(&keyring, &fleet(7)).unwrap();
            prop_assert_eq!(Cursor::open(&keyring, &fleet(7), &text), Ok(cursor));
        }

        #[test]
        fn a_changed_cursor_is_refused(cursor in any_cursor(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let keyring = Keyring::generate().unwrap();
            let text = cursor.seal(&keyring, &fleet(7)).unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Cursor::open(&keyring, &fleet(7), &URL_SAFE_NO_PAD.encode(bytes)).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,400}", bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let keyring = Keyring::generate().unwrap();
            let _ = Cursor::open(&keyring, &fleet(7), &text);
            let _ = Cursor::open(&keyring, &fleet(7), &URL_SAFE_NO_PAD.encode(&bytes));
            let _ = Cursor::read(&bytes);
        }
    }
}
