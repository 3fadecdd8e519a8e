//! The RelayCluster file: read and checked, and watched for changes.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::LocalError;
use crate::crd::MAX_FILE_BYTES;
use crate::validate::ValidFleet;

/// How often the file is looked at. Only its metadata is read.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// What changes with every way of saving a file: in place, or by rename.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// How the file stands now.
pub(crate) fn mark(path: &Path) -> Option<Mark> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some(Mark {
        modified: metadata.modified().ok(),
        length: metadata.len(),
        inode: metadata.ino(),
    })
}

/// Sends the fleet, or what is wrong with it, whenever the file has changed and then stayed the same for one look.
///
/// `applied` is how the file stood before it was read last.
pub(crate) async fn watch(
    path: PathBuf,
    mut applied: Option<Mark>,
    changes: mpsc::Sender<Result<ValidFleet, LocalError>>,
) {
    let mut previous = applied.clone();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let current = mark(&path);
        let settled = current == previous;
        previous.clone_from(&current);
        if !settled || current == applied {
            continue;
        }
        applied = current;
        if changes.send(load(&path)).await.is_err() {
            return;
        }
    }
}

/// Reads and checks the file.
pub(crate) fn load(path: &Path) -> Result<ValidFleet, LocalError> {
    let mut text = String::new();
    // One byte more than is allowed, so that the check of its length says so.
    File::open(path)
        .and_then(|file| {
            file.take(MAX_FILE_BYTES as u64 + 1)
                .read_to_string(&mut text)
        })
        .map_err(|source| LocalError::File {
            path: path.to_owned(),
            source,
        })?;
    crate::validate::from_yaml(&text).map_err(|errors| LocalError::Fields(path.to_owned(), errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_between_the_first_reading_and_the_watch_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fleet.yaml");
        std::fs::write(&path, "one").unwrap();
        let read = mark(&path);
        std::fs::write(&path, "another").unwrap();
        let (changes, mut inbox) = mpsc::channel(1);
        let watching = tokio::spawn(watch(path, read, changes));
        let change = tokio::time::timeout(Duration::from_secs(10), inbox.recv());
        assert!(change.await.expect("a change").unwrap().is_err());
        watching.abort();
    }
}
