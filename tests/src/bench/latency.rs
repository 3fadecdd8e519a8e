//! Latencies of one run: every one is kept, percentiles are exact.

use std::time::Duration;

use serde::Serialize;

/// What a run collected. Not sorted until asked.
#[derive(Debug, Default, Clone)]
pub struct Latencies(Vec<Duration>);

/// The figures that are reported, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many were measured.
    pub count: usize,
    /// Half were at or below.
    pub p50_ms: f64,
    /// 95 of 100 were at or below.
    pub p95_ms: f64,
    /// 99 of 100 were at or below.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// Adds all of another run.
    pub fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The figures; none if nothing was measured.
    #[must_use]
    pub fn summary(mut self) -> Option<Summary> {
        self.0.sort_unstable();
        let max = self.0.last()?;
        Some(Summary {
            count: self.0.len(),
            p50_ms: milliseconds(self.at(50)),
            p95_ms: milliseconds(self.at(95)),
            p99_ms: milliseconds(self.at(99)),
            max_ms: milliseconds(*max),
        })
    }

    /// Nearest rank: the smallest value that `percent` of 100 are at or below. Sorted and not empty.
    fn at(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank - 1]
    }
}

/// Milliseconds with three decimals: a microsecond is the finest a socket shows.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut latencies = Latencies::default();
        for n in (1..=200_u64).rev() {
            latencies.add(Duration::from_millis(n));
        }
        let summary = latencies.summary().unwrap();
        assert_eq!(summary.count, 200);
        assert_eq!(
            (
                summary.p50_ms,
                summary.p95_ms,
                summary.p99_ms,
                summary.max_ms
            ),
            (100.0, 190.0, 198.0, 200.0)
        );
    }

    #[test]
    fn one_value_is_every_percentile_and_none_is_no_figure() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.clone().summary(), None);
        latencies.add(Duration::from_micros(1_500));
        let summary = latencies.summary().unwrap();
        assert_eq!((summary.p50_ms, summary.max_ms), (1.5, 1.5));
    }
}
