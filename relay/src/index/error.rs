//! What can go wrong in the index.

use std::path::PathBuf;

/// An error of the index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The map is full. Nothing of the batch was applied; the relay must not acknowledge and is not ready.
    #[error(
        "the index is full ({max_bytes} bytes); raise index.max_bytes or shorten the retention"
    )]
    Full {
        /// The limit in bytes.
        max_bytes: u64,
    },
    /// Another process has the folder open.
    #[error("the index folder {} is in use by another process", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// A file of the index folder cannot be read or written.
    #[error("index folder: cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// LMDB failed.
    #[error("index database: {0}")]
    Database(heed::Error),
    /// [`super::Index::close`] was called.
    #[error("the index is closed")]
    Closed,
    /// A row has a form this version never writes. The index is to be rebuilt.
    #[error(
        "index table {table} holds a row this version cannot read; delete the index folder to rebuild it from the log"
    )]
    Damaged {
        /// The table.
        table: &'static str,
    },
}

impl From<heed::Error> for IndexError {
    fn from(error: heed::Error) -> IndexError {
        IndexError::Database(error)
    }
}
