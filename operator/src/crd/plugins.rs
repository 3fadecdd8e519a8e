//! Policy programs of the relays, as fields of the `RelayCluster`; `nightjar-config` has the same in the relay's units.

use std::collections::BTreeMap;

use kube::KubeSchema;
use nightjar_config::{OnFailure, Plugin, Plugins};
use serde::{Deserialize, Serialize};

/// The policy programs of the relays.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PluginsSpec {
    /// Asked for each event that a client publishes; speaks the protocol of strfry's write policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<PluginSpec>,

    /// Asked for each `REQ`, `COUNT` and `NEG-OPEN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<PluginSpec>,
}

/// One policy program. It runs beside each relay, as the relay's user; in Kubernetes it must be in the relays' image.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.command[0].startsWith('/')").message("command must begin with the absolute path of the program; no shell is involved").field_path(".command")
)]
pub struct PluginSpec {
    /// The program's absolute path, then its arguments, 1 to 32. No shell is involved.
    ///
    /// Example: `[/usr/local/bin/policy, --strict]`
    #[schemars(length(min = 1, max = 32), inner(length(min = 0, max = 4096)))]
    pub command: Vec<String>,

    /// Absolute paths of files, at most 16, whose change has the program started anew, beside the program's own file: the script of an interpreter,
    /// lists that the program reads when it starts. Not what it writes itself.
    ///
    /// Example: `[/policy/words.txt]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 4096), regex(pattern = r"^/"))
    )]
    pub watch: Vec<String>,

    /// Variables of the program's environment, at most 64. Beside them it has the relay's `PATH` and nothing else. Not for secrets: they are
    /// in the relays' ConfigMap.
    ///
    /// Example: `{WORDS: /policy/words.txt}`
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub environment: BTreeMap<String, String>,

    /// How long a question may take, in milliseconds, with the wait for its turn: 10 to 10,000. Default 2,000.
    ///
    /// Example: `500`
    #[serde(default = "timeout_ms")]
    #[schemars(range(min = 10, max = 10000))]
    pub timeout_ms: i32,

    /// What happens to a question that the program does not answer. Default `Reject`.
    ///
    /// Example: `Accept`
    #[serde(default)]
    pub on_failure: OnPluginFailure,

    /// Questions that the program may have before it: 1 to 1,000. Ten times as many may wait for their turn. Default 64.
    ///
    /// Example: `1`
    #[serde(default = "max_in_flight")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_in_flight: i32,

    /// Whether the program is told the addresses of clients, instead of a hash that changes every hour. Default false. With it, a program
    /// sees addresses next to the public keys that authenticated; what becomes of that is up to the program.
    ///
    /// Example: `true`
    #[serde(default)]
    pub give_address: bool,
}

/// What happens to a question that a program does not answer.
#[derive(
    Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default,
)]
pub enum OnPluginFailure {
    /// Fail open: as if the program had accepted.
    Accept,
    /// Fail closed: the client is told to try again later.
    #[default]
    Reject,
}

fn timeout_ms() -> i32 {
    2_000
}

fn max_in_flight() -> i32 {
    64
}

impl PluginsSpec {
    /// The programs in the relay's own units.
    pub fn to_config(&self) -> Plugins {
        Plugins {
            write: self.write.as_ref().map(PluginSpec::to_config),
            read: self.read.as_ref().map(PluginSpec::to_config),
        }
    }
}

impl PluginSpec {
    /// A negative number, which the schema forbids, counts as 0.
    fn to_config(&self) -> Plugin {
        Plugin {
            command: self.command.clone(),
            watch: self.watch.clone(),
            environment: self.environment.clone(),
            timeout_ms: u64::try_from(self.timeout_ms).unwrap_or(0),
            on_failure: match self.on_failure {
                OnPluginFailure::Accept => OnFailure::Accept,
                OnPluginFailure::Reject => OnFailure::Reject,
            },
            max_in_flight: usize::try_from(self.max_in_flight).unwrap_or(0),
            give_address: self.give_address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_relay() {
        let spec: PluginSpec = serde_json::from_str(r#"{"command": ["/policy"]}"#).expect("a spec");
        assert_eq!(spec.to_config(), Plugin::new(vec!["/policy".to_owned()]));
    }
}
