//! Everything that happens to a fleet's pods while a test does something: one `kubectl get --watch`, judged event by event.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

use super::fleet::{Fleet, Pod};
use crate::programs::dies_with_this_thread;

/// What the pods did.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pods: BTreeMap<String, Pod>,
    /// Pods of each region and component at the beginning.
    wanted: BTreeMap<(String, String), usize>,
    /// Regions that had a pod missing at the same time, whenever there were two or more.
    pub together: BTreeSet<Vec<String>>,
    /// The fewest ready NATS servers of each region.
    pub fewest_nats: BTreeMap<String, usize>,
    /// Regions in the order in which their first pod went.
    pub order: Vec<String>,
    /// What happened, for a failure's message.
    pub story: Vec<String>,
}

impl Seen {
    fn begin(pods: Vec<Pod>) -> Seen {
        let mut seen = Seen::default();
        for pod in pods {
            *seen.wanted.entry(key(&pod)).or_default() += 1;
            seen.pods.insert(pod.name.clone(), pod);
        }
        seen.judge();
        seen
    }

    fn on_event(&mut self, kind: &str, pod: Pod, at: f64) {
        let before = self.pods.get(&pod.name);
        let same = before.is_some_and(|before| before.ready == pod.ready && before.uid == pod.uid);
        if kind == "DELETED" {
            // A pod of the same name may be there already.
            if before.is_some_and(|before| before.uid == pod.uid) {
                self.pods.remove(&pod.name);
            }
        } else {
            self.pods.insert(pod.name.clone(), pod.clone());
        }
        if !same || kind == "DELETED" {
            let ready = if pod.ready { "ready" } else { "not ready" };
            self.story
                .push(format!("{at:.1} {kind} {} {ready}", pod.name));
        }
        self.judge();
    }

    fn judge(&mut self) {
        let mut ready: BTreeMap<(String, String), usize> = BTreeMap::new();
        for pod in self.pods.values().filter(|pod| pod.ready) {
            *ready.entry(key(pod)).or_default() += 1;
        }
        let mut missing = BTreeSet::new();
        for (of, wanted) in &self.wanted {
            let now = ready.get(of).copied().unwrap_or_default();
            if now < *wanted {
                missing.insert(of.0.clone());
            }
            if of.1 == "nats" {
                let fewest = self.fewest_nats.entry(of.0.clone()).or_insert(now);
                *fewest = now.min(*fewest);
            }
        }
        for region in &missing {
            if !self.order.contains(region) {
                self.order.push(region.clone());
            }
        }
        if missing.len() > 1 {
            self.together.insert(missing.into_iter().collect());
        }
    }

    /// Insists that one region moved at a time.
    pub fn assert_one_region_at_a_time(&self) {
        assert!(
            self.together.is_empty(),
            "regions with pods missing at the same time: {:?}\n{}",
            self.together,
            self.story.join("\n")
        );
    }

    /// Insists that each region kept a majority of its three NATS servers.
    pub fn assert_quorum(&self) {
        assert!(
            self.fewest_nats.values().all(|fewest| *fewest >= 2),
            "fewest ready NATS servers: {:?}\n{}",
            self.fewest_nats,
            self.story.join("\n")
        );
    }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.region.clone(), pod.component.clone())
}

/// A running watch.
#[derive(Debug)]
pub struct PodWatch {
    child: Child,
    seen: Arc<Mutex<Seen>>,
    reader: Option<JoinHandle<()>>,
}

impl PodWatch {
    /// Begins; all pods of the fleet are there.
    pub fn start(fleet: &Fleet) -> PodWatch {
        let selector = format!("nightjar.dev/fleet={}", fleet.name);
        let args = [
            "-n",
            &fleet.namespace,
            "get",
            "pods",
            "--selector",
            &selector,
            "--watch",
            "--output-watch-events",
            "-o",
            "json",
        ];
        let seen = Arc::new(Mutex::new(Seen::begin(fleet.pods())));
        let mut command = fleet.cluster.command("kubectl", &args);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        dies_with_this_thread(&mut command);
        let mut child = command.spawn().expect("kubectl starts");
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let told = Arc::clone(&seen);
        let began = Instant::now();
        let reader = std::thread::spawn(move || {
            let events = serde_json::Deserializer::from_reader(std::io::BufReader::new(stdout));
            for event in events.into_iter::<Value>().map_while(Result::ok) {
                let kind = event["type"].as_str().unwrap_or_default().to_owned();
                let pod = Pod::read(&event["object"]);
                let at = began.elapsed().as_secs_f64();
                told.lock()
                    .expect("no judge panicked")
                    .on_event(&kind, pod, at);
            }
        });
        PodWatch {
            child,
            seen,
            reader: Some(reader),
        }
    }

    /// Ends; what was seen.
    pub fn finish(mut self) -> Seen {
        assert!(
            matches!(self.child.try_wait(), Ok(None)),
            "the watch ended before the test did"
        );
        self.child.kill().ok();
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader did not panic");
        }
        self.seen.lock().expect("no judge panicked").clone()
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
