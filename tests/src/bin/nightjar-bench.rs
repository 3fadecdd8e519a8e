//! `nightjar-bench deliver | ingest | query | fanout | oracle | idle`: figures of a fleet that it starts itself. Started by `cargo xtask bench`.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use nightjar_tests::bench::fanout::Fanout;
use nightjar_tests::bench::ingest::Ingest;
use nightjar_tests::bench::machine::Machine;
use nightjar_tests::bench::options::{Common, Mode, Options};
use nightjar_tests::bench::oracle::Oracle;
use nightjar_tests::bench::query::Query;
use nightjar_tests::bench::report::{Report, Row};
use nightjar_tests::bench::{deliver, fanout, hold, idle, ingest, oracle, query};

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ran = runtime
        .context("the runtime does not start")
        .and_then(|runtime| runtime.block_on(run(&options.mode)));
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(std::io::stderr(), "nightjar-bench: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

async fn run(mode: &Mode) -> Result<()> {
    let began = nightjar_tests::event::now();
    let machine = Machine::look();
    let common = mode.common();
    if let Mode::Hold {
        url,
        connections,
        source,
        ..
    } = mode
    {
        return hold::run(url, *connections, *source).await;
    }
    let rows = measure(mode, common).await?;
    let report = Report {
        mode: mode.name(),
        began,
        machine,
        rows,
    };
    let json = serde_json::to_string_pretty(&report).context("the report as JSON")?;
    if let Some(path) = &common.out {
        std::fs::write(path, format!("{json}\n"))
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let text = if common.json {
        format!("{json}\n")
    } else {
        report.tables()
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("stdout")?;
    Ok(())
}

async fn measure(mode: &Mode, common: &Common) -> Result<Vec<Row>> {
    match mode {
        Mode::Deliver { rate, seconds, .. } => deliver::run(*rate, *seconds, common).await,
        Mode::Ingest {
            connections,
            seconds,
            events,
            share,
            ..
        } => {
            let ingest = Ingest {
                connections,
                limit: Duration::from_secs(u64::from(*seconds)),
                events: *events,
                share: *share,
            };
            ingest::run(&ingest, common).await
        }
        Mode::Query {
            connections,
            authors,
            seconds,
            share,
            ..
        } => {
            let query = Query {
                connections: *connections,
                authors: *authors,
                length: Duration::from_secs(u64::from(*seconds)),
                share: *share,
            };
            query::run(&query, common).await
        }
        Mode::Fanout {
            subscribers,
            events,
            ..
        } => {
            let fanout = Fanout {
                subscribers: *subscribers,
                events: *events,
            };
            fanout::run(&fanout, common).await
        }
        Mode::Idle {
            connections,
            fleet_connections,
            ..
        } => idle::run(*connections, *fleet_connections, common).await,
        Mode::Oracle { pairs, runs, .. } => {
            let oracle = Oracle {
                pairs: *pairs,
                runs: *runs,
            };
            oracle::run(&oracle, common).await
        }
        // Measures nothing: it is load for `idle`.
        Mode::Hold { .. } => Ok(Vec::new()),
    }
}
