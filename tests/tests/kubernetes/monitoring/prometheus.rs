//! A Prometheus of the test's own, on loopback, that scrapes as the chart's monitors say: operators with honoured labels, relays with the
//! labels of their pods. Debian builds it without discovery in Kubernetes, so the test lists the pods for it. Judges nothing.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nightjar_tests::fleet::http_get;
use nightjar_tests::kubernetes::cluster::{Cluster, list, text, until};
use nightjar_tests::kubernetes::fleet::Fleet;
use nightjar_tests::kubernetes::operator;
use nightjar_tests::programs::dies_with_this_thread;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Prometheus listening, on a machine that is busy.
const STARTED: Duration = Duration::from_secs(30);

/// Prometheus as `cargo xtask test` finds promtool, beside it, or on PATH. None where there is none.
pub(super) fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("NIGHTJAR_PROMETHEUS") {
        return Some(named.into());
    }
    let beside = std::env::var_os("NIGHTJAR_PROMTOOL")
        .map(|promtool| PathBuf::from(promtool).with_file_name("prometheus"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("prometheus"));
    beside
        .into_iter()
        .chain(on_path)
        .find(|program| program.is_file())
}

/// One that runs; it ends with this value.
#[derive(Debug)]
pub(super) struct Prometheus {
    child: Child,
    address: String,
    dir: TempDir,
}

/// An alert that is pending or firing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alert {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) firing: bool,
}

impl Prometheus {
    /// Starts it with the groups of a PrometheusRule; the calling thread must live as long as it.
    pub(super) async fn start(program: &PathBuf, rules: &Value) -> Prometheus {
        let dir = TempDir::new().expect("a folder");
        let write = |name: &str, text: String| {
            std::fs::write(dir.path().join(name), text).expect("a file of Prometheus");
        };
        write("rules.yaml", serde_yaml::to_string(rules).expect("YAML"));
        for targets in ["operators.json", "relays.json"] {
            write(targets, "[]".to_owned());
        }
        write("prometheus.yaml", configuration().to_string());
        // Nobody else takes a port of loopback between these two lines but by bad luck; Prometheus then says so and the test fails.
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a free port")
            .to_string();
        let log = std::fs::File::create(dir.path().join("log")).expect("a log");
        let mut command = Command::new(program);
        command
            .current_dir(dir.path())
            .arg("--config.file=prometheus.yaml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        dies_with_this_thread(&mut command);
        let child = command.spawn().expect("Prometheus starts");
        let prometheus = Prometheus {
            child,
            address,
            dir,
        };
        until("Prometheus is ready", STARTED, async || {
            match http_get(&prometheus.address, "/-/ready", "*/*").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}; {}", prometheus.log())),
            }
        })
        .await;
        prometheus
    }

    /// The end of its log.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Tells it which pods there are now, as discovery in Kubernetes would.
    pub(super) fn discover(&self, cluster: &Cluster, fleet: &Fleet) {
        let operators = operator::pods(cluster);
        self.targets("operators.json", &operators, "metrics");
        let relays: Vec<Value> = fleet
            .owned("pods")
            .into_iter()
            .filter(|pod| pod["metadata"]["labels"]["app.kubernetes.io/component"] == "relay")
            .collect();
        self.targets("relays.json", &relays, "admin");
    }

    fn targets(&self, file: &str, pods: &[Value], port: &str) {
        let groups: Vec<Value> = pods
            .iter()
            .filter(|pod| pod["status"]["podIP"].is_string())
            .map(|pod| {
                let metadata = &pod["metadata"];
                let mut labels = json!({
                    "namespace": metadata["namespace"],
                    "pod": metadata["name"],
                });
                for (label, of_pod) in [
                    ("fleet", "nightjar.dev/fleet"),
                    ("region", "nightjar.dev/region"),
                ] {
                    if metadata["labels"][of_pod].is_string() {
                        labels[label] = metadata["labels"][of_pod].clone();
                    }
                }
                let address = format!("{}:{}", text(&pod["status"]["podIP"]), number(pod, port));
                json!({"targets": [address], "labels": labels})
            })
            .collect();
        let path = self.dir.path().join(file);
        let new = path.with_extension("new");
        // It reads the file at any time, so it must never see half of one.
        std::fs::write(&new, json!(groups).to_string())
            .and_then(|()| std::fs::rename(&new, &path))
            .expect("the list of pods");
    }

    /// What its API answers to a GET.
    async fn api(&self, path: &str) -> Result<Value, String> {
        // HTTP/1.1 may come in chunks; a single JSON document is between the first and the last brace.
        let (status, body) = http_get(&self.address, path, "application/json").await?;
        let document = body
            .find('{')
            .zip(body.rfind('}'))
            .map(|(from, to)| unchunked(&body[from..=to]))
            .unwrap_or_default();
        let answer: Value = serde_json::from_str(&document)
            .map_err(|error| format!("{path}: {status}: {error}: {body}"))?;
        if answer["status"] == "success" {
            Ok(answer["data"].clone())
        } else {
            Err(format!("{path}: {}", text(&answer["error"])))
        }
    }

    /// The series that a query gives now.
    pub(super) async fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let path = format!("/api/v1/query?query={}", encoded(query));
        Ok(list(&self.api(&path).await?["result"]).to_vec())
    }

    /// Names of all metrics that it has.
    pub(super) async fn metrics(&self) -> Result<Vec<String>, String> {
        let names = self.api("/api/v1/label/__name__/values").await?;
        Ok(list(&names).iter().map(text).collect())
    }

    /// Targets that are down, each with the reason.
    pub(super) async fn unscraped(&self) -> Result<Vec<String>, String> {
        let targets = self.api("/api/v1/targets?state=active").await?;
        Ok(list(&targets["activeTargets"])
            .iter()
            .filter(|target| target["health"] != "up")
            .map(|target| {
                format!(
                    "{}: {} {}",
                    text(&target["scrapeUrl"]),
                    text(&target["health"]),
                    text(&target["lastError"])
                )
            })
            .collect())
    }

    /// Alerts that are pending or firing.
    pub(super) async fn alerts(&self) -> Result<Vec<Alert>, String> {
        let alerts = self.api("/api/v1/alerts").await?;
        Ok(list(&alerts["alerts"])
            .iter()
            .map(|alert| Alert {
                name: text(&alert["labels"]["alertname"]),
                namespace: text(&alert["labels"]["namespace"]),
                firing: alert["state"] == "firing",
            })
            .collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The number of the port that the chart's monitors name.
fn number(pod: &Value, name: &str) -> u64 {
    list(&pod["spec"]["containers"])
        .iter()
        .flat_map(|container| list(&container["ports"]))
        .find(|port| port["name"] == name)
        .and_then(|port| port["containerPort"].as_u64())
        .unwrap_or_else(|| panic!("pod {} has no port {name}", pod["metadata"]["name"]))
}

fn configuration() -> Value {
    let job = |name: &str, honor: bool| {
        json!({
            "job_name": name,
            "honor_labels": honor,
            "file_sd_configs": [{"files": [format!("{name}.json")], "refresh_interval": "1s"}],
        })
    };
    json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [job("operators", true), job("relays", false)],
    })
}

/// A body without the lengths of its chunks. Nothing that Prometheus answers here has line ends of its own: it is JSON in one line.
fn unchunked(body: &str) -> String {
    body.split("\r\n").step_by(2).collect()
}

fn encoded(query: &str) -> String {
    query
        .bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}
