//! `nightjar`: reads the command line, runs one verb, turns its error into words and an exit code.

mod args;
mod code;
mod console;
mod context;
mod demo;
mod error;
mod home_relays;
mod keyfile;
mod kubernetes;
mod output;
mod paths;
mod person;
mod running;
mod verb;
mod when;

use std::process::ExitCode;

use clap::FromArgMatches;
use clap::error::ErrorKind;

use crate::args::{Cli, When};
use crate::code::Code;
use crate::console::Console;
use crate::context::Context;
use crate::error::CliError;
use crate::output::Format;

fn main() -> ExitCode {
    let read = args::command()
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match read {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.global.color {
        When::Auto => {}
        When::Always => anstream::ColorChoice::Always.write_global(),
        When::Never => anstream::ColorChoice::Never.write_global(),
    }
    let context = Context::new(&cli.global);
    let format = cli.global.output;
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(Code::File, "could not start", "ulimit -a").because(error))
        .and_then(|runtime| {
            let outcome = runtime.block_on(verb::run(cli.verb, &context));
            // A blocking read of a terminal must not keep the program alive.
            runtime.shutdown_background();
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&context.console, format, &error),
    }
}

fn fail(console: &Console, format: Format, error: &CliError) -> ExitCode {
    match format {
        Format::Json | Format::Jsonl => console.plain(&error.to_json()),
        _ => console.error(&error.to_string()),
    }
    ExitCode::from(error.code.exit())
}

/// What clap has to say: help and version on stdout, everything else with our code on stderr.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => ExitCode::from(Code::Usage.exit()),
        _ => {
            Console::default().plain(&format!(
                "\n{}, explained by: nightjar explain {}",
                Code::Usage,
                Code::Usage
            ));
            ExitCode::from(Code::Usage.exit())
        }
    }
}
