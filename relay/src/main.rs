//! `nightjar-relay --config FILE`: one relay. Exit codes: 0 stopped as asked, 2 bad configuration or arguments, 1 anything else.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nightjar_relay::reload;
use nightjar_relay::server::{self, ServerError};
use nightjar_relay::telemetry::Telemetry;

/// A Nightjar relay: Nostr clients on one side, the fleet's sealed log on the other.
#[derive(Debug, Parser)]
#[command(
    name = "nightjar-relay",
    version,
    override_usage = "nightjar-relay --config <FILE>"
)]
struct Arguments {
    /// The relay's configuration file (YAML). It is watched: what may change while running does.
    #[arg(long, value_name = "FILE", required_unless_present = "metrics_docs")]
    config: Option<PathBuf>,
    /// Prints the reference page of the metrics and ends.
    #[arg(long, hide = true)]
    metrics_docs: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(config_file) = arguments.config.filter(|_| !arguments.metrics_docs) else {
        return print_metrics_docs();
    };
    let config = match reload::load(&config_file) {
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
        let code = match server::run(config_file, config).await {
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

fn print_metrics_docs() -> ExitCode {
    use std::io::Write;
    let page = match nightjar_relay::metrics::reference::reference_markdown() {
        Ok(page) => page,
        Err(error) => return fail(1, &error),
    };
    match std::io::stdout().write_all(page.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
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
