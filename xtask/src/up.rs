//! `cargo xtask up`: build once, then become `nightjar up examples/three-regions.yaml`.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::nats::nats_server;
use crate::run::{BUILD_PROGRAMS, cargo, root, run, say, target_dir};

pub(crate) fn up(args: &[String]) -> Result<ExitCode> {
    let nats_server = nats_server()?;
    say("building (cargo build; the first time takes a few minutes)");
    run(&mut cargo(&BUILD_PROGRAMS))?;
    let nightjar = target_dir()?.join("debug/nightjar");
    say(&format!(
        "{} up examples/three-regions.yaml {}",
        nightjar.display(),
        args.join(" ")
    ));
    let mut command = Command::new(nightjar);
    command
        .args(["up", "examples/three-regions.yaml"])
        .args(args)
        .current_dir(root())
        .env("NATS_SERVER", nats_server);
    // Takes this process's place: Ctrl-C reaches `nightjar up` alone, and its exit code is ours.
    Err(command.exec().into())
}
