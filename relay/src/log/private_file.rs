//! Reads a secret file: a regular file of at most 64 KiB that its owner alone may touch.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

/// The largest secret file in bytes; a keyring of a thousand epochs is smaller.
const MAX_BYTES: u64 = 64 * 1024;

/// Why a secret file cannot be used. The text names the file and never its content.
#[derive(Debug, Error)]
pub enum PrivateFileError {
    /// It cannot be opened or read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others than its owner may touch it.
    #[error("{}: mode {mode:04o} lets others read it, make it 0600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not a regular file, or too large.
    #[error("{}: not a regular file of at most 65536 bytes", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
}

/// What tells one version of a file from the next: (inode, size, mtime in ns).
pub(crate) type FileStamp = (u64, u64, i128);

/// Reads the file, wiped from memory when dropped, with the stamp of what was read.
pub(crate) fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, FileStamp), PrivateFileError> {
    let unreadable = |source| PrivateFileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() || meta.len() > MAX_BYTES {
        return Err(PrivateFileError::NotAFile {
            path: path.to_owned(),
        });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    // Reserved in advance: a growing vector would leave unwiped copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES as usize + 1));
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(PrivateFileError::NotAFile {
            path: path.to_owned(),
        });
    }
    Ok((bytes, stamp_of(&meta)))
}

/// The stamp of a file without reading it; `None` when there is none.
pub(crate) fn stamp(path: &Path) -> Option<FileStamp> {
    std::fs::metadata(path).ok().map(|meta| stamp_of(&meta))
}

fn stamp_of(meta: &std::fs::Metadata) -> FileStamp {
    let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    (meta.ino(), meta.len(), mtime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_that_others_may_read_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("seed");
        std::fs::write(&path, "SECRET").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("mode");
        let text = read(&path).expect_err("refused").to_string();
        assert!(text.contains("0640") && !text.contains("SECRET"), "{text}");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        let (bytes, seen) = read(&path).expect("read");
        assert_eq!(&bytes[..], b"SECRET");
        assert_eq!(Some(seen), stamp(&path));
    }

    #[test]
    fn a_missing_file_is_named() {
        let path = Path::new("/nonexistent/keyring.json");
        let text = read(path).expect_err("missing").to_string();
        assert!(text.starts_with("/nonexistent/keyring.json: "), "{text}");
        assert_eq!(stamp(path), None);
    }
}
