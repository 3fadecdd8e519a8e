//! `query`: REQs of 100 stored events of one author, from first byte sent (or when due) to EOSE; at last beside REQs that look at half of
//! all events and match none.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::{Heard, Receiver, Sender, open};
use super::latency::Latencies;
use super::options::Common;
use super::process::Meter;
use super::publish::{Frame, saturate};
use super::report::Row;
use super::schedule::Schedule;
use super::target::{ONE_REGION_R1, Target, wanted};
use crate::event::{Person, now};

/// Stored events of each author, and `limit` of each REQ.
const PER_AUTHOR: usize = 100;
/// Events carry one of two tags. No index leads to those with both, and there are none: it costs a walk over all with one.
const TAGS: [[&str; 2]; 2] = [["t", "even"], ["s", "odd"]];
const BIG_FILTER: &str = r##"{"#t":["even"],"#s":["odd"]}"##;
/// Who asks for it all the time, and how many of it each has open.
const BIG_CONNECTIONS: usize = 4;
const BIG_AT_ONCE: usize = 10;
/// REQs a second beside them.
const BESIDE_RATE: f64 = 200.0;
/// How long after the last one is due an answer may still come.
const STRAGGLER_LIMIT: Duration = Duration::from_secs(10);

/// How to measure.
pub struct Query {
    /// Connections that ask.
    pub connections: usize,
    /// Authors with 100 events each.
    pub authors: usize,
    /// Length of a part.
    pub length: Duration,
    /// Steady rate as a share of the saturated one.
    pub share: f64,
}

/// Measures a one-region fleet and the peer. Stored events come from the relay's index, so the log behind it plays no part.
pub async fn run(query: &Query, common: &Common) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if wanted(common, ONE_REGION_R1) {
        rows.extend(query.measure(&Target::fleet(ONE_REGION_R1).await).await?);
    }
    if let Some(target) = Target::peer(common)? {
        rows.extend(query.measure(&target).await?);
    }
    Ok(rows)
}

impl Query {
    async fn measure(&self, target: &Target) -> Result<Vec<Row>> {
        let url = &target.relays.first().context("the target has no relay")?.1;
        let authors: Vec<Person> = (0..self.authors).map(|_| Person::new()).collect();
        let text = "x".repeat(256);
        let events: Vec<Frame> = (0..self.authors * PER_AUTHOR)
            // A second apart, so that newest first has one meaning.
            .map(|n| {
                authors[n % self.authors]
                    .event(1, now() - n as u64, &[&TAGS[n / self.authors % 2]], &text)
                    .into()
            })
            .collect();
        let stored = saturate(
            std::slice::from_ref(url),
            16,
            events,
            Duration::from_secs(600),
        )
        .await?;
        ensure!(
            stored.latencies.len() == self.authors * PER_AUTHOR,
            "not all events were stored"
        );
        let filters: Vec<String> = authors
            .iter()
            .map(|author| {
                format!(
                    r#"{{"kinds":[1],"authors":["{}"],"limit":{PER_AUTHOR}}}"#,
                    author.pubkey()
                )
            })
            .collect();
        let mut rows = Vec::new();
        let meter = Meter::start(&target.processes);
        let (latencies, elapsed) = self.saturate(url, &filters).await?;
        let per_second = latencies.len() as f64 / elapsed.as_secs_f64();
        let connections = self.connections;
        rows.push(row(
            target,
            latencies,
            per_second,
            format!("saturated, {connections} connections"),
            meter,
        ));
        let rate = (per_second * self.share).max(1.0);
        let meter = Meter::start(&target.processes);
        let (latencies, elapsed) = self.steady(url, &filters, rate).await?;
        let answered = latencies.len() as f64 / elapsed.as_secs_f64();
        rows.push(row(
            target,
            latencies,
            answered,
            format!("{rate:.0}/s open loop, {connections} connections"),
            meter,
        ));
        let at_once = BIG_CONNECTIONS * BIG_AT_ONCE;
        let load = format!("{BESIDE_RATE:.0}/s open loop beside {at_once} REQs over half of all");
        let meter = Meter::start(&target.processes);
        match self.beside(url, &filters).await {
            Ok((latencies, elapsed)) => {
                let answered = latencies.len() as f64 / elapsed.as_secs_f64();
                rows.push(row(target, latencies, answered, load, meter));
            }
            // A peer that cannot do it has told something too.
            Err(error) if target.is_peer => {
                let load = format!("{load}: {error:#}");
                rows.push(row(target, Latencies::default(), 0.0, load, meter));
            }
            Err(error) => return Err(error),
        }
        Ok(rows)
    }

    /// The usual REQs at a steady rate, beside big ones.
    async fn beside(&self, url: &str, filters: &[String]) -> Result<(Latencies, Duration)> {
        let mut big = JoinSet::new();
        for _ in 0..BIG_CONNECTIONS {
            let (sender, receiver) = open(url, None).await?;
            big.spawn(ask_much(sender, receiver));
        }
        let answered = self.steady(url, filters, BESIDE_RATE).await?;
        // They ask for ever: one that ended was refused.
        if let Some(ended) = big.try_join_next() {
            ended.context("a big reader's task failed")??;
        }
        big.shutdown().await;
        Ok(answered)
    }

    async fn saturate(&self, url: &str, filters: &[String]) -> Result<(Latencies, Duration)> {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for n in 0..self.connections {
            let (sender, receiver) = open(url, None).await?;
            let own: Vec<String> = filters
                .iter()
                .skip(n)
                .step_by(self.connections)
                .cloned()
                .collect();
            let own = if own.is_empty() {
                filters.to_vec()
            } else {
                own
            };
            tasks.spawn(one_at_a_time(sender, receiver, own, began + self.length));
        }
        let mut latencies = Latencies::default();
        while let Some(one) = tasks.join_next().await {
            latencies.append(one.context("a connection's task failed")??);
        }
        Ok((latencies, began.elapsed()))
    }

    async fn steady(
        &self,
        url: &str,
        filters: &[String],
        rate: f64,
    ) -> Result<(Latencies, Duration)> {
        let schedule = Schedule::soon(rate);
        let count = ((rate * self.length.as_secs_f64()) as usize).max(1);
        let until = schedule.due(count) + STRAGGLER_LIMIT;
        let mut lanes = Vec::new();
        let mut readers = JoinSet::new();
        for n in 0..self.connections {
            let (sender, receiver) = open(url, None).await?;
            let (lane, coming) = mpsc::unbounded_channel();
            tokio::spawn(send_all(sender, coming));
            let due = (n..count)
                .step_by(self.connections)
                .map(|n| (n.to_string(), schedule.due(n)))
                .collect();
            readers.spawn(collect(receiver, due, lane.clone(), until));
            lanes.push(lane);
        }
        let mut ticks = schedule.ticks(count);
        while let Some(n) = ticks.recv().await {
            let request = format!("[\"REQ\",\"{n}\",{}]", filters[n % filters.len()]);
            lanes[n % self.connections]
                .send(request)
                .ok()
                .context("a connection broke while sending")?;
        }
        let mut latencies = Latencies::default();
        while let Some(one) = readers.join_next().await {
            latencies.append(one.context("a reader's task failed")??);
        }
        Ok((latencies, Instant::now().duration_since(schedule.due(0))))
    }
}

async fn one_at_a_time(
    mut sender: Sender,
    mut receiver: Receiver,
    filters: Vec<String>,
    until: Instant,
) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    for filter in filters.iter().cycle() {
        let asked = Instant::now();
        if asked >= until {
            break;
        }
        sender.send(&format!("[\"REQ\",\"q\",{filter}]")).await?;
        let mut events = 0;
        loop {
            match receiver.next().await? {
                Heard::Event(_) => events += 1,
                Heard::Eose(_) => break,
                Heard::Refusal(frame) => anyhow::bail!("the relay refused: {frame}"),
                _ => {}
            }
        }
        latencies.add(asked.elapsed());
        ensure!(
            events == PER_AUTHOR,
            "a REQ got {events} events, {PER_AUTHOR} were stored"
        );
        sender.send("[\"CLOSE\",\"q\"]").await?;
    }
    Ok(latencies)
}

/// Keeps big REQs open on one connection.
async fn ask_much(mut sender: Sender, mut receiver: Receiver) -> Result<()> {
    for n in 0..BIG_AT_ONCE {
        let req = format!("[\"REQ\",\"{n}\",{BIG_FILTER}]");
        sender.send(&req).await?;
    }
    loop {
        match receiver.next().await? {
            Heard::Eose(n) => {
                let req = format!("[\"REQ\",\"{n}\",{BIG_FILTER}]");
                sender.send(&req).await?;
            }
            Heard::Refusal(frame) => anyhow::bail!("the relay refused: {frame}"),
            _ => {}
        }
    }
}

async fn send_all(mut sender: Sender, mut coming: mpsc::UnboundedReceiver<String>) {
    while let Some(text) = coming.recv().await {
        if sender.send(&text).await.is_err() {
            return;
        }
    }
}

/// Latencies from when each REQ was due to its EOSE; closes each subscription.
async fn collect(
    mut receiver: Receiver,
    mut due: HashMap<String, Instant>,
    lane: mpsc::UnboundedSender<String>,
    until: Instant,
) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    while !due.is_empty() {
        let Ok(heard) = tokio::time::timeout_at(until.into(), receiver.next()).await else {
            break;
        };
        match heard? {
            Heard::Eose(subscription) => {
                if let Some(due) = due.remove(&subscription) {
                    latencies.add(Instant::now().saturating_duration_since(due));
                    lane.send(format!("[\"CLOSE\",\"{subscription}\"]")).ok();
                }
            }
            Heard::Refusal(frame) => anyhow::bail!("the relay refused: {frame}"),
            _ => {}
        }
    }
    ensure!(due.is_empty(), "{} REQs got no EOSE", due.len());
    Ok(latencies)
}

fn row(target: &Target, latencies: Latencies, per_second: f64, load: String, meter: Meter) -> Row {
    Row {
        target: target.name.clone(),
        durability: target.durability.to_owned(),
        what: format!("REQ of {PER_AUTHOR} events to EOSE"),
        load,
        per_second: Some(per_second),
        latency: latencies.summary(),
        missing: None,
        memory_mib: None,
        usage: meter.stop(),
    }
}
