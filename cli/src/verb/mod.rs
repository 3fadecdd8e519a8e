//! The verbs, one file each.

mod bundle;
mod check;
mod explain;
mod export;
mod fleet_status;
mod import;
mod inbox;
mod key;
mod man;
mod message;
mod plan;
mod profile;
mod relays;
mod rollout;
mod runbook;
mod send;
mod status;
mod up;
mod watch;
mod why;

use crate::args::{Verb, command};

use crate::context::Context;
use crate::error::CliError;

pub(crate) use bundle::BundleArgs;
pub(crate) use check::CheckArgs;
pub(crate) use plan::PlanArgs;
pub(crate) use rollout::{RestartArgs, RolloutVerb};
pub(crate) use runbook::RunbookArgs;
pub(crate) use why::WhyArgs;

/// Runs one verb.
pub(crate) async fn run(verb: Verb, context: &Context) -> Result<(), CliError> {
    match verb {
        Verb::Up(args) => up::run(args, context).await,
        Verb::Down(args) => status::down(&args, context).await,
        Verb::Status(args) => status::status(&args, context).await,
        Verb::Check(args) => check::run(&args, context).await,
        Verb::Why(args) => why::run(&args, context).await,
        Verb::Plan(args) => plan::run(&args, context).await,
        Verb::Rollout(verb) => rollout::rollout(&verb, context).await,
        Verb::Restart(args) => rollout::restart(&args, context).await,
        Verb::Bundle(args) => bundle::run(&args, context).await,
        Verb::Runbook(args) => runbook::run(&args, context),
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
            clap_complete::generate(shell, &mut command(), "nightjar", &mut text);
            crate::output::write(&String::from_utf8_lossy(&text))
        }
        Verb::Man { markdown: true, .. } => man::markdown(),
        Verb::Man { folder, .. } => man::run(folder.as_deref()),
    }
}
