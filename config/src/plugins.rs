//! Policy programs of a relay: which ones are started, how long they are waited for, and what happens when they do not answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::{ensure, within};
use crate::relay::ConfigError;

/// Most entries of a command: the program and its arguments.
const MAX_COMMAND: usize = 32;
/// Longest entry of a command, and longest value of a variable, in bytes.
const MAX_TEXT_BYTES: usize = 4_096;
/// Most files that are watched.
const MAX_WATCHED: usize = 16;
/// Most variables of a program.
const MAX_VARIABLES: usize = 64;

/// The policy programs of one relay. None of them is there unless it is named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugins {
    /// Asked for each event that a client publishes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<Plugin>,
    /// Asked for each REQ, COUNT and NEG-OPEN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Plugin>,
}

/// One policy program. It speaks JSON lines over stdin and stdout (`docs/how-to/plugins.md`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// The program's absolute path, then its arguments: 1 to 32 texts of up to 4,096 bytes. No shell is involved.
    pub command: Vec<String>,
    /// Absolute paths of files, up to 16, whose change has the program started anew, beside the program's own file: the script of an
    /// interpreter, lists that the program reads when it starts. Not what it writes itself.
    #[serde(default)]
    pub watch: Vec<String>,
    /// Variables of its environment, up to 64. Beside them it has the relay's PATH and nothing else. Not for secrets.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// How long a question may take, in milliseconds, 10 to 10,000. Default 2,000.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// What happens to a question that is not answered. Default `reject`.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Questions that the program may have before it, 1 to 1,000. Ten times as many may wait in the relay. Default 64.
    #[serde(default = "max_in_flight")]
    pub max_in_flight: usize,
    /// Whether the program is told the addresses of clients, instead of a hash that changes. Default false.
    #[serde(default)]
    pub give_address: bool,
}

/// What happens to a question that its program does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Fail open: as if the program had accepted.
    Accept,
    /// Fail closed: the client is told to try again later.
    #[default]
    Reject,
}

fn timeout_ms() -> u64 {
    2_000
}

fn max_in_flight() -> usize {
    64
}

impl Plugins {
    /// No program is asked anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.write.is_none() && self.read.is_none()
    }

    /// Whether any program is told the addresses of clients.
    #[must_use]
    pub fn give_address(&self) -> bool {
        [&self.write, &self.read]
            .into_iter()
            .flatten()
            .any(|plugin| plugin.give_address)
    }

    /// Checks names and ranges.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (path, plugin) in [("plugins.write", &self.write), ("plugins.read", &self.read)] {
            if let Some(plugin) = plugin {
                plugin.check(path)?;
            }
        }
        Ok(())
    }
}

impl Plugin {
    /// The files whose change has the program started anew.
    pub fn watched(&self) -> impl Iterator<Item = &str> {
        self.command
            .first()
            .into_iter()
            .chain(&self.watch)
            .map(String::as_str)
    }

    /// A program with every default.
    #[must_use]
    pub fn new(command: Vec<String>) -> Self {
        Self {
            command,
            watch: Vec::new(),
            environment: BTreeMap::new(),
            timeout_ms: timeout_ms(),
            on_failure: OnFailure::default(),
            max_in_flight: max_in_flight(),
            give_address: false,
        }
    }

    /// Checks names and ranges.
    ///
    /// # Errors
    /// The first field that will not do, its name after `path`. Values are not repeated.
    pub fn check(&self, path: &str) -> Result<(), ConfigError> {
        let field = |name: &str| format!("{path}.{name}");
        let count = self.command.len();
        ensure(
            &field("command"),
            (1..=MAX_COMMAND).contains(&count),
            &format!(
                "has {count} entries, must have 1 to {MAX_COMMAND}: the program and its arguments"
            ),
        )?;
        for (index, text) in self.command.iter().enumerate() {
            check_text(&field(&format!("command[{index}]")), text)?;
        }
        ensure(
            &field("command[0]"),
            self.command[0].starts_with('/'),
            "must be the absolute path of the program; no shell is involved",
        )?;
        let count = self.watch.len();
        ensure(
            &field("watch"),
            count <= MAX_WATCHED,
            &format!("has {count} entries, the limit is {MAX_WATCHED}"),
        )?;
        for (index, path) in self.watch.iter().enumerate() {
            let field = field(&format!("watch[{index}]"));
            check_text(&field, path)?;
            ensure(&field, path.starts_with('/'), "must be an absolute path")?;
        }
        let count = self.environment.len();
        ensure(
            &field("environment"),
            count <= MAX_VARIABLES,
            &format!("has {count} variables, the limit is {MAX_VARIABLES}"),
        )?;
        for (name, value) in &self.environment {
            ensure(
                &field("environment"),
                is_variable(name),
                "names must be 1 to 128 of A-Z, a-z, 0-9 and '_', and not begin with a digit",
            )?;
            check_text(&field(&format!("environment.{name}")), value)?;
        }
        within(&field("timeout_ms"), self.timeout_ms, 10..=10_000)?;
        within(&field("max_in_flight"), self.max_in_flight, 1..=1_000)
    }
}

fn check_text(field: &str, text: &str) -> Result<(), ConfigError> {
    let len = text.len();
    ensure(
        field,
        len <= MAX_TEXT_BYTES,
        &format!("is {len} bytes, the limit is {MAX_TEXT_BYTES}"),
    )?;
    ensure(field, !text.contains('\0'), "must not have a NUL byte")
}

fn is_variable(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
