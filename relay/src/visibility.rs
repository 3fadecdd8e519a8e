//! The one read door: who may read what. Every answer (stored, live, by id, counted) passes [`may_read`]. Pure.
//!
//! Gift wraps go to their authenticated recipients only; a request to vanish, and a deletion request that may be about a
//! gift wrap, to their author only (NIP-17, NIP-42, NIP-59). No answer tells a stranger that a hidden event exists.

#[cfg(test)]
mod tests;

use crate::event::{Audience, Event, PublicKey};
use crate::filter::Filter;

/// The public keys that authenticated on a connection (NIP-42 allows several). Empty: a stranger.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Readers(Vec<PublicKey>);

/// Shows how many keys there are, not which: a key next to a connection stays out of logs.
impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Readers({} keys)", self.0.len())
    }
}

impl Readers {
    /// Nobody has authenticated.
    pub fn anonymous() -> Readers {
        Readers::default()
    }

    /// Adds a key that authenticated.
    pub fn insert(&mut self, key: PublicKey) {
        if let Err(place) = self.0.binary_search(&key) {
            self.0.insert(place, key);
        }
    }

    /// Whether this key authenticated.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.0.binary_search(key).is_ok()
    }

    /// Nobody has authenticated.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys, in order.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> + Clone {
        self.0.iter()
    }
}

impl FromIterator<PublicKey> for Readers {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Readers {
        let mut readers = Readers::default();
        keys.into_iter().for_each(|key| readers.insert(key));
        readers
    }
}

/// Proof that the door was asked: only this module makes one. Functions that write an event to a client take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit(());

/// Whether these readers may read this event, or learn that it exists.
pub fn may_read(event: &Event, readers: &Readers) -> Option<Permit> {
    may_read_audience(&event.audience(), readers)
}

/// The same for an event whose audience is already known.
pub fn may_read_audience(audience: &Audience, readers: &Readers) -> Option<Permit> {
    let allowed = match audience {
        Audience::Public => true,
        Audience::Only(keys) => keys.iter().any(|key| readers.contains(key)),
    };
    allowed.then_some(Permit(()))
}

/// What to do with a REQ before any event is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterGate {
    /// Answer it; hidden events are left out silently.
    Open,
    /// `CLOSED auth-required:`: it names gift wraps and nobody has authenticated.
    AuthRequired,
}

/// Depends on the filters and on whether anyone authenticated, never on what is stored.
pub fn gate_filter(filters: &[Filter], readers: &Readers) -> FilterGate {
    if readers.is_empty() && filters.iter().any(Filter::names_private_kind) {
        FilterGate::AuthRequired
    } else {
        FilterGate::Open
    }
}
