//! Token buckets: per connection, and per address prefix by its salted hash.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use nightjar_config::Limits;

use super::address::AddressKey;
use super::refusal::Refusal;
use crate::metrics::LimitRule;

/// Messages that are no EVENT, REQ or AUTH: answered at this pace, then at the pace of their answers' sender.
const OTHER_MESSAGES: (f64, u32) = (20.0, 100);

/// The buckets of one connection.
#[derive(Debug)]
pub struct ConnectionRates {
    events: DefaultDirectRateLimiter,
    reqs: DefaultDirectRateLimiter,
    auths: DefaultDirectRateLimiter,
    others: DefaultDirectRateLimiter,
}

impl ConnectionRates {
    pub(super) fn new(limits: &Limits) -> Self {
        let per_minute = limits.auth_attempts_per_minute;
        Self {
            events: RateLimiter::direct(quota(
                limits.events_per_second_per_connection,
                limits.events_burst_per_connection,
            )),
            reqs: RateLimiter::direct(quota(
                limits.reqs_per_second_per_connection,
                limits.reqs_burst_per_connection,
            )),
            auths: RateLimiter::direct(quota(f64::from(per_minute) / 60.0, per_minute)),
            others: RateLimiter::direct(quota(OTHER_MESSAGES.0, OTHER_MESSAGES.1)),
        }
    }

    pub(super) fn check_event(&self) -> Result<(), Refusal> {
        check(
            &self.events,
            LimitRule::events_connection,
            "events of this connection",
        )
    }

    pub(super) fn check_req(&self) -> Result<(), Refusal> {
        check(
            &self.reqs,
            LimitRule::reqs_connection,
            "REQs and other reads of this connection",
        )
    }

    /// How long to wait before a message that costs a read and belongs to one that is open already: it is not refused, since
    /// that would end what it belongs to.
    pub fn pause_before_read(&self) -> Option<Duration> {
        wait(&self.reqs)
    }

    pub(super) fn check_auth(&self) -> Result<(), Refusal> {
        check(
            &self.auths,
            LimitRule::auth_attempts,
            "AUTH attempts of this connection",
        )
    }

    /// How long to wait before the next message is read, after one that is no EVENT, REQ or AUTH and closes no open
    /// subscription. Such a message is always answered; a client that sends many only slows itself down.
    pub fn pause_after_other(&self) -> Option<Duration> {
        wait(&self.others)
    }
}

fn wait(bucket: &DefaultDirectRateLimiter) -> Option<Duration> {
    bucket
        .check()
        .err()
        .map(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
}

/// The buckets of all addresses.
#[derive(Debug)]
pub(super) struct AddressRates {
    events: DefaultKeyedRateLimiter<AddressKey>,
    /// What the buckets were made for.
    quota: Quota,
}

impl AddressRates {
    pub(super) fn new(limits: &Limits) -> Self {
        let quota = quota_per_address(limits);
        Self {
            events: RateLimiter::keyed(quota),
            quota,
        }
    }

    /// Whether these buckets are the ones that `limits` ask for.
    pub(super) fn fit(&self, limits: &Limits) -> bool {
        self.quota == quota_per_address(limits)
    }

    pub(super) fn check_event(&self, address: &AddressKey) -> Result<(), Refusal> {
        self.events.check_key(address).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            refusal(LimitRule::events_address, "events of this address", wait)
        })
    }

    /// Forgets addresses whose bucket is full again.
    pub(super) fn forget_idle(&self) {
        self.events.retain_recent();
        self.events.shrink_to_fit();
    }
}

fn quota_per_address(limits: &Limits) -> Quota {
    quota(
        limits.events_per_second_per_address,
        limits.events_burst_per_address,
    )
}

fn check(bucket: &DefaultDirectRateLimiter, rule: LimitRule, what: &str) -> Result<(), Refusal> {
    bucket.check().map_err(|not_until| {
        refusal(
            rule,
            what,
            not_until.wait_time_from(DefaultClock::default().now()),
        )
    })
}

fn refusal(rule: LimitRule, what: &str, wait: Duration) -> Refusal {
    Refusal::limited(
        rule,
        format!("too many {what}, try again in {} ms", wait.as_millis() + 1),
    )
}

/// A bucket that fills at `per_second` and holds `burst`. Both were checked with the configuration; out of range they are
/// taken as the nearest that a bucket can do.
fn quota(per_second: f64, burst: u32) -> Quota {
    let period = Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::from_secs(3600));
    Quota::with_period(period.max(Duration::from_nanos(1)))
        .unwrap_or(Quota::per_second(NonZeroU32::MIN))
        .allow_burst(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_names_the_wait() {
        let limits = Limits {
            events_burst_per_connection: 3,
            events_per_second_per_connection: 0.01,
            ..Limits::default()
        };
        let rates = ConnectionRates::new(&limits);
        for _ in 0..3 {
            rates.check_event().expect("within the burst");
        }
        let refusal = rates.check_event().expect_err("the bucket is empty");
        assert_eq!(refusal.rule(), Some(LimitRule::events_connection));
        assert!(
            refusal
                .to_string()
                .starts_with("rate-limited: too many events of this connection, try again in ")
        );
        rates.check_req().expect("another bucket");
    }

    #[test]
    fn addresses_do_not_share_a_bucket() {
        let limits = Limits {
            events_burst_per_address: 1,
            events_per_second_per_address: 0.01,
            ..Limits::default()
        };
        let rates = AddressRates::new(&limits);
        let book = super::super::address::AddressBook::default();
        let one = book
            .connect("192.0.2.1".parse().expect("an address"), 9)
            .expect("room");
        let two = book
            .connect("192.0.2.2".parse().expect("an address"), 9)
            .expect("room");
        rates.check_event(&one.key()).expect("the first");
        assert!(rates.check_event(&one.key()).is_err());
        rates.check_event(&two.key()).expect("another address");
        rates.forget_idle();
        assert!(
            rates.check_event(&one.key()).is_err(),
            "a busy address is remembered"
        );
    }
}
