//! `cargo xtask bench deliver|ingest|query|fanout|oracle|idle`: a release build, then `nightjar-bench` of the tests crate. Never part of `test`.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::nats::nats_server;
use crate::run::{BUILD_PROGRAMS, cargo, root, run, say, target_dir};

const WHAT: [&str; 6] = ["deliver", "ingest", "query", "fanout", "oracle", "idle"];

pub(crate) fn bench(args: &[String]) -> Result<ExitCode> {
    let Some(what) = args.first().filter(|what| WHAT.contains(&what.as_str())) else {
        bail!("bench what? {}", WHAT.join(" | "));
    };
    let nats_server = nats_server()?;
    say("building in release mode (the first time takes many minutes)");
    run(cargo(&BUILD_PROGRAMS).arg("--release"))?;
    say(&format!("bench {what}"));
    let bench = target_dir()?.join("release/nightjar-bench");
    run(Command::new(bench)
        .args(args)
        .current_dir(root())
        .env("NATS_SERVER", nats_server))?;
    Ok(ExitCode::SUCCESS)
}
