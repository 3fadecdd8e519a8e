//! Small policy programs for tests, as shell scripts: no interpreter but `sh` is needed, and every fault is easy to write.

use std::collections::BTreeSet;
use std::path::Path;

use nightjar_config::Plugin;
use nostr::key::Keys;
use serde_json::json;

use super::harness::{Client, Relay, event};
use crate::socket::Timings;

/// Before every script: `$id` of a line, and ways to answer it.
const PRELUDE: &str = r#"
id_of() { rest=${line#*\"id\":\"}; id=${rest%%\"*}; }
accept() { printf '{"id":"%s","action":"accept"}\n' "$id"; }
reject() { printf '{"id":"%s","action":"reject","msg":"%s"}\n' "$id" "$1"; }
shadow() { printf '{"id":"%s","action":"shadowReject"}\n' "$id"; }
next() { IFS= read -r line && id_of; }
"#;

/// Accepts everything.
pub(super) const ACCEPT: &str = "while next; do accept; done";

/// A program that runs a script. Patient, so that a busy machine fails no test; tests of timeouts set their own.
pub(super) fn script(text: &str) -> Plugin {
    let command = ["/bin/sh", "-c", &format!("{PRELUDE}{text}")].map(str::to_owned);
    Plugin {
        timeout_ms: 10_000,
        ..Plugin::new(command.into())
    }
}

/// The same with a variable that names a path.
pub(super) fn script_with(text: &str, variable: &str, path: &Path) -> Plugin {
    let value = path.to_str().expect("a path in UTF-8").to_owned();
    Plugin {
        environment: [(variable.to_owned(), value)].into(),
        ..script(text)
    }
}

/// Sends notes without waiting for answers; their ids.
pub(super) async fn send_many(client: &mut Client, count: usize) -> BTreeSet<String> {
    let keys = Keys::generate();
    let mut ids = BTreeSet::new();
    for number in 0..count {
        let sent = event(&keys, 1, &number.to_string(), &[]);
        ids.insert(sent.id.to_hex());
        client.send(json!(["EVENT", sent])).await;
    }
    ids
}

/// A relay with a write policy.
pub(super) async fn writing_under(plugin: Plugin) -> Relay {
    Relay::start_with(
        |config| config.plugins.write = Some(plugin),
        Timings::default(),
    )
    .await
}

/// A relay with a read policy.
pub(super) async fn reading_under(plugin: Plugin) -> Relay {
    Relay::start_with(
        |config| config.plugins.read = Some(plugin),
        Timings::default(),
    )
    .await
}

impl Relay {
    /// The value of a series.
    pub(super) fn series(&self, series: &str) -> u64 {
        let text = self.services.metrics.encode().expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        let value = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
        value.trim().parse().expect("a number")
    }

    /// Waits until a series is so great.
    pub(super) async fn until_series(&self, series: &str, least: u64) {
        self.until(series, |_| self.series(series) >= least).await;
    }
}
