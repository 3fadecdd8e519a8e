//! Bytes of events between admission and their answer, bounded per connection and for the whole relay.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::refusal::Refusal;
use crate::metrics::{LimitRule, Metrics};

/// The counters of one connection and of the relay.
#[derive(Debug, Clone)]
pub(super) struct InFlight {
    connection: Arc<AtomicUsize>,
    relay: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

/// Room for one event; given back when dropped.
#[derive(Debug)]
pub struct InFlightPermit {
    counters: InFlight,
    bytes: usize,
}

impl InFlight {
    pub(super) fn for_relay(metrics: Arc<Metrics>) -> Self {
        Self {
            connection: Arc::default(),
            relay: Arc::default(),
            metrics,
        }
    }

    /// Counters of a new connection of the same relay.
    pub(super) fn for_connection(&self) -> Self {
        Self {
            connection: Arc::default(),
            ..self.clone()
        }
    }

    pub(super) fn take(
        &self,
        bytes: usize,
        connection_limit: usize,
        relay_limit: usize,
    ) -> Result<InFlightPermit, Refusal> {
        if !add_within(&self.connection, bytes, connection_limit) {
            let text = format!(
                "more than {connection_limit} bytes of events await their answer on this connection"
            );
            return Err(Refusal::limited(LimitRule::in_flight_connection, text));
        }
        if !add_within(&self.relay, bytes, relay_limit) {
            self.connection.fetch_sub(bytes, Ordering::Relaxed);
            let text = "this relay has too many events under way, try again";
            return Err(Refusal::limited(LimitRule::in_flight_relay, text));
        }
        self.metrics.in_flight_publish_bytes.inc_by(as_gauge(bytes));
        Ok(InFlightPermit {
            counters: self.clone(),
            bytes,
        })
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.counters
            .connection
            .fetch_sub(self.bytes, Ordering::Relaxed);
        self.counters.relay.fetch_sub(self.bytes, Ordering::Relaxed);
        self.counters
            .metrics
            .in_flight_publish_bytes
            .dec_by(as_gauge(self.bytes));
    }
}

fn add_within(counter: &AtomicUsize, bytes: usize, limit: usize) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            now.checked_add(bytes).filter(|sum| *sum <= limit)
        })
        .is_ok()
}

fn as_gauge(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_per_connection_and_relay_and_returns_to_zero() {
        let metrics = Arc::new(Metrics::new());
        let relay = InFlight::for_relay(metrics.clone());
        let (one, two) = (relay.for_connection(), relay.for_connection());
        let first = one.take(60, 100, 150).expect("room");
        assert_eq!(
            one.take(60, 100, 150).expect_err("connection").rule(),
            Some(LimitRule::in_flight_connection)
        );
        let second = two.take(60, 100, 150).expect("room");
        assert_eq!(
            two.take(40, 100, 150).expect_err("relay").rule(),
            Some(LimitRule::in_flight_relay)
        );
        assert_eq!(metrics.in_flight_publish_bytes.get(), 120);
        drop((first, second));
        assert_eq!(metrics.in_flight_publish_bytes.get(), 0);
        one.take(100, 100, 150).expect("all is given back");
    }
}
