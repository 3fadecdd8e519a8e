//! A fleet of real processes: `nightjar-operator local FILE --state DIR --json`, its events read, its processes killed on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::programs::{dies_with_this_thread, nats_server, program};
use crate::wait::{until, until_true};

/// Longer than any start, restart or recovery takes on a busy machine of 2 cores.
pub const READY_LIMIT: Duration = Duration::from_secs(120);

/// What is known of one process of the fleet.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Region it belongs to.
    pub region: String,
    /// `nats`, `hub` or `relay`.
    pub role: String,
    /// Of the newest incarnation.
    pub pid: Option<u32>,
    /// `starting`, `running`, `ready`, `exited` or `stopped`.
    pub state: String,
}

/// What the operator said so far.
#[derive(Debug, Default)]
struct Said {
    processes: BTreeMap<String, Process>,
    /// Relay URLs by region, of the newest `ready`.
    relays: BTreeMap<String, Vec<String>>,
    /// How many `ready` events came.
    ready: usize,
    errors: Vec<String>,
    lines: Vec<String>,
    /// Exit code and signal, once it ended.
    ended: Option<String>,
}

/// One run of the operator on a file and a state folder. Dropping it kills the operator and waits for its processes to end.
pub struct Fleet {
    dir: PathBuf,
    file: PathBuf,
    said: Arc<Mutex<Said>>,
    operator: Pid,
    started: Instant,
}

impl Fleet {
    /// Starts the fleet that `yaml` describes in a folder of its own, and waits until it is ready.
    pub async fn start(name: &str, yaml: &str) -> Fleet {
        let dir = crate::programs::fresh_dir(name);
        std::fs::write(dir.join("fleet.yaml"), yaml).expect("the fleet's file");
        let fleet = Fleet::spawn(&dir);
        fleet.wait_ready().await;
        fleet
    }

    /// Starts the operator on `dir/fleet.yaml` and `dir/state`, and returns at once.
    pub fn spawn(dir: &Path) -> Fleet {
        let file = dir.join("fleet.yaml");
        let mut command = Command::new(program("nightjar-operator"));
        command
            .arg("local")
            .arg(&file)
            .arg("--state")
            .arg(dir.join("state"))
            .arg("--json");
        let said = Arc::new(Mutex::new(Said::default()));
        let operator = follow(command, dir, Arc::clone(&said));
        Fleet {
            dir: dir.to_path_buf(),
            file,
            said,
            operator,
            started: Instant::now(),
        }
    }

    /// Waits for the `ready` event; panics with what the operator said when it ends or stays silent.
    pub async fn wait_ready(&self) -> Duration {
        until("fleet ready", READY_LIMIT, async || {
            let said = self.said();
            if let Some(ended) = &said.ended {
                panic!(
                    "the operator ended ({ended}) before the fleet was ready; {}",
                    said.tail()
                );
            }
            if said.ready > 0 {
                Ok(())
            } else {
                Err(said.tail())
            }
        })
        .await;
        self.started.elapsed()
    }

    /// The folder of the test: `fleet.yaml` and `state/`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The state folder given to the operator.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The RelayCluster file; write it to change the fleet.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Names of all regions that have relays.
    pub fn regions(&self) -> Vec<String> {
        self.said().relays.keys().cloned().collect()
    }

    /// URL of the first relay of `region`.
    pub fn relay(&self, region: &str) -> String {
        self.relays(region)
            .into_iter()
            .next()
            .unwrap_or_else(|| panic!("region {region} has no relay"))
    }

    /// URLs of all relays of `region`, in the order of their ordinals.
    pub fn relays(&self, region: &str) -> Vec<String> {
        self.said().relays.get(region).cloned().unwrap_or_default()
    }

    /// What is known of all processes, by name.
    pub fn processes(&self) -> BTreeMap<String, Process> {
        self.said().processes.clone()
    }

    /// Messages of all `error` events so far.
    pub fn errors(&self) -> Vec<String> {
        self.said().errors.clone()
    }

    /// Raw lines of all events so far.
    pub fn lines(&self) -> Vec<String> {
        self.said().lines.clone()
    }

    /// The operator's own process id.
    pub fn operator(&self) -> u32 {
        self.operator.as_raw_nonzero().get().unsigned_abs()
    }

    /// Folder of one process: configuration, data or index, log file.
    pub fn process_dir(&self, process: &str) -> PathBuf {
        let region = self
            .processes()
            .get(process)
            .unwrap_or_else(|| panic!("no process {process}"))
            .region
            .clone();
        self.state().join("regions").join(region).join(process)
    }

    /// Process id of the newest incarnation of `process`.
    pub fn pid(&self, process: &str) -> u32 {
        self.processes()
            .get(process)
            .and_then(|process| process.pid)
            .unwrap_or_else(|| panic!("no process {process}"))
    }

    /// kill -9 of one process; returns the pid that was killed. The operator restarts it.
    pub fn kill(&self, process: &str) -> u32 {
        let pid = self.pid(process);
        signal(pid, Signal::KILL);
        pid
    }

    /// Freezes all NATS servers of a region, or lets them go on: connections stay and nothing is answered.
    pub fn freeze_nats(&self, region: &str, frozen: bool) {
        let sent = if frozen { Signal::STOP } else { Signal::CONT };
        let all = self
            .processes()
            .into_values()
            .filter(|process| process.region == region);
        for process in all.filter(|process| process.role == "nats") {
            signal(process.pid.expect("a running process"), sent);
        }
    }

    /// Waits until `process` runs under another pid than `old` and is ready.
    pub async fn wait_restarted(&self, process: &str, old: u32) {
        until(
            &format!("{process} restarted"),
            READY_LIMIT,
            async || match self.processes().get(process) {
                Some(now) if now.pid.is_some_and(|pid| pid != old) && now.state == "ready" => {
                    Ok(())
                }
                other => Err(format!("{other:?}; {}", self.said().tail())),
            },
        )
        .await;
    }

    /// Stops all processes of a region until [`Fleet::release`].
    pub async fn hold(&self, region: &str) {
        std::fs::write(self.hold_marker(region), "").expect("the marker that holds a region");
        until_true(&format!("region {region} stopped"), READY_LIMIT, || {
            self.processes()
                .values()
                .filter(|process| process.region == region)
                .all(|process| process.pid.is_none_or(|pid| !is_alive(pid)))
        })
        .await;
    }

    /// Lets the operator start the region's processes again, and waits until all are ready.
    pub async fn release(&self, region: &str) {
        std::fs::remove_file(self.hold_marker(region)).expect("the marker that holds a region");
        until(&format!("region {region} back"), READY_LIMIT, async || {
            let all = self.processes();
            let waiting: Vec<_> = all
                .iter()
                .filter(|(_, process)| process.region == region && process.state != "ready")
                .collect();
            if waiting.is_empty() {
                Ok(())
            } else {
                Err(format!("{waiting:?}"))
            }
        })
        .await;
    }

    fn hold_marker(&self, region: &str) -> PathBuf {
        self.state().join("regions").join(region).join("hold")
    }

    /// kill -9 of the operator and of every process of the fleet, all at once.
    pub async fn kill_all(&self) {
        let pids: Vec<u32> = self
            .processes()
            .values()
            .filter_map(|process| process.pid)
            .collect();
        signal(self.operator(), Signal::KILL);
        for pid in &pids {
            signal(*pid, Signal::KILL);
        }
        until_true("all processes ended", READY_LIMIT, || {
            self.ended().is_some() && pids.iter().all(|pid| !is_alive(*pid))
        })
        .await;
    }

    /// kill -9 of everything, then a new start on the same state, ready.
    pub async fn restart_after_kill(self) -> Fleet {
        self.kill_all().await;
        let dir = self.dir.clone();
        drop(self);
        let fleet = Fleet::spawn(&dir);
        fleet.wait_ready().await;
        fleet
    }

    /// Ctrl-C, and how long it took until the operator and all its processes had ended.
    pub async fn interrupt(&self) -> Duration {
        let started = Instant::now();
        let pids: Vec<u32> = self
            .processes()
            .values()
            .filter_map(|process| process.pid)
            .collect();
        signal(self.operator(), Signal::INT);
        until_true("the operator ended", READY_LIMIT, || {
            self.ended().is_some() && pids.iter().all(|pid| !is_alive(*pid))
        })
        .await;
        started.elapsed()
    }

    /// How the operator ended, if it has.
    pub fn ended(&self) -> Option<String> {
        self.said().ended.clone()
    }

    /// Waits until the operator has ended by itself and says how.
    pub async fn wait_ended(&self) -> String {
        until("the operator ended", READY_LIMIT, async || {
            self.ended().ok_or_else(|| self.said().tail())
        })
        .await
    }

    /// `GET path` of the admin port of a relay: status and body.
    pub async fn admin(&self, relay: &str, path: &str) -> Result<(u16, String), String> {
        let text = std::fs::read_to_string(self.process_dir(relay).join("relay.yaml"))
            .map_err(|error| error.to_string())?;
        let config: Value = serde_yaml::from_str(&text).map_err(|error| error.to_string())?;
        let address = config
            .get("admin")
            .and_then(Value::as_str)
            .ok_or("relay.yaml names no admin address")?;
        http_get(address, path, "application/json").await
    }

    /// `GET path` of the first relay of `region` with an `Accept` header: status and body.
    pub async fn get(
        &self,
        region: &str,
        path: &str,
        accept: &str,
    ) -> Result<(u16, String), String> {
        let url = self.relay(region);
        let address = url.trim_start_matches("ws://").trim_end_matches('/');
        http_get(address, path, accept).await
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().expect("no reader panicked")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if self.ended().is_none() {
            signal(self.operator(), Signal::KILL);
        }
        // Children follow their parent; ports and files must be free for whoever comes next.
        let pids: Vec<u32> = self
            .processes()
            .values()
            .filter_map(|process| process.pid)
            .collect();
        let started = Instant::now();
        while pids.iter().any(|pid| is_alive(*pid)) && started.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The one fleet of a test file, started by whichever test comes first.
pub struct Shared {
    fleet: tokio::sync::OnceCell<Fleet>,
    tried: AtomicBool,
}

impl Shared {
    /// None yet.
    pub const fn new() -> Shared {
        Shared {
            fleet: tokio::sync::OnceCell::const_new(),
            tried: AtomicBool::new(false),
        }
    }

    /// The fleet, ready. A start that failed is not tried again by each test of the file.
    pub async fn get(&self, name: &str, yaml: &str) -> &Fleet {
        let start = || async {
            let tried = self.tried.swap(true, Ordering::SeqCst);
            assert!(
                !tried,
                "the fleet of this file did not start: see the test that failed first"
            );
            Fleet::start(name, yaml).await
        };
        self.fleet.get_or_init(start).await
    }
}

impl Default for Shared {
    fn default() -> Self {
        Shared::new()
    }
}

impl Said {
    fn on_line(&mut self, line: String) {
        if let Ok(event) = serde_json::from_str::<Value>(&line) {
            let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("process") => {
                    let process = self.processes.entry(text("name")).or_default();
                    process.region = text("region");
                    process.role = text("role");
                    process.state = text("state");
                    if let Some(pid) = event["pid"].as_u64() {
                        process.pid = u32::try_from(pid).ok();
                    }
                }
                Some("ready") => {
                    self.ready += 1;
                    self.relays = event["regions"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .map(region_relays)
                        .collect();
                }
                Some("error") => self.errors.push(
                    format!("{} {}", text("field"), text("message"))
                        .trim()
                        .to_owned(),
                ),
                _ => {}
            }
        }
        self.lines.push(line);
    }

    fn tail(&self) -> String {
        let tail = self.lines.len().saturating_sub(12);
        format!(
            "the operator's last lines:\n{}",
            self.lines[tail..].join("\n")
        )
    }
}

fn region_relays(region: &Value) -> (String, Vec<String>) {
    let urls = region["relays"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|url| url.as_str().map(str::to_owned))
        .collect();
    (region["name"].as_str().unwrap_or_default().to_owned(), urls)
}

/// Starts the operator from a thread that reads its lines, and so lives as long as it does.
fn follow(mut command: Command, dir: &Path, said: Arc<Mutex<Said>>) -> Pid {
    let log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(dir.join("operator.log"))
        .expect("the operator's log");
    command
        .env("NATS_SERVER", nats_server())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    dies_with_this_thread(&mut command);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut child = command.spawn().expect("nightjar-operator starts");
        let stdout = child.stdout.take().expect("stdout is a pipe");
        sender.send(child.id()).expect("the starter waits");
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            said.lock().expect("no reader panicked").on_line(line);
        }
        let ended = child
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        said.lock().expect("no reader panicked").ended = Some(ended);
    });
    let id = receiver.recv().expect("the operator started");
    Pid::from_raw(i32::try_from(id).expect("a pid")).expect("a pid")
}

/// Sends a signal to a process; one that is gone already is fine.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        kill_process(pid, signal).ok();
    }
}

/// Whether a process runs. A zombie does not.
pub fn is_alive(pid: u32) -> bool {
    let Some(checked) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    if test_kill_process(checked).is_err() {
        return false;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat
        .rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('Z'))
}

/// A plain HTTP/1.1 GET on loopback.
pub async fn http_get(address: &str, path: &str, accept: &str) -> Result<(u16, String), String> {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await;
    let answer = answer
        .map_err(|_| format!("GET {path} of {address}: no answer"))?
        .map_err(|error| format!("GET {path} of {address}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP answer")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or("no HTTP status")?;
    Ok((status, body.to_owned()))
}
