//! The fleet's lists of keys, events and kinds, and how a change of them is ordered. Pure.
//!
//! Every entry of a list is a register: on or off, with the stamp of the call that set it last. The greater stamp wins, so that
//! changes commute and a call that comes twice changes nothing.

use crate::event::{EventId, PublicKey};

/// The lists that administrators keep (NIP-86).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum List {
    /// Keys whose events are refused and hidden.
    BannedPubkeys,
    /// Keys that may publish where only keys on the allow list may.
    AllowedPubkeys,
    /// Events that are refused and hidden.
    BannedEvents,
    /// Events that are taken, whoever signed them, where only keys on the allow list may publish.
    AllowedEvents,
    /// Kinds that are taken where only allowed kinds are.
    AllowedKinds,
    /// Kinds that are refused.
    DisallowedKinds,
}

impl List {
    /// Every list.
    pub const ALL: [List; 6] = [
        List::BannedPubkeys,
        List::AllowedPubkeys,
        List::BannedEvents,
        List::AllowedEvents,
        List::AllowedKinds,
        List::DisallowedKinds,
    ];
}

/// What an entry of a list is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A public key.
    Pubkey(PublicKey),
    /// An event id.
    Event(EventId),
    /// A kind.
    Kind(u16),
}

/// When a change was signed: by the administrator's clock, then by the id of the signed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// `created_at` of the call's NIP-98 event, in seconds.
    pub created_at: u64,
    /// Its id.
    pub id: EventId,
}

impl Stamp {
    /// Whether a change with this stamp stands against one with the other: it is later, or as late with a lower id (as NIP-01
    /// orders replaceable events).
    pub fn beats(&self, other: &Stamp) -> bool {
        self.created_at > other.created_at
            || (self.created_at == other.created_at && self.id < other.id)
    }
}

/// A change of one target: it is put on some lists and taken off others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is about.
    pub target: Target,
    /// The lists, and whether the target is on them afterwards.
    pub moves: &'static [(List, bool)],
    /// Why, in the administrator's words.
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_stamps_exactly_one_stands() {
        let stamp = |created_at, id| Stamp {
            created_at,
            id: [id; 32],
        };
        let ordered = [stamp(2, 9), stamp(1, 1), stamp(1, 2)];
        for (place, stamp) in ordered.iter().enumerate() {
            assert!(!stamp.beats(stamp));
            for weaker in &ordered[place + 1..] {
                assert!(stamp.beats(weaker) && !weaker.beats(stamp));
            }
        }
    }
}
