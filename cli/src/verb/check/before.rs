//! Checks before the operator is installed: is this cluster fit, and may this account install. Looks, and changes nothing.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use nightjar_operator::crd::{RegionSpec, RelayCluster};

use super::report::Check;
use crate::code::Code;
use crate::kubernetes::Cluster;

const INSTALL: &str = "install";
const MANIFEST: &str = "manifest";
/// Oldest minor version of Kubernetes 1 that is tested.
const OLDEST_MINOR: u32 = 33;
const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// Whether the API server answers, and which Kubernetes it is. The first check: without it there are no others.
pub(super) async fn version(cluster: &Cluster) -> Check {
    let name = "api";
    let asked = cluster.ask("get", "version", cluster.client.apiserver_version());
    match asked.await {
        Err(failure) => {
            let causes = failure.causes.join("; ");
            Check::failed(
                "kubernetes",
                name,
                failure.code,
                format!("{}: {causes}", failure.message),
                "kubectl cluster-info",
            )
        }
        Ok(info) => version_of(&info.major, &info.minor, &info.git_version),
    }
}

fn version_of(major: &str, minor: &str, whole: &str) -> Check {
    // Some clouds write `33+`.
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().ok();
    let (category, name) = ("kubernetes", "api");
    match (number(major), number(minor)) {
        (Some(1), Some(minor)) if minor < OLDEST_MINOR => Check::failed(
            category,
            name,
            Code::CheckVersion,
            format!("Kubernetes {whole} is older than 1.{OLDEST_MINOR}"),
            "upgrade the cluster",
        ),
        _ => Check::ok(category, name, format!("Kubernetes {whole} answers")),
    }
}

/// May this account do what `helm install` does?
pub(super) async fn rights(cluster: &Cluster, has_definition: bool) -> Vec<Check> {
    let namespace = cluster.namespace.as_str();
    let mut checks = Vec::new();
    if has_definition {
        checks.push(Check::ok(INSTALL, "create-definition", "is there already"));
    } else {
        let asked = ("apiextensions.k8s.io", "customresourcedefinitions", None);
        checks.push(right(cluster, "create-definition", asked).await);
    }
    let there = Api::<Namespace>::all(cluster.client.clone());
    let there = cluster
        .ask("get", "namespaces", there.get_opt(namespace))
        .await;
    match there {
        Ok(Some(_)) => checks.push(Check::ok(
            INSTALL,
            "namespace",
            format!("namespace {namespace} exists"),
        )),
        _ => checks.push(right(cluster, "namespace", ("", "namespaces", None)).await),
    }
    for (name, group, resource) in [
        ("create-operator", "apps", "deployments"),
        ("create-roles", "rbac.authorization.k8s.io", "roles"),
        ("create-fleets", "nightjar.dev", "relayclusters"),
    ] {
        checks.push(right(cluster, name, (group, resource, Some(namespace))).await);
    }
    checks
}

async fn right(
    cluster: &Cluster,
    name: &str,
    (group, resource, namespace): (&str, &str, Option<&str>),
) -> Check {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                verb: Some("create".to_owned()),
                namespace: namespace.map(ToOwned::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews = Api::<SelfSubjectAccessReview>::all(cluster.client.clone());
    let params = PostParams::default();
    let asked = cluster.ask(
        "create",
        "selfsubjectaccessreviews",
        reviews.create(&params, &review),
    );
    let place = namespace.map_or_else(String::new, |name| format!(" in namespace {name}"));
    let what = format!("create {resource}{place}");
    match asked
        .await
        .map(|review| review.status.is_some_and(|status| status.allowed))
    {
        Ok(true) => Check::ok(INSTALL, name, format!("you may {what}")),
        Ok(false) => Check::failed(
            INSTALL,
            name,
            Code::CheckInstallRights,
            format!("you may not {what}"),
            format!("somebody who may: kubectl auth can-i create {resource}"),
        ),
        Err(failure) => Check::skipped(INSTALL, name, failure.message),
    }
}

/// Disks and nodes for what the manifest asks; without a manifest for any fleet.
pub(super) async fn room(cluster: &Cluster, manifest: Option<&RelayCluster>) -> Vec<Check> {
    let all = ListParams::default();
    let classes = Api::<StorageClass>::all(cluster.client.clone());
    let classes = cluster
        .ask("list", "storageclasses", classes.list(&all))
        .await;
    let mut checks = vec![match classes {
        Ok(classes) => storage(&classes.items, manifest),
        Err(failure) => Check::skipped(INSTALL, "storage-class", failure.message),
    }];
    let Some(manifest) = manifest else {
        return checks;
    };
    let nodes = Api::<Node>::all(cluster.client.clone());
    match cluster.ask("list", "nodes", nodes.list(&all)).await {
        Ok(nodes) => {
            let regions = manifest.spec.regions.iter();
            checks.extend(regions.map(|region| nodes_for(region, &nodes.items)));
        }
        Err(failure) => checks.push(Check::skipped(MANIFEST, "nodes", failure.message)),
    }
    checks
}

fn storage(classes: &[StorageClass], manifest: Option<&RelayCluster>) -> Check {
    let name = "storage-class";
    let hint = "kubectl get storageclass, then name one in the manifest or mark one as default";
    let regions = manifest
        .map(|fleet| fleet.spec.regions.as_slice())
        .unwrap_or_default();
    let asked: Vec<Option<&String>> = regions
        .iter()
        .flat_map(|region| {
            [
                region.nats.storage_class.as_ref(),
                region.relays.storage_class.as_ref(),
            ]
        })
        .collect();
    let known = |name: &str| classes.iter().any(|class| class.name_any() == name);
    let mut missing: Vec<&str> = asked
        .iter()
        .filter_map(|name| name.map(String::as_str))
        .filter(|name| !known(name))
        .collect();
    missing.dedup();
    if !missing.is_empty() {
        let message = format!("there is no StorageClass {}", missing.join(", "));
        return Check::failed(INSTALL, name, Code::CheckStorageClass, message, hint);
    }
    let default = classes.iter().find(|class| {
        class
            .annotations()
            .get(DEFAULT_CLASS)
            .is_some_and(|value| value == "true")
    });
    let needs_default = asked.is_empty() || asked.contains(&None);
    match default {
        Some(class) => Check::ok(
            INSTALL,
            name,
            format!("default StorageClass is {}", class.name_any()),
        ),
        None if needs_default => Check::failed(
            INSTALL,
            name,
            Code::CheckStorageClass,
            "there is no default StorageClass",
            hint,
        ),
        None => Check::ok(INSTALL, name, "every StorageClass that is named exists"),
    }
}

/// Whether the nodes of a region are there.
fn nodes_for(region: &RegionSpec, nodes: &[Node]) -> Check {
    let name = format!("nodes-{}", region.name);
    let hint = format!("kubectl get nodes -L {REGION},{ZONE}");
    let wanted = &region.placement.node_selector;
    let labels_of = |node: &Node| node.labels().clone();
    let fits = |node: &&Node| {
        wanted
            .iter()
            .all(|(key, value)| labels_of(node).get(key) == Some(value))
    };
    let fitting: Vec<&Node> = nodes.iter().filter(fits).collect();
    let failed = |message: String| Check::failed(MANIFEST, &name, Code::CheckNodes, message, &hint);
    if fitting.is_empty() {
        let labels: Vec<String> = wanted
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        return failed(format!(
            "region {}: no node has {}",
            region.name,
            labels.join(" and ")
        ));
    }
    let empty: Vec<&str> = region
        .placement
        .zones
        .iter()
        .filter(|zone| {
            !fitting
                .iter()
                .any(|node| labels_of(node).get(ZONE) == Some(zone))
        })
        .map(String::as_str)
        .collect();
    if !empty.is_empty() {
        return failed(format!(
            "region {}: no node in zone {}",
            region.name,
            empty.join(", ")
        ));
    }
    if wanted.is_empty() {
        let preferred = fitting
            .iter()
            .filter(|node| labels_of(node).get(REGION) == Some(&region.name))
            .count();
        if preferred == 0 {
            let message = format!(
                "region {}: no node has {REGION}={}, so its pods go anywhere",
                region.name, region.name
            );
            return Check::warning(MANIFEST, &name, Code::CheckNodes, message, hint);
        }
        return Check::ok(
            MANIFEST,
            &name,
            format!("region {}: {preferred} nodes", region.name),
        );
    }
    Check::ok(
        MANIFEST,
        &name,
        format!("region {}: {} nodes", region.name, fitting.len()),
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Outcome;
    use super::*;

    fn node(region: &str, zone: &str) -> Node {
        let mut node = Node::default();
        node.labels_mut()
            .insert(REGION.to_owned(), region.to_owned());
        node.labels_mut().insert(ZONE.to_owned(), zone.to_owned());
        node
    }

    fn region(yaml: &str) -> RegionSpec {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn old_kubernetes_is_refused_and_odd_versions_are_not() {
        let result = |minor| version_of("1", minor, "v1").result;
        assert_eq!(result("32"), Outcome::Failed);
        assert_eq!(result("33+"), Outcome::Ok);
        assert_eq!(result("34"), Outcome::Ok);
        assert_eq!(version_of("2", "0", "v2").result, Outcome::Ok);
    }

    #[test]
    fn regions_need_nodes_with_their_labels_and_zones() {
        let nodes = [node("a", "a1"), node("a", "a2")];
        let check = |yaml| nodes_for(&region(yaml), &nodes);
        assert_eq!(check("name: a").result, Outcome::Ok);
        assert_eq!(check("name: b").result, Outcome::Warning);
        let lost =
            check("{name: x, placement: {nodeSelector: {topology.kubernetes.io/region: eu}}}");
        assert_eq!(lost.result, Outcome::Failed);
        assert!(
            lost.message.contains("topology.kubernetes.io/region=eu"),
            "{}",
            lost.message
        );
        let zone = check("{name: a, placement: {zones: [a1, a2, a3]}}");
        assert!(
            zone.message.ends_with("no node in zone a3"),
            "{}",
            zone.message
        );
    }

    #[test]
    fn a_default_storage_class_is_needed_unless_all_are_named() {
        let mut class = StorageClass::default();
        class.metadata.name = Some("fast".to_owned());
        let fleet = |text: &str| {
            let mut fleet = RelayCluster::new("eu", serde_yaml::from_str("regions: []").unwrap());
            fleet.spec.regions.push(region(text));
            fleet
        };
        let named = fleet("{name: a, nats: {storageClass: fast}, relays: {storageClass: fast}}");
        let unknown = fleet("{name: a, nats: {storageClass: slow}}");
        assert_eq!(storage(&[class.clone()], None).result, Outcome::Failed);
        assert_eq!(storage(&[class.clone()], Some(&named)).result, Outcome::Ok);
        assert!(
            storage(&[class.clone()], Some(&unknown))
                .message
                .contains("slow")
        );
        class
            .annotations_mut()
            .insert(DEFAULT_CLASS.to_owned(), "true".to_owned());
        assert_eq!(storage(&[class], None).result, Outcome::Ok);
    }
}
