//! The verbs, one file each.

mod explain;
mod export;
mod import;
mod inbox;
mod key;
mod man;
mod message;
mod profile;
mod relays;
mod send;
mod status;
mod up;
mod watch;

use clap::CommandFactory;

use crate::args::{Cli, Verb};
use crate::context::Context;
use crate::error::CliError;

/// Runs one verb.
pub(crate) async fn run(verb: Verb, context: &Context) -> Result<(), CliError> {
    match verb {
        Verb::Up(args) => up::run(args, context).await,
        Verb::Down(args) => status::down(&args, context).await,
        Verb::Status(args) => status::status(&args, context).await,
        Verb::Key(verb) => key::run(verb, context),
        Verb::Profile(verb) => profile::run(verb, context).await,
        Verb::Relays(verb) => relays::run(verb, context).await,
        Verb::Send(args) => send::run(args, context).await,
        Verb::Inbox(args) => inbox::run(args, context).await,
        Verb::Watch(args) => watch::run(args, context).await,
        Verb::Export(args) => export::run(args, context).await,
        Verb::Import(args) => import::run(args, context).await,
        Verb::Explain(args) => explain::run(&args, context),
        Verb::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "nightjar", &mut text);
            crate::output::write(&String::from_utf8_lossy(&text))
        }
        Verb::Man { markdown: true, .. } => man::markdown(),
        Verb::Man { folder, .. } => man::run(folder.as_deref()),
    }
}
