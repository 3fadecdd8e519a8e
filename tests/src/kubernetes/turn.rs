//! Who may use the cluster at the same time: tests with a fleet of their own go on beside each other; a test that does something to
//! operators, nodes or links, or that measures, has the cluster alone.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore, SemaphorePermit};

static TURN: RwLock<()> = RwLock::const_new(());
/// Tests that go on beside each other: as many fleets as two cores start in the time that a test allows.
static ROOM: Semaphore = Semaphore::const_new(3);

/// A test goes on beside others until this is dropped.
#[derive(Debug)]
pub struct Beside {
    _turn: RwLockReadGuard<'static, ()>,
    _room: SemaphorePermit<'static>,
}

/// A test has the cluster alone until this is dropped.
#[derive(Debug)]
pub struct Alone {
    _turn: RwLockWriteGuard<'static, ()>,
}

/// Waits until no test has the cluster alone, and there is room for one more.
pub async fn beside() -> Beside {
    let room = ROOM.acquire().await.expect("it is never closed");
    Beside {
        _turn: TURN.read().await,
        _room: room,
    }
}

/// Waits until no other test uses the cluster.
pub async fn alone() -> Alone {
    Alone {
        _turn: TURN.write().await,
    }
}
