//! CPU and memory of processes, from `/proc` (Linux).

use std::fs;
use std::time::Instant;

use serde::Serialize;

/// Unit of CPU time in `/proc/<pid>/stat`: fixed at 100 for user space on all Linux architectures we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process to watch.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Name to show, as `a-relay-0`.
    pub name: String,
    /// Its id.
    pub pid: u32,
}

/// What a process used during a run.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// The process.
    pub name: String,
    /// Share of one core, 1.0 = one core busy all the time.
    pub cores: f64,
    /// Resident memory at the end, in MiB, mapped files included.
    pub resident_mib: f64,
    /// Of that, memory that is not backed by a file, in MiB.
    pub anonymous_mib: f64,
}

/// CPU time of processes since the beginning of a run.
pub struct Meter {
    started: Instant,
    at_start: Vec<(Watched, f64)>,
}

impl Meter {
    /// Begins to measure these processes, and the load generator itself.
    #[must_use]
    pub fn start(watched: &[Watched]) -> Self {
        let own = Watched {
            name: "(load generator)".to_owned(),
            pid: std::process::id(),
        };
        let at_start = watched
            .iter()
            .chain(std::iter::once(&own))
            .map(|process| (process.clone(), cpu_seconds(process.pid).unwrap_or(0.0)))
            .collect();
        Self {
            started: Instant::now(),
            at_start,
        }
    }

    /// What each process used since. A process that is gone is left out.
    #[must_use]
    pub fn stop(self) -> Vec<Usage> {
        let elapsed = self.started.elapsed().as_secs_f64();
        self.at_start
            .into_iter()
            .filter_map(|(process, before)| {
                let memory = memory(process.pid)?;
                Some(Usage {
                    name: process.name,
                    cores: round((cpu_seconds(process.pid)? - before) / elapsed, 1e3),
                    resident_mib: memory.resident_mib,
                    anonymous_mib: memory.anonymous_mib,
                })
            })
            .collect()
    }
}

/// Memory of one process now, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Memory {
    /// Resident, mapped files included.
    pub resident_mib: f64,
    /// Resident and not backed by a file.
    pub anonymous_mib: f64,
}

/// Memory of a process; none if it is gone.
#[must_use]
pub fn memory(pid: u32) -> Option<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Memory {
        resident_mib: kib_field(&status, "VmRSS:")? / 1024.0,
        anonymous_mib: kib_field(&status, "RssAnon:")? / 1024.0,
    })
    .map(|memory| Memory {
        resident_mib: round(memory.resident_mib, 10.0),
        anonymous_mib: round(memory.anonymous_mib, 10.0),
    })
}

fn kib_field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time of a process, in seconds.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    cpu_ticks(&stat).map(|ticks| ticks as f64 / TICKS_PER_SECOND)
}

/// Fields 14 and 15, counted after the command in parentheses, which may hold spaces.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// Rounds to a fraction: 1e3 keeps three decimals.
pub fn round(value: f64, fraction: f64) -> f64 {
    (value * fraction).round() / fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_command_with_spaces_and_parentheses() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 7 5 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_ticks(stat), Some(12));
    }

    #[test]
    fn this_process_has_memory_and_uses_cpu() {
        let meter = Meter::start(&[]);
        let usage = meter.stop();
        assert_eq!(usage.len(), 1);
        assert!(usage[0].resident_mib > 0.0 && usage[0].cores >= 0.0);
        assert_eq!(memory(u32::MAX), None);
    }
}
