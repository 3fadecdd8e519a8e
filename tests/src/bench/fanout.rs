//! `fanout`: one event to many live subscribers of one relay, from when it was sent to when each of them had it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::mpsc;

use super::connection::{Heard, Receiver, open};
use super::idle::raise_open_files;
use super::latency::Latencies;
use super::options::Common;
use super::process::Meter;
use super::report::Row;
use super::target::{ONE_REGION_R1, Target, wanted};
use crate::event::{Person, now};

/// How long an event may take to the last subscriber.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two events, so that none waits for the one before.
const PAUSE: Duration = Duration::from_millis(300);

/// How to measure.
pub struct Fanout {
    /// Connections with a subscription each.
    pub subscribers: usize,
    /// Events, one after the other.
    pub events: usize,
}

/// When one subscriber had an event, or why it never will.
type Arrival = Result<Instant, String>;

/// Measures a one-region fleet and the peer: all subscribers want the event, then one of them.
pub async fn run(fanout: &Fanout, common: &Common) -> Result<Vec<Row>> {
    raise_open_files(fanout.subscribers)?;
    let mut rows = Vec::new();
    if wanted(common, ONE_REGION_R1) {
        rows.extend(fanout.measure(&Target::fleet(ONE_REGION_R1).await).await?);
    }
    if let Some(target) = Target::peer(common)? {
        rows.extend(fanout.measure(&target).await?);
    }
    Ok(rows)
}

impl Fanout {
    async fn measure(&self, target: &Target) -> Result<Vec<Row>> {
        let mut rows = self.with_matches(target, self.subscribers).await?;
        rows.extend(self.with_matches(target, 1).await?);
        Ok(rows)
    }

    /// `matches` of the subscribers follow the author, the others somebody else each.
    async fn with_matches(&self, target: &Target, matches: usize) -> Result<Vec<Row>> {
        let url = &target.relays.first().context("the target has no relay")?.1;
        let author = Person::new();
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let mut subscribers = tokio::task::JoinSet::new();
        let mut senders = Vec::with_capacity(self.subscribers);
        for number in 0..self.subscribers {
            let follows = if number < matches {
                author.pubkey()
            } else {
                // No key of anybody, as long as one.
                format!("{number:064x}")
            };
            let (mut sender, mut receiver) = open(url, None)
                .await
                .with_context(|| format!("subscriber {number}"))?;
            // Nothing is stored that it matches. Not every peer answers `limit: 0`.
            let since = now();
            let req =
                format!(r#"["REQ","s",{{"kinds":[1],"authors":["{follows}"],"since":{since}}}]"#);
            sender.send(&req).await?;
            while receiver.next().await? != Heard::Eose("s".to_owned()) {}
            senders.push(sender);
            subscribers.spawn(listen(receiver, arrived.clone()));
        }
        drop(arrived);

        let (mut publisher, answers) = open(url, None).await?;
        let answers = tokio::spawn(answers.idle());
        let (mut each, mut last) = (Latencies::default(), Latencies::default());
        let meter = Meter::start(&target.processes);
        for number in 0..self.events {
            let event = author.event(
                1,
                now(),
                &[],
                &format!("event {number} {}", "x".repeat(256)),
            );
            let frame = format!("[\"EVENT\",{}]", event.json);
            tokio::time::sleep(PAUSE).await;
            let sent = Instant::now();
            publisher.send(&frame).await?;
            let mut latest = sent;
            for _ in 0..matches {
                let arrival = tokio::time::timeout(LIMIT, arrivals.recv()).await;
                let Ok(Some(arrival)) = arrival else {
                    bail!("event {number} did not reach every subscriber within {LIMIT:?}");
                };
                let at = arrival.map_err(anyhow::Error::msg)?;
                each.add(at - sent);
                latest = latest.max(at);
            }
            last.add(latest - sent);
        }
        let usage = meter.stop();
        ensure!(arrivals.try_recv().is_err(), "an event came twice");
        answers.abort();
        let load = format!("{matches} of {} subscribers", self.subscribers);
        let row = |what: &str, latencies: Latencies| Row {
            target: target.name.clone(),
            durability: target.durability.to_owned(),
            what: what.to_owned(),
            load: load.clone(),
            latency: latencies.summary(),
            ..Row::default()
        };
        Ok(vec![
            row("to each subscriber", each),
            Row {
                usage,
                ..row("to the last subscriber", last)
            },
        ])
    }
}

/// Tells when each event came, until the connection ends.
async fn listen(mut receiver: Receiver, arrived: mpsc::UnboundedSender<Arrival>) {
    loop {
        let told = match receiver.next_without_limit().await {
            Ok(Heard::Event(_)) => arrived.send(Ok(Instant::now())),
            Ok(_) => Ok(()),
            Err(error) => {
                // Nobody is asked any more, or somebody waits in vain.
                arrived.send(Err(format!("{error:#}"))).ok();
                return;
            }
        };
        if told.is_err() {
            return;
        }
    }
}
