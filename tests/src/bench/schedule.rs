//! Open-loop load: when each send is due, kept by a thread of its own, since the runtime's timer is only good to a millisecond.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// A steady schedule: send `n` is due at `start + n / rate`.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start: Instant,
    per_second: f64,
}

impl Schedule {
    /// A schedule that begins a little later, so that every task is waiting when the first send is due.
    #[must_use]
    pub fn soon(per_second: f64) -> Self {
        Self {
            start: Instant::now() + Duration::from_millis(100),
            per_second,
        }
    }

    /// When send `n` is due.
    #[must_use]
    pub fn due(&self, n: usize) -> Instant {
        self.start + Duration::from_secs_f64(n as f64 / self.per_second)
    }

    /// Calls the numbers 0 to `count - 1`, each when it is due and never before; when late, at once.
    pub fn ticks(self, count: usize) -> mpsc::UnboundedReceiver<usize> {
        let (sender, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for n in 0..count {
                std::thread::sleep(self.due(n).saturating_duration_since(Instant::now()));
                if sender.send(n).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_tick_comes_before_it_is_due_and_all_come() {
        let schedule = Schedule::soon(1_000.0);
        let mut ticks = schedule.ticks(50);
        for n in 0..50 {
            assert_eq!(ticks.recv().await, Some(n));
            assert!(Instant::now() >= schedule.due(n));
        }
        assert_eq!(ticks.recv().await, None);
    }
}
