//! `nightjar plan`: what a file would change in a running fleet, in which order, and what it leaves alone. Changes nothing.

mod compare;
mod order;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use nightjar_operator::cluster::Group;
use nightjar_operator::crd::{DeletionPolicy, Images, RelayCluster, load};
use nightjar_operator::validate::{FieldError, validate};
use serde::Serialize;

use crate::code::Code;
use crate::context::Context;
use crate::error::CliError;
use crate::kubernetes::{Cluster, Failure, PAUSED, REMOVE_REGION, ROLLOUT_PAUSED, Where};
use crate::output::{Document, counted, shown};
use compare::compare;
pub(crate) use order::{Step, all_steps};
use order::{at_least, pods_of, steps};

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// RelayCluster file (YAML); `-` for stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    at: Where,
}

/// What is to come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// The file describes what there is.
    Nothing,
    /// There is no such fleet yet.
    New,
    /// It can be applied.
    Change,
    /// It cannot be applied.
    Refused,
}

/// The whole plan.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    fleet: String,
    namespace: String,
    verdict: Verdict,
    summary: String,
    changes: Vec<Change>,
    /// Why it is refused: field and reason.
    refused: Vec<String>,
    /// Restarts, in their order.
    steps: Vec<Step>,
    pods_restarted: usize,
    pods: usize,
    /// The shortest time that the restarts take.
    at_least: String,
    survives: Vec<String>,
    /// What else to know.
    notes: Vec<String>,
}

/// One field.
#[derive(Debug, Serialize)]
struct Change {
    field: String,
    from: Option<String>,
    to: Option<String>,
    effect: String,
}

/// Reads and checks a file; every wrong field is a cause of the error.
pub(crate) fn read_manifest(path: &Path) -> Result<RelayCluster, CliError> {
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text).map(|_| ()),
        false => std::fs::read_to_string(path).map(|read| text = read),
    };
    read.map_err(|error| CliError::file("read", path, &error))?;
    let refused = |errors: Vec<FieldError>| {
        let next =
            "correct the fields that are named; docs/reference/relaycluster.md explains each";
        let error = CliError::new(
            Code::BadFleet,
            format!("{} is refused", path.display()),
            next,
        );
        errors.iter().fold(error, CliError::because)
    };
    let fleet = load(&text).map_err(refused)?;
    validate(&fleet).map_err(refused)?;
    Ok(fleet)
}

pub(crate) async fn run(args: &PlanArgs, context: &Context) -> Result<(), CliError> {
    let mut wanted = read_manifest(&args.file)?;
    let mut cluster = Cluster::find(&args.at).await?;
    // As kubectl does: the file's namespace, unless another one is named.
    match (&args.at.namespace, wanted.namespace()) {
        (None, Some(namespace)) => cluster.namespace = namespace,
        _ => wanted.metadata.namespace = Some(cluster.namespace.clone()),
    }
    let live = cluster.fleet(&wanted.name_any()).await?;
    let fleet = live.as_ref().map(|read| &read.fleet);
    let mut plan = planned(fleet, &wanted, &cluster.namespace);
    if let Some(read) = live.filter(|read| !read.unknown.is_empty()) {
        let unknown = read.unknown.join(", ");
        plan.notes.push(format!(
            "the fleet has fields of a newer version, which are not compared: {unknown}"
        ));
    }
    match tried(&cluster, &wanted).await {
        Ok(()) => {}
        Err(failure) if failure.code == Code::ChangeRefused => plan.refuse(failure.causes),
        Err(failure) => plan.notes.push(format!(
            "the API server's own rules were not tried: {}",
            failure.message
        )),
    }
    context.out.document(&plan)?;
    if plan.verdict != Verdict::Refused {
        return Ok(());
    }
    let error = CliError::new(
        Code::ChangeRefused,
        plan.summary,
        "correct the file, then nightjar plan again",
    );
    Err(plan.refused.iter().fold(error, CliError::because))
}

/// Asks the API server to take the file without keeping it: its rules have the last word.
async fn tried(cluster: &Cluster, wanted: &RelayCluster) -> Result<(), Failure> {
    let mut object = serde_json::to_value(wanted).unwrap_or_default();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    let params = PatchParams::apply("nightjar-plan").force().dry_run();
    let name = wanted.name_any();
    let api = cluster.api::<RelayCluster>();
    let patch = Patch::Apply(&object);
    let asked = api.patch(&name, &params, &patch);
    cluster
        .ask("patch", "relayclusters", asked)
        .await
        .map(|_| ())
}

/// The plan of a change. Pure.
fn planned(live: Option<&RelayCluster>, wanted: &RelayCluster, namespace: &str) -> Plan {
    let fleet = wanted.name_any();
    let mut plan = Plan {
        namespace: namespace.to_owned(),
        verdict: Verdict::New,
        summary: String::new(),
        changes: Vec::new(),
        refused: Vec::new(),
        steps: Vec::new(),
        pods_restarted: 0,
        pods: pods_of(&fleet, &wanted.spec).len(),
        at_least: "0s".to_owned(),
        survives: Vec::new(),
        notes: Vec::new(),
        fleet,
    };
    let Some(live) = live else {
        plan.summary = format!(
            "{} is new: {} pods in {} regions are made",
            plan.fleet,
            plan.pods,
            wanted.spec.regions.len()
        );
        return plan;
    };
    let running = live
        .status
        .as_ref()
        .and_then(|status| status.images.as_ref());
    let found = compare(&live.spec, &wanted.spec, running);
    let moved = restarts(live, wanted, running);
    plan.steps = steps(
        &plan.fleet,
        &live.spec,
        &wanted.spec,
        |region, role| match &moved {
            Some(moved) => moved
                .iter()
                .any(|(name, of)| name.as_str() == region && *of == role),
            // Of a fleet that will not do there is only what its fields say.
            None => found.iter().any(|found| found.restarts(region, role)),
        },
    );
    plan.pods_restarted = plan.steps.iter().map(|step| step.pods.len()).sum();
    plan.at_least = at_least(&plan.steps, &wanted.spec);
    let refused = found.iter().filter(|found| found.refused);
    plan.refused = refused
        .map(|found| format!("{}: {}", found.field, found.effect))
        .collect();
    plan.changes = found
        .into_iter()
        .map(|found| Change {
            field: found.field,
            from: found.from,
            to: found.to,
            effect: found.effect,
        })
        .collect();
    plan.survives = survives(live, wanted);
    plan.notes = notes(live, wanted);
    plan.settle();
    plan
}

/// What the operator itself would restart; `None` if one of the two is no valid fleet.
fn restarts(
    live: &RelayCluster,
    wanted: &RelayCluster,
    running: Option<&Images>,
) -> Option<BTreeSet<Group>> {
    let unknown = || Images {
        relay: "what runs".to_owned(),
        nats: "what runs".to_owned(),
    };
    nightjar_operator::cluster::restarts(live, wanted, &running.cloned().unwrap_or_else(unknown))
}

fn leaving<'a>(live: &'a RelayCluster, wanted: &'a RelayCluster) -> impl Iterator<Item = &'a str> {
    let regions = live.spec.regions.iter().map(|region| region.name.as_str());
    regions.filter(|name| {
        !wanted
            .spec
            .regions
            .iter()
            .any(|region| region.name == *name)
    })
}

fn survives(live: &RelayCluster, wanted: &RelayCluster) -> Vec<String> {
    let mut survives = vec![
        "every acknowledged message: pods restart one by one, and no disk is removed by a restart"
            .to_owned(),
        "the keys: nothing here makes or removes any".to_owned(),
    ];
    for region in leaving(live, wanted) {
        survives.push(match wanted.spec.deletion_policy {
            DeletionPolicy::Retain => format!("the disks of region {region} stay after it has left (deletionPolicy Retain)"),
            DeletionPolicy::Delete => format!("NOT the disks of region {region}: they go with it (deletionPolicy Delete); its messages live on in the other regions"),
        });
    }
    survives
}

fn notes(live: &RelayCluster, wanted: &RelayCluster) -> Vec<String> {
    let mut notes = Vec::new();
    let name = wanted.name_any();
    let annotation = |name: &str| live.annotations().get(name).map(String::as_str);
    for region in leaving(live, wanted) {
        let acknowledged = annotation(REMOVE_REGION) == Some(region);
        if !acknowledged && wanted.spec.deletion_policy == DeletionPolicy::Retain {
            notes.push(format!("region {region} stays until its removal is acknowledged: kubectl annotate njc {name} {REMOVE_REGION}={region}"));
        }
    }
    if annotation(PAUSED) == Some("true") {
        notes.push(format!(
            "the fleet is paused: nothing happens until kubectl annotate njc {name} {PAUSED}-"
        ));
    }
    if annotation(ROLLOUT_PAUSED) == Some("true") {
        notes.push(format!(
            "rollouts are paused: nothing restarts until nightjar rollout resume {name}"
        ));
    }
    let removed = annotation(REMOVE_REGION);
    if let Some(region) = wanted
        .spec
        .regions
        .iter()
        .find(|region| removed == Some(region.name.as_str()))
    {
        notes.push(format!(
            "the annotation {REMOVE_REGION} still names region {}",
            region.name
        ));
    }
    notes
}

impl Plan {
    /// Adds what the API server refuses; it says some of it as we do.
    fn refuse(&mut self, causes: Vec<String>) {
        for cause in causes {
            let field = cause.split(':').next().unwrap_or_default().to_owned();
            let known = self
                .refused
                .iter()
                .any(|refused| refused.starts_with(&field));
            if !known || self.refused.is_empty() {
                self.refused.push(cause);
            }
        }
        self.settle();
    }

    /// Verdict and summary, from the rest.
    fn settle(&mut self) {
        let fleet = &self.fleet;
        let fields = counted(self.changes.len(), "field changes", "fields change");
        (self.verdict, self.summary) = if !self.refused.is_empty() {
            // Refused as a whole: nothing of it happens.
            self.steps.clear();
            self.survives.clear();
            self.pods_restarted = 0;
            (
                Verdict::Refused,
                format!("{fleet}: the change is refused as a whole, nothing would happen"),
            )
        } else if self.changes.is_empty() {
            self.survives.clear();
            (
                Verdict::Nothing,
                format!("{fleet} is as the file says: nothing changes"),
            )
        } else if self.pods_restarted == 0 {
            (
                Verdict::Change,
                format!("{fleet}: {fields}, no pod restarts"),
            )
        } else {
            let text = format!(
                "{fleet}: {fields}, {} of {} pods restart, one at a time; it takes at least {}",
                self.pods_restarted, self.pods, self.at_least
            );
            (Verdict::Change, text)
        };
    }
}

impl Document for Plan {
    fn text(&self) -> String {
        let Self {
            fleet,
            namespace,
            summary,
            changes,
            refused,
            steps,
            survives,
            notes,
            ..
        } = self;
        let mut text = format!(
            "{}\n(fleet {fleet}, namespace {namespace})\n",
            shown(summary)
        );
        let or_dash = |value: &Option<String>| shown(value.as_deref().unwrap_or("-"));
        let mut section = |title: &str, lines: Vec<String>| {
            if !lines.is_empty() {
                text += &format!("\n{title}\n");
                text.extend(lines.iter().map(|line| format!("  {line}\n")));
            }
        };
        let change = |change: &Change| {
            let Change {
                field,
                from,
                to,
                effect,
            } = change;
            format!(
                "{}: {} -> {}\n      {effect}",
                shown(field),
                or_dash(from),
                or_dash(to)
            )
        };
        section("Refused", refused.iter().map(|line| shown(line)).collect());
        section("Changes", changes.iter().map(change).collect());
        section(
            "Restarts, in this order",
            steps.iter().map(Step::line).collect(),
        );
        section("Survives", survives.clone());
        section("Notes", notes.iter().map(|line| shown(line)).collect());
        text
    }

    fn names(&self) -> Vec<String> {
        self.steps
            .iter()
            .flat_map(|step| step.pods.iter().map(|pod| format!("pod/{pod}")))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {name: eu}\nspec:\n  regions:\n  - {name: a, relays: {replicas: 2}, nats: {storage: 40Gi}}\n  - {name: b, nats: {storage: 40Gi}}\n";

    fn plan(edit: (&str, &str)) -> Plan {
        let fleet = |text: &str| load(text).unwrap();
        planned(
            Some(&fleet(BASE)),
            &fleet(&BASE.replace(edit.0, edit.1)),
            "messages",
        )
    }

    #[test]
    fn screens_are_as_reviewed() {
        insta::assert_snapshot!(
            "image",
            plan((
                "spec:\n",
                "spec:\n  images: {nats: 'nats:2', relay: 'relay:2'}\n"
            ))
            .text()
        );
        insta::assert_snapshot!(
            "refused",
            plan((
                "name: b, nats: {storage: 40Gi}",
                "name: b, nats: {storage: 20Gi, replicas: 1}"
            ))
            .text()
        );
        insta::assert_snapshot!(
            "region-leaves",
            plan(("  - {name: b, nats: {storage: 40Gi}}\n", "")).text()
        );
        insta::assert_snapshot!("same", plan(("40Gi", "40960Mi")).text());
        insta::assert_snapshot!(
            "new",
            planned(None, &load(BASE).unwrap(), "messages").text()
        );
    }

    #[test]
    fn a_refusal_of_the_server_is_added_once() {
        let mut plan = plan((
            "name: b, nats: {storage: 40Gi}",
            "name: b, nats: {storage: 20Gi}",
        ));
        assert_eq!(plan.refused.len(), 1);
        plan.refuse(vec!["spec.regions: names must be unique".to_owned()]);
        assert_eq!(plan.refused.len(), 1, "it is told more exactly already");
        plan.refuse(vec!["metadata.name: too long".to_owned()]);
        assert_eq!(plan.refused.len(), 2);
    }
}
