//! What the stored reads of one connection may take: one thread at a time, and in the long run a part of one core.
//!
//! A filter's limit bounds what a read sends, not what it costs: a filter can match little of much that is looked at. So time is
//! counted. Who has used too much waits before the next slice, and nobody is refused for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinError;

use super::Services;
use super::read::Lane;

/// What a connection that has read nothing for a while may take at once.
pub(super) const BURST: Duration = Duration::from_secs(2);

/// The turns of one connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ReadTurns {
    turn: Arc<Semaphore>,
    pace: Arc<Mutex<Pace>>,
}

impl ReadTurns {
    /// Of a connection that has read nothing yet.
    pub(super) fn new() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            pace: Arc::default(),
        }
    }

    /// Runs one slice of a read when it is this connection's turn, and the turn of this one among its reads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        services: &Services,
        lane: Lane,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // Never closed; without its turn it would only be less fair.
        let turn = self.turn.clone().acquire_owned().await.ok();
        let percent = services.config.load().limits.read_percent_per_connection;
        let wait = pace(&self.pace).wait(Instant::now(), percent);
        if let Some(wait) = wait {
            services.metrics.reads_paced.inc();
            tokio::time::sleep(wait).await;
        }
        let own = self.pace.clone();
        services
            .reads
            .run(lane, move || {
                // Also what nobody waits for any more was done, and no other slice of this connection begins before it ends.
                let _turn = turn;
                let began = Instant::now();
                let result = read();
                let ended = Instant::now();
                pace(&own).charge(ended, ended.duration_since(began), percent);
                result
            })
            .await
    }
}

#[cfg(test)]
impl ReadTurns {
    /// As if so much had just been taken.
    pub(super) fn take(&self, time: Duration) {
        pace(&self.pace).charge(Instant::now(), time, 1);
    }
}

fn pace(pace: &Mutex<Pace>) -> MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time that was taken and has not been paid for by waiting: a leaky bucket that one slice may overfill.
#[derive(Debug, Default)]
struct Pace {
    owed: Duration,
    /// Since when nothing was paid. `None`: nothing was ever owed.
    since: Option<Instant>,
}

impl Pace {
    /// How long the next slice has to wait, where `percent` of a core are paid back.
    fn wait(&mut self, now: Instant, percent: u32) -> Option<Duration> {
        self.pay(now, percent);
        let too_much = self.owed.checked_sub(BURST)?;
        let wait = too_much.saturating_mul(100) / percent.max(1);
        (!wait.is_zero()).then_some(wait)
    }

    fn charge(&mut self, now: Instant, spent: Duration, percent: u32) {
        self.pay(now, percent);
        self.owed = self.owed.saturating_add(spent);
    }

    fn pay(&mut self, now: Instant, percent: u32) {
        if let Some(since) = self.since {
            let paid = now.saturating_duration_since(since).saturating_mul(percent) / 100;
            self.owed = self.owed.saturating_sub(paid);
        }
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLICE: Duration = Duration::from_millis(10);

    /// How long a client that does nothing else waits for so many slices.
    fn time_for(slices: u32, percent: u32) -> Duration {
        let (mut pace, begin) = (Pace::default(), Instant::now());
        let mut now = begin;
        for _ in 0..slices {
            now += pace.wait(now, percent).unwrap_or_default();
            now += SLICE;
            pace.charge(now, SLICE, percent);
        }
        now - begin
    }

    #[test]
    fn a_read_of_the_usual_size_never_waits() {
        assert_eq!(time_for(200, 25), SLICE * 200);
    }

    #[test]
    fn a_greedy_connection_gets_its_part_of_a_core() {
        let taken = SLICE * 10_000;
        let rate = taken.as_secs_f64() / time_for(10_000, 25).as_secs_f64();
        assert!((0.25..0.27).contains(&rate), "{rate}");
    }

    #[test]
    fn all_of_a_core_is_no_bound() {
        assert_eq!(time_for(10_000, 100), SLICE * 10_000);
    }

    proptest! {
        #[test]
        fn what_was_waited_for_is_paid(spent_ms in 0u64..20_000, percent in 1u32..=100) {
            let (mut pace, now) = (Pace::default(), Instant::now());
            pace.charge(now, Duration::from_millis(spent_ms), percent);
            let wait = pace.wait(now, percent).unwrap_or_default();
            prop_assert_eq!(pace.wait(now + wait + Duration::from_nanos(100), percent), None);
            prop_assert!(wait <= Duration::from_millis(spent_ms * 100 / u64::from(percent)));
        }
    }
}
