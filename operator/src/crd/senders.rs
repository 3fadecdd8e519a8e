//! What the relays ask of who sends: authentication, a first contact, a web of trust, a budget. `nightjar-config` has the same.

use kube::KubeSchema;
use nightjar_config::{AuthRequired, FirstContact, GiftWrapAdmission, KeyBudget, TrustConfig};
use serde::{Deserialize, Serialize};

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

impl AuthRequiredSpec {
    pub(super) fn to_config(self) -> AuthRequired {
        match self {
            Self::Never => AuthRequired::Never,
            Self::Writes => AuthRequired::Writes,
            Self::Always => AuthRequired::Always,
        }
    }
}

// A number that is out of range, which the schema forbids, counts as 0, which the relay refuses.

impl GiftWrapsSpec {
    pub(super) fn to_config(&self) -> GiftWrapAdmission {
        let ways = self.any_of.iter().map(|way| match way {
            FirstContactSpec::Auth => FirstContact::Auth,
            FirstContactSpec::ProofOfWork => FirstContact::ProofOfWork,
            FirstContactSpec::Known => FirstContact::Known,
        });
        GiftWrapAdmission {
            any_of: ways.collect(),
            proof_of_work_difficulty: u32::try_from(self.proof_of_work_difficulty).unwrap_or(0),
        }
    }
}

impl TrustSpec {
    pub(super) fn to_config(&self) -> TrustConfig {
        TrustConfig {
            roots: self.roots.clone(),
            depth: u8::try_from(self.depth).unwrap_or(0),
            refresh_seconds: u64::try_from(self.refresh_seconds).unwrap_or(0),
        }
    }
}

impl KeyBudgetSpec {
    pub(super) fn to_config(&self) -> KeyBudget {
        KeyBudget {
            events_per_minute: u32::try_from(self.events_per_minute).unwrap_or(0),
            burst: u32::try_from(self.burst).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use nightjar_config::AdmissionConfig;

    use super::*;
    use crate::validate::{FieldError, ValidFleet, from_yaml};

    fn with(admission: &str) -> Result<ValidFleet, Vec<FieldError>> {
        from_yaml(&format!(
            "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {{name: x}}\nspec:\n  regions: [{{name: a}}]\n  \
             relay: {{admission: {admission}}}\n"
        ))
    }

    #[test]
    fn every_question_of_a_file_arrives() {
        let root = "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d";
        let fleet = with(&format!(
            "{{authRequired: Writes, giftWraps: {{anyOf: [Auth, ProofOfWork, Known], proofOfWorkDifficulty: 20}}, \
             trust: {{roots: [{root}], depth: 2, refreshSeconds: 600}}, keyBudget: {{eventsPerMinute: 30, burst: 90}}}}"
        ));
        assert_eq!(
            fleet.unwrap().admission,
            AdmissionConfig {
                auth_required: AuthRequired::Writes,
                gift_wraps: GiftWrapAdmission {
                    any_of: vec![
                        FirstContact::Auth,
                        FirstContact::ProofOfWork,
                        FirstContact::Known
                    ],
                    proof_of_work_difficulty: 20,
                },
                trust: TrustConfig {
                    roots: vec![root.to_owned()],
                    depth: 2,
                    refresh_seconds: 600,
                },
                key_budget: KeyBudget {
                    events_per_minute: 30,
                    burst: 90,
                },
                ..AdmissionConfig::default()
            }
        );
    }

    #[test]
    fn the_recipes_of_the_how_to_are_valid() {
        let page = include_str!("../../../docs/how-to/limits.md");
        let recipes: Vec<&str> = page
            .split("```yaml\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
            .collect();
        assert_eq!(recipes.len(), 4);
        for recipe in recipes {
            let file = recipe.replacen("spec:\n", "spec:\n  regions: [{name: a}]\n", 1);
            let fleet = from_yaml(&format!(
                "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {name}\n{file}",
                name = "{name: x}",
            ));
            let admission = fleet.expect(recipe).admission;
            assert_ne!(admission, AdmissionConfig::default(), "{recipe}");
        }
    }

    #[test]
    fn a_question_that_will_not_do_is_refused_by_its_field() {
        for (admission, expected) in [
            (
                "{authRequired: Sometimes}",
                "authRequired: must be Never or Writes or Always, is \"Sometimes\"",
            ),
            (
                "{giftWraps: {anyOf: [Auth, Luck]}}",
                "giftWraps.anyOf[1]: must be Auth or ProofOfWork or Known, is \"Luck\"",
            ),
            (
                "{giftWraps: {anyOf: [Auth, Known, Auth]}}",
                "giftWraps.anyOf: anyOf must name each way once",
            ),
            (
                "{giftWraps: {proofOfWorkDifficulty: 0}}",
                "giftWraps.proofOfWorkDifficulty: must be from 1 to 64, is 0",
            ),
            (
                "{trust: {roots: [npub1]}}",
                "trust.roots[0]: must have 64 characters, has 5",
            ),
            (
                "{trust: {depth: 3}}",
                "trust.depth: must be from 1 to 2, is 3",
            ),
            (
                "{trust: {refreshSeconds: 9}}",
                "trust.refreshSeconds: must be from 10 to 86400, is 9",
            ),
            (
                "{keyBudget: {burst: 0}}",
                "keyBudget.burst: must be from 1 to 1000000, is 0",
            ),
            (
                "{open: true}",
                "open: no such field; there are allowKinds, allowPubkeys, authRequired, denyKinds, denyPubkeys, giftWraps, keyBudget, kinds, trust, write",
            ),
        ] {
            let lines: Vec<String> = with(admission)
                .unwrap_err()
                .iter()
                .map(ToString::to_string)
                .collect();
            let expected = format!("spec.relay.admission.{expected}");
            assert_eq!(lines, [expected], "{admission}");
        }
    }
}
