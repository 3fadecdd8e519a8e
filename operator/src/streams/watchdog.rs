//! Finds mirrors that have stalled although their origin answers, and makes another replica take over.
//!
//! A mirror that lost its origin tries again after 5 s, then twice as long each time, up to 2 minutes, and no setting changes
//! that. A new leader of the mirror starts afresh: after a cut it catches up in 6 s instead of 45.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nightjar_envelope::{RegionName, StreamName};

use super::admin::{RegionAdmin, StreamError};
use crate::plan::{StreamKind, StreamPlan};

/// A mirror hears from its origin every second; silence for longer than this is a stall.
const STALL: Duration = Duration::from_secs(3);
/// One mirror's leader is moved at most this often.
const STEPDOWN_PAUSE: Duration = Duration::from_secs(10);
/// How long the origin's region may take to answer before it counts as cut off.
const ORIGIN_DEADLINE: Duration = Duration::from_secs(1);

/// A mirror as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorHealth {
    /// The mirror.
    pub stream: StreamName,
    /// The region that writes the origin.
    pub of: RegionName,
    /// Entries it is behind, as it knows itself.
    pub lag: u64,
    /// Time since it heard from its origin; none if never.
    pub silent_for: Option<Duration>,
    /// Silent, or behind without progress, for 3 s.
    pub stalled: bool,
    /// Its leader was moved in this round.
    pub moved: bool,
}

/// What the watchdog remembers of a mirror between rounds.
#[derive(Debug)]
struct Memory {
    first_seen: Instant,
    last_sequence: u64,
    progress_at: Instant,
    moved_at: Option<Instant>,
}

/// Watches the mirrors of one region. Call [`Watchdog::round`] once a second.
#[derive(Debug)]
pub struct Watchdog {
    admin: RegionAdmin,
    memory: HashMap<StreamName, Memory>,
}

impl Watchdog {
    /// A watchdog over the region of that connection.
    pub fn new(admin: RegionAdmin) -> Self {
        Self {
            admin,
            memory: HashMap::new(),
        }
    }

    /// Looks at every mirror of the plan, and moves the leader of those that stalled while their origin answers.
    pub async fn round(
        &mut self,
        streams: &[StreamPlan],
    ) -> Vec<Result<MirrorHealth, StreamError>> {
        let admin = &self.admin;
        let mirrors = streams.iter().filter_map(|plan| match &plan.kind {
            StreamKind::Mirror { of, .. } => Some((plan, of)),
            StreamKind::Writer { .. } => None,
        });
        let seen =
            join_all(mirrors.map(|(plan, of)| async move {
                (plan, of, admin.info(&plan.name.to_string()).await)
            }))
            .await;
        let now = Instant::now();
        let mut health = Vec::new();
        let mut origins: HashMap<&RegionName, bool> = HashMap::new();
        for (plan, of, info) in seen {
            let info = match info {
                Ok(Some(info)) => info,
                // It is made by the next pass over the streams.
                Ok(None) => continue,
                Err(error) => {
                    health.push(Err(error));
                    continue;
                }
            };
            let (lag, silent_for) = info
                .mirror
                .map_or((0, None), |mirror| (mirror.lag, mirror.active));
            let memory = self.memory.entry(plan.name.clone()).or_insert(Memory {
                first_seen: now,
                last_sequence: info.state.last_sequence,
                progress_at: now,
                moved_at: None,
            });
            let stalled = memory.observe(now, info.state.last_sequence, lag, silent_for);
            let mut moved = false;
            if stalled && memory.may_move(now) {
                let answers = match origins.get(of) {
                    Some(answers) => *answers,
                    None => {
                        let answers = self.admin.reaches(of, ORIGIN_DEADLINE).await;
                        origins.insert(of, answers);
                        answers
                    }
                };
                if answers {
                    memory.moved_at = Some(now);
                    moved = self.admin.step_down(&plan.name.to_string()).await.is_ok();
                }
            }
            health.push(Ok(MirrorHealth {
                stream: plan.name.clone(),
                of: of.clone(),
                lag,
                silent_for,
                stalled,
                moved,
            }));
        }
        health
    }
}

impl Memory {
    /// Takes in what was seen; true if the mirror has stalled.
    fn observe(
        &mut self,
        now: Instant,
        last_sequence: u64,
        lag: u64,
        silent_for: Option<Duration>,
    ) -> bool {
        if last_sequence != self.last_sequence || lag == 0 {
            self.last_sequence = last_sequence;
            // Silence alone is judged by the server's own clock, below.
            self.progress_at = now;
        }
        // One that was just made has heard nothing yet.
        let silent = silent_for.unwrap_or(now.duration_since(self.first_seen)) > STALL;
        silent || now.duration_since(self.progress_at) > STALL
    }

    fn may_move(&self, now: Instant) -> bool {
        self.moved_at
            .is_none_or(|moved_at| now.duration_since(moved_at) >= STEPDOWN_PAUSE)
    }
}

impl RegionAdmin {
    /// Whether another region's JetStream answers through the leaf links and gateways.
    pub async fn reaches(&self, other: &RegionName, deadline: Duration) -> bool {
        use futures_util::StreamExt as _;
        let client = self.client();
        // Replies cross regions only under the prefix that mirrors use for their own requests.
        let reply = format!(
            "$JSC.R.{}",
            client.new_inbox().rsplit('.').next().unwrap_or("probe")
        );
        let ask = async {
            let mut replies = client.subscribe(reply.clone()).await.ok()?;
            let subject = format!("$JS.{other}.API.INFO");
            client
                .publish_with_reply(subject, reply, "".into())
                .await
                .ok()?;
            let message = replies.next().await?;
            // "No responders" is an answer of the own server, and an empty one.
            (!message.payload.is_empty()).then_some(())
        };
        matches!(tokio::time::timeout(deadline, ask).await, Ok(Some(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(now: Instant) -> Memory {
        Memory {
            first_seen: now,
            last_sequence: 7,
            progress_at: now,
            moved_at: None,
        }
    }

    const LIVELY: Option<Duration> = Some(Duration::from_millis(200));

    #[test]
    fn an_idle_mirror_that_hears_its_origin_is_well() {
        let now = Instant::now();
        assert!(!memory(now).observe(now + Duration::from_secs(60), 7, 0, LIVELY));
    }

    #[test]
    fn a_silent_mirror_has_stalled() {
        let now = Instant::now();
        assert!(memory(now).observe(now, 7, 0, Some(Duration::from_secs(4))));
    }

    #[test]
    fn lag_without_progress_is_a_stall_only_after_a_while() {
        let now = Instant::now();
        let mut memory = memory(now);
        assert!(!memory.observe(now + Duration::from_secs(2), 7, 5, LIVELY));
        assert!(memory.observe(now + Duration::from_secs(4), 7, 5, LIVELY));
        assert!(!memory.observe(now + Duration::from_secs(5), 8, 4, LIVELY));
    }

    #[test]
    fn a_leader_is_moved_at_most_once_in_ten_seconds() {
        let now = Instant::now();
        let mut memory = memory(now);
        assert!(memory.may_move(now));
        memory.moved_at = Some(now);
        assert!(!memory.may_move(now + Duration::from_secs(9)));
        assert!(memory.may_move(now + Duration::from_secs(10)));
    }
}
