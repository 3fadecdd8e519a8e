//! The streams that one region's JetStream holds: those it writes, and copies of everybody else's.

use std::time::Duration;

use nightjar_envelope::{Class, MESSAGE_SHARDS, RegionName, STATE_SHARDS, StreamName};

use super::planner::Planner;
use super::subjects;
use crate::validate::ValidRegion;

/// JetStream drops a repeated message id within this time: longer than any retry of a publisher.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(60);

/// State has a quarter of a region's bytes: superseded entries leave it one by one, messages leave by age.
const STATE_SHARE: u64 = 4;

/// One stream as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPlan {
    /// Its name, the same in the region that writes it and in every mirror.
    pub name: StreamName,
    /// Written here or copied.
    pub kind: StreamKind,
    /// 1 or 3.
    pub replicas: u8,
    /// Upper limit in bytes, `discard: new` beyond. Mirrors have none: they must hold what the origin accepted.
    pub max_bytes: Option<u64>,
    /// How long entries are kept; `None` keeps them until they are removed one by one.
    pub max_age: Option<Duration>,
    /// JetStream drops a repeated `Nats-Msg-Id` within this window. Mirrors have none.
    pub duplicate_window: Option<Duration>,
    /// Any replica may answer direct gets.
    pub allow_direct: bool,
}

/// Who writes a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamKind {
    /// This region's relays.
    Writer {
        /// The one subject pattern it binds, for example `ev.a.1.0.*`.
        subjects: Vec<String>,
        /// Republished on core NATS as hints: from this pattern ...
        republish_from: String,
        /// ... to this one, with headers and payload.
        republish_to: String,
    },
    /// Another region's; this is a copy with the same sequence numbers.
    Mirror {
        /// The region that writes it.
        of: RegionName,
        /// Prefix of that region's JetStream API, `$JS.<region>.API`.
        external_api: String,
    },
}

/// The streams of a region's JetStream: its own, then a mirror of every other region's.
pub(super) fn streams(plan: &Planner<'_>, region: &ValidRegion) -> Vec<StreamPlan> {
    let own = subjects::own_streams(&region.name, plan.region(&region.name).generation);
    let mut streams: Vec<StreamPlan> = own
        .into_iter()
        .map(|name| writer(plan, region, name))
        .collect();
    for (other, generation) in plan
        .generations()
        .into_iter()
        .filter(|(other, _)| *other != region.name)
    {
        streams.extend(
            subjects::own_streams(&other, generation)
                .into_iter()
                .map(|name| mirror(plan, region, name)),
        );
    }
    streams
}

fn writer(plan: &Planner<'_>, region: &ValidRegion, name: StreamName) -> StreamPlan {
    let prefix = name.class.subject_prefix();
    let tail = format!("{}.{}.{}", name.region, name.generation, name.shard);
    StreamPlan {
        kind: StreamKind::Writer {
            subjects: vec![name.subjects()],
            republish_from: format!("{prefix}.{tail}.>"),
            republish_to: format!(
                "rp.{}.{prefix}.{}.{}.>",
                name.region, name.generation, name.shard
            ),
        },
        replicas: region.nats_replicas,
        max_bytes: Some(share(name.class, plan.fleet.max_bytes_per_region)),
        max_age: max_age(plan, &name),
        duplicate_window: Some(DUPLICATE_WINDOW),
        allow_direct: true,
        name,
    }
}

fn mirror(plan: &Planner<'_>, region: &ValidRegion, name: StreamName) -> StreamPlan {
    StreamPlan {
        kind: StreamKind::Mirror {
            of: name.region.clone(),
            external_api: format!("$JS.{}.API", name.region),
        },
        replicas: region.nats_replicas,
        max_bytes: None,
        max_age: max_age(plan, &name),
        duplicate_window: None,
        allow_direct: true,
        name,
    }
}

/// Messages go after the fleet's retention; state stays until it is superseded.
fn max_age(plan: &Planner<'_>, name: &StreamName) -> Option<Duration> {
    (name.class == Class::Messages).then_some(plan.fleet.message_retention)
}

/// One stream's part of the bytes that all streams of a region may fill.
fn share(class: Class, per_region: u64) -> u64 {
    let state = per_region / STATE_SHARE;
    match class {
        Class::State => state / u64::from(STATE_SHARDS),
        Class::Messages | Class::Ephemeral => (per_region - state) / u64::from(MESSAGE_SHARDS),
    }
}
