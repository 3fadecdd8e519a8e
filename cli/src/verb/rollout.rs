//! `nightjar rollout` and `nightjar restart`: how far a change is, holding it and letting it go on, and restarting without one.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use kube::ResourceExt;
use nightjar_operator::crd::{RelayCluster, RolloutPhase, RolloutStatus};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::plan::{Step, all_steps};
use crate::code::Code;
use crate::context::Context;
use crate::error::CliError;
use crate::kubernetes::{Cluster, PAUSED, RESTARTED_AT, ROLLOUT_PAUSED, Where, found_fleet};
use crate::output::{Document, Record};
use crate::when;

/// Between two looks of `--wait`.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutVerb {
    /// How far the rollout is that is under way, or the last one
    Status(RolloutArgs),
    /// Restart no pod from now on; everything else goes on
    Pause(FleetArgs),
    /// Go on with what was paused
    Resume(FleetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    /// Name of the fleet
    fleet: String,
    #[command(flatten)]
    at: Where,
}

#[derive(Debug, Args)]
pub(crate) struct RolloutArgs {
    #[command(flatten)]
    of: FleetArgs,
    /// Until every pod runs the change, for at most this time [default when given: 30m]
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "30m", require_equals = true)]
    wait: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    of: FleetArgs,
    /// Only say what would happen
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Until every pod was restarted, for at most this time [default when given: 30m]
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "30m", require_equals = true)]
    wait: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RolloutRecord {
    fleet: String,
    phase: Option<RolloutPhase>,
    region: Option<String>,
    pod: Option<String>,
    updated: i32,
    total: i32,
    started: Option<Timestamp>,
    revision: Option<String>,
    /// Whether an annotation holds restarts.
    paused: bool,
    message: String,
}
impl Record for RolloutRecord {
    const COLUMNS: &'static [&'static str] = &[
        "fleet", "phase", "region", "pod", "updated", "total", "started", "revision", "paused",
        "message",
    ];
}

/// What `restart` does.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Restart {
    fleet: String,
    namespace: String,
    /// Value of the annotation; `null` when nothing was asked for.
    restarted_at: Option<Timestamp>,
    steps: Vec<Step>,
    /// What else to know.
    notes: Vec<String>,
    /// The command that shows how far it is.
    watch: String,
}

impl Document for Restart {
    fn text(&self) -> String {
        let Self {
            fleet,
            namespace,
            restarted_at,
            steps,
            notes,
            watch,
        } = self;
        let pods: usize = steps.iter().map(|step| step.pods.len()).sum();
        let head = match restarted_at {
            Some(time) => {
                format!("{fleet} restarts: all {pods} pods, one at a time (asked for at {time:.0})")
            }
            None => format!("{fleet} would restart: all {pods} pods, one at a time"),
        };
        let mut text = format!("{head}\n(fleet {fleet}, namespace {namespace})\n\n");
        text.extend(steps.iter().map(|step| format!("  {}\n", step.line())));
        text.extend(notes.iter().map(|note| format!("\nnote: {note}\n")));
        text + &format!("\nWatch it: {watch}\n")
    }

    fn names(&self) -> Vec<String> {
        vec![format!("relaycluster/{}", self.fleet)]
    }
}

pub(crate) async fn rollout(verb: &RolloutVerb, context: &Context) -> Result<(), CliError> {
    match verb {
        RolloutVerb::Status(args) => status(args, context).await,
        RolloutVerb::Pause(args) => pause(args, true, context).await,
        RolloutVerb::Resume(args) => pause(args, false, context).await,
    }
}

async fn status(args: &RolloutArgs, context: &Context) -> Result<(), CliError> {
    let patience = args.wait.as_deref().map(when::duration).transpose()?;
    let cluster = Cluster::find(&args.of.at).await?;
    let fleet = found_fleet(&cluster, &args.of.fleet).await?;
    let Some(patience) = patience else {
        return tell(&fleet, context);
    };
    let (fleet, ended) = wait(&cluster, fleet, None, patience, context).await;
    let told = tell(&fleet, context);
    ended.and(told)
}

fn annotated(fleet: &RelayCluster, name: &str) -> bool {
    fleet
        .annotations()
        .get(name)
        .is_some_and(|value| value == "true")
}

fn rollout_of(fleet: &RelayCluster) -> Option<&RolloutStatus> {
    fleet
        .status
        .as_ref()
        .and_then(|status| status.rollout.as_ref())
}

fn record(fleet: &RelayCluster) -> RolloutRecord {
    let rollout = rollout_of(fleet);
    RolloutRecord {
        fleet: fleet.name_any(),
        phase: rollout.map(|rollout| rollout.phase),
        region: rollout.and_then(|rollout| rollout.region.clone()),
        pod: rollout.and_then(|rollout| rollout.pod.clone()),
        updated: rollout.map_or(0, |rollout| rollout.updated),
        total: rollout.map_or(0, |rollout| rollout.total),
        started: rollout.map(|rollout| rollout.started_at.0),
        revision: rollout.map(|rollout| rollout.revision.clone()),
        paused: annotated(fleet, ROLLOUT_PAUSED) || annotated(fleet, PAUSED),
        message: rollout.map_or_else(
            || "there was no rollout yet".to_owned(),
            |rollout| rollout.message.clone(),
        ),
    }
}

/// Shows it; a halted one is an error, since it needs somebody.
fn tell(fleet: &RelayCluster, context: &Context) -> Result<(), CliError> {
    context.out.one(&record(fleet))?;
    match rollout_of(fleet) {
        Some(rollout) if rollout.phase == RolloutPhase::Halted => {
            Err(stuck(fleet, &rollout.message))
        }
        _ => Ok(()),
    }
}

fn stuck(fleet: &RelayCluster, why: &str) -> CliError {
    let name = fleet.name_any();
    CliError::new(
        Code::RolloutStuck,
        format!("the rollout of {name} does not go on"),
        format!("nightjar why {name}"),
    )
    .because(why)
}

/// What one look says about a wait.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Done,
    /// Somebody must do something.
    Stuck(String),
    /// Goes on; with words for whoever waits.
    On(String),
}

/// `before` is the rollout that was there when a restart was asked for: one that ended before does not count.
fn look(fleet: &RelayCluster, before: Option<&Option<RolloutStatus>>) -> Look {
    let name = fleet.name_any();
    if annotated(fleet, PAUSED) {
        return Look::Stuck(format!(
            "the fleet is paused: kubectl annotate njc {name} {PAUSED}-"
        ));
    }
    if annotated(fleet, ROLLOUT_PAUSED) {
        return Look::Stuck(format!("it is paused: nightjar rollout resume {name}"));
    }
    let seen = fleet
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    if seen != fleet.metadata.generation {
        return Look::On("the operator has not taken the change yet".to_owned());
    }
    let now = rollout_of(fleet);
    let is_old = before.is_some_and(|before| match (before.as_ref(), now) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(old), Some(now)) => old.revision == now.revision && old.started_at == now.started_at,
    });
    match now {
        _ if is_old => Look::On("the operator has not begun yet".to_owned()),
        // Nothing ever had to move.
        None => Look::Done,
        Some(rollout) => match rollout.phase {
            RolloutPhase::Done => Look::Done,
            RolloutPhase::Halted => Look::Stuck(rollout.message.clone()),
            _ => Look::On(format!(
                "{} of {} pods: {}",
                rollout.updated, rollout.total, rollout.message
            )),
        },
    }
}

/// Looks again until it is done; the fleet as it was seen last, and how the wait ended.
async fn wait(
    cluster: &Cluster,
    mut fleet: RelayCluster,
    before: Option<Option<RolloutStatus>>,
    patience: Duration,
    context: &Context,
) -> (RelayCluster, Result<(), CliError>) {
    let end = Instant::now() + patience;
    let name = fleet.name_any();
    let mut said = String::new();
    loop {
        match look(&fleet, before.as_ref()) {
            Look::Done => return (fleet, Ok(())),
            Look::Stuck(why) => {
                let error = stuck(&fleet, &why);
                return (fleet, Err(error));
            }
            Look::On(now) if Instant::now() + AGAIN > end => {
                let message = format!(
                    "the rollout of {name} is not through after {}",
                    when::span(patience)
                );
                let error =
                    CliError::new(Code::StillWaiting, message, format!("nightjar why {name}"));
                return (fleet, Err(error.because(now)));
            }
            Look::On(now) if now != said => {
                context.console.note(&now);
                said = now;
            }
            Look::On(_) => {}
        }
        sleep(AGAIN).await;
        // A pass of the API server's weakness does not end a wait of minutes.
        match cluster.fleet(&name).await {
            Ok(Some(seen)) => fleet = seen.fleet,
            Ok(None) => {
                let gone = CliError::new(
                    Code::NoSuchFleet,
                    format!("{name} was deleted meanwhile"),
                    "kubectl get relayclusters",
                );
                return (fleet, Err(gone));
            }
            Err(failure) => context.console.note(&failure.message),
        }
    }
}

/// Sets or removes an annotation.
async fn annotate(
    cluster: &Cluster,
    fleet: &str,
    name: &str,
    value: Option<&str>,
) -> Result<RelayCluster, CliError> {
    let change = json!({"metadata": {"annotations": {name: value}}});
    Ok(cluster.patch_fleet(fleet, &change).await?)
}

async fn pause(args: &FleetArgs, hold: bool, context: &Context) -> Result<(), CliError> {
    let cluster = Cluster::find(&args.at).await?;
    let name = found_fleet(&cluster, &args.fleet).await?.name_any();
    let fleet = annotate(&cluster, &name, ROLLOUT_PAUSED, hold.then_some("true")).await?;
    context.out.one(&record(&fleet))?;
    let flags = &cluster.flags;
    context.console.note(&match hold {
        true => format!("no pod of {name} is restarted from now on; nightjar rollout resume {name}{flags} lets it go on"),
        false => format!("{name} goes on; nightjar rollout status {name}{flags} --wait follows it"),
    });
    if !hold && annotated(&fleet, PAUSED) {
        context.console.warn(&format!(
            "the whole fleet is still paused: kubectl annotate njc {name} {PAUSED}-"
        ));
    }
    Ok(())
}

pub(crate) async fn restart(args: &RestartArgs, context: &Context) -> Result<(), CliError> {
    let patience = args.wait.as_deref().map(when::duration).transpose()?;
    let cluster = Cluster::find(&args.of.at).await?;
    let fleet = found_fleet(&cluster, &args.of.fleet).await?;
    let name = fleet.name_any();
    let before = rollout_of(&fleet).cloned();
    let now = Timestamp::now()
        .round(jiff::Unit::Second)
        .unwrap_or_else(|_| Timestamp::now());
    let fleet = match args.dry_run {
        true => fleet,
        false => annotate(&cluster, &name, RESTARTED_AT, Some(&now.to_string())).await?,
    };
    let said = Restart {
        steps: all_steps(&name, &fleet.spec),
        namespace: cluster.namespace.clone(),
        restarted_at: (!args.dry_run).then_some(now),
        notes: notes(&fleet),
        watch: format!("nightjar rollout status {name}{} --wait", cluster.flags),
        fleet: name,
    };
    context.out.document(&said)?;
    let Some(patience) = patience else {
        return Ok(());
    };
    // One document on stdout: the end is told by the exit code, and on stderr.
    wait(&cluster, fleet, Some(before), patience, context)
        .await
        .1?;
    context.console.note("every pod was restarted");
    Ok(())
}

fn notes(fleet: &RelayCluster) -> Vec<String> {
    let name = fleet.name_any();
    let mut notes = Vec::new();
    if annotated(fleet, ROLLOUT_PAUSED) {
        notes.push(format!(
            "rollouts are paused: nothing restarts until nightjar rollout resume {name}"
        ));
    }
    if annotated(fleet, PAUSED) {
        notes.push(format!(
            "the fleet is paused: nothing restarts until kubectl annotate njc {name} {PAUSED}-"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;

    fn fleet(annotations: &str, status: &str) -> RelayCluster {
        serde_yaml::from_str(&format!(
            "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {{name: eu, generation: 2, annotations: {{{annotations}}}}}\nspec: {{regions: [{{name: a}}, {{name: b}}]}}\nstatus: {{{status}}}\n"
        ))
        .unwrap()
    }

    fn rollout(phase: &str, revision: &str) -> String {
        format!(
            "observedGeneration: 2, rollout: {{revision: {revision}, phase: {phase}, updated: 3, total: 12, startedAt: '2026-01-01T00:00:00Z', message: says so}}"
        )
    }

    #[test]
    fn table_and_json_have_the_same_fields() {
        assert_same_fields(&record(&fleet("", &rollout("Moving", "x"))));
    }

    #[test]
    fn a_wait_ends_when_it_is_done_or_needs_somebody() {
        let seen = |text: &str| look(&fleet("", text), None);
        assert_eq!(seen(&rollout("Done", "x")), Look::Done);
        assert_eq!(
            seen(&rollout("Halted", "x")),
            Look::Stuck("says so".to_owned())
        );
        assert!(matches!(seen(&rollout("Soaking", "x")), Look::On(_)));
        assert!(matches!(seen("observedGeneration: 1"), Look::On(_)));
        let paused = fleet(
            "nightjar.dev/rollout-paused: 'true'",
            &rollout("Moving", "x"),
        );
        assert!(matches!(look(&paused, None), Look::Stuck(_)));
    }

    #[test]
    fn a_rollout_of_before_is_not_taken_for_the_restart() {
        let old = fleet("", &rollout("Done", "x"));
        let before = Some(rollout_of(&old).cloned());
        assert!(matches!(look(&old, before.as_ref()), Look::On(_)));
        assert_eq!(
            look(&fleet("", &rollout("Done", "y")), before.as_ref()),
            Look::Done
        );
        assert!(matches!(
            look(&fleet("", "observedGeneration: 2"), Some(&None)),
            Look::On(_)
        ));
    }

    #[test]
    fn restart_says_what_will_happen() {
        let fleet = fleet("nightjar.dev/rollout-paused: 'true'", "");
        let said = Restart {
            steps: all_steps("eu", &fleet.spec),
            namespace: "messages".to_owned(),
            restarted_at: Some("2026-11-25T21:05:00Z".parse().unwrap()),
            notes: notes(&fleet),
            watch: "nightjar rollout status eu -n messages --wait".to_owned(),
            fleet: "eu".to_owned(),
        };
        insta::assert_snapshot!(said.text());
    }
}
