//! NATS users of a region: nkeys (Ed25519), whose public half goes into server configurations. Pure: nothing here touches a file.

use nkeys::KeyPair;
use zeroize::Zeroizing;

use super::PkiError;
use crate::plan::Credential;

/// The name of a user in file names and messages.
pub(super) fn role_name(credential: Credential) -> &'static str {
    match credential {
        Credential::Relay => "relay",
        Credential::Admin => "admin",
        Credential::System => "system",
        Credential::Leaf => "leaf",
    }
}

/// The key of one NATS user.
pub struct UserKey(KeyPair);

impl std::fmt::Debug for UserKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("UserKey").field(&self.public()).finish()
    }
}

impl UserKey {
    /// A fresh key from the system's random source.
    pub fn generate() -> Self {
        Self(KeyPair::new_user())
    }

    /// The key of a stored seed; whitespace around it is ignored.
    pub fn from_seed(credential: Credential, seed: &str) -> Result<Self, PkiError> {
        let role = role_name(credential);
        Ok(Self(
            KeyPair::from_seed(seed.trim()).map_err(|source| PkiError::Nkey { role, source })?,
        ))
    }

    /// The public key (`U...`, 56 characters), as server configurations name the user.
    pub fn public(&self) -> String {
        self.0.public_key()
    }

    /// The seed (`SU...`, 58 characters), the user's secret.
    pub fn seed(&self, credential: Credential) -> Result<Zeroizing<String>, PkiError> {
        let role = role_name(credential);
        Ok(Zeroizing::new(
            self.0
                .seed()
                .map_err(|source| PkiError::Nkey { role, source })?,
        ))
    }
}
