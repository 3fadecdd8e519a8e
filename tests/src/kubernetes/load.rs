//! Steady load into a fleet while its pods move: a publisher and a live subscriber in each region that connect again as clients do.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::event::now;
use crate::load::{CONVERGE_LIMIT, Published, Run, publish_steadily};
use crate::report::measured;
use crate::socket::{Frame, Socket};
use crate::wait::until;

/// Events a second of each publisher.
const RATE: f64 = 5.0;
/// Events of one turn of a publisher.
const TURN: usize = 20;
/// A subscriber that hears nothing for so long, while others publish, opens another connection.
const SILENCE: Duration = Duration::from_secs(15);
/// How far back a subscriber asks when it connects again: further than any fault lasts. What a region that is cut off could not send
/// arrives late, and `since` is about when an event was made.
const OVERLAP_SECONDS: u64 = 180;

/// Load that runs.
#[derive(Debug)]
pub struct Load {
    name: String,
    run: Arc<Run>,
    relays: Vec<String>,
    stop: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<Published>>,
    subscribers: Vec<(JoinHandle<()>, Arc<Mutex<Heard>>)>,
}

#[derive(Debug, Default)]
struct Heard {
    ids: BTreeSet<String>,
    connections: usize,
    twice: Vec<String>,
}

/// What came of a load.
#[derive(Debug)]
pub struct Outcome {
    /// The run, to ask again what is served.
    pub run: Arc<Run>,
    /// Ids that got `OK true`.
    pub acknowledged: BTreeSet<String>,
}

impl Load {
    /// A publisher and a subscriber at each relay; returns when every subscriber hears.
    pub async fn start(name: &str, relays: &[String]) -> Load {
        Load::start_at(name, relays, relays).await
    }

    /// Publishers at some relays, subscribers at others.
    pub async fn start_at(name: &str, publish_at: &[String], subscribe_at: &[String]) -> Load {
        let run = Arc::new(Run::new(name));
        let stop = Arc::new(AtomicBool::new(false));
        let mut subscribers = Vec::new();
        for relay in subscribe_at {
            let heard = Arc::new(Mutex::new(Heard::default()));
            let task = tokio::spawn(follow(Arc::clone(&run), relay.clone(), Arc::clone(&heard)));
            subscribers.push((task, heard));
        }
        for (_, heard) in &subscribers {
            until("a live subscriber", CONVERGE_LIMIT, async || {
                let connected = heard.lock().expect("no panic").connections > 0;
                connected
                    .then_some(())
                    .ok_or_else(|| "no connection".to_owned())
            })
            .await;
        }
        let publishers = publish_at
            .iter()
            .enumerate()
            .map(|(at, relay)| {
                let (run, relay, stop) = (Arc::clone(&run), relay.clone(), Arc::clone(&stop));
                tokio::spawn(publish(run, relay, at * 1_000_000, stop))
            })
            .collect();
        Load {
            name: name.to_owned(),
            run,
            relays: subscribe_at.to_vec(),
            stop,
            publishers,
            subscribers,
        }
    }

    /// Stops publishing; insists that everything acknowledged is served once at every relay and came to every subscriber.
    pub async fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Published::default();
        for publisher in self.publishers {
            let published = publisher
                .await
                .expect("a publisher gets everything acknowledged");
            sum.acknowledged.extend(published.acknowledged);
            sum.again += published.again;
            sum.reconnects += published.reconnects;
            sum.latencies_ms.extend(published.latencies_ms);
        }
        sum.latencies_ms.sort_unstable();
        assert!(!sum.acknowledged.is_empty(), "nothing was acknowledged");
        self.run
            .wait_served_once(&self.relays, &sum.acknowledged)
            .await;
        let mut connections = 0;
        for (relay, (task, heard)) in self.relays.iter().zip(self.subscribers) {
            until(
                &format!("live subscriber at {relay}"),
                CONVERGE_LIMIT,
                async || {
                    let heard = heard.lock().expect("no panic");
                    let missed = sum.acknowledged.difference(&heard.ids).count();
                    if missed == 0 {
                        Ok(())
                    } else {
                        Err(format!("missed {missed} of {}", sum.acknowledged.len()))
                    }
                },
            )
            .await;
            task.abort();
            let heard = heard.lock().expect("no panic");
            assert!(
                heard.twice.is_empty(),
                "{relay}: twice on one connection: {:?}",
                heard.twice
            );
            connections += heard.connections;
        }
        measured(&format!(
            "Kubernetes: {}: {} events acknowledged and served, p99 {} ms, slowest {} ms, {} sent again, {} reconnects of publishers, {} connections of subscribers",
            self.name,
            sum.acknowledged.len(),
            sum.percentile_ms(0.99),
            sum.latencies_ms.last().copied().unwrap_or_default(),
            sum.again,
            sum.reconnects,
            connections,
        ));
        Outcome {
            run: self.run,
            acknowledged: sum.acknowledged,
        }
    }
}

async fn publish(run: Arc<Run>, relay: String, first: usize, stop: Arc<AtomicBool>) -> Published {
    let mut sum = Published::default();
    let mut next = first;
    loop {
        let published = publish_steadily(relay.clone(), run.events_from(next, TURN), RATE).await;
        next += TURN;
        sum.acknowledged.extend(published.acknowledged);
        sum.again += published.again;
        sum.reconnects += published.reconnects;
        sum.latencies_ms.extend(published.latencies_ms);
        if stop.load(Ordering::Relaxed) {
            return sum;
        }
    }
}

/// Subscribes, and again whenever the connection ends; what may have been missed meanwhile is asked for as stored.
async fn follow(run: Arc<Run>, relay: String, heard: Arc<Mutex<Heard>>) {
    let mut since = now().saturating_sub(OVERLAP_SECONDS);
    loop {
        if let Ok(socket) = run.try_follow(&relay, since).await {
            heard.lock().expect("no panic").connections += 1;
            since = listen(&socket, &heard)
                .await
                .saturating_sub(OVERLAP_SECONDS);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Until the connection ends; when it was last heard, in seconds since 1970.
async fn listen(socket: &Socket, heard: &Mutex<Heard>) -> u64 {
    let mut on_this = BTreeSet::new();
    let (mut last, mut last_at) = (now(), Instant::now());
    loop {
        for received in socket.drain() {
            (last, last_at) = (now(), Instant::now());
            match received.frame {
                Frame::Event(_, event) => {
                    let id = event["id"].as_str().unwrap_or_default().to_owned();
                    let mut heard = heard.lock().expect("no panic");
                    heard.ids.insert(id.clone());
                    if !on_this.insert(id.clone()) {
                        heard.twice.push(id);
                    }
                }
                Frame::End(..) | Frame::Closed(..) => return last,
                _ => {}
            }
        }
        if last_at.elapsed() > SILENCE {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
