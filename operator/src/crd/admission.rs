//! Whose events the relays take; `nightjar-config` has the same in the relay's units.

use kube::KubeSchema;
use nightjar_config::{
    AdmissionConfig, AuthRequired, FirstContact, GiftWrapAdmission, KeyBudget, TrustConfig,
};
use serde::{Deserialize, Serialize};

/// The questions that a relay asks of who sends. An event is taken if each question that is asked is answered well; by default none is.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdmissionSpec {
    /// What a client must authenticate for (NIP-42), as anyone. `Never`: for reads of gift wraps only, which always need it. `Writes`: to
    /// publish. `Always`: to publish and to read; NIP-11 then says `auth_required`. Clients that do not speak NIP-42 are shut out. Default
    /// `Never`.
    ///
    /// Example: `Writes`
    #[serde(default)]
    pub auth_required: AuthRequiredSpec,

    /// What a gift wrap (kinds 1059 and 21059) must come with. Its author is a throw-away key, so nothing can be asked of that. Default: nothing.
    #[serde(default)]
    #[x_kube(
        validation = Rule::new("self.anyOf.all(w, self.anyOf.exists_one(o, o == w))").message("anyOf must name each way once").field_path(".anyOf")
    )]
    pub gift_wraps: GiftWrapsSpec,

    /// The web of trust: who may publish. Default: everyone.
    #[serde(default)]
    pub trust: TrustSpec,

    /// How many events each key may publish. Default: as many as addresses and connections may.
    #[serde(default)]
    pub key_budget: KeyBudgetSpec,
}

/// What a client must authenticate for.
#[derive(
    Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default,
)]
pub enum AuthRequiredSpec {
    /// Reads of gift wraps only.
    #[default]
    Never,
    /// To publish.
    Writes,
    /// To publish and to read.
    Always,
}

/// What a gift wrap must come with.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GiftWrapsSpec {
    /// Each of these is enough by itself. `Auth`: the connection has authenticated, as anyone (NIP-42). `ProofOfWork`: the id of the wrap shows
    /// `proofOfWorkDifficulty` (NIP-13). `Known`: the recipient has published a profile (kind 0) or a list of relays for messages (kind 10050)
    /// on this fleet. Default: none is asked for, and every gift wrap is welcome.
    ///
    /// Example: `[Auth, ProofOfWork]`
    #[serde(default)]
    #[schemars(length(max = 3))]
    pub any_of: Vec<FirstContactSpec>,

    /// Leading zero bits for `ProofOfWork`, 1 to 64. Each bit doubles the work: 16 take a client well under a second, 24 take it seconds to
    /// minutes. Default 16.
    ///
    /// Example: `20`
    #[serde(default = "default_difficulty")]
    #[schemars(range(min = 1, max = 64))]
    pub proof_of_work_difficulty: i32,
}

/// A way for a gift wrap to be welcome.
#[derive(Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstContactSpec {
    /// The connection has authenticated.
    Auth,
    /// The id shows work.
    ProofOfWork,
    /// The recipient is known here.
    Known,
}

/// Who may publish: some keys, whom they follow, and perhaps whom these follow. Of gift wraps, whose author is a throw-away key, those from a
/// connection on which one of them authenticated. NIP-11 then says `restricted_writes`.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustSpec {
    /// Public keys at which the web begins, each 64 lowercase hex digits, at most 100. Default: none, and everyone is trusted.
    ///
    /// Example: `[3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        inner(length(min = 64, max = 64), regex(pattern = r"^[0-9a-f]{64}$"))
    )]
    pub roots: Vec<String>,

    /// How far the web goes: 1, the roots and whom they follow (kind 3), or 2, also whom these follow. Default 1. A web has at most 1,000,000
    /// keys, the nearest first.
    ///
    /// Example: `2`
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 2))]
    pub depth: i32,

    /// How often the lists of follows are read again, in seconds, 10 to 86,400: so long a change may take to show. With depth 2 and thousands of
    /// members, 600 spares the relays work. Default 60.
    ///
    /// Example: `600`
    #[serde(default = "default_refresh")]
    #[schemars(range(min = 10, max = 86400))]
    pub refresh_seconds: i32,
}

/// How many events each key may publish on all relays of the fleet together: the author's, or for gift wraps, whose author is a throw-away key,
/// each key that authenticated on the connection. Relays tell each other every second what was spent, so it is approximate: who floods all
/// relays at once has the burst at each of them, and then the rate once.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyBudgetSpec {
    /// Events a minute in the long run, 0 to 100,000. Default 0: no budget.
    ///
    /// Example: `60`
    #[serde(default)]
    #[schemars(range(min = 0, max = 100000))]
    pub events_per_minute: i32,

    /// Events at once, 1 to 1,000,000. Default 120.
    ///
    /// Example: `300`
    #[serde(default = "default_burst")]
    #[schemars(range(min = 1, max = 1000000))]
    pub burst: i32,
}

impl Default for KeyBudgetSpec {
    fn default() -> Self {
        Self {
            events_per_minute: 0,
            burst: default_burst(),
        }
    }
}

impl Default for GiftWrapsSpec {
    fn default() -> Self {
        Self {
            any_of: Vec::new(),
            proof_of_work_difficulty: default_difficulty(),
        }
    }
}

impl Default for TrustSpec {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            depth: one(),
            refresh_seconds: default_refresh(),
        }
    }
}

fn default_difficulty() -> i32 {
    16
}

fn one() -> i32 {
    1
}

fn default_burst() -> i32 {
    120
}

fn default_refresh() -> i32 {
    60
}

impl AdmissionSpec {
    /// The questions as the relay's file has them. A number that is out of range, which the schema forbids, counts as 0, which the relay
    /// refuses.
    pub fn to_config(&self) -> AdmissionConfig {
        let ways = self.gift_wraps.any_of.iter().map(|way| match way {
            FirstContactSpec::Auth => FirstContact::Auth,
            FirstContactSpec::ProofOfWork => FirstContact::ProofOfWork,
            FirstContactSpec::Known => FirstContact::Known,
        });
        AdmissionConfig {
            auth_required: match self.auth_required {
                AuthRequiredSpec::Never => AuthRequired::Never,
                AuthRequiredSpec::Writes => AuthRequired::Writes,
                AuthRequiredSpec::Always => AuthRequired::Always,
            },
            gift_wraps: GiftWrapAdmission {
                any_of: ways.collect(),
                proof_of_work_difficulty: u32::try_from(self.gift_wraps.proof_of_work_difficulty)
                    .unwrap_or(0),
            },
            trust: TrustConfig {
                roots: self.trust.roots.clone(),
                depth: u8::try_from(self.trust.depth).unwrap_or(0),
                refresh_seconds: u64::try_from(self.trust.refresh_seconds).unwrap_or(0),
            },
            key_budget: KeyBudget {
                events_per_minute: u32::try_from(self.key_budget.events_per_minute).unwrap_or(0),
                burst: u32::try_from(self.key_budget.burst).unwrap_or(0),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_relay() {
        assert_eq!(
            AdmissionSpec::default().to_config(),
            AdmissionConfig::default()
        );
    }
}
