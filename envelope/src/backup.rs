//! A keyring sealed under a passphrase, for safe keeping: an armored file of `age` (scrypt), readable with the `age` program too.

use age::scrypt;
use age::secrecy::SecretString;
use zeroize::Zeroizing;

use crate::keyring::{Keyring, KeyringError};

/// scrypt work factor (log2 N) of an export: about a second and 256 MiB on a present machine.
const WORK_FACTOR: u8 = 18;
/// Largest work factor that an import accepts: a stranger's file must not exhaust memory (2^20 needs 1 GiB).
const MAX_WORK_FACTOR: u8 = 20;

/// Why an export or an import failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// An empty passphrase protects nothing.
    #[error("passphrase: must not be empty")]
    EmptyPassphrase,
    /// Wrong passphrase, or a file that was changed: `age` cannot tell which.
    #[error("key backup: the passphrase is wrong or the file is damaged")]
    Refused,
    /// Not an `age` file that a passphrase opens.
    #[error(
        "key backup: not a passphrase-protected age file (it begins with -----BEGIN AGE ENCRYPTED FILE-----)"
    )]
    Form,
    /// The file asks for more work than an import does.
    #[error("key backup: asks for scrypt work factor {required}, the limit is {limit}")]
    ExcessiveWork {
        /// log2 N of the file.
        required: u8,
        /// log2 N allowed.
        limit: u8,
    },
    /// `age` could not write.
    #[error("key backup: cannot be written")]
    Write,
    /// What was inside is no keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

impl Keyring {
    /// The keyring under a passphrase, as armored text. Takes about a second of CPU.
    pub fn export(&self, passphrase: &str) -> Result<String, BackupError> {
        self.export_with(passphrase, WORK_FACTOR)
    }

    /// Reads what [`Keyring::export`] wrote. Takes about a second of CPU.
    pub fn import(armored: &str, passphrase: &str) -> Result<Self, BackupError> {
        let mut identity = scrypt::Identity::new(SecretString::from(passphrase.to_owned()));
        identity.set_max_work_factor(MAX_WORK_FACTOR);
        let json =
            Zeroizing::new(age::decrypt(&identity, armored.trim().as_bytes()).map_err(refusal)?);
        Ok(Self::parse(&json)?)
    }

    fn export_with(&self, passphrase: &str, work_factor: u8) -> Result<String, BackupError> {
        if passphrase.is_empty() {
            return Err(BackupError::EmptyPassphrase);
        }
        let mut recipient = scrypt::Recipient::new(SecretString::from(passphrase.to_owned()));
        recipient.set_work_factor(work_factor);
        age::encrypt_and_armor(&recipient, self.to_json().as_bytes())
            .map_err(|_| BackupError::Write)
    }
}

fn refusal(error: age::DecryptError) -> BackupError {
    match error {
        age::DecryptError::ExcessiveWork { required, .. } => BackupError::ExcessiveWork {
            required,
            limit: MAX_WORK_FACTOR,
        },
        age::DecryptError::DecryptionFailed
        | age::DecryptError::KeyDecryptionFailed
        | age::DecryptError::InvalidMac => BackupError::Refused,
        _ => BackupError::Form,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_backup_opens_with_its_passphrase_only() {
        let keyring = Keyring::generate().unwrap();
        let armored = keyring.export_with("correct horse", 4).unwrap();
        assert!(armored.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"));
        assert!(!armored.contains("seal"));
        let again = Keyring::import(&armored, "correct horse").unwrap();
        assert_eq!(again.to_json().as_str(), keyring.to_json().as_str());
        assert_eq!(
            Keyring::import(&armored, "battery staple").unwrap_err(),
            BackupError::Refused
        );
        assert_eq!(
            Keyring::import(&format!("\n{armored}\n\n"), "correct horse")
                .unwrap()
                .seal_epoch(),
            keyring.seal_epoch()
        );
    }

    #[test]
    fn an_empty_passphrase_is_refused() {
        assert_eq!(
            Keyring::generate().unwrap().export("").unwrap_err(),
            BackupError::EmptyPassphrase
        );
    }

    #[test]
    fn a_damaged_or_foreign_file_is_refused() {
        let armored = Keyring::generate().unwrap().export_with("p", 4).unwrap();
        let middle = armored.len() * 2 / 3;
        let cut = &armored[..middle];
        assert!(Keyring::import(cut, "p").is_err());
        assert_eq!(
            Keyring::import("hello", "p").unwrap_err(),
            BackupError::Form
        );
        assert_eq!(Keyring::import("", "p").unwrap_err(), BackupError::Form);
    }

    #[test]
    fn the_work_of_an_import_is_bounded() {
        let mut recipient = scrypt::Recipient::new(SecretString::from("p".to_owned()));
        recipient.set_work_factor(4);
        let armored = String::from_utf8(age::encrypt(&recipient, b"x").unwrap()).unwrap_err();
        let mut bytes = armored.into_bytes();
        // The stanza is "-> scrypt <salt> 4"; the line's end is where the work factor stands.
        let line_end = bytes.windows(2).position(|pair| pair == b"4\n").unwrap();
        bytes.splice(line_end..=line_end, *b"40");
        let identity = {
            let mut identity = scrypt::Identity::new(SecretString::from("p".to_owned()));
            identity.set_max_work_factor(MAX_WORK_FACTOR);
            identity
        };
        let error = refusal(age::decrypt(&identity, &bytes).unwrap_err());
        assert_eq!(
            error,
            BackupError::ExcessiveWork {
                required: 40,
                limit: MAX_WORK_FACTOR
            }
        );
    }

    proptest! {
        #[test]
        fn any_text_is_refused_in_peace(text in "\\PC*|-----BEGIN AGE ENCRYPTED FILE-----\n[A-Za-z0-9+/=\n]{0,200}") {
            prop_assert!(Keyring::import(&text, "p").is_err());
        }
    }
}
