//! The RelayCluster file: read and checked, and watched for changes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::LocalError;
use crate::validate::ValidFleet;

/// How often the file is looked at. Only its metadata is read.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// What changes with every way of saving a file: in place, or by rename.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

fn mark(path: &Path) -> Option<Mark> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some(Mark {
        modified: metadata.modified().ok(),
        length: metadata.len(),
        inode: metadata.ino(),
    })
}

/// Sends the fleet, or what is wrong with it, whenever the file has changed and then stayed the same for one look.
pub(crate) async fn watch(path: PathBuf, changes: mpsc::Sender<Result<ValidFleet, LocalError>>) {
    let mut applied = mark(&path);
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
    let text = std::fs::read_to_string(path).map_err(|source| LocalError::File {
        path: path.to_owned(),
        source,
    })?;
    crate::validate::from_yaml(&text).map_err(|errors| LocalError::Fields(path.to_owned(), errors))
}
