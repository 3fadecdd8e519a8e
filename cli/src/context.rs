//! What verbs share: where data and remarks go, which relays are meant, a client for an identity.

use std::collections::BTreeMap;
use std::path::Path;

use nightjar_client::delivery::Delivery;
use nightjar_client::identity::npub;
use nightjar_client::{Client, Options, PublicKey, RelayUrl};

use crate::args::{Global, Via};
use crate::console::Console;
use crate::error::{CliError, no_relay};
use crate::home_relays;
use crate::keyfile::KeyFile;
use crate::output::Output;
use crate::person::{self, Actor, DEMO, demo_file};
use crate::running::{self, Running};
use crate::when::millis;

/// Handed to every verb.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) out: Output,
    pub(crate) console: Console,
}

impl Context {
    pub(crate) fn new(global: &Global) -> Self {
        let console = Console {
            quiet: global.quiet,
            verbose: global.verbose,
            wire: global.wire,
        };
        Self {
            out: Output::new(global.output),
            console,
        }
    }

    /// The relays that `--via` names; else those kept for `me` by `nightjar relays set`; else all of the running fleet.
    pub(crate) fn relays(
        &self,
        via: &Via,
        me: Option<&PublicKey>,
    ) -> Result<Vec<RelayUrl>, CliError> {
        if !via.via.is_empty() {
            return self.named_relays(&via.via, via.state.as_deref());
        }
        if via.state.is_some() {
            return Running::find(via.state.as_deref())?.relays();
        }
        let kept = me.map(home_relays::of).unwrap_or_default();
        if !kept.is_empty() {
            return Ok(kept);
        }
        Running::find(None).map_or_else(|_| Err(no_relay()), |running| running.relays())
    }

    /// Relays by URL, or by the name of a region of the running fleet.
    pub(crate) fn named_relays(
        &self,
        names: &[String],
        state: Option<&Path>,
    ) -> Result<Vec<RelayUrl>, CliError> {
        let mut relays = Vec::new();
        for name in names {
            if name.contains("://") {
                relays.push(running::relay_url(name)?);
            } else if name.contains([':', '.', '/']) {
                let expected = "wss:// or ws:// before the host, or a region of the running fleet";
                return Err(CliError::bad_value("relay", name, expected));
            } else {
                relays.extend(Running::find(state)?.relays_of(name)?);
            }
        }
        Ok(relays)
    }

    /// A client that acts as `actor` and asks `via`.
    pub(crate) fn client(&self, actor: &Actor, via: Vec<RelayUrl>) -> Client {
        let observer = self.console.observer();
        Client::new(
            actor.identity.clone(),
            Options {
                via,
                loopback_only: actor.demo,
                observer,
            },
        )
    }

    /// Tells of copies that did not arrive, and with `--verbose` of those that did.
    pub(crate) fn tell_deliveries(&self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            let over = if delivery.taken.is_some() {
                "another relay of its fleet took it"
            } else {
                "no copy there"
            };
            for (url, error) in &delivery.failed {
                self.console.warn(&format!("{url}: {error}; {over}"));
            }
            if let Some(taken) = &delivery.taken {
                self.console.detail(&format!(
                    "{} took it in {} ms",
                    taken.url,
                    millis(taken.took)
                ));
            }
        }
    }
}

/// Names of our own keys and of the demo identities of a running fleet, by `npub`; for tables.
pub(crate) fn known_names(state: Option<&Path>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for (name, path) in person::own_keys().unwrap_or_default() {
        if let Ok(key) = KeyFile::read(&path) {
            names.insert(key.npub, name);
        }
    }
    if let Ok(state) = running::state_folder(state) {
        for demo in DEMO {
            if let Ok(key) = demo_file(&state, demo).and_then(|path| KeyFile::read(&path)) {
                names.insert(key.npub, format!("{demo}@demo"));
            }
        }
    }
    names
}

/// Several keys as `npub1...`.
pub(crate) fn npubs<'a>(
    keys: impl IntoIterator<Item = &'a nightjar_client::PublicKey>,
) -> Vec<String> {
    keys.into_iter().map(npub).collect()
}
