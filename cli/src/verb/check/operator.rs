//! Checks of what was installed: the definition of RelayCluster, the operator's Deployment, and who leads.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use nightjar_operator::crd::definition;
use serde_json::Value;

use super::report::Check;
use crate::code::Code;
use crate::kubernetes::{Cluster, Failure, OPERATOR_LEASE, OPERATOR_SELECTOR};
use crate::when;

const OPERATOR: &str = "operator";
/// A Lease that says nothing of its own length is judged by this.
const LEASE_SECONDS: i32 = 15;

/// The definition in the cluster, if there is one and we may see it.
pub(super) async fn live_definition(
    cluster: &Cluster,
) -> Result<Option<CustomResourceDefinition>, Failure> {
    let definitions = Api::<CustomResourceDefinition>::all(cluster.client.clone());
    let name = definition().name_any();
    cluster
        .ask(
            "get",
            "customresourcedefinitions",
            definitions.get_opt(&name),
        )
        .await
}

/// Whether the definition is there and is the one that this program knows.
pub(super) fn definition_check(live: &Result<Option<CustomResourceDefinition>, Failure>) -> Check {
    let name = "definition";
    let upgrade =
        "helm upgrade nightjar CHART of this version, or use the nightjar of the installed one";
    match live {
        Err(failure) => Check::skipped(OPERATOR, name, &failure.message),
        Ok(None) => Check::failed(
            OPERATOR,
            name,
            Code::CheckDefinition,
            "the definition of RelayCluster is not installed",
            "helm install nightjar CHART",
        ),
        Ok(Some(live)) => {
            let (ours, theirs) = (schema_of(&definition()), schema_of(live));
            let mut paths = Vec::new();
            differences("", &ours, &theirs, &mut paths);
            if paths.is_empty() {
                return Check::ok(
                    OPERATOR,
                    name,
                    "the definition of RelayCluster is that of this nightjar",
                );
            }
            let shown = paths.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            let more = match paths.len() {
                0..=3 => String::new(),
                count => format!(" and {} more places", count - 3),
            };
            let message = format!(
                "the definition of RelayCluster differs from that of this nightjar {}: {shown}{more}",
                env!("CARGO_PKG_VERSION")
            );
            Check::warning(OPERATOR, name, Code::CheckDefinition, message, upgrade)
        }
    }
}

fn schema_of(definition: &CustomResourceDefinition) -> Value {
    let version = definition
        .spec
        .versions
        .iter()
        .find(|version| version.name == "v1alpha1");
    let schema = version.and_then(|version| version.schema.clone());
    serde_json::to_value(schema).unwrap_or_default()
}

/// Where two documents differ. Lists count as one place, and so do words for people.
fn differences(path: &str, ours: &Value, theirs: &Value, paths: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let mut keys: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys.into_iter().filter(|key| *key != "description") {
                let of = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or_default()
                };
                let below = match key.as_str() {
                    "openAPIV3Schema" | "properties" | "items" => path.to_owned(),
                    _ if path.is_empty() => key.clone(),
                    _ => format!("{path}.{key}"),
                };
                differences(&below, &of(ours), &of(theirs), paths);
            }
        }
        (Value::Number(ours), Value::Number(theirs)) if ours.as_f64() == theirs.as_f64() => {}
        (ours, theirs) if ours == theirs => {}
        _ => paths.push(path.to_owned()),
    }
}

/// The operator's Deployment and Lease.
pub(super) async fn running(cluster: &Cluster) -> Vec<Check> {
    let deployments = match found(cluster).await {
        Ok(deployments) => deployments,
        Err(failure) => return vec![Check::skipped(OPERATOR, "deployment", failure.message)],
    };
    let Some(deployment) = deployments.first() else {
        return vec![Check::failed(
            OPERATOR,
            "deployment",
            Code::CheckOperator,
            "no Deployment of the operator was found",
            format!(
                "kubectl get deployments -A -l {OPERATOR_SELECTOR}; not installed: helm install nightjar CHART"
            ),
        )];
    };
    let namespace = deployment.namespace().unwrap_or_default();
    let mut checks = vec![available(deployment)];
    if deployments.len() > 1 {
        let message = format!(
            "{} Deployments of an operator were found",
            deployments.len()
        );
        checks.push(Check::warning(
            OPERATOR,
            "single",
            Code::CheckOperator,
            message,
            "two are right only when they watch different namespaces",
        ));
    }
    let leases = Api::<Lease>::namespaced(cluster.client.clone(), &namespace);
    let lease = cluster
        .ask("get", "leases", leases.get_opt(OPERATOR_LEASE))
        .await;
    checks.push(match lease {
        Ok(lease) => held(lease.as_ref(), &namespace, Timestamp::now()),
        Err(failure) => Check::skipped(OPERATOR, "lease", failure.message),
    });
    checks
}

/// In the whole cluster; where that is not allowed, in the fleet's namespace.
async fn found(cluster: &Cluster) -> Result<Vec<Deployment>, Failure> {
    let params = ListParams::default().labels(OPERATOR_SELECTOR);
    let everywhere = Api::<Deployment>::all(cluster.client.clone());
    match cluster
        .ask("list", "deployments", everywhere.list(&params))
        .await
    {
        Ok(list) => Ok(list.items),
        Err(failure) if failure.is_forbidden() => cluster.list(OPERATOR_SELECTOR).await,
        Err(failure) => Err(failure),
    }
}

fn available(deployment: &Deployment) -> Check {
    let place = format!(
        "{}/{}",
        deployment.namespace().unwrap_or_default(),
        deployment.name_any()
    );
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let ready = deployment
        .status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0);
    let message = format!("{ready} of {wanted} operators are available (deployment {place})");
    let hint = format!(
        "kubectl describe deployment {} -n {}",
        deployment.name_any(),
        deployment.namespace().unwrap_or_default()
    );
    match ready {
        0 => Check::failed(OPERATOR, "deployment", Code::CheckOperator, message, hint),
        ready if ready < wanted => {
            Check::warning(OPERATOR, "deployment", Code::CheckOperator, message, hint)
        }
        _ => Check::ok(OPERATOR, "deployment", message),
    }
}

fn held(lease: Option<&Lease>, namespace: &str, now: Timestamp) -> Check {
    let name = "lease";
    let hint = format!(
        "kubectl get lease {OPERATOR_LEASE} -n {namespace} -o yaml, then the operator's log"
    );
    let failed = |message: String| Check::failed(OPERATOR, name, Code::CheckLease, message, &hint);
    let Some(spec) = lease.and_then(|lease| lease.spec.as_ref()) else {
        return failed(format!(
            "there is no Lease {namespace}/{OPERATOR_LEASE}: no operator leads"
        ));
    };
    let holder = spec.holder_identity.clone().unwrap_or_default();
    if holder.is_empty() {
        return failed("no operator leads: the Lease is free".to_owned());
    }
    let Some(renewed) = spec.renew_time.as_ref() else {
        return failed(format!("{holder} has never renewed its Lease"));
    };
    let age = when::since_time(renewed.0, now);
    let lasts = u64::try_from(spec.lease_duration_seconds.unwrap_or(LEASE_SECONDS)).unwrap_or(0);
    // Twice: clocks differ, and a new leader needs a moment.
    if age.as_secs() > 2 * lasts {
        return failed(format!(
            "{holder} renewed its Lease {} ago, and it lasts {lasts}s",
            when::span(age)
        ));
    }
    Check::ok(
        OPERATOR,
        name,
        format!("{holder} leads, renewed {} ago", when::span(age)),
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Outcome;
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    #[test]
    fn our_own_definition_is_the_same_and_another_is_named_where_it_differs() {
        let mut live = definition();
        assert_eq!(
            definition_check(&Ok(Some(live.clone()))).result,
            Outcome::Ok
        );
        let schema = live.spec.versions[0].schema.as_mut().unwrap();
        let fields = schema
            .open_api_v3_schema
            .as_mut()
            .unwrap()
            .properties
            .as_mut()
            .unwrap();
        let spec = fields.get_mut("spec").unwrap().properties.as_mut().unwrap();
        spec.remove("tracing");
        let check = definition_check(&Ok(Some(live)));
        assert_eq!(check.result, Outcome::Warning);
        assert!(
            check.message.ends_with(": spec.tracing"),
            "{}",
            check.message
        );
        assert_eq!(definition_check(&Ok(None)).result, Outcome::Failed);
    }

    #[test]
    fn a_lease_is_judged_by_its_last_renewal() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let lease = |holder: &str, ago: i64| Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                renew_time: Some(MicroTime(
                    Timestamp::from_second(1_700_000_000 - ago).unwrap(),
                )),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        assert_eq!(held(Some(&lease("op-1", 3)), "nj", now).result, Outcome::Ok);
        assert_eq!(
            held(Some(&lease("op-1", 31)), "nj", now).result,
            Outcome::Failed
        );
        assert_eq!(held(Some(&lease("", 3)), "nj", now).result, Outcome::Failed);
        assert_eq!(held(None, "nj", now).result, Outcome::Failed);
    }
}
