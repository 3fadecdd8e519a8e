//! The share of the log that publishers without AUTH may fill: a bucket of bytes that refills over the retention.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nightjar_config::RelayConfig;

use super::refusal::Refusal;

/// The bucket. It lives in memory: after a restart it is full again.
#[derive(Debug)]
pub(super) struct UnauthenticatedShare {
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Most bytes, and how many come back a second.
    capacity: f64,
    per_second: f64,
    left: f64,
    at: Instant,
}

/// This region's part of the index, times the share; and how fast the retention frees it again.
fn capacity(config: &RelayConfig) -> (f64, f64) {
    #[allow(clippy::cast_precision_loss, reason = "byte counts far below 2^53")]
    let index = config.index.max_bytes as f64 / config.log.regions.len().max(1) as f64;
    #[allow(clippy::cast_precision_loss, reason = "seconds far below 2^53")]
    let retention = config.log.message_retention_seconds as f64;
    let capacity = index * config.limits.unauthenticated_log_share;
    (capacity, capacity / retention.max(1.0))
}

impl UnauthenticatedShare {
    pub(super) fn new(config: &RelayConfig) -> Self {
        let (capacity, per_second) = capacity(config);
        Self {
            bucket: Mutex::new(Bucket {
                capacity,
                per_second,
                left: capacity,
                at: Instant::now(),
            }),
        }
    }

    pub(super) fn reconfigure(&self, config: &RelayConfig) {
        let mut bucket = self.lock();
        (bucket.capacity, bucket.per_second) = capacity(config);
        bucket.left = bucket.left.min(bucket.capacity);
    }

    pub(super) fn take(&self, bytes: usize, now: Instant) -> Result<(), Refusal> {
        let mut bucket = self.lock();
        let refill = now.saturating_duration_since(bucket.at).as_secs_f64() * bucket.per_second;
        bucket.left = (bucket.left + refill).min(bucket.capacity);
        bucket.at = now;
        #[allow(
            clippy::cast_precision_loss,
            reason = "an event is far below 2^53 bytes"
        )]
        let bytes = bytes as f64;
        if bucket.left < bytes {
            return Err(Refusal::ShareUsed);
        }
        bucket.left -= bytes;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_share_empties_and_refills_over_the_retention() {
        let start = Instant::now();
        let share = UnauthenticatedShare {
            bucket: Mutex::new(Bucket {
                capacity: 1000.0,
                per_second: 10.0,
                left: 1000.0,
                at: start,
            }),
        };
        share.take(900, start).expect("room");
        assert_eq!(share.take(200, start), Err(Refusal::ShareUsed));
        share
            .take(200, start + Duration::from_secs(10))
            .expect("100 bytes came back");
        assert_eq!(
            share.take(1, start + Duration::from_secs(10)),
            Err(Refusal::ShareUsed)
        );
        share
            .take(1000, start + Duration::from_secs(3600))
            .expect("full, not more than full");
    }
}
