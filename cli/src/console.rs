//! Words for people on stderr: notes, steps of a connection, frames. Never data.

use std::io::Write;
use std::sync::Arc;

use anstyle::{AnsiColor, Style};
use nightjar_client::{Observer, RelayUrl, Step};

use crate::output::steers_terminal;

/// How much is said.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Console {
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
    pub(crate) wire: bool,
}

const DIM: Style = Style::new().dimmed();
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default();

impl Console {
    /// A remark that `--quiet` silences.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            line(&format!("{DIM}{}{DIM:#}", shown(text)));
        }
    }

    /// Something that did not stop the command, and that its user should know.
    pub(crate) fn warn(&self, text: &str) {
        line(&format!("{YELLOW}warning{YELLOW:#} {}", shown(text)));
    }

    /// A detail for `--verbose`.
    pub(crate) fn detail(&self, text: &str) {
        if self.verbose {
            line(&format!("{DIM}{}{DIM:#}", shown(text)));
        }
    }

    /// An error as people read it.
    pub(crate) fn error(&self, text: &str) {
        line(&format!("{RED}error{RED:#} {}", shown_lines(text)));
    }

    /// Plain text, whatever the flags.
    pub(crate) fn plain(&self, text: &str) {
        line(&shown_lines(text));
    }

    /// What connections tell: steps with `--verbose`, and masked frames with `--wire`.
    pub(crate) fn observer(self) -> Option<Observer> {
        if !self.verbose && !self.wire {
            return None;
        }
        Some(Arc::new(move |url: &RelayUrl, step: Step<'_>| {
            if let Some(text) = self.step(step) {
                line(&format!("{DIM}{url}{DIM:#} {}", shown(&text)));
            }
        }))
    }

    fn step(self, step: Step<'_>) -> Option<String> {
        use nightjar_client::frame::masked;
        let npub = nightjar_client::identity::npub;
        match step {
            Step::Sent(text) => self.wire.then(|| format!("-> {}", masked(text))),
            Step::Received(text) => self.wire.then(|| format!("<- {}", masked(text))),
            Step::Connecting => Some("connecting".to_owned()),
            Step::Connected => Some("connected".to_owned()),
            Step::Challenged => Some("AUTH 1/3: the relay sent a challenge".to_owned()),
            Step::Authenticating(key) => Some(format!("AUTH 2/3: answering as {}", npub(key))),
            Step::Authenticated(key) => Some(format!("AUTH 3/3: the relay knows {}", npub(key))),
        }
    }
}

/// One line as it may reach a terminal: relays say part of it.
fn shown(text: &str) -> String {
    text.replace(steers_terminal, " ")
}

/// The same for text whose line breaks are ours.
fn shown_lines(text: &str) -> String {
    text.replace(|c| c != '\n' && steers_terminal(c), " ")
}

/// One line to stderr. That nobody reads stderr is no reason to stop.
fn line(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}
