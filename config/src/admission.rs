//! Whose events a relay takes.

use serde::{Deserialize, Serialize};

use crate::senders::{AuthRequired, GiftWrapAdmission, KeyBudget, TrustConfig};

/// The questions that a relay asks of who sends. An event is taken if every one of them is answered well; by default none is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionConfig {
    /// What a client must authenticate for (NIP-42). Default `never`, apart from reads of gift wraps, which always need it.
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
