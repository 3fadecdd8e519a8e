//! A person's secret key: signs, encrypts, and shows itself nowhere.

use std::fmt;

use nostr::event::{Event, EventBuilder, FinalizeEvent};
use nostr::key::{Keys, PublicKey, SecretKey};
use nostr::nips::nip19::{FromBech32, ToBech32};
use nostr::nips::nip42::ClientAuthentication;
use nostr::nips::nip44::Nip44;
use nostr::nips::nip49::{EncryptedSecretKey, KeySecurity};
use nostr::types::RelayUrl;

/// scrypt cost (log2 N) of keys encrypted here: 64 MiB and a fraction of a second (NIP-49 suggests 16 to 22).
const SCRYPT_LOG_N: u8 = 16;

/// A Nostr identity (NIP-01 key pair). `Debug` shows the public key only.
#[derive(Clone)]
pub struct Identity {
    keys: Keys,
}

/// Why a key could not be read, opened or used. No variant carries the key or the passphrase.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The text is neither `nsec1...` nor 64 hex digits.
    #[error("not a secret key: expected nsec1... or 64 hex digits, got {len} characters")]
    NotASecretKey {
        /// Length of the text, in characters.
        len: usize,
    },
    /// The text is not `ncryptsec1...` (NIP-49).
    #[error("not an encrypted key: expected ncryptsec1..., got {len} characters")]
    NotEncrypted {
        /// Length of the text, in characters.
        len: usize,
    },
    /// The passphrase does not open the key, or the key was altered.
    #[error("the passphrase does not open this key")]
    WrongPassphrase,
    /// The key asks for more scrypt memory than we give to input we do not trust.
    #[error("the key asks for scrypt cost 2^{log_n}, the limit is 2^{max}")]
    TooCostly {
        /// What the key asks for.
        log_n: u8,
        /// What is allowed.
        max: u8,
    },
    /// Signing or encrypting failed inside the cryptographic library.
    #[error("could not {what}: {reason}")]
    Crypto {
        /// What was tried.
        what: &'static str,
        /// The library's own words, which never hold the secret.
        reason: String,
    },
}

impl Identity {
    /// A new random key from the operating system's generator.
    pub fn generate() -> Self {
        Self {
            keys: Keys::generate(),
        }
    }

    /// Reads `nsec1...` (NIP-19) or 64 hex digits.
    pub fn from_secret(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        let not_a_key = || IdentityError::NotASecretKey {
            len: text.chars().count(),
        };
        let secret = SecretKey::parse(text).map_err(|_| not_a_key())?;
        Ok(Self {
            keys: Keys::new(secret),
        })
    }

    /// Opens `ncryptsec1...` (NIP-49).
    pub fn decrypt(text: &str, passphrase: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        let encrypted =
            EncryptedSecretKey::from_bech32(text).map_err(|_| IdentityError::NotEncrypted {
                len: text.chars().count(),
            })?;
        if encrypted.log_n() > EncryptedSecretKey::MAX_LOG_N {
            return Err(IdentityError::TooCostly {
                log_n: encrypted.log_n(),
                max: EncryptedSecretKey::MAX_LOG_N,
            });
        }
        let secret = encrypted
            .decrypt(passphrase)
            .map_err(|_| IdentityError::WrongPassphrase)?;
        Ok(Self {
            keys: Keys::new(secret),
        })
    }

    /// The key as `ncryptsec1...` (NIP-49) under `passphrase`.
    pub fn encrypt(&self, passphrase: &str) -> Result<String, IdentityError> {
        let security = KeySecurity::Unknown;
        EncryptedSecretKey::new(self.keys.secret_key(), passphrase, SCRYPT_LOG_N, security)
            .map_err(|error| crypto("encrypt the key", &error))?
            .to_bech32()
            .map_err(|error| crypto("write the key", &error))
    }

    /// The secret itself as `nsec1...`. Only for writing a demo key or for an export that the user asked for by name.
    pub fn expose_secret(&self) -> String {
        match self.keys.secret_key().to_bech32() {
            Ok(nsec) => nsec,
            Err(never) => match never {},
        }
    }

    /// The public key.
    pub fn public_key(&self) -> PublicKey {
        self.keys.public_key()
    }

    /// The public key as `npub1...` (NIP-19).
    pub fn npub(&self) -> String {
        npub(&self.public_key())
    }

    /// Signs an event.
    pub fn sign(&self, builder: EventBuilder) -> Result<Event, IdentityError> {
        builder
            .finalize(&self.keys)
            .map_err(|error| crypto("sign the event", &error))
    }

    /// The answer to a relay's challenge (NIP-42, kind 22242).
    pub fn answer_challenge(
        &self,
        relay: &RelayUrl,
        challenge: &str,
    ) -> Result<Event, IdentityError> {
        ClientAuthentication::new(challenge, relay.clone())
            .finalize(&self.keys)
            .map_err(|error| crypto("sign the AUTH event", &error))
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn open(&self, from: &PublicKey, payload: &str) -> Result<String, ()> {
        self.keys.nip44_decrypt(from, payload).map_err(|_| ())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("public_key", &self.npub())
            .finish_non_exhaustive()
    }
}

/// `npub1...` of a public key (NIP-19).
pub fn npub(key: &PublicKey) -> String {
    match key.to_bech32() {
        Ok(npub) => npub,
        Err(never) => match never {},
    }
}

fn crypto(what: &'static str, error: &dyn fmt::Display) -> IdentityError {
    IdentityError::Crypto {
        what,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_survives_encryption_and_refuses_another_passphrase() {
        let identity = Identity::generate();
        let sealed = identity.encrypt("correct horse").unwrap();
        assert!(sealed.starts_with("ncryptsec1"));
        assert_eq!(
            Identity::decrypt(&sealed, "correct horse")
                .unwrap()
                .public_key(),
            identity.public_key()
        );
        assert_eq!(
            Identity::decrypt(&sealed, "wrong").unwrap_err(),
            IdentityError::WrongPassphrase
        );
    }

    #[test]
    fn debug_and_errors_never_show_the_secret() {
        let identity = Identity::generate();
        let nsec = identity.expose_secret();
        assert!(!format!("{identity:?}").contains(&nsec[5..]));
        let broken = format!("{nsec}x");
        let error = Identity::from_secret(&broken).unwrap_err();
        assert!(!error.to_string().contains(&nsec[5..20]), "{error}");
    }

    #[test]
    fn costly_key_is_refused_before_any_work() {
        let sealed = Identity::generate().encrypt("x").unwrap();
        let mut bytes = EncryptedSecretKey::from_bech32(&sealed).unwrap().as_vec();
        bytes[1] = 30;
        let costly = EncryptedSecretKey::from_slice(&bytes)
            .unwrap()
            .to_bech32()
            .unwrap();
        assert_eq!(
            Identity::decrypt(&costly, "x").unwrap_err(),
            IdentityError::TooCostly { log_n: 30, max: 18 }
        );
    }
}
