//! Keys and certificates of a fleet: authorities, certificates, NATS users, and custody of the keyring. Never prints or logs a secret.
//!
//! Every NATS listener authenticates from the start: clients with nkeys, routes and leafs by mutual TLS under an authority of
//! their own region (so another region's certificate is refused), gateways by mutual TLS under one authority of the fleet.

mod authority;
mod folder;
mod keyring;
mod user;

pub use authority::{Authority, Issued};
pub use folder::KeyFolder;
pub(crate) use folder::{make_private_dir, write_private};
pub use keyring::Custody;
pub use user::UserKey;

use std::path::PathBuf;

/// Why keys could not be made, stored or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or folder of keys could not be used.
    #[error("key file {path}: {source}", path = path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file exists and does not hold what its name says.
    #[error("key file {path} does not hold {expected}; put the right file back, or remove it to have a new one made", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What should have been in it.
        expected: &'static str,
    },
    /// Making or signing a certificate failed.
    #[error("certificate for {name}: {source}")]
    Certificate {
        /// The common name of the certificate.
        name: String,
        /// What the certificate library said.
        source: rcgen::Error,
    },
    /// Making an nkey failed.
    #[error("nkey of {role}: {source}")]
    Nkey {
        /// Whose key.
        role: &'static str,
        /// What the nkey library said.
        source: nkeys::error::Error,
    },
    /// The keyring cannot be read or made.
    #[error("keyring {path}: {source}", path = path.display())]
    Keyring {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never its content.
        source: nightjar_envelope::KeyringError,
    },
    /// An export or import failed.
    #[error("keyring {path}: {source}", path = path.display())]
    Backup {
        /// The keyring's file.
        path: PathBuf,
        /// What went wrong.
        source: nightjar_envelope::BackupError,
    },
    /// There is no keyring to export.
    #[error("keyring {path}: there is none to export", path = path.display())]
    NoKeyring {
        /// Where it should be.
        path: PathBuf,
    },
    /// An import would replace other keys.
    #[error("keyring {path}: another keyring is there already; move it away first if it is not the one of this fleet", path = path.display())]
    KeyringPresent {
        /// The keyring that is there.
        path: PathBuf,
    },
}
