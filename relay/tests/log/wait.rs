//! Waits for conditions, never for time alone.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// Asks until the answer is there; panics with the last refusal.
pub(crate) async fn until<T, E: std::fmt::Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(refusal) => assert!(began.elapsed() < LIMIT, "{what}: {refusal:?}"),
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A port of loopback that was free just now, at random from below those that the system gives to outgoing connections: nobody else is
/// handed it before its server listens. No two tests of this run get the same.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(10_000..15_000);
        let is_new = GIVEN.lock().expect("no panic").insert(port);
        if is_new && std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
