//! Who may use the cluster at the same time: tests with a fleet of their own go on beside each other; a test that does something to
//! operators, nodes or links, or that measures, has the cluster alone.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURN: RwLock<()> = RwLock::const_new(());

/// A test goes on beside others until this is dropped.
#[derive(Debug)]
pub struct Beside {
    _turn: RwLockReadGuard<'static, ()>,
}

/// A test has the cluster alone until this is dropped.
#[derive(Debug)]
pub struct Alone {
    _turn: RwLockWriteGuard<'static, ()>,
}

/// Waits until no test has the cluster alone.
pub async fn beside() -> Beside {
    Beside {
        _turn: TURN.read().await,
    }
}

/// Waits until no other test uses the cluster.
pub async fn alone() -> Alone {
    Alone {
        _turn: TURN.write().await,
    }
}
