//! `nightjar-operator`: checks a RelayCluster, runs it on this machine, keeps its keys, and prints what is generated from its types.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use nightjar_operator::crd::{MAX_FILE_BYTES, crd_yaml, reference_markdown};
use nightjar_operator::keys::{self, KeysArgs};
use nightjar_operator::local::{Console, LocalError, LocalOptions, Style};
use nightjar_operator::validate::{FieldError, ValidFleet, from_yaml};

/// Exit code for input that will not do: arguments, a file, the machine.
const BAD_INPUT: u8 = 2;
/// Width of the table where the terminal does not tell.
const DEFAULT_WIDTH: u16 = 100;

/// Runs fleets of Nostr relays that a RelayCluster file describes.
#[derive(Debug, Parser)]
#[command(name = "nightjar-operator", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 bad arguments or a bad file.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a fleet on this machine: NATS servers, hubs and relays as child processes on loopback
    ///
    /// Changes of FILE are applied while it runs. Ctrl-C drains the relays and ends within 10 s; a second one kills everything.
    Local(Local),
    /// Check a RelayCluster file and say everything that is wrong with it
    Validate {
        /// The RelayCluster file
        file: PathBuf,
    },
    /// Back up or restore the keys that open the fleet's log
    Keys(KeysArgs),
    /// Print the CustomResourceDefinition, or the reference of its fields
    Crd {
        /// Print docs/reference/relaycluster.md instead
        #[arg(long)]
        docs: bool,
    },
}

#[derive(Debug, Args)]
struct Local {
    /// The RelayCluster file; see examples/
    file: PathBuf,
    /// Folder for everything that lasts: keys, logs, indexes, ports. Made when absent; one fleet a folder
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Print one JSON object a line, each with `event`, instead of a table
    #[arg(long)]
    json: bool,
    /// The nats-server program, 2.15.1 or newer [default: NATS_SERVER in the environment, else nats-server in PATH]
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,
    /// The nightjar-relay program [default: NIGHTJAR_RELAY in the environment, else beside this program, else in PATH]
    #[arg(long, value_name = "PATH")]
    relay: Option<PathBuf>,
}

fn main() -> ExitCode {
    let failed = match Cli::parse().verb {
        Verb::Local(options) => return local(options),
        Verb::Validate { file } => validate(&file),
        Verb::Keys(args) => keys::run(&args).map_err(|error| {
            complain(&error.to_string());
            ExitCode::from(if error.is_usage() { BAD_INPUT } else { 1 })
        }),
        Verb::Crd { docs } => print(&if docs {
            reference_markdown()
        } else {
            crd_yaml()
        }),
    };
    failed.err().unwrap_or(ExitCode::SUCCESS)
}

fn validate(file: &Path) -> Result<(), ExitCode> {
    let fleet = read(file).map_err(|errors| {
        for error in errors {
            complain(&format!("{}: {error}", file.display()));
        }
        ExitCode::from(BAD_INPUT)
    })?;
    let relays: u32 = fleet
        .regions
        .iter()
        .map(|region| region.relay_replicas)
        .sum();
    print(&format!(
        "{}: valid: {} with {} regions, {relays} relays\n",
        file.display(),
        fleet.name,
        fleet.regions.len()
    ))
}

fn read(file: &Path) -> Result<ValidFleet, Vec<FieldError>> {
    let unreadable = |message: String| vec![FieldError::new("", message)];
    let length = std::fs::metadata(file)
        .map_err(|error| unreadable(format!("cannot be read: {error}")))?
        .len();
    if length > MAX_FILE_BYTES as u64 {
        return Err(unreadable(format!(
            "has {length} bytes, more than the {MAX_FILE_BYTES} that are read"
        )));
    }
    let text = std::fs::read_to_string(file)
        .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    from_yaml(&text)
}

fn local(verb: Local) -> ExitCode {
    let mut options = LocalOptions::new(verb.file, verb.state);
    options.nats_server = verb.nats_server.unwrap_or(options.nats_server);
    options.relay_bin = verb.relay.unwrap_or(options.relay_bin);
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let stdout = std::io::stdout();
    let terminal = stdout.is_terminal();
    let width = if terminal {
        rustix::termios::tcgetwinsize(&stdout).map_or(DEFAULT_WIDTH, |size| size.ws_col)
    } else {
        DEFAULT_WIDTH
    };
    let mut console = Console::new(stdout, Style::choose(verb.json, terminal), width);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads: {error}")),
    };
    match runtime.block_on(nightjar_operator::local::run(options, &mut console)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            refuse(&error, &mut console, verb.json);
            ExitCode::from(BAD_INPUT)
        }
    }
}

/// Says why nothing was started: each wrong field a line.
fn refuse(error: &LocalError, console: &mut Console<std::io::Stdout>, json: bool) {
    if json {
        // A reader that is gone needs no reason.
        error
            .events()
            .iter()
            .for_each(|event| drop(console.show(event)));
    } else {
        error.to_string().lines().for_each(complain);
    }
}

/// Writes data to stdout. A reader that went away early had what it wanted.
fn print(text: &str) -> Result<(), ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(fail(&format!("cannot write: {error}")))
        }
        _ => Ok(()),
    }
}

fn fail(message: &str) -> ExitCode {
    complain(message);
    ExitCode::FAILURE
}

fn complain(message: &str) {
    // With stderr gone there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "nightjar-operator: {message}");
}
