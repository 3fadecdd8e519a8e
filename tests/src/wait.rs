//! Waiting for conditions, with a limit that is only ever reached when something is broken.

use std::time::{Duration, Instant};

/// How often a condition is looked at again.
const PAUSE: Duration = Duration::from_millis(50);

/// Calls `check` until it returns `Some`; panics with `what` and the last thing it said after `limit`.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let started = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(reason) if started.elapsed() > limit => {
                panic!("{what}: not within {limit:?}; {reason}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Like [`until`] for a condition that is a plain truth.
pub async fn until_true(what: &str, limit: Duration, mut check: impl FnMut() -> bool) {
    until(what, limit, async || {
        if check() {
            Ok(())
        } else {
            Err("the condition is false".to_owned())
        }
    })
    .await;
}
