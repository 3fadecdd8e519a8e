//! `nightjar-operator`: checks a RelayCluster, and prints what is generated from its types.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nightjar_operator::crd::{MAX_FILE_BYTES, crd_yaml, reference_markdown};
use nightjar_operator::validate::{FieldError, ValidFleet, from_yaml};

/// Exit code for input that will not do: arguments, a file, the machine.
const BAD_INPUT: u8 = 2;

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
    /// Check a RelayCluster file and say everything that is wrong with it
    Validate {
        /// The RelayCluster file
        file: PathBuf,
    },
    /// Print the CustomResourceDefinition, or the reference of its fields
    Crd {
        /// Print docs/reference/relaycluster.md instead
        #[arg(long)]
        docs: bool,
    },
}

fn main() -> ExitCode {
    let failed = match Cli::parse().verb {
        Verb::Validate { file } => validate(&file),
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
