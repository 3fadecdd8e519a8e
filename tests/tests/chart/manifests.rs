//! The objects that the chart renders from every set of values in `ci/`, and the values that it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use nightjar_tests::programs::root;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::helm::{
    chart, helm, id, kind, objects, read, rendered, text, tool, value_sets, values_file,
};

/// Versions of Kubernetes that the chart is for.
const KUBERNETES: [&str; 5] = ["1.33.0", "1.34.0", "1.35.0", "1.36.0", "1.37.0"];

fn strings(list: &Value) -> BTreeSet<&str> {
    list.as_array()
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

#[test]
fn both_helms_lint_every_set_of_values() {
    for variable in ["NIGHTJAR_HELM", "NIGHTJAR_HELM3"] {
        let Some(program) = tool(variable, "lint of the chart") else {
            continue;
        };
        for set in value_sets() {
            let (chart, values) = (chart(), values_file(&set));
            let (chart, values) = (chart.display().to_string(), values.display().to_string());
            let output = helm(&program, &["lint", "--strict", &chart, "--values", &values]);
            assert!(
                output.status.success(),
                "{variable}, {set}: {}{}",
                text(&output.stdout),
                text(&output.stderr)
            );
        }
    }
}

#[test]
fn both_helms_render_the_same_objects() {
    let test = "Helm 3 renders what Helm 4 does";
    let (Some(four), Some(three)) = (tool("NIGHTJAR_HELM", test), tool("NIGHTJAR_HELM3", test))
    else {
        return;
    };
    for set in value_sets() {
        let by_id = |program| -> BTreeMap<String, Value> {
            objects(&rendered(program, &set, &["--kube-version", "1.34.0"]))
                .into_iter()
                .map(|object| (id(&object), object))
                .collect()
        };
        assert_eq!(by_id(&four), by_id(&three), "{set}");
    }
}

/// Pods and pod templates among rendered objects, each with a word on where it is.
fn pods(objects: &[Value]) -> Vec<(String, &Value)> {
    let mut pods = Vec::new();
    for object in objects {
        let pod = match kind(object) {
            "Pod" => &object["spec"],
            "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => {
                &object["spec"]["template"]["spec"]
            }
            "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
            _ => continue,
        };
        pods.push((id(object), pod));
    }
    pods
}

/// What keeps a pod from the Pod Security Standard `restricted`, and from a read-only root.
fn insecure(pod: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut demand = |holds: bool, what: &str| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        demand(pod[name] != json!(true), name);
    }
    let context = &pod["securityContext"];
    demand(context["runAsNonRoot"] == true, "runAsNonRoot");
    demand(
        context["runAsUser"].as_u64().is_some_and(|user| user > 0),
        "runAsUser",
    );
    demand(
        context["seccompProfile"]["type"] == "RuntimeDefault",
        "seccompProfile",
    );
    demand(context.get("sysctls").is_none(), "sysctls");
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        let allowed = [
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "persistentVolumeClaim",
            "projected",
            "secret",
        ];
        demand(
            allowed.iter().any(|kind| volume.get(kind).is_some()),
            "kind of volume",
        );
    }
    for container in containers(pod) {
        let context = &container["securityContext"];
        demand(
            context["allowPrivilegeEscalation"] == false,
            "allowPrivilegeEscalation",
        );
        demand(context["privileged"] != json!(true), "privileged");
        demand(
            context["readOnlyRootFilesystem"] == true,
            "readOnlyRootFilesystem",
        );
        demand(
            context["capabilities"] == json!({"drop": ["ALL"]}),
            "capabilities",
        );
        demand(context.get("runAsUser").is_none(), "a user of its own");
        for port in container["ports"].as_array().into_iter().flatten() {
            demand(port.get("hostPort").is_none(), "hostPort");
        }
    }
    faults
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| pod[list].as_array().into_iter().flatten())
}

/// What a container lacks beside security: requests, an image that says which, and probes where it is to run for ever.
fn incomplete(pod: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for container in containers(pod) {
        let resources = &container["resources"];
        for (part, name) in [
            ("requests", "cpu"),
            ("requests", "memory"),
            ("limits", "memory"),
        ] {
            if !resources[part][name].is_string() {
                faults.push(format!("resources.{part}.{name}"));
            }
        }
        let image = container["image"].as_str().unwrap_or_default();
        let (name, digest) = image.split_once('@').unwrap_or((image, ""));
        let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
        if !digest.starts_with("sha256:")
            && (tag.is_empty() || tag == "latest" || tag.contains('/'))
        {
            faults.push(format!("image {image} has neither tag nor digest"));
        }
        for probe in ["livenessProbe", "readinessProbe"] {
            // A pod that ends by itself is judged by its exit code.
            if pod["restartPolicy"] != "Never" && container.get(probe).is_none() {
                faults.push(probe.to_owned());
            }
        }
    }
    faults
}

#[test]
fn every_pod_is_restricted_and_says_what_it_needs() {
    let Some(program) = tool("NIGHTJAR_HELM", "pods of the chart") else {
        return;
    };
    for set in value_sets() {
        let objects = objects(&rendered(&program, &set, &[]));
        let pods = pods(&objects);
        assert!(!pods.is_empty(), "{set} has no pod");
        for (id, pod) in pods {
            let faults = [insecure(pod), incomplete(pod)].concat();
            assert!(faults.is_empty(), "{set}, {id}: {faults:?}");
        }
    }
}

/// The roles bound to the operator, and those that add to the cluster's own.
fn roles(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects
        .iter()
        .filter(|object| matches!(kind(object), "Role" | "ClusterRole"))
}

#[test]
fn no_role_has_a_wildcard_or_lists_secrets() {
    let Some(program) = tool("NIGHTJAR_HELM", "roles of the chart") else {
        return;
    };
    for set in value_sets() {
        let objects = objects(&rendered(&program, &set, &[]));
        for role in roles(&objects) {
            for rule in role["rules"].as_array().expect("rules") {
                let (verbs, resources) = (strings(&rule["verbs"]), strings(&rule["resources"]));
                let all = [&verbs, &resources, &strings(&rule["apiGroups"])];
                assert!(
                    !all.iter().any(|list| list.contains("*")),
                    "{set}, {}: {rule}",
                    id(role)
                );
                assert!(
                    !resources.contains("secrets")
                        || !["list", "watch", "deletecollection"]
                            .iter()
                            .any(|verb| verbs.contains(verb)),
                    "{set}, {}: {rule}",
                    id(role)
                );
            }
        }
    }
    let namespaced = objects(&rendered(&program, "namespaced", &[]));
    let clusterwide: Vec<String> = namespaced
        .iter()
        .filter(|object| kind(object).starts_with("Cluster"))
        .map(id)
        .collect();
    assert!(
        clusterwide.is_empty(),
        "an operator for two namespaces has {clusterwide:?}"
    );
}

#[test]
fn the_table_of_rights_is_that_of_the_roles() {
    let Some(program) = tool("NIGHTJAR_HELM", "table of rights") else {
        return;
    };
    let page = read(&root().join("docs/reference/rbac.md"));
    let mut told = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [group, resource, verbs, _] = cells.as_slice()
            && resource.starts_with('`')
        {
            let group = if *group == "core" {
                ""
            } else {
                group.trim_matches('`')
            };
            told.insert((
                group.to_owned(),
                resource.trim_matches('`').to_owned(),
                verbs.to_string(),
            ));
        }
    }
    let objects = objects(&rendered(&program, "minimal", &[]));
    let mut held = BTreeSet::new();
    for role in roles(&objects) {
        let labels = role["metadata"]["labels"].as_object().expect("labels");
        if labels.keys().any(|label| label.contains("aggregate-to")) {
            continue;
        }
        for rule in role["rules"].as_array().expect("rules") {
            let verbs: Vec<&str> = rule["verbs"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            for group in strings(&rule["apiGroups"]) {
                for resource in strings(&rule["resources"]) {
                    held.insert((group.to_owned(), resource.to_owned(), verbs.join(", ")));
                }
            }
        }
    }
    assert_eq!(
        told, held,
        "docs/reference/rbac.md on the left, the chart on the right"
    );
}

#[test]
fn objects_fit_the_schemas_of_every_supported_kubernetes() {
    let test = "schemas of Kubernetes";
    let (Some(program), Some(modules)) = (
        tool("NIGHTJAR_HELM", test),
        tool("NIGHTJAR_KUBERNETES_VALIDATE", test),
    ) else {
        return;
    };
    let dir = TempDir::new().expect("a folder");
    for set in value_sets() {
        for version in KUBERNETES {
            let manifests: String =
                objects(&rendered(&program, &set, &["--kube-version", version]))
                    .iter()
                    // Types of the Prometheus Operator: no schema of Kubernetes has them.
                    .filter(|object| {
                        !object["apiVersion"]
                            .as_str()
                            .is_some_and(|version| version.starts_with("monitoring.coreos.com/"))
                    })
                    .map(|object| format!("---\n{}", serde_yaml::to_string(object).expect("YAML")))
                    .collect();
            let file = dir.path().join(format!("{set}-{version}.yaml"));
            std::fs::write(&file, manifests).expect("a file");
            let output = Command::new("python3")
                .args([
                    "-m",
                    "kubernetes_validate",
                    "--strict",
                    "--quiet",
                    "-k",
                    version,
                ])
                .arg(&file)
                .env("PYTHONPATH", &modules)
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .output()
                .expect("python3 starts");
            let said = text(&output.stdout) + &text(&output.stderr);
            assert!(
                output.status.success() && said.trim().is_empty(),
                "{set}, {version}: {said}"
            );
        }
    }
}

#[test]
fn a_misspelt_value_is_refused_by_name() {
    for variable in ["NIGHTJAR_HELM", "NIGHTJAR_HELM3"] {
        let Some(program) = tool(variable, "misspelt values") else {
            continue;
        };
        let chart = chart().display().to_string();
        for misspelt in [
            "replica=2",
            "crds.kep=true",
            "prometheusRule.alerts.NightjarOperatorDown.fro=1m",
            "image.taag=x",
        ] {
            let output = helm(
                &program,
                &["template", "nightjar", &chart, "--set", misspelt],
            );
            let (key, _) = misspelt.rsplit_once('=').expect("a setting");
            let key = key.rsplit('.').next().expect("a name");
            assert!(!output.status.success(), "{variable} takes {misspelt}");
            assert!(
                text(&output.stderr).contains(key),
                "{variable}, {misspelt}: {}",
                text(&output.stderr)
            );
        }
    }
}

#[test]
fn the_schema_of_values_is_closed_at_every_level() {
    fn check(schema: &Value, at: &str) {
        assert!(
            at.is_empty() || schema.get("$id").is_none(),
            "{at} has an $id"
        );
        if let Some(properties) = schema["properties"].as_object() {
            assert_eq!(
                schema["additionalProperties"], false,
                "{at} takes unknown keys"
            );
            for (name, property) in properties {
                check(property, &format!("{at}.{name}"));
            }
        } else if schema["type"] == "object" {
            // A map with typed entries, or a type of Kubernetes, which the API server checks.
            assert!(
                schema["additionalProperties"].is_object() || schema["description"].is_string(),
                "{at} says nothing of its keys"
            );
        }
        if schema["items"].is_object() {
            check(&schema["items"], &format!("{at}[]"));
        }
    }
    let schema: Value =
        serde_json::from_str(&read(&chart().join("values.schema.json"))).expect("JSON");
    check(&schema, "");
    let values: Value = serde_yaml::from_str(&read(&chart().join("values.yaml"))).expect("YAML");
    for name in values.as_object().expect("values").keys() {
        assert!(
            schema["properties"].get(name).is_some(),
            "{name} is in values.yaml alone"
        );
    }
}

#[test]
fn what_is_optional_comes_with_its_switch_and_its_api() {
    let Some(program) = tool("NIGHTJAR_HELM", "switches of the chart") else {
        return;
    };
    let kinds = |more: &[&str]| -> BTreeSet<String> {
        objects(&rendered(&program, "minimal", more))
            .iter()
            .map(|object| kind(object).to_owned())
            .collect()
    };
    let monitors = ["ServiceMonitor", "PodMonitor", "PrometheusRule"];
    let on = [
        "--set",
        "metrics.serviceMonitor.enabled=true,metrics.podMonitor.enabled=true,prometheusRule.enabled=true,dashboards.enabled=true",
    ];
    let apis: Vec<String> = monitors
        .iter()
        .map(|kind| format!("monitoring.coreos.com/v1/{kind}"))
        .collect();
    let with_apis: Vec<&str> = on
        .into_iter()
        .chain(apis.iter().flat_map(|api| ["--api-versions", api.as_str()]))
        .collect();
    assert!(!kinds(&[]).contains("ConfigMap"));
    assert!(kinds(&on).contains("ConfigMap"), "dashboards need no API");
    for monitor in monitors {
        assert!(!kinds(&[]).contains(monitor), "{monitor} is on by default");
        assert!(!kinds(&on).contains(monitor), "{monitor} without its API");
        assert!(
            kinds(&with_apis).contains(monitor),
            "{monitor} with its API"
        );
    }

    let definition = |more: &[&str]| {
        objects(&rendered(&program, "minimal", more))
            .into_iter()
            .find(|object| kind(object) == "CustomResourceDefinition")
    };
    let kept =
        |object: &Value| object["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep";
    assert!(definition(&[]).is_some_and(|object| kept(&object)));
    assert!(definition(&["--set", "crds.keep=false"]).is_some_and(|object| !kept(&object)));
    assert!(definition(&["--set", "crds.enabled=false"]).is_none());
    let mut templated = definition(&[]).expect("a definition");
    let mut generated =
        objects(&read(&root().join("crds/relayclusters.nightjar.dev.yaml"))).remove(0);
    for object in [&mut templated, &mut generated] {
        object["metadata"] = json!(object["metadata"]["name"]);
    }
    assert_eq!(
        templated, generated,
        "the chart's definition is not that of crds/: `cargo xtask generate`"
    );
}

#[test]
fn notes_are_plain_and_name_what_was_installed() {
    let Some(program) = tool("NIGHTJAR_HELM", "notes of the chart") else {
        return;
    };
    let (chart, values) = (
        chart().display().to_string(),
        values_file("namespaced").display().to_string(),
    );
    let output = helm(
        &program,
        &[
            "install",
            "west",
            &chart,
            "--dry-run=client",
            "--namespace",
            "ops",
            "--values",
            &values,
        ],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let (_, notes) = said.split_once("NOTES:").expect("notes");
    for part in [
        "--namespace ops rollout status deployment/west-nightjar-operator",
        "helm test west",
        "fleets-a, fleets-b",
        "--namespace fleets-a apply",
    ] {
        assert!(notes.contains(part), "no `{part}` in {notes}");
    }
    assert!(!notes.contains('\u{1b}'), "colour codes end up in logs");
}
