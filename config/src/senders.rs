//! What a relay asks of those who send: authentication, a first contact, a web of trust, a budget.

use serde::{Deserialize, Serialize};

/// Most roots of a web of trust.
pub(crate) const MAX_ROOTS: usize = 100;

/// What a client must authenticate for (NIP-42).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthRequired {
    /// Nothing, apart from reads of gift wraps.
    #[default]
    Never,
    /// To publish.
    Writes,
    /// To publish and to read.
    Always,
}

impl AuthRequired {
    /// As `AdmissionConfig::is_default`.
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What makes a gift wrap welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirstContact {
    /// Somebody has authenticated on the connection (NIP-42).
    Auth,
    /// The id of the wrap shows proof of work (NIP-13).
    ProofOfWork,
    /// The recipient has published a profile or a list of relays for messages here.
    Known,
}

/// What a gift wrap (kinds 1059, 21059) must come with. Its author is a throw-away key, so nothing can be asked of that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GiftWrapAdmission {
    /// One of these is enough. Each at most once. Default: none, and every gift wrap is welcome.
    pub any_of: Vec<FirstContact>,
    /// Leading zero bits for `proof-of-work`, 1 to 64. Default 16.
    pub proof_of_work_difficulty: u32,
}

impl Default for GiftWrapAdmission {
    fn default() -> Self {
        Self {
            any_of: Vec::new(),
            proof_of_work_difficulty: 16,
        }
    }
}

impl GiftWrapAdmission {
    /// As `AdmissionConfig::is_default`.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The web of trust: only the roots, those whom they follow (kind 3), and with depth 2 those whom these follow, may publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrustConfig {
    /// Keys at which it begins, each 64 lowercase hex digits, at most 100. Default: none, and everyone is trusted.
    pub roots: Vec<String>,
    /// How far it goes, 1 or 2. Default 1: the roots and whom they follow.
    pub depth: u8,
    /// How often the lists are read again, in seconds, 10 to 86,400. Default 60.
    pub refresh_seconds: u64,
}

impl Default for TrustConfig {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            depth: 1,
            refresh_seconds: 60,
        }
    }
}

impl TrustConfig {
    /// As `AdmissionConfig::is_default`.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How many events a key may publish on all relays of the fleet together, approximately: the author's, or for gift wraps each key that
/// authenticated on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyBudget {
    /// Events a minute in the long run, 0 to 100,000. Default 0: no budget.
    pub events_per_minute: u32,
    /// Events at once, 1 to 1,000,000. Default 120.
    pub burst: u32,
}

impl Default for KeyBudget {
    fn default() -> Self {
        Self {
            events_per_minute: 0,
            burst: 120,
        }
    }
}

impl KeyBudget {
    /// As `AdmissionConfig::is_default`.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
