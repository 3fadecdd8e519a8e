//! The relay's side of one set reconciliation (NIP-77, negentropy protocol 0x61): a set of times and ids, and what it says to
//! each message. No I/O; sets share the room that the relay has for them.

use std::sync::Arc;

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::event::EventId;
use crate::metrics::Metrics;

/// The least that the protocol can be limited to.
const LEAST_ANSWER: usize = 4096;

/// How many events the sets of all open reconciliations of a relay may hold.
#[derive(Debug, Clone)]
pub(super) struct SyncRoom {
    free: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl SyncRoom {
    /// Room for this many events.
    pub(super) fn new(events: usize, metrics: Arc<Metrics>) -> Self {
        Self {
            free: Arc::new(Semaphore::new(events.min(Semaphore::MAX_PERMITS))),
            metrics,
        }
    }

    fn take(&self, events: usize) -> Result<OwnedSemaphorePermit, NoRoom> {
        let events = u32::try_from(events).map_err(|_| NoRoom)?;
        self.free
            .clone()
            .try_acquire_many_owned(events)
            .map_err(|_| NoRoom)
    }
}

/// The relay holds as many sets as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

/// A set that is being collected. Gives its room back when dropped.
pub(super) struct Set {
    storage: NegentropyStorageVector,
    held: Held,
}

/// Room for the events of one set.
struct Held {
    room: SyncRoom,
    permit: Option<OwnedSemaphorePermit>,
    events: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Room first: who sees the gauge fall may count on it.
        drop(self.permit.take());
        let events = i64::try_from(self.events).unwrap_or(i64::MAX);
        self.room.metrics.reconciled_events.dec_by(events);
    }
}

impl Set {
    /// An empty set.
    pub(super) fn new(room: &SyncRoom) -> Self {
        Self {
            storage: NegentropyStorageVector::new(),
            held: Held {
                room: room.clone(),
                permit: None,
                events: 0,
            },
        }
    }

    /// Events in it.
    pub(super) fn len(&self) -> usize {
        self.held.events
    }

    /// Adds events by `created_at` (seconds) and id.
    pub(super) fn add(&mut self, events: &[(u64, EventId)]) -> Result<(), NoRoom> {
        let more = self.held.room.take(events.len())?;
        match &mut self.held.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        self.held.events += events.len();
        let added = i64::try_from(events.len()).unwrap_or(i64::MAX);
        self.held.room.metrics.reconciled_events.inc_by(added);
        for (created_at, id) in events {
            // Fails on a sealed set only, and sealing consumes this.
            let _ = self.storage.insert(*created_at, Id::from_byte_array(*id));
        }
        Ok(())
    }

    /// The finished set, as one side of a reconciliation whose answers have at most some `answer_bytes`.
    pub(super) fn seal(mut self, answer_bytes: usize) -> Result<Side, negentropy::Error> {
        self.storage.seal()?;
        let limit = u64::try_from(answer_bytes.max(LEAST_ANSWER)).unwrap_or(u64::MAX);
        Ok(Side {
            negentropy: Negentropy::owned(self.storage, limit)?,
            _held: self.held,
        })
    }
}

/// The relay's side of one reconciliation.
pub(super) struct Side {
    negentropy: Negentropy<'static, NegentropyStorageVector>,
    _held: Held,
}

impl Side {
    /// What it says to a message; an error if that is none of the protocol. Walks the set once, at most.
    pub(super) fn answer(&mut self, message: &[u8]) -> Result<Vec<u8>, negentropy::Error> {
        self.negentropy.reconcile(message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn room(events: usize) -> SyncRoom {
        SyncRoom::new(events, Arc::new(Metrics::new()))
    }

    fn id(number: u16) -> EventId {
        let mut id = [7; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        id
    }

    fn side(numbers: &[u16]) -> Side {
        let events: Vec<(u64, EventId)> = numbers
            .iter()
            .map(|number| (u64::from(number % 50), id(*number)))
            .collect();
        let mut set = Set::new(&room(10_000));
        set.add(&events).expect("room");
        set.seal(0).expect("a set")
    }

    #[test]
    fn sets_share_room_and_give_it_back() {
        let room = room(5);
        let (mut one, mut other) = (Set::new(&room), Set::new(&room));
        one.add(&[(1, id(1)), (2, id(2)), (3, id(3))])
            .expect("room");
        assert_eq!(
            other.add(&[(1, id(1)), (2, id(2)), (3, id(3))]),
            Err(NoRoom)
        );
        assert_eq!((one.len(), other.len()), (3, 0));
        assert_eq!(room.metrics.reconciled_events.get(), 3);
        let side = one.seal(0).expect("a set");
        assert_eq!(room.metrics.reconciled_events.get(), 3);
        drop(side);
        assert_eq!(room.metrics.reconciled_events.get(), 0);
        other
            .add(&[(1, id(1)), (2, id(2)), (3, id(3))])
            .expect("room again");
    }

    proptest! {
        #[test]
        fn any_message_is_answered_or_refused_without_panic(
            message in proptest::collection::vec(any::<u8>(), 0..200),
            versioned in any::<bool>(),
        ) {
            let message = if versioned { [&[0x61][..], &message].concat() } else { message };
            let _ = side(&(0..100).collect::<Vec<_>>()).answer(&message);
        }

        #[test]
        fn both_sides_learn_exactly_what_is_missing(
            shared in proptest::collection::btree_set(0u16..2_000, 0..300),
            ours in proptest::collection::btree_set(2_000u16..4_000, 0..100),
            theirs in proptest::collection::btree_set(4_000u16..6_000, 0..100),
        ) {
            let mut storage = NegentropyStorageVector::new();
            for number in shared.iter().chain(&theirs) {
                storage.insert(u64::from(number % 50), Id::from_byte_array(id(*number))).unwrap();
            }
            storage.seal().unwrap();
            let mut client = Negentropy::owned(storage, 4096).unwrap();
            let mut relay = side(&shared.iter().chain(&ours).copied().collect::<Vec<_>>());
            let (mut have, mut need) = (Vec::new(), Vec::new());
            let mut message = Some(client.initiate().unwrap());
            while let Some(question) = message {
                let answer = relay.answer(&question).unwrap();
                prop_assert!(answer.len() <= LEAST_ANSWER);
                message = client.reconcile_with_ids(&answer, &mut have, &mut need).unwrap();
            }
            let found = |ids: &[Id]| ids.iter().map(|id| u16::from_be_bytes([id[0], id[1]])).collect::<std::collections::BTreeSet<_>>();
            prop_assert_eq!(found(&have), theirs);
            prop_assert_eq!(found(&need), ours);
        }
    }
}
