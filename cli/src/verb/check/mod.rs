//! `nightjar check`: is this cluster fit for Nightjar, does the operator run, are the fleets well. Looks, and changes nothing.

mod before;
mod fleet;
mod operator;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use nightjar_operator::crd::RelayCluster;
use tokio::time::{Instant, sleep};

use super::plan::read_manifest;
use crate::code::Code;
use crate::context::Context;
use crate::error::CliError;
use crate::kubernetes::{Cluster, Where, fleets, found_fleet};
use crate::output::counted;
use crate::when;
use report::{Check, Outcome, Report};

/// Between two rounds of `--wait`.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Fleet to look at [default: all of the namespace]
    #[arg(conflicts_with = "pre")]
    fleet: Option<String>,
    /// Before the operator is installed: is the cluster fit, and may you install
    #[arg(long)]
    pre: bool,
    /// With --pre: RelayCluster file (YAML) for whose disks and nodes to look
    #[arg(short, long, value_name = "FILE", requires = "pre")]
    file: Option<PathBuf>,
    /// Again until nothing fails, for at most this time [default when given: 5m]
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "5m", require_equals = true)]
    wait: Option<String>,
    #[command(flatten)]
    at: Where,
}

pub(crate) async fn run(args: &CheckArgs, context: &Context) -> Result<(), CliError> {
    let patience = args.wait.as_deref().map(when::duration).transpose()?;
    let manifest = args.file.as_deref().map(read_manifest).transpose()?;
    let cluster = Cluster::find(&args.at).await?;
    let end = Instant::now() + patience.unwrap_or_default();
    let mut said = String::new();
    loop {
        let report = look(args, &cluster, manifest.as_ref()).await?;
        let over = patience.is_none() || Instant::now() + AGAIN > end;
        if report.result != Outcome::Failed || over {
            return tell(&report, patience, context);
        }
        let first = &report.checks[0];
        let now = format!("waiting: {} ({})", first.message, first.category);
        if now != said {
            context.console.note(&now);
            said = now;
        }
        sleep(AGAIN).await;
    }
}

async fn look(
    args: &CheckArgs,
    cluster: &Cluster,
    manifest: Option<&RelayCluster>,
) -> Result<Report, CliError> {
    let version = before::version(cluster).await;
    let lost = version
        .explain
        .as_deref()
        .is_some_and(|code| Code::parse(code) != Some(Code::CheckVersion));
    let mut checks = vec![version];
    if lost {
        return Ok(Report::new(&cluster.server, &cluster.namespace, checks));
    }
    let live = operator::live_definition(cluster).await;
    if args.pre {
        checks.extend(before::rights(cluster, matches!(live, Ok(Some(_)))).await);
        checks.extend(before::room(cluster, manifest).await);
    } else {
        checks.push(operator::definition_check(&live));
        checks.extend(operator::running(cluster).await);
        // Without the definition there are no fleets to look at, and the check above says so.
        if !matches!(live, Ok(None)) {
            for fleet in wanted(args, cluster).await? {
                checks.extend(fleet::checks(cluster, &fleet).await);
            }
        }
    }
    Ok(Report::new(&cluster.server, &cluster.namespace, checks))
}

/// The checks of one fleet, for the archive of `nightjar bundle`.
pub(crate) async fn of_fleet(cluster: &Cluster, fleet: &RelayCluster) -> Report {
    let live = operator::live_definition(cluster).await;
    let mut checks = vec![operator::definition_check(&live)];
    checks.extend(operator::running(cluster).await);
    checks.extend(fleet::checks(cluster, fleet).await);
    Report::new(&cluster.server, &cluster.namespace, checks)
}

async fn wanted(args: &CheckArgs, cluster: &Cluster) -> Result<Vec<RelayCluster>, CliError> {
    match &args.fleet {
        Some(name) => Ok(vec![found_fleet(cluster, name).await?]),
        None => Ok(fleets(cluster).await?),
    }
}

fn tell(report: &Report, patience: Option<Duration>, context: &Context) -> Result<(), CliError> {
    context.out.document(report)?;
    if report.result != Outcome::Failed {
        return Ok(());
    }
    let first: &Check = &report.checks[0];
    // Whom nobody answered is not unhealthy: exit codes keep the two apart.
    let code = first.explain.as_deref().and_then(Code::parse);
    let code = code
        .filter(|code| matches!(code.exit(), 3 | 4))
        .unwrap_or(Code::ChecksFailed);
    let waited = patience.map_or_else(String::new, |time| format!(" after {}", when::span(time)));
    let next = first.hint.clone().unwrap_or_default();
    Err(CliError::new(
        code,
        format!(
            "{}{waited}",
            counted(report.failed, "check failed", "checks failed")
        ),
        next,
    )
    .because(&first.message))
}
