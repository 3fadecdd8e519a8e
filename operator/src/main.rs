//! `nightjar-operator`: runs a RelayCluster on this machine, checks it, keeps its keys, and prints what is generated from its types.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nightjar_operator::crd::{MAX_FILE_BYTES, crd_yaml, reference_markdown};
use nightjar_operator::keys::{self, KeysArgs};
use nightjar_operator::local::{self, Console, LocalOptions, Style};
use nightjar_operator::validate::{FieldError, ValidFleet, from_yaml};

/// Exit code for input that will not do: arguments, a file, the machine.
const BAD_INPUT: u8 = 2;

const LOCAL_HELP: &str = "Environment: NATS_SERVER names the nats-server executable (else PATH), NIGHTJAR_RELAY the \
nightjar-relay executable (else the one beside this program).";

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
    /// Run a fleet on this machine: NATS servers, hubs and relays as child processes. Ctrl-C stops it; a second one kills it
    #[command(after_help = LOCAL_HELP)]
    Local {
        /// The RelayCluster file; changes of it are applied while the fleet runs
        file: PathBuf,
        /// The folder that keeps the fleet's keys, log and addresses; made when absent
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        /// Print one JSON object for each event instead of a table
        #[arg(long)]
        json: bool,
    },
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

fn main() -> ExitCode {
    let failed = match Cli::parse().verb {
        Verb::Local { file, state, json } => run_local(file, state, json),
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

fn run_local(file: PathBuf, state: PathBuf, json: bool) -> Result<(), ExitCode> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| fail(&format!("cannot start a thread: {error}")))?;
    let style = Style::choose(json, std::io::stdout().is_terminal());
    let mut console = Console::to_stdout(style);
    let ran = runtime.block_on(local::run(LocalOptions::new(file, state), &mut console));
    ran.map_err(|error| {
        if json {
            // A script reads stdout; a person reads the line below.
            for event in error.events() {
                let _ = console.show(&event);
            }
        }
        for line in error.to_string().lines() {
            complain(line);
        }
        ExitCode::from(BAD_INPUT)
    })
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
