//! Client addresses, known only as salted hashes of their prefix (IPv4 /32, IPv6 /64). The salt changes every hour.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After this time nobody can tell any more which address a hash was.
const SALT_KEPT: Duration = Duration::from_secs(3600);

/// The hash of an address prefix under the salt of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressKey(u64);

impl AddressKey {
    /// 16 hex digits.
    pub fn to_hex(self) -> String {
        format!("{:016x}", self.0)
    }

    #[cfg(test)]
    pub(crate) fn for_tests(hash: u64) -> Self {
        Self(hash)
    }
}

/// Counts the connections of each address.
#[derive(Debug, Clone, Default)]
pub(super) struct AddressBook {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    salt: RandomState,
    /// The salt before: its connections still count.
    previous: RandomState,
    since: Instant,
    connections: HashMap<AddressKey, usize>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            salt: RandomState::new(),
            previous: RandomState::new(),
            since: Instant::now(),
            connections: HashMap::new(),
        }
    }
}

/// The place of one connection in the count of its address.
#[derive(Debug)]
pub struct AddressPermit {
    key: AddressKey,
    book: AddressBook,
}

impl AddressPermit {
    /// The key of the address's buckets.
    pub fn key(&self) -> AddressKey {
        self.key
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut state = self.book.lock();
        if let Some(count) = state.connections.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                state.connections.remove(&self.key);
            }
        }
    }
}

impl AddressBook {
    /// Counts a connection, unless its address has `limit` of them already.
    pub(super) fn connect(&self, address: IpAddr, limit: usize) -> Option<AddressPermit> {
        let prefix = prefix(address);
        let mut state = self.lock();
        let key = AddressKey(state.salt.hash_one(prefix));
        let older = AddressKey(state.previous.hash_one(prefix));
        let open = |key| state.connections.get(key).copied().unwrap_or(0);
        if open(&key) + open(&older) >= limit {
            return None;
        }
        *state.connections.entry(key).or_default() += 1;
        drop(state);
        Some(AddressPermit {
            key,
            book: self.clone(),
        })
    }

    /// The key of an address's buckets, without a connection.
    pub(super) fn key(&self, address: IpAddr) -> AddressKey {
        AddressKey(self.lock().salt.hash_one(prefix(address)))
    }

    /// Takes a new salt when the old one has served its time.
    pub(super) fn rotate_salt(&self, now: Instant) {
        let mut state = self.lock();
        if now.duration_since(state.since) >= SALT_KEPT {
            state.previous = std::mem::replace(&mut state.salt, RandomState::new());
            state.since = now;
        }
        state.connections.shrink_to_fit();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn addresses(&self) -> usize {
        self.lock().connections.len()
    }
}

/// What counts as one client: an IPv4 address, or the /64 that a household or host has.
fn prefix(address: IpAddr) -> [u8; 8] {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            // No IPv6 prefix that is in use begins with ffff.
            [0xff, 0xff, 0, 0, a, b, c, d]
        }
        IpAddr::V6(v6) => {
            let mut prefix = [0; 8];
            prefix.copy_from_slice(&v6.octets()[..8]);
            prefix
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn connections_count_per_prefix_and_return_to_zero() {
        let book = AddressBook::default();
        let first = book.connect(address("2001:db8:1:2::1"), 2).expect("room");
        let second = book
            .connect(address("2001:db8:1:2:ffff::9"), 2)
            .expect("room");
        assert!(
            book.connect(address("2001:db8:1:2::77"), 2).is_none(),
            "the same /64"
        );
        let other = book
            .connect(address("2001:db8:1:3::1"), 2)
            .expect("another /64");
        drop(first);
        let third = book
            .connect(address("2001:db8:1:2::77"), 2)
            .expect("room again");
        drop((second, other, third));
        assert_eq!(book.addresses(), 0);
    }

    #[test]
    fn an_ipv4_address_inside_ipv6_is_the_same_client() {
        assert_eq!(
            prefix(address("::ffff:192.0.2.7")),
            prefix(address("192.0.2.7"))
        );
    }

    #[test]
    fn a_new_salt_hides_the_old_key_and_keeps_the_count() {
        let book = AddressBook::default();
        let before = book.connect(address("192.0.2.7"), 2).expect("room");
        book.rotate_salt(Instant::now() + SALT_KEPT);
        let after = book.connect(address("192.0.2.7"), 2).expect("room");
        assert_ne!(before.key(), after.key());
        assert!(book.connect(address("192.0.2.7"), 2).is_none());
    }
}
