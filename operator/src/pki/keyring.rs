//! Custody of the fleet's keyring: keys are data, so it is made once, before the first stream, and never replaced by a new one.

use nightjar_envelope::Keyring;

use super::folder::{read_private, write_private};
use super::{KeyFolder, PkiError};

/// What the folder holds of the fleet's keyring.
#[derive(Debug)]
pub enum Custody {
    /// A keyring that can be read.
    Present(Keyring),
    /// No keyring, though streams were made: what they hold cannot be read without it, and nothing new is generated.
    Missing,
}

impl KeyFolder {
    /// The keyring, made now if there is none and the fleet never had a stream.
    pub fn keyring(&self, streams_made: bool) -> Result<Custody, PkiError> {
        let path = self.keyring_path();
        if let Some(text) = read_private(&path)? {
            let keyring = Keyring::parse(text.as_bytes()).map_err(|source| PkiError::Keyring {
                path: path.clone(),
                source,
            })?;
            return Ok(Custody::Present(keyring));
        }
        if streams_made {
            return Ok(Custody::Missing);
        }
        let keyring = Keyring::generate().map_err(|source| PkiError::Keyring {
            path: path.clone(),
            source,
        })?;
        write_private(&path, keyring.to_json().as_bytes())?;
        Ok(Custody::Present(keyring))
    }

    /// The keyring sealed under a passphrase, as armored text (age, scrypt). Takes about a second.
    pub fn export_keyring(&self, passphrase: &str) -> Result<String, PkiError> {
        let path = self.keyring_path();
        match self.keyring(true)? {
            Custody::Present(keyring) => keyring
                .export(passphrase)
                .map_err(|source| PkiError::Backup { path, source }),
            Custody::Missing => Err(PkiError::NoKeyring { path }),
        }
    }

    /// Puts back a keyring that was exported. One that is there is kept, unless it holds the very same keys.
    pub fn import_keyring(&self, armored: &str, passphrase: &str) -> Result<(), PkiError> {
        let path = self.keyring_path();
        let keyring = Keyring::import(armored, passphrase).map_err(|source| PkiError::Backup {
            path: path.clone(),
            source,
        })?;
        let text = keyring.to_json();
        match read_private(&path)? {
            Some(present) if *present == *text => Ok(()),
            Some(_) => Err(PkiError::KeyringPresent { path }),
            None => write_private(&path, text.as_bytes()),
        }
    }
}
