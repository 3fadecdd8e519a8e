//! What relays tell each other of the budgets of keys: how many events each key has spent since the message before. Lost messages are lost.
//!
//! `version u8 | key epoch u32 | nonce 24 | ciphertext and tag`, all numbers big-endian. The key is derived from the epoch's key under the label
//! `spending`. Plaintext, padded with zeros to 1 KiB or the next power of two:
//! `sent_ms u64 | sender 16 | serial u64 | count u16 | count x (public key 32, events u32)`.

use std::fmt;

use crate::keyring::{Keyring, Purpose};
use crate::name::{Class, FleetId, RegionName};
use crate::small::{self, HEADER_BYTES, NoRandom, NotOpened, TAG_BYTES, VERSION, take};

/// Most keys in one message.
pub const MAX_SPENDING_KEYS: usize = 1_000;

/// Plaintext ahead of the keys.
const PREFIX_BYTES: usize = 8 + 16 + 8 + 2;
const ENTRY_BYTES: usize = 32 + 4;
/// The shortest plaintext, so that a message's length says little of how many keys spend.
const LEAST_BYTES: usize = 1024;
const MOST_BYTES: usize = (PREFIX_BYTES + MAX_SPENDING_KEYS * ENTRY_BYTES).next_power_of_two();
/// Last token of the subject. No event's subject has it.
const SUBJECT_TOKEN: &str = "spent";

/// One message of one relay.
#[derive(Clone, PartialEq, Eq)]
pub struct Spending {
    /// When it was sent: Unix time in milliseconds.
    pub sent_ms: u64,
    /// Drawn at random by the relay's process when it started.
    pub sender: [u8; 16],
    /// Grows with each message of the sender.
    pub serial: u64,
    /// Keys and the events that each spent, at most [`MAX_SPENDING_KEYS`].
    pub spent: Vec<([u8; 32], u32)>,
}

/// Shows how many keys, not which.
impl fmt::Debug for Spending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spending")
            .field("sent_ms", &self.sent_ms)
            .field("serial", &self.serial)
            .field("keys", &self.spent.len())
            .finish_non_exhaustive()
    }
}

/// Why a message was not made or not read. No text repeats any part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpendingError {
    /// More keys than fit.
    #[error("{keys} keys, the limit is {MAX_SPENDING_KEYS}")]
    TooMany {
        /// Keys given.
        keys: usize,
    },
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
    /// Written by a later version.
    #[error("version {0} is not supported, this relay reads version {VERSION}")]
    Version(u8),
    /// Its key is not here, or was destroyed.
    #[error("its key epoch cannot be opened")]
    Key,
    /// Changed, of another fleet or region, or of another layout.
    #[error("it was not made by this fleet for this region, or it was changed")]
    Foreign,
}

impl Spending {
    /// `eph.<region>.spent`: core NATS, never in a stream. It lies under what relays may publish and hear anyway.
    #[must_use]
    pub fn subject(region: &RegionName) -> String {
        format!(
            "{}.{region}.{SUBJECT_TOKEN}",
            Class::Ephemeral.subject_prefix()
        )
    }

    /// The region that [`Spending::subject`] names; none for every other subject.
    #[must_use]
    pub fn region_of(subject: &str) -> Option<RegionName> {
        let mut tokens = subject.split('.');
        let is_ephemeral = tokens.next()? == Class::Ephemeral.subject_prefix();
        let region = tokens.next()?.parse().ok()?;
        let is_whole = tokens.next()? == SUBJECT_TOKEN && tokens.next().is_none();
        (is_ephemeral && is_whole).then_some(region)
    }

    /// Seals the message of a relay of this region, under the sealing epoch and a fresh random nonce.
    pub fn seal(
        &self,
        keyring: &Keyring,
        fleet: &FleetId,
        region: &RegionName,
    ) -> Result<Vec<u8>, SpendingError> {
        let keys = self.spent.len();
        let count = u16::try_from(keys)
            .ok()
            .filter(|_| keys <= MAX_SPENDING_KEYS)
            .ok_or(SpendingError::TooMany { keys })?;
        let padded = (PREFIX_BYTES + keys * ENTRY_BYTES)
            .next_power_of_two()
            .max(LEAST_BYTES);
        let mut body = Vec::with_capacity(padded);
        body.extend(self.sent_ms.to_be_bytes());
        body.extend(self.sender);
        body.extend(self.serial.to_be_bytes());
        body.extend(count.to_be_bytes());
        for (key, events) in &self.spent {
            body.extend(key);
            body.extend(events.to_be_bytes());
        }
        let bound_to = [&fleet.as_bytes()[..], region.as_str().as_bytes()];
        small::seal(keyring, Purpose::Spending, &bound_to, &body, padded)
            .map_err(|NoRandom| SpendingError::Random)
    }

    /// Opens a message that came under the subject of this region.
    pub fn open(
        keyring: &Keyring,
        fleet: &FleetId,
        region: &RegionName,
        bytes: &[u8],
    ) -> Result<Self, SpendingError> {
        if bytes.len() > HEADER_BYTES + MOST_BYTES + TAG_BYTES {
            return Err(SpendingError::Foreign);
        }
        let bound_to = [&fleet.as_bytes()[..], region.as_str().as_bytes()];
        let plaintext = small::open(keyring, Purpose::Spending, &bound_to, bytes).map_err(
            |error| match error {
                NotOpened::Version(version) => SpendingError::Version(version),
                NotOpened::Key => SpendingError::Key,
                NotOpened::Foreign => SpendingError::Foreign,
            },
        )?;
        Self::read(&plaintext).ok_or(SpendingError::Foreign)
    }

    fn read(mut rest: &[u8]) -> Option<Self> {
        let rest = &mut rest;
        let sent_ms = u64::from_be_bytes(take(rest)?);
        let sender = take(rest)?;
        let serial = u64::from_be_bytes(take(rest)?);
        let count = usize::from(u16::from_be_bytes(take(rest)?));
        if count > MAX_SPENDING_KEYS {
            return None;
        }
        let spent = (0..count)
            .map(|_| Some((take(rest)?, u32::from_be_bytes(take(rest)?))))
            .collect::<Option<_>>()?;
        rest.iter().all(|byte| *byte == 0).then_some(Self {
            sent_ms,
            sender,
            serial,
            spent,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::Route;

    fn fleet(byte: u8) -> FleetId {
        FleetId::from_bytes([byte; 16])
    }

    fn region(name: &str) -> RegionName {
        name.parse().unwrap()
    }

    fn of_keys(keys: usize) -> Spending {
        Spending {
            sent_ms: 1,
            sender: [2; 16],
            serial: 3,
            spent: vec![([7; 32], 9); keys],
        }
    }

    #[test]
    fn the_subject_is_no_event_s_and_names_its_region() {
        let subject = Spending::subject(&region("eu-west"));
        assert_eq!(subject, "eph.eu-west.spent");
        assert_eq!(Spending::region_of(&subject), Some(region("eu-west")));
        assert!(Route::from_subject(&subject).is_err());
        for other in [
            "eph.eu.0.0.1",
            "ev.eu.spent",
            "eph.eu.spent.x",
            "eph.eu",
            "eph.*.spent",
        ] {
            assert_eq!(Spending::region_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_length_says_little_and_a_message_is_bounded() {
        let keyring = Keyring::generate().unwrap();
        let len = |keys| {
            let sealed = of_keys(keys).seal(&keyring, &fleet(1), &region("a"));
            sealed.map(|bytes| bytes.len())
        };
        assert_eq!(len(0).unwrap(), len(27).unwrap());
        assert!(len(28).unwrap() > len(27).unwrap());
        assert!(len(MAX_SPENDING_KEYS).unwrap() <= MOST_BYTES + HEADER_BYTES + TAG_BYTES);
        assert_eq!(
            len(MAX_SPENDING_KEYS + 1),
            Err(SpendingError::TooMany { keys: 1_001 })
        );
    }

    #[test]
    fn no_other_fleet_region_key_or_version_opens_it() {
        let keyring = Keyring::generate().unwrap();
        let sealed = of_keys(2).seal(&keyring, &fleet(1), &region("a")).unwrap();
        let open = |keyring: &Keyring, fleet: FleetId, name: &str, bytes: &[u8]| {
            Spending::open(keyring, &fleet, &region(name), bytes)
        };
        assert_eq!(open(&keyring, fleet(1), "a", &sealed), Ok(of_keys(2)));
        let foreign = Err(SpendingError::Foreign);
        assert_eq!(open(&keyring, fleet(2), "a", &sealed), foreign);
        assert_eq!(open(&keyring, fleet(1), "b", &sealed), foreign);
        let other = Keyring::generate().unwrap();
        assert!(open(&other, fleet(1), "a", &sealed).is_err());
        let mut later = sealed;
        later[0] = 2;
        assert_eq!(
            open(&keyring, fleet(1), "a", &later),
            Err(SpendingError::Version(2))
        );
    }

    #[test]
    fn keys_and_counts_are_not_in_what_nats_sees() {
        let keyring = Keyring::generate().unwrap();
        let sealed = of_keys(20).seal(&keyring, &fleet(1), &region("a")).unwrap();
        assert!(!sealed.windows(32).any(|window| window == [7; 32]));
        assert!(!format!("{:?}", of_keys(1)).contains("7, 7"));
    }

    proptest! {
        #[test]
        fn what_is_sealed_reads_back(
            sent_ms: u64, sender: [u8; 16], serial: u64,
            spent in proptest::collection::vec(any::<([u8; 32], u32)>(), 0..60),
        ) {
            let keyring = Keyring::generate().unwrap();
            let spending = Spending { sent_ms, sender, serial, spent };
            let sealed = spending.seal(&keyring, &fleet(1), &region("a")).unwrap();
            prop_assert_eq!(Spending::open(&keyring, &fleet(1), &region("a"), &sealed).unwrap(), spending);
        }

        #[test]
        fn a_changed_or_cut_message_is_refused(at: prop::sample::Index, bit in 0_u32..8, cut: bool) {
            let keyring = Keyring::generate().unwrap();
            let mut sealed = of_keys(3).seal(&keyring, &fleet(1), &region("a")).unwrap();
            let at = at.index(sealed.len());
            if cut {
                sealed.truncate(at);
            } else {
                sealed[at] ^= 1 << bit;
            }
            prop_assert!(Spending::open(&keyring, &fleet(1), &region("a"), &sealed).is_err());
        }

        #[test]
        fn any_plaintext_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Spending::read(&bytes);
        }

        #[test]
        fn any_subject_is_read_or_refused(text in "(eph|ev)?(\\.[a-z0-9*>-]{0,5}){0,4}|\\PC*") {
            if let Some(region) = Spending::region_of(&text) {
                prop_assert_eq!(Spending::subject(&region), text);
            }
        }
    }
}
