//! The index folder: one owner at a time, a marker that says whether its pages can be trusted, and wiping what cannot.
//!
//! The database is not synced to disk (`NO_SYNC`, without `WRITEMAP`). A killed process loses nothing, since its pages are
//! in the system's cache; a machine that goes down may lose any of them. So the marker names the boot in which the index
//! was opened, and whether it was closed cleanly, which syncs.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{FreshReason, IndexError, IndexOptions};

/// Version of the tables' format. Another version is rebuilt from the log.
pub(super) const FORMAT: u32 = 2;

const MARKER: &str = "marker.json";
const LOCK: &str = "lock";
const DATA: &str = "data.mdb";
const LMDB_LOCK: &str = "lock.mdb";

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format: u32,
    boot: String,
    clean: bool,
    fleet: String,
}

/// The folder, locked for this process.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    fleet: String,
    boot: String,
    /// Held open: the lock goes with it.
    _lock: File,
}

impl Folder {
    /// Makes and locks the folder.
    pub(super) fn open(options: &IndexOptions) -> Result<Folder, IndexError> {
        let dir = options.dir.clone();
        fs::create_dir_all(&dir).map_err(|source| file_error("make", &dir, source))?;
        let path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let lock = lock.map_err(|source| file_error("open", &path, source))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                return Err(IndexError::InUse { dir });
            }
            Err(error) => return Err(file_error("lock", &path, error.into())),
        }
        Ok(Folder {
            dir,
            fleet: options.fleet.clone(),
            boot: boot_id(),
            _lock: lock,
        })
    }

    /// Where LMDB puts its files.
    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// Why the data in this folder cannot be used; `None` if it can.
    pub(super) fn distrust(&self) -> Option<FreshReason> {
        let text = match fs::read(self.dir.join(MARKER)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && !self.dir.join(DATA).exists() => {
                return Some(FreshReason::New);
            }
            Err(error) => return Some(FreshReason::Unreadable(format!("{MARKER}: {error}"))),
        };
        let marker: Marker = match serde_json::from_slice(&text) {
            Ok(marker) => marker,
            Err(error) => return Some(FreshReason::Unreadable(format!("{MARKER}: {error}"))),
        };
        if marker.format != FORMAT {
            Some(FreshReason::OtherFormat {
                found: marker.format,
            })
        } else if marker.fleet != self.fleet {
            Some(FreshReason::OtherFleet)
        } else if !marker.clean && (marker.boot != self.boot || self.boot.is_empty()) {
            Some(FreshReason::UncleanBoot)
        } else if !self.dir.join(DATA).exists() {
            Some(FreshReason::Unreadable(format!("{DATA} is missing")))
        } else {
            None
        }
    }

    /// Removes the index's own files, and nothing else. The marker goes first: what is half removed is not trusted.
    pub(super) fn wipe(&self) -> Result<(), IndexError> {
        for name in [MARKER, DATA, LMDB_LOCK] {
            let path = self.dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(file_error("remove", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the marker: `clean` only after the database was synced, and not before anything else is written to it.
    pub(super) fn mark(&self, clean: bool) -> Result<(), IndexError> {
        let marker = Marker {
            format: FORMAT,
            boot: self.boot.clone(),
            clean,
            fleet: self.fleet.clone(),
        };
        let path = self.dir.join(MARKER);
        self.write_marker(&path, &marker)
            .map_err(|source| file_error("write", &path, source))
    }

    fn write_marker(&self, path: &Path, marker: &Marker) -> std::io::Result<()> {
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(marker)?)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(&self.dir)?.sync_all()
    }
}

/// Changes with every start of the machine. Empty, and so never trusted, where the system has none.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

fn file_error(action: &'static str, path: &Path, source: std::io::Error) -> IndexError {
    IndexError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
