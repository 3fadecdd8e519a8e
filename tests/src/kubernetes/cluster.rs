//! The cluster that the tests run on, through the programs that a person uses: `kubectl`, `helm` and `cargo xtask cluster`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::limits;
use super::operator;
use crate::report::skipped;

/// Label of everything that tests make.
pub const TEST_LABEL: &str = "nightjar.dev/test";

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its label `topology.kubernetes.io/region`; empty without one.
    pub region: String,
    /// Its internal address.
    pub address: String,
}

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    /// Its nodes.
    pub nodes: Vec<Node>,
}

static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();

/// The cluster, with the operator of this clone installed. None, with the reason in the report, when there is none.
pub fn cluster(test: &str) -> Option<&'static Cluster> {
    let Some(kubeconfig) = std::env::var_os("NIGHTJAR_TEST_KUBECONFIG") else {
        let why = std::env::var("NIGHTJAR_KUBERNETES_MISSING").unwrap_or_else(|_| {
            "NIGHTJAR_TEST_KUBECONFIG is not set; run `cargo xtask test`".to_owned()
        });
        skipped(test, &why);
        return None;
    };
    let cluster = CLUSTER.get_or_init(|| blocking(|| Cluster::prepare(kubeconfig.into())));
    match cluster {
        Ok(cluster) => Some(cluster),
        Err(why) => panic!("the cluster is not fit for tests: {why}"),
    }
}

/// The cluster, for a test that does things to nodes, images or the audit log. None, with the reason in the report, on a cluster that
/// `cargo xtask cluster` did not make.
pub fn machine(test: &str) -> Option<&'static Cluster> {
    let cluster = cluster(test)?;
    if machine_dir().is_some() {
        return Some(cluster);
    }
    skipped(
        test,
        "needs the cluster of `cargo xtask cluster`: it cuts links, adds tags to images or reads the audit log",
    );
    None
}

/// Like [`machine`], for a test that takes nodes and links away for minutes: with `--long` alone.
pub fn patient_machine(test: &str) -> Option<&'static Cluster> {
    let cluster = machine(test)?;
    if std::env::var_os("NIGHTJAR_LONG").is_some() {
        return Some(cluster);
    }
    skipped(
        test,
        "takes nodes and links away for minutes: run with `cargo xtask test --long`",
    );
    None
}

/// Folder of the cluster that `cargo xtask cluster` made, if it is that one.
pub fn machine_dir() -> Option<PathBuf> {
    std::env::var_os("NIGHTJAR_TEST_CLUSTER_DIR").map(PathBuf::from)
}

/// Waits for `check`; panics with `what` and the last reason after `limit`.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let started = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(reason) if started.elapsed() > limit => {
                panic!("{what}: not within {limit:?}; {reason}")
            }
            Err(_) => tokio::time::sleep(limits::PAUSE).await,
        }
    }
}

/// Runs what waits for a process without holding up the tasks of the test.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    if tokio::runtime::Handle::try_current().is_ok() {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

impl Cluster {
    fn prepare(kubeconfig: PathBuf) -> Result<Cluster, String> {
        let mut cluster = Cluster {
            kubeconfig,
            nodes: Vec::new(),
        };
        cluster.nodes = cluster.read_nodes()?;
        cluster.sweep()?;
        operator::install(&cluster)?;
        Ok(cluster)
    }

    /// Removes namespaces of runs that were killed: each ends with the number of its process.
    fn sweep(&self) -> Result<(), String> {
        let selector = format!("{TEST_LABEL}=fleet");
        let found =
            self.try_kubectl(&["get", "namespaces", "-o", "name", "--selector", &selector])?;
        for namespace in found.lines() {
            let process = namespace.rsplit('-').next().unwrap_or_default();
            if !Path::new("/proc").join(process).exists() {
                self.try_kubectl(&["delete", namespace, "--wait=false"])?;
            }
        }
        Ok(())
    }

    fn read_nodes(&self) -> Result<Vec<Node>, String> {
        let nodes: Value =
            serde_json::from_str(&self.try_kubectl(&["get", "nodes", "-o", "json"])?)
                .map_err(|error| format!("nodes: {error}"))?;
        let node = |node: &Value| Node {
            name: text(&node["metadata"]["name"]),
            region: text(&node["metadata"]["labels"]["topology.kubernetes.io/region"]),
            address: list(&node["status"]["addresses"])
                .iter()
                .find(|address| address["type"] == "InternalIP")
                .map(|address| text(&address["address"]))
                .unwrap_or_default(),
        };
        Ok(list(&nodes["items"]).iter().map(node).collect())
    }

    /// An address at which NodePorts of a region answer: of a node of that region, or of any.
    pub fn address(&self, region: &str) -> &str {
        let node = self
            .nodes
            .iter()
            .find(|node| node.region == region)
            .or_else(|| self.nodes.first());
        &node.expect("a cluster has nodes").address
    }

    /// Whether some node carries the label of the region.
    pub fn has_region(&self, region: &str) -> bool {
        self.nodes.iter().any(|node| node.region == region)
    }

    /// `kubectl` or `helm` for this cluster, not yet started.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let variable = format!("NIGHTJAR_{}", program.to_uppercase());
        let program = std::env::var_os(variable).unwrap_or_else(|| program.into());
        let mut command = Command::new(program);
        command
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null());
        command
    }

    /// Runs `kubectl` to its end; stdout, or stderr as the error.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        run(self.command("kubectl", args), None)
    }

    /// Runs `kubectl` and insists on success.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args)
            .unwrap_or_else(|error| panic!("kubectl {}: {error}", args.join(" ")))
    }

    /// Runs `kubectl` with text on its stdin.
    pub fn try_kubectl_with(&self, args: &[&str], stdin: &str) -> Result<String, String> {
        run(self.command("kubectl", args), Some(stdin))
    }

    /// Runs `helm` with values, as JSON, on its stdin.
    pub fn try_helm(&self, args: &[&str], values: &Value) -> Result<String, String> {
        run(self.command("helm", args), Some(&values.to_string()))
    }

    /// What `kubectl get ARGS -o json` says.
    pub fn try_get(&self, args: &[&str]) -> Result<Value, String> {
        let mut all = vec!["get", "-o", "json"];
        all.extend_from_slice(args);
        serde_json::from_str(&self.try_kubectl(&all)?).map_err(|error| error.to_string())
    }

    /// What `kubectl get ARGS -o json` says.
    pub fn get(&self, args: &[&str]) -> Value {
        self.try_get(args)
            .unwrap_or_else(|error| panic!("kubectl get {}: {error}", args.join(" ")))
    }

    /// A StorageClass like the default one, which lets volumes grow or not.
    pub fn storage_class(&self, name: &str, grows: bool) -> Value {
        let classes = self.get(&["storageclass"]);
        let is_default = |class: &&Value| {
            let annotations = &class["metadata"]["annotations"];
            annotations["storageclass.kubernetes.io/is-default-class"] == "true"
        };
        let usual = list(&classes["items"]).iter().find(is_default);
        let usual = usual.expect("a default class");
        serde_json::json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": usual["provisioner"], "parameters": usual["parameters"],
            "volumeBindingMode": usual["volumeBindingMode"], "allowVolumeExpansion": grows,
        })
    }

    /// `cargo xtask cluster derive TAG FOLDER`: an image on top of the relays', on every node.
    pub fn derive(&self, tag: &str, folder: &Path) {
        self.xtask(&["derive", tag, &folder.display().to_string()]);
    }

    /// `cargo xtask cluster ARGS`: faults of the link of a node or a region.
    pub fn fault(&self, args: &[&str]) {
        self.xtask(args);
    }

    fn xtask(&self, args: &[&str]) {
        let xtask = std::env::var_os("NIGHTJAR_XTASK").expect("xtask says where it lies");
        let mut command = Command::new(xtask);
        command.arg("cluster").args(args).stdin(Stdio::null());
        run(command, None).unwrap_or_else(|error| panic!("cluster {}: {error}", args.join(" ")));
    }
}

/// A fault that ends with this value, also when the test fails.
#[derive(Debug)]
pub struct Fault {
    cluster: &'static Cluster,
    undo: [String; 2],
}

impl Fault {
    /// The node loses its link.
    pub fn isolate(cluster: &'static Cluster, node: &str) -> Fault {
        cluster.fault(&["isolate", node]);
        Fault {
            cluster,
            undo: ["rejoin".to_owned(), node.to_owned()],
        }
    }

    /// The region loses its link to the other regions.
    pub fn cut(cluster: &'static Cluster, region: &str) -> Fault {
        cluster.fault(&["cut", region]);
        Fault {
            cluster,
            undo: ["heal".to_owned(), region.to_owned()],
        }
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.cluster.fault(&[&self.undo[0], &self.undo[1]]);
    }
}

fn run(mut command: Command, stdin: Option<&str>) -> Result<String, String> {
    blocking(|| {
        if stdin.is_some() {
            command.stdin(Stdio::piped());
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
            // A program that fails early does not read all of it; what it says on stderr is the better reason.
            pipe.write_all(text.as_bytes()).ok();
        }
        let output = child
            .wait_with_output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    })
}

/// A string, or nothing.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The elements of an array, or nothing.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
