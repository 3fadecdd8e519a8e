//! PodDisruptionBudgets: a drain of nodes takes one pod of a role at a time. A role with a single pod has none, so that it cannot block a drain.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Group;

/// At most one pod of the role may be missing.
pub(super) fn build(group: &Group<'_>) -> Option<PodDisruptionBudget> {
    if group.processes().len() < 2 {
        return None;
    }
    let selector = group
        .input
        .names
        .role_selector(&group.region.name, group.role);
    Some(PodDisruptionBudget {
        metadata: group.metadata(group.name()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector),
                ..LabelSelector::default()
            }),
            // A pod that is broken anyway must not hold back a drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}
