//! `deliver`: from the time a gift wrap is due at a relay of region a to its arrival at subscribers, near and far.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;

use super::connection::{Heard, Receiver, Sender, open};
use super::latency::Latencies;
use super::options::Common;
use super::process::Meter;
use super::publish::{Frame, steady};
use super::report::Row;
use super::schedule::Schedule;
use super::target::{THREE_REGIONS_TWO_RELAYS, Target, wanted};
use crate::event::{Person, wrap_for};

/// Bytes of a gift wrap's content: what NIP-44 makes of a short message in a seal.
const CONTENT_BYTES: usize = 1_200;
/// Seconds of load before the clock starts.
const WARM_UP_SECONDS: f64 = 3.0;
/// How long after the last one is due a delivery may still come.
const STRAGGLER_LIMIT: Duration = Duration::from_secs(10);

/// Measures the three-region fleet and the peer.
pub async fn run(rate: f64, seconds: u32, common: &Common) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if wanted(common, THREE_REGIONS_TWO_RELAYS) {
        let target = Target::fleet(THREE_REGIONS_TWO_RELAYS).await;
        rows.extend(measure(&target, rate, seconds).await?);
    }
    if let Some(target) = Target::peer(common)? {
        rows.extend(measure(&target, rate, seconds).await?);
    }
    Ok(rows)
}

async fn measure(target: &Target, rate: f64, seconds: u32) -> Result<Vec<Row>> {
    let publisher = &target.relays.first().context("the target has no relay")?.1;
    one_run(target, publisher, rate, WARM_UP_SECONDS).await?;
    let meter = Meter::start(&target.processes);
    let run = one_run(target, publisher, rate, f64::from(seconds)).await?;
    let mut usage = Some(meter.stop());
    let load = format!("{rate:.0}/s open loop, 1 connection");
    let row = |what: String, latencies: Latencies, missing: usize| Row {
        target: target.name.clone(),
        durability: target.durability.to_owned(),
        what,
        load: load.clone(),
        per_second: None,
        latency: latencies.summary(),
        missing: Some(missing),
        memory_mib: None,
        usage: Vec::new(),
    };
    let mut rows = vec![row("event to OK".to_owned(), run.oks, run.oks_missing)];
    rows.extend(
        run.deliveries
            .into_iter()
            .map(|delivery| row(delivery.place, delivery.latencies, delivery.missing)),
    );
    rows[0].usage = usage.take().unwrap_or_default();
    Ok(rows)
}

struct Run {
    oks: Latencies,
    oks_missing: usize,
    deliveries: Vec<Delivery>,
}

struct Delivery {
    order: usize,
    place: String,
    latencies: Latencies,
    missing: usize,
}

/// One batch of gift wraps to a new recipient, who listens at every relay.
async fn one_run(target: &Target, publisher: &str, rate: f64, seconds: f64) -> Result<Run> {
    let recipient = Person::new();
    let count = ((rate * seconds) as usize).max(1);
    let content = "A".repeat(CONTENT_BYTES);
    let events: Vec<Frame> = (0..count)
        .map(|_| wrap_for(1059, &recipient.pubkey(), &content).into())
        .collect();
    let mut listening = Vec::new();
    for (order, (region, url)) in target.relays.iter().enumerate() {
        let (sender, receiver) = subscribe(url, &recipient).await?;
        listening.push((
            order,
            place(target, region, url, publisher),
            sender,
            receiver,
        ));
    }
    let schedule = Schedule::soon(rate);
    let due: Arc<HashMap<String, Instant>> = Arc::new(
        events
            .iter()
            .enumerate()
            .map(|(n, event)| (event.id.clone(), schedule.due(n)))
            .collect(),
    );
    let until = schedule.due(count) + STRAGGLER_LIMIT;
    let mut subscribers = JoinSet::new();
    for (order, place, sender, receiver) in listening {
        subscribers.spawn(collect(
            order,
            place,
            sender,
            receiver,
            Arc::clone(&due),
            until,
        ));
    }
    let answered = steady(&[publisher.to_owned()], 1, events, schedule).await?;
    let mut deliveries = Vec::new();
    while let Some(delivery) = subscribers.join_next().await {
        deliveries.push(delivery.context("a subscriber's task failed")??);
    }
    deliveries.sort_by_key(|delivery| delivery.order);
    Ok(Run {
        oks: answered.latencies,
        oks_missing: answered.missing,
        deliveries,
    })
}

fn place(target: &Target, region: &str, url: &str, publisher: &str) -> String {
    let own_region = &target.relays[0].0;
    if url == publisher {
        "delivery, same relay".to_owned()
    } else if region == own_region {
        "delivery, same region, other relay".to_owned()
    } else {
        format!("delivery, {own_region} to {region}")
    }
}

/// A live subscription to the recipient's gift wraps.
async fn subscribe(url: &str, recipient: &Person) -> Result<(Sender, Receiver)> {
    let (mut sender, mut receiver) = open(url, Some(recipient)).await?;
    sender
        .send(&format!(
            r##"["REQ","live",{{"kinds":[1059],"#p":["{}"]}}]"##,
            recipient.pubkey()
        ))
        .await?;
    loop {
        match receiver.next().await? {
            Heard::Eose(_) => return Ok((sender, receiver)),
            Heard::Refusal(frame) => bail!("{url} refused the subscription: {frame}"),
            _ => {}
        }
    }
}

async fn collect(
    order: usize,
    place: String,
    sender: Sender,
    mut receiver: Receiver,
    due: Arc<HashMap<String, Instant>>,
    until: Instant,
) -> Result<Delivery> {
    let mut latencies = Latencies::default();
    while latencies.len() < due.len() {
        let Ok(heard) = tokio::time::timeout_at(until.into(), receiver.next()).await else {
            break;
        };
        match heard? {
            Heard::Event(id) => {
                let arrived = Instant::now();
                let due = due
                    .get(&id)
                    .with_context(|| format!("{place}: event {id} is not of this run"))?;
                latencies.add(arrived.saturating_duration_since(*due));
            }
            Heard::Refusal(frame) => bail!("{place}: {frame}"),
            _ => {}
        }
    }
    drop(sender);
    Ok(Delivery {
        order,
        place,
        missing: due.len() - latencies.len(),
        latencies,
    })
}
