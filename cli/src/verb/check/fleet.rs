//! Checks of one fleet: what its status says, its pods, disks, Services and keys, and whether each region answers as a relay.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use nightjar_operator::crd::{ConditionType, RelayCluster, RelayClusterStatus, RolloutPhase};

use super::report::Check;
use crate::code::Code;
use crate::kubernetes::{
    Cluster, Failure, KEYS_KEY, PAUSED, ROLLOUT_PAUSED, keys_secret, region_service, selector,
};
use crate::output::counted;
use crate::when;

/// All checks of a fleet.
pub(super) async fn checks(cluster: &Cluster, fleet: &RelayCluster) -> Vec<Check> {
    let name = fleet.name_any();
    let category = format!("fleet/{name}");
    let mut checks = status(fleet, &category, Timestamp::now());
    let labels = selector(&name);
    let of = |name: &str, found: Result<Check, Failure>| {
        found.unwrap_or_else(|failure| Check::skipped(&category, name, failure.message))
    };
    let found = cluster.list::<Pod>(&labels).await;
    checks.push(of(
        "pods",
        found.map(|found| pods(fleet, &found, &category)),
    ));
    let found = cluster.list::<PersistentVolumeClaim>(&labels).await;
    checks.push(of("disks", found.map(|found| claims(&found, &category))));
    checks.push(of("keys", keys(cluster, &name, &category).await));
    for region in &fleet.spec.regions {
        let service = region_service(&name, &region.name);
        let labels = format!("kubernetes.io/service-name={service}");
        let found = cluster.list::<EndpointSlice>(&labels).await;
        let check = format!("service-{}", region.name);
        checks.push(of(
            &check,
            found.map(|found| endpoints(&check, &service, &found, &category)),
        ));
        checks.push(
            answers(
                cluster,
                &region.name,
                &service,
                &proxied(
                    &service,
                    region.service.port,
                    fleet.spec.relay.tls.is_some(),
                ),
                &category,
            )
            .await,
        );
    }
    checks
}

/// What `status` says.
fn status(fleet: &RelayCluster, category: &str, now: Timestamp) -> Vec<Check> {
    let name = fleet.name_any();
    let none = RelayClusterStatus::default();
    let status = fleet.status.as_ref().unwrap_or(&none);
    let (wanted, seen) = (fleet.metadata.generation, status.observed_generation);
    let mut checks = vec![match seen {
        Some(_) if seen == wanted => Check::ok(
            category,
            "observed",
            "the operator has taken the last change",
        ),
        _ => {
            let shown = |generation: Option<i64>| {
                generation.map_or_else(|| "none".to_owned(), |number| number.to_string())
            };
            let message = format!(
                "the operator has seen generation {}, the fleet is at {}",
                shown(seen),
                shown(wanted)
            );
            Check::failed(
                category,
                "observed",
                Code::CheckObserved,
                message,
                "nightjar check, without a fleet's name: does the operator run?",
            )
        }
    }];
    let why = format!("nightjar why {name}");
    checks.extend(conditions(status, category, &why, now));
    checks.extend(holds(fleet, category));
    checks
}

/// Conditions that a fleet which is well has.
fn conditions(
    status: &RelayClusterStatus,
    category: &str,
    why: &str,
    now: Timestamp,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for (of, wanted) in [
        (ConditionType::Ready, "True"),
        (ConditionType::Durable, "True"),
        (ConditionType::Degraded, "False"),
    ] {
        let check = of.name().to_ascii_lowercase();
        checks.push(match status.condition(of) {
            Some(condition) if condition.status == wanted => {
                let since = when::span(when::since_time(condition.last_transition_time.0, now));
                Check::ok(
                    category,
                    &check,
                    format!("{} is {wanted} since {since}", of.name()),
                )
            }
            Some(condition) => {
                let message = format!(
                    "{} is {}: {} ({})",
                    of.name(),
                    condition.status,
                    condition.message,
                    condition.reason
                );
                Check::failed(category, &check, Code::CheckConditions, message, why)
            }
            None => Check::failed(
                category,
                &check,
                Code::CheckConditions,
                format!("there is no condition {}", of.name()),
                why,
            ),
        });
    }
    checks
}

/// Annotations that keep the operator from its work.
fn holds(fleet: &RelayCluster, category: &str) -> Vec<Check> {
    let name = fleet.name_any();
    let mut checks = Vec::new();
    for (annotation, meaning, undo) in [
        (
            PAUSED,
            "the operator leaves this fleet alone",
            format!("kubectl annotate njc {name} {PAUSED}-"),
        ),
        (
            ROLLOUT_PAUSED,
            "no pod is restarted",
            format!("nightjar rollout resume {name}"),
        ),
    ] {
        if fleet
            .annotations()
            .get(annotation)
            .is_some_and(|value| value == "true")
        {
            let message = format!("{annotation} is true: {meaning}");
            checks.push(Check::warning(
                category,
                "paused",
                Code::CheckConditions,
                message,
                undo,
            ));
        }
    }
    checks
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        })
}

fn pods(fleet: &RelayCluster, pods: &[Pod], category: &str) -> Check {
    let wanted = wanted_pods(fleet);
    let sick = pods.iter().filter(|pod| !is_ready(pod));
    let sick: Vec<String> = sick.map(ResourceExt::name_any).collect();
    let hint = format!("nightjar why {}", fleet.name_any());
    let message = match sick.as_slice() {
        [] if pods.len() >= wanted => {
            return Check::ok(
                category,
                "pods",
                format!("all {} pods are ready", pods.len()),
            );
        }
        [] => format!("{} of {wanted} pods exist", pods.len()),
        [moving] if pods.len() >= wanted && moves(fleet) == Some(moving) => {
            let message = format!("{moving} is not ready: a rollout restarts it");
            return Check::warning(category, "pods", Code::CheckPods, message, hint);
        }
        sick => {
            let count = counted(sick.len(), "pod is", "pods are");
            format!("{count} not ready, of {wanted}: {}", sick.join(", "))
        }
    };
    Check::failed(category, "pods", Code::CheckPods, message, hint)
}

/// The pod that a rollout restarts just now.
fn moves(fleet: &RelayCluster) -> Option<&String> {
    let rollout = fleet.status.as_ref()?.rollout.as_ref()?;
    (rollout.phase == RolloutPhase::Moving).then_some(rollout.pod.as_ref()?)
}

/// NATS servers, hubs where there are several regions, relays.
fn wanted_pods(fleet: &RelayCluster) -> usize {
    let hubs = match fleet.spec.regions.len() {
        1 => 0,
        _ => nightjar_operator::plan::HUBS_PER_REGION as usize,
    };
    let count = |number: i32| usize::try_from(number).unwrap_or(0);
    let regions = fleet.spec.regions.iter();
    regions
        .map(|region| count(region.nats.replicas) + count(region.relays.replicas) + hubs)
        .sum()
}

fn claims(claims: &[PersistentVolumeClaim], category: &str) -> Check {
    let phase = |claim: &PersistentVolumeClaim| {
        claim
            .status
            .as_ref()
            .and_then(|status| status.phase.clone())
            .unwrap_or_default()
    };
    let unbound: Vec<String> = claims
        .iter()
        .filter(|claim| phase(claim) != "Bound")
        .map(|claim| format!("{} is {}", claim.name_any(), phase(claim)))
        .collect();
    if claims.is_empty() {
        let hint = "nightjar why FLEET: the operator makes them with the pods";
        return Check::failed(
            category,
            "disks",
            Code::CheckClaims,
            "there are no disks",
            hint,
        );
    }
    if unbound.is_empty() {
        return Check::ok(
            category,
            "disks",
            format!("all {} disks are bound", claims.len()),
        );
    }
    Check::failed(
        category,
        "disks",
        Code::CheckClaims,
        unbound.join(", "),
        "kubectl describe pvc, of the first that is named",
    )
}

fn endpoints(check: &str, service: &str, slices: &[EndpointSlice], category: &str) -> Check {
    let ready = slices
        .iter()
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| {
            endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                != Some(false)
        })
        .count();
    if ready == 0 {
        let hint = format!("kubectl describe service {service}");
        return Check::failed(
            category,
            check,
            Code::CheckEndpoints,
            format!("Service {service} has no ready relay behind it"),
            hint,
        );
    }
    Check::ok(
        category,
        check,
        format!("Service {service} has {ready} relays behind it"),
    )
}

/// Only whether the keyring is there: nothing of it is looked at or shown.
async fn keys(cluster: &Cluster, fleet: &str, category: &str) -> Result<Check, Failure> {
    let name = keys_secret(fleet);
    let secret = cluster.get::<Secret>(&name).await?;
    let failed = |message: String| {
        Check::failed(
            category,
            "keys",
            Code::CheckKeys,
            message,
            "put it back from your backup; it is never made anew",
        )
    };
    Ok(match secret {
        None => failed(format!("there is no Secret {name}")),
        Some(secret)
            if !secret
                .data
                .iter()
                .flatten()
                .any(|(key, value)| key == KEYS_KEY && !value.0.is_empty()) =>
        {
            failed(format!("Secret {name} has no {KEYS_KEY}"))
        }
        Some(_) => Check::ok(category, "keys", format!("Secret {name} holds the keys")),
    })
}

/// A Service's port as the API server's proxy names it. With TLS it does not look at the certificate.
fn proxied(service: &str, port: i32, tls: bool) -> String {
    let scheme = if tls { "https:" } else { "" };
    format!("{scheme}{service}:{port}")
}

/// Asks the region for its NIP-11 document, through the API server's proxy to its Service.
async fn answers(
    cluster: &Cluster,
    region: &str,
    service: &str,
    proxied: &str,
    category: &str,
) -> Check {
    let check = format!("answers-{region}");
    let path = format!(
        "/api/v1/namespaces/{}/services/{proxied}/proxy/",
        cluster.namespace
    );
    let request = http::Request::get(path)
        .header(http::header::ACCEPT, "application/nostr+json")
        .body(Vec::new());
    let request = match request {
        Ok(request) => request,
        Err(error) => return Check::skipped(category, &check, error.to_string()),
    };
    let failed = |message: String| {
        let hint = format!("kubectl get endpointslices -l kubernetes.io/service-name={service}");
        Check::failed(category, &check, Code::CheckRegion, message, hint)
    };
    let asked = cluster.ask(
        "get",
        "services/proxy",
        cluster.client.request::<serde_json::Value>(request),
    );
    match asked.await {
        Err(failure) if failure.is_forbidden() => Check::skipped(category, &check, failure.message),
        Err(failure) => failed(format!(
            "region {region} gave no NIP-11 document: {}",
            failure.causes.first().unwrap_or(&failure.message)
        )),
        Ok(document) => match document["name"].as_str() {
            None => failed(format!(
                "what answers for region {region} is no relay: its NIP-11 document has no name"
            )),
            Some(name) => Check::ok(
                category,
                &check,
                format!("region {region} answers as {name:?}"),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Outcome;
    use super::*;

    fn fleet(yaml: &str) -> RelayCluster {
        serde_yaml::from_str(yaml).unwrap()
    }

    const HEAD: &str = "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {name: eu, generation: 2}\nspec: {regions: [{name: a}, {name: b}]}\n";

    #[test]
    fn a_status_that_is_older_than_the_spec_fails() {
        let of = |generation: i64| {
            let fleet = fleet(&format!(
                "{HEAD}status: {{observedGeneration: {generation}}}"
            ));
            status(&fleet, "fleet/eu", Timestamp::UNIX_EPOCH)[0].result
        };
        assert_eq!((of(1), of(2)), (Outcome::Failed, Outcome::Ok));
    }

    #[test]
    fn conditions_that_say_wrong_fail_with_their_message() {
        let condition = |name: &str, status: &str| {
            format!(
                "{{type: {name}, status: '{status}', reason: R, message: says so, lastTransitionTime: '2026-01-01T00:00:00Z'}}"
            )
        };
        let text = format!(
            "{HEAD}status: {{observedGeneration: 2, conditions: [{}, {}, {}]}}",
            condition("Ready", "False"),
            condition("Durable", "True"),
            condition("Degraded", "True")
        );
        let checks = status(&fleet(&text), "fleet/eu", Timestamp::now());
        let of = |name: &str| checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(of("ready").message, "Ready is False: says so (R)");
        assert_eq!(of("durable").result, Outcome::Ok);
        assert_eq!(of("degraded").result, Outcome::Failed);
    }

    #[test]
    fn missing_pods_are_counted() {
        let fleet = fleet(HEAD);
        assert_eq!(wanted_pods(&fleet), 12);
        assert_eq!(pods(&fleet, &[], "fleet/eu").message, "0 of 12 pods exist");
        assert_eq!(
            pods(&fleet, &[Pod::default()], "fleet/eu").result,
            Outcome::Failed
        );
    }
}
