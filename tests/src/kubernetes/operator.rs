//! The operator of the tests: installed with Helm as a person does it, from the chart and the images of this clone.

use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::cluster::{Cluster, TEST_LABEL, list, machine_dir, text};
use super::limits;
use crate::programs::root;

/// Namespace of the operator.
pub const NAMESPACE: &str = "nightjar-system";
/// Deployment, ServiceAccount and Lease.
pub const NAME: &str = "nightjar-operator";
const RELEASE: &str = "nightjar";

/// The image of a target of the Dockerfile with a tag. `NIGHTJAR_TEST_REGISTRY` names where another cluster finds them.
pub fn image(target: &str, tag: &str) -> String {
    format!("{}/{target}:{tag}", registry())
}

/// The other one of two tags of the same images: `cargo xtask test` gives both to every node.
pub fn other_tag(tag: &str) -> String {
    let other = if tag == "dev" { "dev-2" } else { "dev" };
    other.to_owned()
}

fn registry() -> String {
    std::env::var("NIGHTJAR_TEST_REGISTRY").unwrap_or_else(|_| "localhost/nightjar".to_owned())
}

/// Values of the chart for an operator with the given tag of its image.
pub fn values(tag: &str) -> Value {
    let image = |target: &str, tag: &str| json!({"repository": format!("{}/{target}", registry()), "tag": tag});
    json!({
        "image": image("operator", tag),
        "fleetImages": {"relay": image("relay", "dev"), "nats": image("nats-server", "dev")},
        "commonLabels": {TEST_LABEL: "operator"},
    })
}

/// Installs it, or brings the one of an earlier run up to date. An operator that is not the tests' own is left alone, with an error: there
/// must be one in a cluster.
pub fn install(cluster: &Cluster) -> Result<(), String> {
    let found = cluster.try_get(&[
        "deployments",
        "--all-namespaces",
        "--selector",
        "app.kubernetes.io/component=operator",
    ])?;
    for deployment in list(&found["items"]) {
        let metadata = &deployment["metadata"];
        if metadata["labels"][TEST_LABEL] != "operator"
            && text(&metadata["name"]).contains("nightjar")
        {
            return Err(format!(
                "deployment {} in namespace {} is an operator that the tests did not install; uninstall it first",
                text(&metadata["name"]),
                text(&metadata["namespace"])
            ));
        }
    }
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": NAMESPACE,
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    cluster.try_kubectl_with(&["apply", "-f", "-"], &namespace.to_string())?;
    helm_upgrade(cluster, &values("dev"))
}

/// `helm upgrade --install` with values, until the operators are ready.
pub fn helm_upgrade(cluster: &Cluster, values: &Value) -> Result<(), String> {
    let chart = chart();
    let args = [
        "upgrade",
        "--install",
        RELEASE,
        &chart.display().to_string(),
        "--namespace",
        NAMESPACE,
        "--wait",
        "--timeout",
        limits::OPERATOR_READY,
        "-f",
        "-",
    ];
    cluster
        .try_helm(&args, values)
        .map(drop)
        .map_err(|error| format!("helm upgrade --install: {error}"))
}

/// `helm uninstall`.
pub fn uninstall(cluster: &Cluster) {
    let args = ["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"];
    cluster
        .try_helm(&args, &json!({}))
        .unwrap_or_else(|error| panic!("helm uninstall: {error}"));
}

/// The chart of this clone.
pub fn chart() -> PathBuf {
    root().join("charts/nightjar")
}

/// The operators' pods, as the API server has them.
pub fn pods(cluster: &Cluster) -> Vec<Value> {
    let pods = cluster.get(&[
        "pods",
        "-n",
        NAMESPACE,
        "--selector",
        "app.kubernetes.io/component=operator",
    ]);
    list(&pods["items"]).to_vec()
}

/// The line of the leader's metrics that gives the version it was built as.
pub fn version(cluster: &Cluster) -> String {
    let metrics = metrics(cluster);
    let line = metrics
        .lines()
        .find(|line| line.starts_with("nj_operator_build_info"));
    line.unwrap_or_default().to_owned()
}

/// How many passes the leader made, and the bound of its histogram in seconds below which 95 of 100 of them were.
pub fn passes(cluster: &Cluster) -> (u64, String) {
    let metrics = metrics(cluster);
    let buckets: Vec<(&str, u64)> = metrics
        .lines()
        .filter_map(|line| {
            let bucket = line.strip_prefix("nj_operator_reconcile_seconds_bucket{le=\"")?;
            let (bound, count) = bucket.split_once("\"} ")?;
            Some((bound, count.parse().ok()?))
        })
        .collect();
    let all = buckets.last().map_or(0, |(_, all)| *all);
    let within = buckets.iter().find(|(_, count)| count * 100 >= all * 95);
    let bound = within.map_or("", |(bound, _)| bound).to_owned();
    (all, bound)
}

fn metrics(cluster: &Cluster) -> String {
    let name = text(&leading(cluster)["metadata"]["name"]);
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}:8080/proxy/metrics");
    cluster.kubectl(&["get", "--raw", &path])
}

/// The pod of the operator that leads.
pub fn leading(cluster: &Cluster) -> Value {
    let leader = leader(cluster);
    pods(cluster)
        .into_iter()
        .find(|pod| leader.contains(&text(&pod["metadata"]["name"])))
        .unwrap_or_else(|| panic!("`{leader}` leads, which is no pod"))
}

/// Who leads, as the Lease says; empty while nobody does.
pub fn leader(cluster: &Cluster) -> String {
    let lease = cluster.try_get(&["lease", "-n", NAMESPACE, NAME]);
    lease
        .map(|lease| text(&lease["spec"]["holderIdentity"]))
        .unwrap_or_default()
}

/// Memory of each operator, KiB, by the name of its pod; the processes run on this machine.
pub fn resident_kib(cluster: &Cluster) -> Vec<(String, u64)> {
    pods(cluster)
        .iter()
        .map(|pod| {
            let (name, uid) = (
                text(&pod["metadata"]["name"]),
                text(&pod["metadata"]["uid"]),
            );
            (name, resident_of_pod(&uid))
        })
        .collect()
}

/// Memory of the operator in a pod, KiB.
fn resident_of_pod(uid: &str) -> u64 {
    let process = process_of_pod(uid).expect("the operator's process runs on this machine");
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or_default()
}

/// The operator's process in a pod, by the pod's identity.
fn process_of_pod(uid: &str) -> Option<i32> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter(|process| {
            let read = |file: &str| std::fs::read_to_string(process.path().join(file));
            let cgroup = read("cgroup").unwrap_or_default();
            let of_pod = cgroup.contains(uid) || cgroup.contains(&uid.replace('-', "_"));
            // The kernel keeps 15 letters of a name.
            of_pod && read("comm").is_ok_and(|name| "nightjar-operator".starts_with(name.trim()))
        })
        .find_map(|process| process.file_name().to_str()?.parse().ok())
}

/// An operator that stands still, as on a machine that was suspended; goes on when this is dropped.
#[derive(Debug)]
pub struct Stalled {
    process: rustix::process::Pid,
}

impl Stalled {
    /// Stops the operator of a pod.
    pub fn begin(pod: &Value) -> Stalled {
        let process = process_of_pod(&text(&pod["metadata"]["uid"]));
        let process = process
            .and_then(rustix::process::Pid::from_raw)
            .expect("the operator's process runs on this machine");
        let stalled = Stalled { process };
        stalled.signal(rustix::process::Signal::STOP);
        stalled
    }

    fn signal(&self, signal: rustix::process::Signal) {
        // It may have been ended by its kubelet meanwhile.
        rustix::process::kill_process(self.process, signal).ok();
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::CONT);
    }
}

/// A moment in the audit log.
#[derive(Debug, Clone, Copy)]
pub struct AuditMark {
    byte: u64,
    at: SystemTime,
}

/// Writes of operators that the API server received after a moment, as `verb resource namespace/name (code) from address`, without those of the Lease.
///
/// A request stands in the log when it has ended: one that a stopped process had begun ends long after, by the API server's own limit.
pub fn writes_since(mark: AuditMark) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(audit_log()).expect("the audit log");
    file.seek(SeekFrom::Start(mark.byte))
        .expect("a position in it");
    let mut lines = String::new();
    file.read_to_string(&mut lines)
        .expect("the audit log is text");
    let user = format!("system:serviceaccount:{NAMESPACE}:{NAME}");
    lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| entry["user"]["username"] == user.as_str())
        .filter(|entry| received(entry) >= mark.at)
        .filter(|entry| {
            let verb = text(&entry["verb"]);
            ["create", "update", "patch", "delete", "deletecollection"].contains(&verb.as_str())
                && entry["objectRef"]["resource"] != "leases"
        })
        .map(|entry| {
            let about = &entry["objectRef"];
            format!(
                "{} {}/{} {}/{} ({}) from {}",
                text(&entry["verb"]),
                text(&about["resource"]),
                text(&about["subresource"]),
                text(&about["namespace"]),
                text(&about["name"]),
                entry["responseStatus"]["code"],
                text(&entry["sourceIPs"][0])
            )
        })
        .collect()
}

/// When the API server received the request of an entry.
fn received(entry: &Value) -> SystemTime {
    let text = text(&entry["requestReceivedTimestamp"]);
    let at: jiff::Timestamp = text.parse().expect("the time of an audit entry");
    at.into()
}

/// Now, in the audit log.
pub fn audit_mark() -> AuditMark {
    AuditMark {
        byte: std::fs::metadata(audit_log()).expect("the audit log").len(),
        at: SystemTime::now(),
    }
}

fn audit_log() -> PathBuf {
    machine_dir()
        .expect("the cluster of cargo xtask cluster")
        .join("audit.log")
}
