//! Who may use the cluster at the same time: tests with a fleet of their own go on beside each other, then, one after the other, those
//! that take something from every fleet (the API server, nodes, links, rights) or that measure have the cluster alone.
//!
//! All tests wait here at once, so their order does not depend on their names: what can overlap does.

use std::sync::LazyLock;

use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit, watch};

/// Who uses the cluster, and who waits to use it beside others.
#[derive(Debug, Default)]
struct Users {
    beside: usize,
    alone: bool,
}

static USERS: LazyLock<watch::Sender<Users>> = LazyLock::new(watch::Sender::default);
/// Fleets that tests start for themselves at the same time: as many as two cores start in the time that a test allows.
static ROOM: Semaphore = Semaphore::const_new(3);
/// Operators are replaced, killed and stopped by one test at a time.
static OPERATORS: Mutex<()> = Mutex::const_new(());

/// A test goes on beside others until this is dropped.
#[derive(Debug)]
pub struct Beside {
    _room: Option<SemaphorePermit<'static>>,
    _operators: Option<MutexGuard<'static, ()>>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        USERS.send_modify(|users| users.beside -= 1);
    }
}

/// A test has the cluster alone until this is dropped.
#[derive(Debug)]
pub struct Alone(());

impl Drop for Alone {
    fn drop(&mut self) {
        USERS.send_modify(|users| users.alone = false);
    }
}

/// Waits until no test has the cluster alone, and there is room for one more fleet.
pub async fn beside() -> Beside {
    let mut turn = without_a_fleet().await;
    turn._room = Some(ROOM.acquire().await.expect("it is never closed"));
    turn
}

/// As [`beside`], and no other test does anything to operators meanwhile.
pub async fn with_operators() -> Beside {
    let mut turn = without_a_fleet().await;
    turn._operators = Some(OPERATORS.lock().await);
    turn._room = Some(ROOM.acquire().await.expect("it is never closed"));
    turn
}

/// As [`beside`], for a test that starts no fleet.
pub(super) async fn without_a_fleet() -> Beside {
    // Counted while it waits: who wants to be alone waits for it.
    USERS.send_modify(|users| users.beside += 1);
    let turn = Beside {
        _room: None,
        _operators: None,
    };
    let mut changes = USERS.subscribe();
    let free = changes.wait_for(|users| !users.alone).await;
    drop(free.expect("it is never closed"));
    turn
}

/// Waits until no other test uses the cluster or waits to use it beside others.
pub async fn alone() -> Alone {
    let mut changes = USERS.subscribe();
    loop {
        let free = changes
            .wait_for(|users| users.beside == 0 && !users.alone)
            .await;
        drop(free.expect("it is never closed"));
        let taken = USERS.send_if_modified(|users| {
            let free = users.beside == 0 && !users.alone;
            users.alone |= free;
            free
        });
        if taken {
            return Alone(());
        }
    }
}
