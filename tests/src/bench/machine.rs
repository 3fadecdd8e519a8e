//! The machine and the programs behind a set of figures: without them no figure means anything.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::Serialize;

use super::latency::{Latencies, Summary};
use crate::programs::{fresh_dir, nats_server, root};

/// Writes that measure the disk.
const PROBES: usize = 200;

/// Where figures were taken.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// The processor's own name.
    pub cpu: String,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// What `nats-server --version` prints.
    pub nats_server: String,
    /// Commit of the clone, `-dirty` with changes.
    pub commit: String,
    /// Write of 4 KiB and fdatasync, in the folder where the fleets' data lies.
    pub fdatasync: Option<Summary>,
}

impl Machine {
    /// Looks at this machine; what cannot be found out is empty.
    #[must_use]
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            cpu: value_of(&cpuinfo, "model name"),
            memory_mib: value_of(&meminfo, "MemTotal")
                .split_whitespace()
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .unwrap_or(0)
                / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            nats_server: said(Command::new(nats_server()).arg("--version")),
            commit: said(
                Command::new("git")
                    .args(["describe", "--always", "--dirty", "--abbrev=10"])
                    .current_dir(root()),
            ),
            fdatasync: fdatasync(&fresh_dir("bench-disk"))
                .ok()
                .and_then(Latencies::summary),
        }
    }
}

fn value_of(text: &str, key: &str) -> String {
    text.lines()
        .find(|line| line.starts_with(key))
        .and_then(|line| line.split_once(':'))
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

fn said(command: &mut Command) -> String {
    command
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

fn fdatasync(dir: &Path) -> std::io::Result<Latencies> {
    let mut file = fs::File::create(dir.join("probe"))?;
    let mut latencies = Latencies::default();
    for _ in 0..PROBES {
        let began = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        latencies.add(began.elapsed());
    }
    Ok(latencies)
}
