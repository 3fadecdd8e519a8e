//! Reads a secret file: a regular file of at most 64 KiB that its owner alone may touch, or that root lends to our group.
//!
//! The second is what a Secret volume of a pod looks like: files of root, mode 0440, of the pod's `fsGroup`, behind
//! symlinks that are swapped at once when the Secret changes.

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
    #[error(
        "{}: mode {mode:04o} of user {owner} and group {group} lets others touch it: make it 0600, or, as a Secret volume \
         of a pod, defaultMode 0400 with the pod's fsGroup (root's, 0440, of a group of this process)",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its user id.
        owner: u32,
        /// Its group id.
        group: u32,
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
    if !is_private(mode, meta.uid(), meta.gid(), &Ids::own()) {
        return Err(PrivateFileError::Exposed {
            path: path.to_owned(),
            mode,
            owner: meta.uid(),
            group: meta.gid(),
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

/// Who a process is.
struct Ids {
    user: u32,
    /// The effective group and the supplementary ones.
    groups: Vec<u32>,
}

impl Ids {
    fn own() -> Self {
        // A process whose groups cannot be told has none: then only its own files are private.
        let more = rustix::process::getgroups().unwrap_or_default();
        let groups = more.into_iter().chain([rustix::process::getegid()]);
        Self {
            user: rustix::process::geteuid().as_raw(),
            groups: groups.map(rustix::process::Gid::as_raw).collect(),
        }
    }
}

/// Whether nobody but the owner, or root and a group of ours that may only read, may touch a file.
fn is_private(mode: u32, owner: u32, group: u32, own: &Ids) -> bool {
    const OTHERS: u32 = 0o007;
    const GROUP: u32 = 0o070;
    const GROUP_READS: u32 = 0o040;
    if mode & OTHERS != 0 {
        return false;
    }
    match mode & GROUP {
        0 => true,
        // A file of our own with group bits is a mistake of ours, not a volume of the kubelet.
        GROUP_READS => owner == 0 && own.user != 0 && own.groups.contains(&group),
        _ => false,
    }
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
    fn only_roots_read_only_file_of_a_group_of_ours_may_have_group_bits() {
        let own = Ids {
            user: 65_532,
            groups: vec![2_000, 65_532],
        };
        for (mode, owner, group, expected) in [
            (0o600, 65_532, 65_532, true),
            (0o400, 65_532, 65_532, true),
            (0o440, 0, 2_000, true),
            (0o640, 0, 2_000, true),
            (0o400, 0, 0, true),
            // Another group, a group that may write or enter, and others.
            (0o440, 0, 3_000, false),
            (0o460, 0, 2_000, false),
            (0o450, 0, 2_000, false),
            (0o444, 0, 2_000, false),
            (0o404, 0, 2_000, false),
            // Not root's.
            (0o440, 65_532, 2_000, false),
            (0o640, 65_532, 65_532, false),
            (0o440, 1_000, 2_000, false),
        ] {
            assert_eq!(
                is_private(mode, owner, group, &own),
                expected,
                "{mode:04o} {owner}:{group}"
            );
        }
        let root = Ids {
            user: 0,
            groups: vec![0],
        };
        assert!(!is_private(0o440, 0, 0, &root), "owned by ourselves");
        assert!(
            Ids::own()
                .groups
                .contains(&rustix::process::getegid().as_raw())
        );
    }

    #[test]
    fn the_stamp_follows_the_symlinks_of_a_secret_volume_and_changes_when_they_are_swapped() {
        let dir = tempfile::tempdir().expect("a folder");
        let version = |name: &str| {
            std::fs::create_dir(dir.path().join(name)).expect("a folder");
            let file = dir.path().join(name).join("keyring.json");
            std::fs::write(&file, "of the same length").expect("written");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).expect("mode");
            // The same times too: the inode alone has to tell them apart.
            let times = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
            let file = std::fs::File::open(&file).expect("the file");
            file.set_times(times).expect("times");
        };
        let link = |to: &str| {
            std::os::unix::fs::symlink(to, dir.path().join("..data_tmp")).expect("a link");
            std::fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data"))
                .expect("swapped");
        };
        version("..1");
        version("..2");
        link("..1");
        let path = dir.path().join("keyring.json");
        std::os::unix::fs::symlink("..data/keyring.json", &path).expect("a link");
        let before = stamp(&path).expect("a stamp");
        assert_eq!(read(&path).expect("read").1, before);
        link("..2");
        let after = stamp(&path).expect("a stamp");
        assert_ne!(after, before);
        assert_eq!(read(&path).expect("read").1, after);
    }

    #[test]
    fn a_missing_file_is_named() {
        let path = Path::new("/nonexistent/keyring.json");
        let text = read(path).expect_err("missing").to_string();
        assert!(text.starts_with("/nonexistent/keyring.json: "), "{text}");
        assert_eq!(stamp(path), None);
    }
}
