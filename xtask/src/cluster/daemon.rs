//! Starts the cluster's programs in the background, records who they are, and finds all of them again. Ends none that it did
//! not start: a process is ours if its environment carries the mark, or if it runs in a cgroup of our nodes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::plan::{self, Node};
use crate::run::on_path;

/// Set for every program of the cluster and inherited by what it starts.
const MARK: &str = "NIGHTJAR_CLUSTER_RUN";

pub(super) fn log_file(name: &str) -> PathBuf {
    plan::run_dir().join("logs").join(format!("{name}.log"))
}

fn pid_dir() -> PathBuf {
    plan::run_dir().join("pids")
}

/// Starts `program` in a session of its own, in the network of `node` or of this machine; its output goes to `logs/<name>.log`.
pub(super) fn start(
    name: &str,
    node: Option<&Node>,
    program: &Path,
    args: &[String],
) -> Result<()> {
    let log = File::create(log_file(name))
        .with_context(|| format!("cannot write {}", log_file(name).display()))?;
    // setsid and nsenter become the program, so the PID stays.
    let mut command = Command::new("setsid");
    if let Some(node) = node {
        command
            .arg("nsenter")
            .arg(format!("--net={}", node.netns().display()));
    }
    command
        .arg(program)
        .args(args)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", plan::RUN)
        .env(MARK, plan::RUN);
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {name} ({})", program.display()))?;
    let pid = child.id();
    let started = started(pid).with_context(|| format!("{name} ended at once"))?;
    // Renamed into place: another thread may read the records meanwhile, and half a record looks like an ended program.
    let unfinished = plan::run_dir().join(format!("{name}.pid"));
    fs::write(&unfinished, format!("{pid} {started}\n"))
        .and_then(|()| fs::rename(&unfinished, pid_dir().join(name)))
        .with_context(|| format!("cannot record the PID of {name}"))
}

/// Marks a program that ends by itself, so that it ends with the cluster even if its caller was killed.
pub(super) fn mark(command: &mut Command) -> &mut Command {
    command.env(MARK, plan::RUN)
}

/// Names of all recorded programs, and whether each runs.
pub(super) fn recorded() -> Vec<(String, bool)> {
    let mut names: Vec<String> = fs::read_dir(pid_dir())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let runs = runs(&name);
            (name, runs)
        })
        .collect()
}

/// Whether the program recorded as `name` is the one that runs under its PID now.
pub(super) fn runs(name: &str) -> bool {
    let Ok(record) = fs::read_to_string(pid_dir().join(name)) else {
        return false;
    };
    let mut words = record.split_whitespace();
    let (Some(Ok(pid)), Some(Ok(then))) = (
        words.next().map(str::parse::<u32>),
        words.next().map(str::parse::<u64>),
    ) else {
        return false;
    };
    started(pid) == Some(then)
}

/// Polls `done` until it holds. Fails at once, with the end of its log, when a program of the cluster has ended.
pub(super) fn wait_for(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        if let Some((name, _)) = recorded().into_iter().find(|(_, runs)| !runs) {
            bail!(
                "{name} ended while waiting for {what}. The end of its log:\n{}",
                tail(&name)
            );
        }
        if start.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        sleep(Duration::from_millis(150));
    }
    Ok(())
}

/// The last lines that `name` wrote.
pub(super) fn tail(name: &str) -> String {
    let text = fs::read(log_file(name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Kills every process of the cluster and waits until none is left.
pub(super) fn kill_all() -> Result<()> {
    let kill = on_path("kill").context("`kill` is not on PATH (Debian: procps)")?;
    let start = Instant::now();
    loop {
        let pids = ours();
        if pids.is_empty() {
            return Ok(());
        }
        if start.elapsed() > Duration::from_secs(20) {
            bail!("processes {pids:?} of the cluster do not end");
        }
        // Some may have ended since they were listed.
        Command::new(&kill)
            .arg("-KILL")
            .args(pids.iter().map(u32::to_string))
            .stderr(Stdio::null())
            .status()
            .context("cannot run `kill`")?;
        sleep(Duration::from_millis(50));
    }
}

/// PIDs of all living processes of the cluster: its programs, what they started, and what runs in pods.
fn ours() -> Vec<u32> {
    let mark = format!("{MARK}={}", plan::RUN);
    let cgroups: Vec<String> = plan::ALL_NODES
        .iter()
        .map(|node| format!(":/{}/", node.name))
        .collect();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let marked = fs::read(entry.path().join("environ")).is_ok_and(|environment| {
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes())
        });
        let in_pod = || {
            fs::read_to_string(entry.path().join("cgroup"))
                .is_ok_and(|text| cgroups.iter().any(|cgroup| text.contains(cgroup)))
        };
        if (marked || in_pod()) && started(pid).is_some() {
            found.push(pid);
        }
    }
    found
}

/// When the process started, in ticks since boot; none if it does not run, or has ended and was not waited for.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    start_ticks(&stat)
}

/// Field 22 of `/proc/PID/stat`, unless the state is that of an ended process. The name in field 2 may hold anything.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";

    #[test]
    fn start_is_read_past_any_name() {
        assert_eq!(start_ticks(&format!("7 (a) b (c) S {REST}")), Some(4711));
    }

    #[test]
    fn an_ended_process_has_no_start() {
        assert_eq!(start_ticks(&format!("7 (sh) Z {REST}")), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn this_process_runs_and_is_no_part_of_a_cluster() {
        let me = std::process::id();
        assert!(started(me).is_some());
        assert!(!ours().contains(&me));
    }
}
