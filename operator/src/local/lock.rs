//! `DIR/lock`: one running copy for each state folder.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::LocalError;

/// Held as long as the fleet runs; the system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the lock of a state folder, and makes the folder when absent.
    pub(crate) fn take(state_dir: &Path) -> Result<Self, LocalError> {
        let not_writable = |source| LocalError::StateFolder {
            path: state_dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(state_dir).map_err(not_writable)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(state_dir.join("lock"))
            .map_err(not_writable)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            // Only for the message: the lock decides, not the number in the file.
            let _ = file.read_to_string(&mut holder);
            return Err(LocalError::AlreadyRunning {
                path: state_dir.to_owned(),
                pid: holder.trim().parse().ok(),
            });
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(not_writable)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_copy_on_the_same_folder_is_refused_and_names_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateLock::take(dir.path()).unwrap();
        let refusal = StateLock::take(dir.path()).unwrap_err().to_string();
        assert!(
            refusal.contains(&std::process::id().to_string()),
            "{refusal}"
        );
        drop(first);
        StateLock::take(dir.path()).unwrap();
    }
}
