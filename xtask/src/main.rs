//! `cargo xtask VERB`: every command a person or CI runs. Depends on `std` and `anyhow` alone, so that it builds in seconds.

mod bench;
mod cache;
mod clients;
mod cluster;
mod generate;
mod kubernetes;
mod nats;
mod run;
mod test;
mod tidy;
mod tools;
mod up;

use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask VERB

  up [ARGS...]             build once, then `nightjar up examples/three-regions.yaml ARGS...`
  test [--long] [FILTER]   every test; --long adds full sizes and soaks; FILTER as for `cargo test`
  generate [--check]       write crds/ and reference pages from the code; --check fails when one is stale
  tidy                     the rules no compiler checks (file headers, file sizes, links, hosts)
  cluster VERB ...         a real Kubernetes on this machine: up, down, load-images, status, env, faults; see `cluster help`
  bench WHAT [ARGS...]     deliver | ingest | query | idle, in a release build; never part of `test`

What a verb needs and the machine lacks is installed into ~/.cache/nightjar (or $XDG_CACHE_HOME/nightjar), never into this folder.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match verb(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn verb(args: &[String]) -> Result<ExitCode> {
    let Some((verb, rest)) = args.split_first() else {
        eprintln!("{HELP}");
        return Ok(ExitCode::from(2));
    };
    match verb.as_str() {
        "up" => up::up(rest),
        "test" => test::test(rest),
        "generate" => generate::generate(rest),
        "tidy" => tidy::tidy(),
        "cluster" => cluster::cluster(rest),
        "bench" => bench::bench(rest),
        "help" | "--help" | "-h" => {
            eprintln!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        other => bail!(
            "unknown verb `{other}`; verbs are up, test, generate, tidy, cluster, bench (see `cargo xtask help`)"
        ),
    }
}
