//! Leader election over one Lease (`coordination.k8s.io/v1`): at most one operator writes.
//!
//! Every write carries the `resourceVersion` that was read, so of two claimants one is refused. Whether a holder is alive is judged by
//! how long *this* process has seen no renewal, never by comparing clocks. A leader that cannot renew in time stops being one before
//! anybody else may begin.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Times of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// A holder that was not seen to renew for this long may be replaced.
    pub duration: Duration,
    /// A leader that could not renew for this long stops; well below `duration`.
    pub renew_deadline: Duration,
    /// Pause between renewals, and between looks of those that wait.
    pub retry: Duration,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(3),
        }
    }
}

/// What to do about a Lease as it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// There is none: make it.
    Create,
    /// It is ours: renew it.
    Renew,
    /// Free, or its holder was not seen to renew for too long: take it.
    Take,
    /// Somebody holds it.
    Wait,
}

/// What this process remembers of the holder. Pure; the clock is a monotonic one that is passed in.
#[derive(Debug, Default)]
pub(super) struct Observation {
    seen: Option<(Option<String>, Option<MicroTime>, Instant)>,
}

impl Observation {
    /// Takes in the Lease as it was read at `now` and says what to do.
    pub(super) fn judge(&mut self, lease: Option<&Lease>, identity: &str, now: Instant) -> Claim {
        let Some(lease) = lease else {
            self.seen = None;
            return Claim::Create;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
        if holder.as_deref() == Some(identity) {
            return Claim::Renew;
        }
        let Some(name) = holder else {
            return Claim::Take;
        };
        let duration = Duration::from_secs(
            spec.lease_duration_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .unwrap_or(15),
        );
        let unchanged_since = match &self.seen {
            Some((known, renewed, since))
                if known.as_ref() == Some(&name) && *renewed == spec.renew_time =>
            {
                *since
            }
            _ => {
                self.seen = Some((Some(name), spec.renew_time, now));
                now
            }
        };
        if now.duration_since(unchanged_since) >= duration {
            Claim::Take
        } else {
            Claim::Wait
        }
    }
}

/// The Lease as this process would write it, on top of what was read.
fn claimed(name: &str, read: Option<&Lease>, identity: &str, terms: LeaseTerms) -> Lease {
    let now = MicroTime(jiff::Timestamp::now());
    let old = read
        .and_then(|lease| lease.spec.clone())
        .unwrap_or_default();
    let renewed = old.holder_identity.as_deref() == Some(identity);
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: read.and_then(|lease| lease.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: i32::try_from(terms.duration.as_secs()).ok(),
            acquire_time: if renewed {
                old.acquire_time
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(!renewed)),
            ..LeaseSpec::default()
        }),
    }
}

/// Takes part in the election until `stop`; `leading` is true while this process holds the Lease. Releases it at the end.
pub(super) async fn run(
    api: Api<Lease>,
    name: String,
    identity: String,
    terms: LeaseTerms,
    leading: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let mut observation = Observation::default();
    let mut renewed = Instant::now();
    loop {
        // The moment before the request: what the others see cannot be older.
        let began = Instant::now();
        // A leader must have stopped when its deadline is over, also while a request hangs.
        let left = match *leading.borrow() {
            true => terms.renew_deadline.saturating_sub(renewed.elapsed()),
            false => terms.retry,
        };
        let attempt = timeout(
            terms.retry.min(left),
            step(&api, &name, &identity, terms, &mut observation),
        );
        match attempt.await {
            Ok(Ok(true)) => {
                renewed = began;
                if !leading.send_replace(true) {
                    tracing::info!(identity, "leading");
                }
            }
            Ok(Ok(false)) => {
                if leading.send_replace(false) {
                    tracing::warn!(identity, "the lease was taken; no longer leading");
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
            Err(_) => tracing::warn!("cannot renew the lease: no answer in time"),
        }
        if *leading.borrow() && renewed.elapsed() >= terms.renew_deadline {
            leading.send_replace(false);
            tracing::warn!(
                identity,
                "the lease could not be renewed in time; no longer leading"
            );
        }
        let pause = match *leading.borrow() {
            true => terms
                .retry
                .min(terms.renew_deadline.saturating_sub(renewed.elapsed())),
            false => terms.retry,
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    let held = leading.send_replace(false);
    if held {
        release(&api, &name, &identity).await;
    }
}

/// One look and what follows from it; true if the Lease is ours now.
async fn step(
    api: &Api<Lease>,
    name: &str,
    identity: &str,
    terms: LeaseTerms,
    observation: &mut Observation,
) -> Result<bool, kube::Error> {
    let read = api.get_opt(name).await?;
    let claim = observation.judge(read.as_ref(), identity, Instant::now());
    let wanted = claimed(name, read.as_ref(), identity, terms);
    let params = PostParams::default();
    let written = match claim {
        Claim::Wait => return Ok(false),
        Claim::Create => api.create(&params, &wanted).await,
        Claim::Renew | Claim::Take => api.replace(name, &params, &wanted).await,
    };
    match written {
        Ok(_) => Ok(true),
        // Another was quicker; the next look shows who.
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Lets the others begin at once.
async fn release(api: &Api<Lease>, name: &str, identity: &str) {
    let free = async {
        let mut lease = api.get(name).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(identity) {
            spec.holder_identity = None;
            api.replace(name, &PostParams::default(), &lease).await?;
        }
        Ok::<_, kube::Error>(())
    };
    match timeout(Duration::from_secs(3), free).await {
        Ok(Ok(())) => tracing::info!(identity, "released the lease"),
        Ok(Err(error)) => tracing::warn!(%error, "the lease was not released; it runs out"),
        Err(_) => tracing::warn!("the lease was not released in time; it runs out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: i64) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(15),
                renew_time: Some(MicroTime(jiff::Timestamp::from_second(renewed).unwrap())),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_is_replaced_only_after_it_was_not_seen_to_renew() {
        let mut seen = Observation::default();
        // Its clock is years away from ours; that says nothing.
        assert_eq!(
            seen.judge(Some(&lease("b", 7)), "a", Instant::now()),
            Claim::Wait
        );
        tokio::time::advance(Duration::from_secs(14)).await;
        assert_eq!(
            seen.judge(Some(&lease("b", 7)), "a", Instant::now()),
            Claim::Wait
        );
        assert_eq!(
            seen.judge(Some(&lease("b", 8)), "a", Instant::now()),
            Claim::Wait
        );
        tokio::time::advance(Duration::from_secs(14)).await;
        assert_eq!(
            seen.judge(Some(&lease("b", 8)), "a", Instant::now()),
            Claim::Wait
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            seen.judge(Some(&lease("b", 8)), "a", Instant::now()),
            Claim::Take
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_lease_is_taken_at_once_and_ones_own_is_renewed() {
        let mut seen = Observation::default();
        let now = Instant::now();
        assert_eq!(seen.judge(None, "a", now), Claim::Create);
        assert_eq!(seen.judge(Some(&lease("", 7)), "a", now), Claim::Take);
        assert_eq!(seen.judge(Some(&lease("a", 7)), "a", now), Claim::Renew);
    }
}
