//! `nightjar status FLEET`: regions of a fleet in Kubernetes, or the fleets of a namespace.

use kube::ResourceExt;
use nightjar_operator::crd::{ConditionType, RegionState, RelayCluster};
use serde::Serialize;

use crate::code::Code;
use crate::context::Context;
use crate::error::CliError;
use crate::kubernetes::{Cluster, Where, fleets, found_fleet};
use crate::output::Record;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FleetRecord {
    name: String,
    ready: String,
    regions: String,
    relays: String,
    durable: String,
    waiting_for: String,
    reason: String,
}
impl Record for FleetRecord {
    const COLUMNS: &'static [&'static str] = &[
        "name",
        "ready",
        "regions",
        "relays",
        "durable",
        "waitingFor",
        "reason",
    ];
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RegionRecord {
    region: String,
    state: RegionState,
    relays: String,
    nats: String,
    hubs: String,
    url: String,
}
impl Record for RegionRecord {
    const COLUMNS: &'static [&'static str] = &["region", "state", "relays", "nats", "hubs", "url"];
}

/// Shows one fleet region by region, or all fleets; exit code 6 when one is not ready.
pub(crate) async fn run(name: Option<&str>, at: &Where, context: &Context) -> Result<(), CliError> {
    let cluster = Cluster::find(at).await?;
    let Some(name) = name else {
        let fleets = fleets(&cluster).await?;
        context
            .out
            .list(&fleets.iter().map(fleet_record).collect::<Vec<_>>())?;
        if fleets.is_empty() {
            context.console.note(&format!(
                "there is no RelayCluster in namespace {}",
                cluster.namespace
            ));
        }
        return healthy(&fleets);
    };
    let fleet = found_fleet(&cluster, name).await?;
    context.out.list(&regions(&fleet))?;
    healthy(std::slice::from_ref(&fleet))
}

fn regions(fleet: &RelayCluster) -> Vec<RegionRecord> {
    let status = fleet.status.iter().flat_map(|status| &status.regions);
    status
        .map(|region| RegionRecord {
            region: region.name.clone(),
            state: region.state,
            relays: format!("{}/{}", region.relays_ready, region.relays),
            nats: format!("{}/{}", region.nats_ready, region.nats),
            hubs: format!("{}/{}", region.hubs_ready, region.hubs),
            url: region.url.clone(),
        })
        .collect()
}

fn fleet_record(fleet: &RelayCluster) -> FleetRecord {
    let status = fleet.status.clone().unwrap_or_default();
    let condition = |of| {
        status
            .condition(of)
            .map_or("Unknown", |condition| condition.status.as_str())
            .to_owned()
    };
    let reason = status
        .condition(ConditionType::Ready)
        .map(|condition| condition.reason.clone());
    FleetRecord {
        name: fleet.name_any(),
        ready: condition(ConditionType::Ready),
        durable: condition(ConditionType::Durable),
        reason: reason.unwrap_or_default(),
        regions: status.summary.regions.clone(),
        relays: status.summary.relays.clone(),
        waiting_for: status.summary.waiting_for.clone(),
    }
}

fn healthy(fleets: &[RelayCluster]) -> Result<(), CliError> {
    let ready = |fleet: &&RelayCluster| {
        let status = fleet.status.as_ref();
        // What was true of an older spec says nothing of this one.
        status.is_some_and(|status| {
            status.observed_generation == fleet.metadata.generation
                && status
                    .condition(ConditionType::Ready)
                    .is_some_and(|condition| condition.status == "True")
        })
    };
    let sick: Vec<&RelayCluster> = fleets.iter().filter(|fleet| !ready(fleet)).collect();
    let Some(first) = sick.first() else {
        return Ok(());
    };
    let error = CliError::new(
        Code::Unhealthy,
        format!("{} of {} fleets are not ready", sick.len(), fleets.len()),
        format!("nightjar why {}", first.name_any()),
    );
    Err(sick.iter().fold(error, |error, fleet| {
        let condition = fleet
            .status
            .as_ref()
            .and_then(|status| status.condition(ConditionType::Ready));
        let message = condition.map_or("the operator has not seen it", |condition| {
            condition.message.as_str()
        });
        error.because(format!("{}: {message}", fleet.name_any()))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;

    fn fleet(generation: i64) -> RelayCluster {
        serde_yaml::from_str(&format!(
            "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {{name: eu, generation: 2}}\nspec: {{regions: [{{name: a}}]}}\nstatus:\n  observedGeneration: {generation}\n  conditions: [{{type: Ready, status: 'True', reason: AllServe, message: m, lastTransitionTime: '2026-01-01T00:00:00Z'}}]\n  regions: [{{name: a, state: Ready, relaysReady: 1, relays: 1, natsReady: 3, nats: 3, hubsReady: 0, hubs: 0, url: 'ws://eu-a.messages.svc'}}]\n"
        ))
        .unwrap()
    }

    #[test]
    fn table_and_json_have_the_same_fields() {
        assert_same_fields(&fleet_record(&fleet(2)));
        assert_same_fields(&regions(&fleet(2))[0]);
    }

    #[test]
    fn ready_counts_only_for_the_spec_it_was_seen_with() {
        assert!(healthy(&[fleet(2)]).is_ok());
        assert_eq!(healthy(&[fleet(1)]).unwrap_err().code, Code::Unhealthy);
    }
}
