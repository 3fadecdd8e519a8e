//! Publishing at full speed and at a steady rate, and the time to OK.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connection::{Heard, Receiver, Sender, open};
use super::latency::Latencies;
use super::schedule::Schedule;
use crate::event::{Person, Signed, now};

/// Authors of a batch: enough that every bucket and shard gets its part.
const AUTHORS: usize = 64;
/// Characters of a note's text.
const NOTE_CHARS: usize = 256;
/// How long after the last send an answer may still come.
const STRAGGLER_LIMIT: Duration = Duration::from_secs(10);

/// An event ready to send.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The event's id, lowercase hex.
    pub id: String,
    /// `["EVENT", ...]`.
    pub text: String,
}

impl From<Signed> for Frame {
    fn from(event: Signed) -> Self {
        Self {
            text: format!("[\"EVENT\",{}]", event.json),
            id: event.id,
        }
    }
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Answered {
    /// Time to OK of each.
    pub latencies: Latencies,
    /// From the first send (or when it was due) to the last OK.
    pub elapsed: Duration,
    /// How many got no answer.
    pub missing: usize,
}

impl Answered {
    /// Events with OK a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Signs notes (kind 1) of many authors.
#[must_use]
pub fn notes(count: usize) -> Vec<Frame> {
    let authors: Vec<Person> = (0..AUTHORS.min(count)).map(|_| Person::new()).collect();
    (0..count)
        .map(|n| {
            let text = format!("{n:08}{}", ".".repeat(NOTE_CHARS - 8));
            authors[n % authors.len()]
                .event(1, now(), &[], &text)
                .into()
        })
        .collect()
}

/// Closed loop: each connection sends its next event when the last one got OK. Ends with the events or after `limit`.
pub async fn saturate(
    urls: &[String],
    connections: usize,
    events: Vec<Frame>,
    limit: Duration,
) -> Result<Answered> {
    let mut shares: Vec<Vec<Frame>> = vec![Vec::new(); connections];
    for (n, event) in events.into_iter().enumerate() {
        shares[n % connections].push(event);
    }
    let mut opened = Vec::new();
    for (n, share) in shares.into_iter().enumerate() {
        opened.push((open(&urls[n % urls.len()], None).await?, share));
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for ((sender, receiver), share) in opened {
        tasks.spawn(one_at_a_time(sender, receiver, share, began + limit));
    }
    let mut answered = Answered::default();
    while let Some(latencies) = tasks.join_next().await {
        answered
            .latencies
            .append(latencies.context("a connection's task failed")??);
    }
    answered.elapsed = began.elapsed();
    Ok(answered)
}

async fn one_at_a_time(
    mut sender: Sender,
    mut receiver: Receiver,
    events: Vec<Frame>,
    until: Instant,
) -> Result<Latencies> {
    let mut latencies = Latencies::default();
    for event in events {
        let sent = Instant::now();
        if sent >= until {
            break;
        }
        sender.send(&event.text).await?;
        wait_ok(&mut receiver, &event.id).await?;
        latencies.add(sent.elapsed());
    }
    Ok(latencies)
}

async fn wait_ok(receiver: &mut Receiver, id: &str) -> Result<()> {
    loop {
        match receiver.next().await? {
            Heard::Ok(answered) if answered == id => return Ok(()),
            Heard::Refusal(frame) => bail!("the relay refused: {frame}"),
            _ => {}
        }
    }
}

/// Open loop: event `n` is sent on connection `n mod connections` when it is due, whatever became of those before.
pub async fn steady(
    urls: &[String],
    connections: usize,
    events: Vec<Frame>,
    schedule: Schedule,
) -> Result<Answered> {
    let count = events.len();
    let last_due = schedule.due(count.saturating_sub(1));
    let mut due: Vec<HashMap<String, Instant>> = vec![HashMap::new(); connections];
    for (n, event) in events.iter().enumerate() {
        due[n % connections].insert(event.id.clone(), schedule.due(n));
    }
    let events = Arc::new(events);
    let mut lanes = Vec::new();
    let mut readers = JoinSet::new();
    for (n, due) in due.into_iter().enumerate() {
        let (sender, receiver) = open(&urls[n % urls.len()], None).await?;
        lanes.push(lane(sender, Arc::clone(&events)));
        readers.spawn(collect_oks(receiver, due, last_due + STRAGGLER_LIMIT));
    }
    let mut ticks = schedule.ticks(count);
    while let Some(n) = ticks.recv().await {
        lanes[n % connections]
            .send(n)
            .ok()
            .context("a connection broke while sending")?;
    }
    let mut answered = Answered::default();
    let mut last_ok = schedule.due(0);
    while let Some(read) = readers.join_next().await {
        let (latencies, missing, ended) = read.context("a reader's task failed")??;
        answered.latencies.append(latencies);
        answered.missing += missing;
        last_ok = last_ok.max(ended);
    }
    answered.elapsed = last_ok.duration_since(schedule.due(0));
    Ok(answered)
}

/// A task that owns the sending half and sends the events whose numbers come.
fn lane(mut sender: Sender, events: Arc<Vec<Frame>>) -> mpsc::UnboundedSender<usize> {
    let (numbers, mut coming) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(n) = coming.recv().await {
            let n: usize = n;
            if sender.send(&events[n].text).await.is_err() {
                return;
            }
        }
    });
    numbers
}

/// Latencies from when each event was due, how many never came, and when the last one did.
async fn collect_oks(
    mut receiver: Receiver,
    mut due: HashMap<String, Instant>,
    until: Instant,
) -> Result<(Latencies, usize, Instant)> {
    let mut latencies = Latencies::default();
    let mut last = Instant::now();
    while !due.is_empty() {
        let Ok(heard) = tokio::time::timeout_at(until.into(), receiver.next()).await else {
            break;
        };
        match heard? {
            Heard::Ok(id) => {
                if let Some(due) = due.remove(&id) {
                    last = Instant::now();
                    latencies.add(last.saturating_duration_since(due));
                }
            }
            Heard::Refusal(frame) => bail!("the relay refused: {frame}"),
            _ => {}
        }
    }
    Ok((latencies, due.len(), last))
}
