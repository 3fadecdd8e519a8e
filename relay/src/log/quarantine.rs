//! Keeps a bounded record of entries that could not be opened: where they stand and why, never what they hold.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Serialize;

/// The record file is turned over at this size; one older file is kept.
const MAX_BYTES: u64 = 1024 * 1024;

/// One entry that was skipped. A JSON line of `quarantine.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuarantineRecord {
    /// When this relay met it, in milliseconds since the epoch.
    pub seen_ms: u64,
    /// The stream.
    pub stream: String,
    /// Its sequence.
    pub sequence: u64,
    /// The subject: region, generation, shard and bucket, all of it clear on NATS already.
    pub subject: String,
    /// Length of the envelope in bytes.
    pub bytes: usize,
    /// Why it was skipped.
    pub reason: String,
}

/// Appends records to `quarantine.jsonl` in a folder.
#[derive(Debug)]
pub struct Quarantine {
    path: PathBuf,
    file: Mutex<Option<(File, u64)>>,
}

impl Quarantine {
    /// A record in `dir`; nothing is made before the first record.
    pub fn new(dir: &Path) -> Self {
        Self {
            path: dir.join("quarantine.jsonl"),
            file: Mutex::new(None),
        }
    }

    /// Where the records are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one record. A record that cannot be written is logged; the log goes on.
    pub fn record(&self, record: &QuarantineRecord) {
        let Ok(mut line) = serde_json::to_vec(record) else {
            return;
        };
        line.push(b'\n');
        let mut file = self
            .file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = self.append(&mut file, &line) {
            tracing::warn!(path = %self.path.display(), %error, "no quarantine record");
            *file = None;
        }
    }

    fn append(&self, slot: &mut Option<(File, u64)>, line: &[u8]) -> std::io::Result<()> {
        if slot
            .as_ref()
            .is_some_and(|(_, bytes)| bytes + line.len() as u64 > MAX_BYTES)
        {
            std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
            *slot = None;
        }
        if slot.is_none() {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&self.path)?;
            let bytes = file.metadata()?.len();
            *slot = Some((file, bytes));
        }
        if let Some((file, bytes)) = slot {
            file.write_all(line)?;
            *bytes += line.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64) -> QuarantineRecord {
        QuarantineRecord {
            seen_ms: 1,
            stream: "EV_a_1_0".into(),
            sequence,
            subject: "ev.a.1.0.5".into(),
            bytes: 512,
            reason: "bad tag".into(),
        }
    }

    #[test]
    fn records_are_lines_and_survive_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        Quarantine::new(dir.path()).record(&record(1));
        let quarantine = Quarantine::new(dir.path());
        quarantine.record(&record(2));
        let text = std::fs::read_to_string(quarantine.path()).expect("a file");
        let sequences: Vec<u64> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).expect("json")["sequence"]
                    .as_u64()
                    .expect("a number")
            })
            .collect();
        assert_eq!(sequences, [1, 2]);
    }

    #[test]
    fn a_flood_of_damaged_entries_takes_bounded_space() {
        let dir = tempfile::tempdir().expect("a folder");
        let quarantine = Quarantine::new(dir.path());
        for sequence in 0..25_000 {
            quarantine.record(&record(sequence));
        }
        let bytes: u64 = std::fs::read_dir(dir.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").metadata().expect("metadata").len())
            .sum();
        assert!(bytes <= 2 * MAX_BYTES, "{bytes}");
    }
}
