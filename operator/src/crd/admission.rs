//! Whose events the relays take, and who may change that while they run (NIP-86).

use kube::KubeSchema;
use nightjar_config::{AdmissionConfig, KindAccess, ManagementConfig, WriteAccess};
use serde::{Deserialize, Serialize};

use super::senders::{AuthRequiredSpec, GiftWrapsSpec, KeyBudgetSpec, TrustSpec};

/// Whose events are taken, and of which kinds, and what is asked of who sends. Everything is optional. An event is taken if each question that is
/// asked is answered well.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdmissionSpec {
    /// Whose events are taken. `Everyone`: everyone's, apart from keys that are denied or banned. `AllowedKeys`: those of keys on the allow
    /// list; of gift wraps, whose author is a throw-away key, those for such a key or from a connection on which such a key authenticated.
    /// NIP-11 then says `restricted_writes`. Default `Everyone`.
    ///
    /// Example: `AllowedKeys`
    #[serde(default)]
    pub write: WriteAccessSpec,

    /// Events of which kinds are taken. `All`: all, apart from kinds that are denied. `AllowedKinds`: those of `allowKinds`. Messages need 1059,
    /// 10050 and 5. Default `All`.
    ///
    /// Example: `AllowedKinds`
    #[serde(default)]
    pub kinds: KindAccessSpec,

    /// Public keys on the allow list, each 64 lowercase hex digits, at most 1,000. More, and ones that change often, belong to the
    /// management API.
    ///
    /// Example: `[3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1000),
        inner(length(min = 64, max = 64), regex(pattern = r"^[0-9a-f]{64}$"))
    )]
    pub allow_pubkeys: Vec<String>,

    /// Public keys whose events are refused, each 64 lowercase hex digits, at most 1,000. What is stored of them is shown on; a ban by the
    /// management API hides that too.
    ///
    /// Example: `[3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1000),
        inner(length(min = 64, max = 64), regex(pattern = r"^[0-9a-f]{64}$"))
    )]
    pub deny_pubkeys: Vec<String>,

    /// Kinds that are taken with `kinds: AllowedKinds`, at most 1,000.
    ///
    /// Example: `[5, 62, 1059, 10050, 21059]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(range(min = 0, max = 65535)))]
    pub allow_kinds: Vec<i32>,

    /// Kinds that are refused, at most 1,000.
    ///
    /// Example: `[1, 6, 7]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(range(min = 0, max = 65535)))]
    pub deny_kinds: Vec<i32>,

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

/// Whose events are taken.
#[derive(
    Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default,
)]
pub enum WriteAccessSpec {
    /// Everyone's.
    #[default]
    Everyone,
    /// Those of keys on the allow list.
    AllowedKeys,
}

/// Events of which kinds are taken.
#[derive(
    Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default,
)]
pub enum KindAccessSpec {
    /// All.
    #[default]
    All,
    /// Those on the list of allowed kinds.
    AllowedKinds,
}

impl AdmissionSpec {
    /// The lists as the relay's file has them. A number that is no kind, which the schema forbids, is left out.
    pub fn to_config(&self) -> AdmissionConfig {
        let kinds = |kinds: &[i32]| {
            let kinds = kinds.iter().filter_map(|kind| u16::try_from(*kind).ok());
            kinds.collect()
        };
        AdmissionConfig {
            write: match self.write {
                WriteAccessSpec::Everyone => WriteAccess::Everyone,
                WriteAccessSpec::AllowedKeys => WriteAccess::AllowedKeys,
            },
            kinds: match self.kinds {
                KindAccessSpec::All => KindAccess::All,
                KindAccessSpec::AllowedKinds => KindAccess::AllowedKinds,
            },
            allow_pubkeys: self.allow_pubkeys.clone(),
            deny_pubkeys: self.deny_pubkeys.clone(),
            allow_kinds: kinds(&self.allow_kinds),
            deny_kinds: kinds(&self.deny_kinds),
            auth_required: self.auth_required.to_config(),
            gift_wraps: self.gift_wraps.to_config(),
            trust: self.trust.to_config(),
            key_budget: self.key_budget.to_config(),
        }
    }
}

/// Relay management (NIP-86).
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManagementSpec {
    /// Public keys of the administrators, each 64 lowercase hex digits, at most 100. Default: none, and no management API.
    ///
    /// Example: `[3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        inner(length(min = 64, max = 64), regex(pattern = r"^[0-9a-f]{64}$"))
    )]
    pub admins: Vec<String>,
}

impl ManagementSpec {
    /// The administrators as the relay's file has them.
    pub fn to_config(&self) -> ManagementConfig {
        ManagementConfig {
            admins: self.admins.clone(),
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
