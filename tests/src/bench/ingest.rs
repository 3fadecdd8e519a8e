//! `ingest`: events a second with OK, and the time to OK, at several numbers of connections.

use std::time::Duration;

use anyhow::Result;

use super::options::Common;
use super::process::Meter;
use super::publish::{Answered, notes, saturate, steady};
use super::report::Row;
use super::schedule::Schedule;
use super::target::{ONE_REGION_R1, ONE_REGION_R3, THREE_REGIONS, Target, wanted};

/// Events of the warm-up: connections, caches, page tables.
const WARM_UP: usize = 500;

/// How to measure.
pub struct Ingest<'a> {
    /// Connections of each run.
    pub connections: &'a [usize],
    /// Longest part.
    pub limit: Duration,
    /// Events signed for a part, at most.
    pub events: usize,
    /// Steady rate as a share of the saturated one.
    pub share: f64,
}

/// Measures the fleets and the peer, one after another.
pub async fn run(ingest: &Ingest<'_>, common: &Common) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for shape in [ONE_REGION_R1, ONE_REGION_R3, THREE_REGIONS] {
        if wanted(common, shape) {
            let target = Target::fleet(shape).await;
            rows.extend(ingest.measure(&target).await?);
        }
    }
    if let Some(target) = Target::peer(common)? {
        rows.extend(ingest.measure(&target).await?);
    }
    Ok(rows)
}

impl Ingest<'_> {
    async fn measure(&self, target: &Target) -> Result<Vec<Row>> {
        let urls = target.urls();
        saturate(&urls, urls.len() * 2, notes(WARM_UP), self.limit).await?;
        let mut rows = Vec::new();
        for connections in self.connections {
            let events = notes(self.events);
            let meter = Meter::start(&target.processes);
            let answered = saturate(&urls, *connections, events, self.limit).await?;
            let per_second = answered.per_second();
            rows.push(row(
                target,
                answered,
                format!("saturated, {connections} connections"),
                meter,
            ));

            let rate = (per_second * self.share).max(1.0);
            // Truncation is fine: a whole number of events near the wanted length.
            let count = ((rate * self.limit.as_secs_f64()) as usize).clamp(1, self.events);
            let events = notes(count);
            let meter = Meter::start(&target.processes);
            let answered = steady(&urls, *connections, events, Schedule::soon(rate)).await?;
            rows.push(row(
                target,
                answered,
                format!("{rate:.0}/s open loop, {connections} connections"),
                meter,
            ));
        }
        Ok(rows)
    }
}

fn row(target: &Target, answered: Answered, load: String, meter: Meter) -> Row {
    Row {
        target: target.name.clone(),
        durability: target.durability.to_owned(),
        what: "event to OK".to_owned(),
        load,
        per_second: Some(answered.per_second()),
        missing: Some(answered.missing),
        latency: answered.latencies.summary(),
        memory_mib: None,
        usage: meter.stop(),
    }
}
