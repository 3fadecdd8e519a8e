//! Whose events a relay takes, and who may change that while it runs (NIP-86).

use serde::{Deserialize, Serialize};

use crate::senders::{AuthRequired, GiftWrapAdmission, KeyBudget, TrustConfig};

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

/// Allow and deny lists, and what is asked of who sends. What administrators change through NIP-86 comes on top; to be denied beats to be allowed.
/// An event is taken if every question that is asked is answered well.
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
    /// What a client must authenticate for (NIP-42). Default `never`, apart from reads of gift wraps, which always need it. This and what
    /// follows is written only where it is asked.
    #[serde(skip_serializing_if = "AuthRequired::is_default")]
    pub auth_required: AuthRequired,
    /// What a gift wrap must come with.
    #[serde(skip_serializing_if = "GiftWrapAdmission::is_default")]
    pub gift_wraps: GiftWrapAdmission,
    /// The web of trust.
    #[serde(skip_serializing_if = "TrustConfig::is_default")]
    pub trust: TrustConfig,
    /// How many events each key may publish on the whole fleet.
    #[serde(skip_serializing_if = "KeyBudget::is_default")]
    pub key_budget: KeyBudget,
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
