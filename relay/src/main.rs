//! `nightjar-relay --config FILE`: one relay. Exit codes: 0 stopped as asked, 2 bad configuration or arguments, 1 anything else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nightjar_relay::reload;
use nightjar_relay::server::{self, ServerError};
use nightjar_relay::telemetry::Telemetry;

/// A Nightjar relay: Nostr clients on one side, the fleet's sealed log on the other.
#[derive(Debug, Parser)]
#[command(name = "nightjar-relay", version)]
struct Arguments {
    /// The relay's configuration file (YAML). It is watched: what may change while running does.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match reload::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return fail(2, &error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let result = runtime.block_on(async {
        let telemetry = match Telemetry::start(&config.name, config.tracing.as_ref()) {
            Ok(telemetry) => telemetry,
            Err(error) => return fail(2, &error),
        };
        let code = match server::run(arguments.config, config).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ ServerError::Config(_)) => fail(2, &error),
            Err(error) => fail(1, &error),
        };
        // The exporter blocks; its own work runs on this runtime.
        drop(tokio::task::spawn_blocking(move || telemetry.stop()).await);
        code
    });
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    result
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    complain(&format!("nightjar-relay: {error}"));
    ExitCode::from(code)
}

/// One line on stderr, whether or not tracing has started.
fn complain(line: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{line}"));
}
