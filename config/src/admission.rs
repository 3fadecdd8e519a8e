//! Whose events a relay takes, and who may change that while it runs (NIP-86).

use serde::{Deserialize, Serialize};

/// Most entries of one list.
pub(crate) const MAX_LISTED: usize = 5_000;
/// Most administrators.
pub(crate) const MAX_ADMINS: usize = 100;

/// Whose events are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteAccess {
    /// Everyone's, apart from keys that are denied or banned.
    #[default]
    Everyone,
    /// Those of keys on the allow list; gift wraps from or for such keys.
    AllowedKeys,
}

/// Events of which kinds are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KindAccess {
    /// All, apart from kinds that are denied.
    #[default]
    All,
    /// Those on the list of allowed kinds.
    AllowedKinds,
}

/// Allow and deny lists. What administrators change through NIP-86 comes on top; to be denied beats to be allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionConfig {
    /// Whose events are taken. Default `everyone`.
    pub write: WriteAccess,
    /// Events of which kinds are taken. Default `all`.
    pub kinds: KindAccess,
    /// Keys on the allow list, each 64 lowercase hex digits, at most 5,000.
    pub allow_pubkeys: Vec<String>,
    /// Keys whose events are refused, each 64 lowercase hex digits, at most 5,000.
    pub deny_pubkeys: Vec<String>,
    /// Kinds on the list of allowed kinds, at most 5,000.
    pub allow_kinds: Vec<u16>,
    /// Kinds that are refused, at most 5,000.
    pub deny_kinds: Vec<u16>,
}

impl AdmissionConfig {
    /// Whether it is what a file without the field says. Left out then, so that relays which do not know the field can read the file.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Relay management (NIP-86).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagementConfig {
    /// Keys that may call the management API, each 64 lowercase hex digits, at most 100. None: there is no such API.
    #[serde(default)]
    pub admins: Vec<String>,
}

impl ManagementConfig {
    /// As [`AdmissionConfig::is_default`].
    pub(crate) fn is_default(&self) -> bool {
        self.admins.is_empty()
    }
}
