//! The command line, and with it help, completions and man pages.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::kubernetes::Where;
use crate::output::Format;
use crate::person::Named;
use crate::verb::{
    BundleArgs, CheckArgs, PlanArgs, RestartArgs, RolloutVerb, RunbookArgs, WhyArgs,
};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

const AFTER_HELP: &str = "\
Exit codes: 0 ok, 1 failed, 2 usage, 3 unreachable, 4 not allowed or AUTH, 5 not durable in time,
6 unhealthy, 7 rate-limited, 8 not found, 9 key or signature, 123 some input lines failed.
Every error has a code: `nightjar explain NJ-3001` says what it means, also offline.

First steps:
  nightjar up examples/three-regions.yaml            a fleet of three regions on this machine
  nightjar send bob@demo 'hello' --as alice@demo     a sealed message
  nightjar inbox --as bob@demo                       read it

In Kubernetes (also as `kubectl nightjar`):
  nightjar check --pre                               is this cluster fit, may you install
  nightjar check --wait                              wait until operator and fleets are well
  nightjar why FLEET                                 what it waits for, and what ends that";

/// The program's name as a plug-in of kubectl.
const PLUGIN: &str = "kubectl-nightjar";

/// Whether the program was called by kubectl, or under the name that kubectl looks for.
pub(crate) fn is_plugin() -> bool {
    let called = std::env::args_os().next().map(PathBuf::from);
    let stem = called.as_deref().and_then(std::path::Path::file_stem);
    stem.is_some_and(|stem| stem == PLUGIN)
}

/// The command line's definition, under the name it was called by.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    if is_plugin() {
        as_plugin(command)
    } else {
        command
    }
}

fn as_plugin(command: clap::Command) -> clap::Command {
    let after = AFTER_HELP
        .replace("  nightjar ", "  kubectl nightjar ")
        .replace("`nightjar ", "`kubectl nightjar ");
    command.bin_name("kubectl nightjar").after_help(after)
}

/// Private messages over Nostr relays in several regions.
#[derive(Debug, Parser)]
#[command(name = "nightjar", version, styles = STYLES, after_help = AFTER_HELP, max_term_width = 100)]
#[command(disable_help_subcommand = false, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Global {
    /// Format of the data on stdout
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    /// Colour: auto (on a terminal, unless NO_COLOR is set), always, never
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: When,
    /// No remarks on stderr, only warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say each step on stderr: connections, AUTH, deliveries
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Show each frame on stderr, secrets and ciphertext masked
    #[arg(long, global = true)]
    pub(crate) wire: bool,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum When {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Who acts.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Identity")]
pub(crate) struct As {
    /// Key to act as: a name from `nightjar key show`, or alice@demo of a running fleet [default: default]
    #[arg(id = "identity", long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Key file to act as, wherever it is
    #[arg(long, value_name = "FILE", conflicts_with = "identity")]
    key: Option<PathBuf>,
    /// Read the passphrase from the first line of FILE (mode 0600), or of stdin with `-`
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Through which relays.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Relays")]
pub(crate) struct Via {
    /// Relay URL, or a region of the running fleet; may be repeated [default: all relays of the running fleet]
    #[arg(long, value_name = "RELAY")]
    pub(crate) via: Vec<String>,
    /// State folder of the running fleet [default: that of the last `nightjar up`]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

impl As {
    pub(crate) fn named(&self, via: &Via) -> Named {
        Named {
            name: self.name.clone(),
            key: self.key.clone(),
            passphrase: self.passphrase_file.clone(),
            state: via.state.clone(),
        }
    }

    /// Whether an identity was named at all.
    pub(crate) fn is_given(&self) -> bool {
        self.name.is_some() || self.key.is_some()
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run the fleet that FILE describes on this machine, until Ctrl-C
    Up(UpArgs),
    /// Stop the fleet that runs on this machine; its data stays
    Down(DownArgs),
    /// State of the fleet on this machine, of the relays named with --via, or of a fleet in Kubernetes
    Status(StatusArgs),
    /// Is this cluster fit for Nightjar, does the operator run, are the fleets well; what to fix first
    Check(CheckArgs),
    /// What a fleet waits for, since when, and what ends it
    Why(WhyArgs),
    /// What a file would change in a fleet, which pods restart in which order, and what survives
    Plan(PlanArgs),
    /// See, hold and resume the rollout of a change
    #[command(subcommand)]
    Rollout(RolloutVerb),
    /// Restart all pods of a fleet, one at a time, as a change would
    Restart(RestartArgs),
    /// Write an archive for support: state, events and logs, without secrets
    Bundle(BundleArgs),
    /// Show the page for an alert, or list all of them; works offline
    Runbook(RunbookArgs),
    /// Make, import or show keys
    #[command(subcommand)]
    Key(KeyVerb),
    /// Show or publish a profile (kind 0)
    #[command(subcommand)]
    Profile(ProfileVerb),
    /// Show or publish the relays for private messages (kind 10050)
    #[command(subcommand)]
    Relays(RelaysVerb),
    /// Send a private message (NIP-17), or one for each line of stdin
    Send(SendArgs),
    /// Read private messages that relays keep
    Inbox(InboxArgs),
    /// Show private messages as they come, until Ctrl-C
    Watch(WatchArgs),
    /// Write events as JSON lines, byte for byte as the relay has them
    Export(ExportArgs),
    /// Publish events from JSON lines, as relays dump them; says which lines were refused and why
    Import(ImportArgs),
    /// Explain an error code, or list all of them; works offline
    Explain(ExplainArgs),
    /// Write completions for a shell to stdout
    Completion {
        /// Shell
        shell: Shell,
    },
    /// Write the man page to stdout, or all man pages into a folder
    Man {
        /// Folder for the pages of all verbs
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
        /// The help of all verbs as one Markdown page to stdout
        #[arg(long, conflicts_with = "folder")]
        markdown: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// RelayCluster file (YAML)
    pub(crate) file: PathBuf,
    /// State folder: data, keys, logs [default: ~/.local/state/nightjar/fleets/NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// One JSON object a line on stdout, each with `event`, instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// nats-server to use [default: $NATS_SERVER, then PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) nats_server: Option<PathBuf>,
    /// Do not send the hello, and make no demo identities
    #[arg(long)]
    pub(crate) no_demo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// State folder of the fleet [default: that of the last `nightjar up`]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "With FLEET, -n, --context or --kubeconfig it is about Kubernetes; with `kubectl nightjar status` always."
)]
pub(crate) struct StatusArgs {
    /// Fleet in Kubernetes, region by region [default with the options of Kubernetes: the fleets of the namespace]
    #[arg(conflicts_with_all = ["via", "state"])]
    pub(crate) fleet: Option<String>,
    #[command(flatten)]
    pub(crate) via: Via,
    #[command(flatten)]
    pub(crate) at: Where,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyVerb {
    /// Make a new key, encrypted under a passphrase (NIP-49)
    Make(KeyNewArgs),
    /// Import nsec1..., ncryptsec1... or hex from stdin or the terminal, never from arguments
    Import(KeyNewArgs),
    /// Show one key or all: public key and file; never the secret
    Show {
        /// Name of the key [default: all]
        name: Option<String>,
        /// Write the encrypted key (ncryptsec1...) alone to stdout, for other clients
        #[arg(long, requires = "name")]
        encrypted: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct KeyNewArgs {
    /// Name of the new key
    #[arg(default_value = crate::person::DEFAULT)]
    pub(crate) name: String,
    /// Read the passphrase from the first line of FILE (mode 0600), or of stdin with `-`
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileVerb {
    /// Show a profile
    Show(WhoArgs),
    /// Change and publish your profile; what is not named stays
    Set {
        #[command(flatten)]
        fields: ProfileFields,
        #[command(flatten)]
        identity: As,
        #[command(flatten)]
        via: Via,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct ProfileFields {
    /// Short name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Name as shown to people
    #[arg(long)]
    pub(crate) display_name: Option<String>,
    /// A few words about you
    #[arg(long)]
    pub(crate) about: Option<String>,
    /// URL of a picture
    #[arg(long)]
    pub(crate) picture: Option<String>,
    /// Address such as bob@example.com (NIP-05)
    #[arg(long)]
    pub(crate) nip05: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RelaysVerb {
    /// Show where somebody wants private messages
    Show(WhoArgs),
    /// Publish where you want private messages
    Set {
        /// Relay URLs, or regions of the running fleet
        #[arg(required = true, value_name = "RELAY")]
        relays: Vec<String>,
        #[command(flatten)]
        identity: As,
        #[command(flatten)]
        via: Via,
    },
}

#[derive(Debug, Args)]
pub(crate) struct WhoArgs {
    /// npub1..., hex, a key of yours, or alice@demo [default: yourself]
    pub(crate) who: Option<String>,
    #[command(flatten)]
    pub(crate) identity: As,
    #[command(flatten)]
    pub(crate) via: Via,
}

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// Recipient: npub1..., nprofile1..., hex, a key of yours, or bob@demo
    pub(crate) to: String,
    /// The message; without it, or with `-`, each line of stdin is one
    pub(crate) text: Option<String>,
    /// One more recipient of the same message; may be repeated
    #[arg(long, value_name = "WHO")]
    pub(crate) also: Vec<String>,
    #[command(flatten)]
    pub(crate) identity: As,
    #[command(flatten)]
    pub(crate) via: Via,
}

#[derive(Debug, Args)]
pub(crate) struct InboxArgs {
    /// Only messages written since: 2h, 3d, or seconds since 1970
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only the newest N messages
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    #[command(flatten)]
    pub(crate) identity: As,
    #[command(flatten)]
    pub(crate) via: Via,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Also show stored messages written since: 2h, 3d, or seconds since 1970
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// End after N messages
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// End after this time: 30s, 5m, 2h
    #[arg(long = "for", value_name = "TIME")]
    pub(crate) duration: Option<String>,
    #[command(flatten)]
    pub(crate) identity: As,
    #[command(flatten)]
    pub(crate) via: Via,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Only this kind; may be repeated
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Vec<u16>,
    /// Only events of this author; may be repeated
    #[arg(long, value_name = "WHO")]
    pub(crate) author: Vec<String>,
    /// Only events since: 2h, 3d, or seconds since 1970 (gift wraps are dated back by up to 2 days)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    #[command(flatten)]
    pub(crate) identity: As,
    #[command(flatten)]
    pub(crate) via: Via,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// File of JSON lines; without it, or with `-`, stdin
    pub(crate) file: Option<PathBuf>,
    /// Also list the lines that were accepted
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) identity: As,
    #[command(flatten)]
    pub(crate) via: Via,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The code, such as NJ-3001 [default: list all]
    pub(crate) code: Option<String>,
    /// The whole book as one Markdown page
    #[arg(long, conflicts_with = "code")]
    pub(crate) book: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn kubectl_users_see_the_command_they_type() {
        let mut command = as_plugin(Cli::command());
        command.build();
        let help = command.render_help().to_string();
        assert!(help.contains("Usage: kubectl nightjar"), "{help}");
        assert!(help.contains("  kubectl nightjar check --pre"), "{help}");
        let why = command
            .find_subcommand_mut("why")
            .unwrap()
            .render_help()
            .to_string();
        assert!(why.contains("Usage: kubectl nightjar why"), "{why}");
    }

    #[test]
    fn help_of_every_verb_is_as_reviewed() {
        fn walk(command: &mut clap::Command, path: &str) {
            let mut shown = command.clone().term_width(100);
            insta::assert_snapshot!(path.replace(' ', "-"), shown.render_help());
            for below in command
                .get_subcommands_mut()
                .filter(|below| below.get_name() != "help")
            {
                let path = format!("{path} {}", below.get_name());
                walk(below, &path);
            }
        }
        let mut command = Cli::command();
        command.build();
        walk(&mut command, "nightjar");
    }
}
