//! Fleet verbs of `nightjar` against a real API server: what a person sees and which exit code ends it. No operator runs for these
//! fleets; their status is written by hand. Uses one namespace of its own, and removes it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nightjar_tests::cli::Home;
use nightjar_tests::programs::{program, root};
use nightjar_tests::report;
use serde_json::Value;

const NAMESPACE: &str = "cli-test";
/// The operator leaves a paused fleet alone, so that one that runs beside does not write its status.
const FLEET: &str = r#"
apiVersion: nightjar.dev/v1alpha1
kind: RelayCluster
metadata:
  name: eu
  annotations: {nightjar.dev/paused: "true"}
spec:
  regions:
  - {name: a, nats: {storage: 40Gi}}
  - {name: b, nats: {storage: 40Gi}}
"#;

struct Kube {
    kubeconfig: String,
    home: Home,
    dir: tempfile::TempDir,
}

impl Kube {
    /// The cluster that `NIGHTJAR_TEST_KUBECONFIG` names, with an empty namespace.
    fn new(test: &str) -> Option<Self> {
        let Ok(kubeconfig) = std::env::var("NIGHTJAR_TEST_KUBECONFIG") else {
            report::skipped(test, "NIGHTJAR_TEST_KUBECONFIG names no cluster");
            return None;
        };
        let dir = tempfile::tempdir().expect("a folder");
        let home = Home::new(dir.path(), "home");
        let kube = Self {
            kubeconfig,
            home,
            dir,
        };
        kube.kubectl(
            &["delete", "namespace", NAMESPACE, "--ignore-not-found"],
            "",
        );
        let known = kube.kubectl(
            &[
                "get",
                "crd",
                "relayclusters.nightjar.dev",
                "--ignore-not-found",
                "-o",
                "name",
            ],
            "",
        );
        // One that is there may be in use, and of another version.
        if known.is_empty() {
            let definition = root().join("crds/relayclusters.nightjar.dev.yaml");
            kube.kubectl(
                &[
                    "apply",
                    "--server-side",
                    "-f",
                    &definition.display().to_string(),
                ],
                "",
            );
        }
        kube.kubectl(
            &[
                "wait",
                "--for=condition=Established",
                "crd/relayclusters.nightjar.dev",
            ],
            "",
        );
        kube.kubectl(&["create", "namespace", NAMESPACE], "");
        Some(kube)
    }

    /// `kubectl`, which must succeed.
    fn kubectl(&self, args: &[&str], stdin: &str) -> String {
        let mut child = Command::new("kubectl")
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is in PATH");
        let mut input = child.stdin.take().expect("stdin is piped");
        input.write_all(stdin.as_bytes()).expect("kubectl reads");
        drop(input);
        let output = child.wait_with_output().expect("kubectl ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "kubectl {}: {stderr}",
            args.join(" ")
        );
        String::from_utf8(output.stdout).expect("kubectl writes UTF-8")
    }

    fn apply(&self, manifest: &str) {
        self.kubectl(&["apply", "-n", NAMESPACE, "-f", "-"], manifest);
    }

    fn set_status(&self, status: &Value) {
        let patch = serde_json::json!({ "status": status }).to_string();
        let args = [
            "patch",
            "njc",
            "eu",
            "-n",
            NAMESPACE,
            "--subresource=status",
            "--type=merge",
            "-p",
        ];
        self.kubectl(&[&args[..], &[&patch]].concat(), "");
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = self.home.command(args);
        command
            .args(["-n", NAMESPACE])
            .env("KUBECONFIG", &self.kubeconfig);
        command
            .current_dir(self.dir.path())
            .output()
            .expect("nightjar starts")
    }

    /// Runs with `-o json`; exit code and document.
    fn json(&self, args: &[&str]) -> (i32, Value) {
        let output = self.run(&[args, &["-o", "json"]].concat());
        let document = serde_json::from_slice(&output.stdout);
        let document =
            document.unwrap_or_else(|error| panic!("{args:?}: {error}: {}", said(&output)));
        (exit(&output), document)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        let args = [
            "delete",
            "namespace",
            NAMESPACE,
            "--wait=false",
            "--ignore-not-found",
        ];
        let _ = Command::new("kubectl")
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .output();
    }
}

fn exit(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

fn said(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn condition(of: &str, status: &str, message: &str) -> Value {
    serde_json::json!({"type": of, "status": status, "reason": "Test", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// A status as the operator writes it.
fn status(generation: i64, ready: &str, waiting: Value, rollout: Value) -> Value {
    serde_json::json!({
        "observedGeneration": generation,
        "conditions": [condition("Ready", ready, "says so"), condition("Durable", "True", ""), condition("Degraded", "False", ""), condition("Progressing", "False", ""), condition("Paused", "True", ""), condition("UpgradeAvailable", "False", "")],
        "waitingFor": waiting,
        "regions": [{"name": "a", "state": "Ready", "relaysReady": 1, "relays": 1, "natsReady": 3, "nats": 3, "hubsReady": 2, "hubs": 2, "url": "ws://eu-a.cli-test.svc"}],
        "summary": {"regions": "1/2", "relays": "1/2", "waitingFor": ""},
        "rollout": rollout,
    })
}

fn rollout(phase: &str) -> Value {
    serde_json::json!({"revision": "r1", "phase": phase, "region": "a", "pod": "eu-a-nats-1", "updated": 3, "total": 12, "startedAt": "2026-01-01T00:00:00Z", "message": "eu-a-nats-1 is not ready"})
}

// One test: it owns the namespace, and the definition is of the whole cluster.
#[test]
fn fleet_verbs_tell_what_is_and_end_with_the_promised_codes() {
    let Some(kube) = Kube::new("fleet_verbs_tell_what_is_and_end_with_the_promised_codes") else {
        return;
    };
    nothing_there_yet(&kube);
    a_cluster_that_cannot_be_asked(&kube);
    kube.apply(FLEET);
    a_fleet_that_no_operator_has_seen(&kube);
    kube.set_status(&status(1, "True", serde_json::json!([]), rollout("Done")));
    status_and_why_of_a_fleet_that_is_well(&kube);
    let waiting = serde_json::json!([{"what": "PodNotReady", "where": "pod/eu-a-nats-1", "since": "2026-01-01T00:00:00Z", "unblockedBy": "the pod becoming ready"}]);
    kube.set_status(&status(1, "False", waiting, rollout("Halted")));
    status_and_why_of_a_fleet_that_waits(&kube);
    plans(&kube);
    rollouts(&kube);
    an_archive_without_secrets(&kube);
    rights_that_are_missing_are_named(&kube);
}

fn nothing_there_yet(kube: &Kube) {
    let (code, report) = kube.json(&["check", "--pre"]);
    assert_eq!(
        (code, report["failed"].as_i64()),
        (0, Some(0)),
        "{report:#}"
    );
    let names: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    for name in ["api", "create-definition", "namespace", "storage-class"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let output = kube.run(&["why"]);
    assert_eq!(exit(&output), 8, "{}", said(&output));
    assert!(said(&output).contains("NJ-8007"));
    let text = FLEET.replace(
        "{name: b, nats",
        "{name: b, placement: {nodeSelector: {nobody.example/has: this}}, nats",
    );
    let file = kube.write("lost.yaml", &text);
    let output = kube.run(&["check", "--pre", "-f", &file]);
    assert_eq!(exit(&output), 6, "{}", said(&output));
    assert!(
        said(&output).contains("region b: no node has nobody.example/has=this"),
        "{}",
        said(&output)
    );
}

fn a_cluster_that_cannot_be_asked(kube: &Kube) {
    let run = |kubeconfig: &Path| {
        let mut command = kube.home.command(&["why", "eu"]);
        command
            .env("KUBECONFIG", kubeconfig)
            .output()
            .expect("nightjar starts")
    };
    let output = run(Path::new("/nowhere/kubeconfig"));
    assert_eq!(exit(&output), 2, "{}", said(&output));
    assert!(said(&output).contains("NJ-2007"), "{}", said(&output));
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{{name: x, cluster: {{server: 'http://{free}'}}}}]\nusers: [{{name: x, user: {{}}}}]\ncontexts: [{{name: x, context: {{cluster: x, user: x}}}}]\n"
    );
    let output = run(Path::new(&kube.write("nobody.yaml", &text)));
    assert_eq!(exit(&output), 3, "{}", said(&output));
    assert!(said(&output).contains("NJ-3003"), "{}", said(&output));
    // A server that takes the connection and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = text.replace(&free.to_string(), &silent.local_addr().unwrap().to_string());
    let file = kube.write("silent.yaml", &text);
    let started = std::time::Instant::now();
    let mut command = kube.home.command(&["why", "eu", "--request-timeout", "1s"]);
    let output = command.env("KUBECONFIG", file).output().unwrap();
    assert_eq!(exit(&output), 3, "{}", said(&output));
    assert!(started.elapsed() < Duration::from_secs(10));
}

fn a_fleet_that_no_operator_has_seen(kube: &Kube) {
    let (code, report) = kube.json(&["check", "eu"]);
    assert_eq!(
        (code, report["result"].as_str()),
        (6, Some("failed")),
        "{report:#}"
    );
    let first = &report["checks"][0];
    assert_eq!(first["result"], "failed", "what to fix comes first");
    assert!(
        first["hint"].is_string() && first["explain"].as_str().unwrap().starts_with("NJ-"),
        "{first}"
    );
    let definition = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "definition")
        .unwrap();
    assert_ne!(definition["result"], "failed", "{definition}");
    let output = kube.run(&["status", "eu"]);
    assert_eq!(exit(&output), 6, "{}", said(&output));
}

fn status_and_why_of_a_fleet_that_is_well(kube: &Kube) {
    let output = kube.run(&["status"]);
    assert_eq!(exit(&output), 0, "{}", said(&output));
    let (code, regions) = kube.json(&["status", "eu"]);
    assert_eq!((code, regions[0]["nats"].as_str()), (0, Some("3/3")));
    assert_eq!(
        String::from_utf8_lossy(&kube.run(&["status", "-o", "name"]).stdout),
        "eu\n"
    );
    let output = kube.run(&["rollout", "status", "eu", "-o", "yaml"]);
    assert_eq!(exit(&output), 0, "{}", said(&output));
    assert!(said(&output).contains("phase: Done"), "{}", said(&output));
}

fn status_and_why_of_a_fleet_that_waits(kube: &Kube) {
    let (code, why) = kube.json(&["why"]);
    let wait = &why["waitingFor"][0];
    assert_eq!(
        (code, wait["where"].as_str(), wait["unblockedBy"].as_str()),
        (0, Some("pod/eu-a-nats-1"), Some("the pod becoming ready"))
    );
    let output = kube.run(&["rollout", "status", "eu"]);
    assert_eq!(exit(&output), 6, "{}", said(&output));
    assert!(
        said(&output).contains("NJ-6004") && said(&output).contains("eu-a-nats-1 is not ready")
    );
}

fn plans(kube: &Kube) {
    let plan = |text: &str| kube.json(&["plan", "-f", &kube.write("new.yaml", text)]);
    let (code, same) = plan(FLEET);
    assert_eq!(
        (code, same["verdict"].as_str()),
        (0, Some("nothing")),
        "{same:#}"
    );
    let (code, image) = plan(&FLEET.replace("spec:\n", "spec:\n  images: {relay: 'relay:2'}\n"));
    assert_eq!(
        (code, image["podsRestarted"].as_i64()),
        (0, Some(2)),
        "{image:#}"
    );
    assert_eq!(image["steps"][0]["pods"][0], "eu-a-relay-0");
    assert_eq!(image["steps"][0]["canary"], true);
    let (code, smaller) = plan(&FLEET.replace(
        "{name: b, nats: {storage: 40Gi}}",
        "{name: b, nats: {storage: 40Gi, replicas: 1}}",
    ));
    assert_eq!(
        (code, smaller["verdict"].as_str()),
        (2, Some("refused")),
        "{smaller:#}"
    );
    let generation = kube.kubectl(
        &[
            "get",
            "njc",
            "eu",
            "-n",
            NAMESPACE,
            "-o",
            "jsonpath={.metadata.generation}",
        ],
        "",
    );
    assert_eq!(generation, "1", "a plan changes nothing");
    let file = kube.write(
        "wrong.yaml",
        &FLEET.replace("storage: 40Gi", "storag: 40Gi"),
    );
    let output = kube.run(&["plan", "-f", &file]);
    assert_eq!(exit(&output), 2, "{}", said(&output));
    for field in ["spec.regions[0].nats.storag", "spec.regions[1].nats.storag"] {
        assert!(said(&output).contains(field), "{}", said(&output));
    }
}

fn rollouts(kube: &Kube) {
    let annotation = |name: &str| {
        let path = format!("jsonpath={{.metadata.annotations.nightjar\\.dev/{name}}}");
        kube.kubectl(&["get", "njc", "eu", "-n", NAMESPACE, "-o", &path], "")
    };
    assert_eq!(exit(&kube.run(&["rollout", "pause", "eu"])), 0);
    assert_eq!(annotation("rollout-paused"), "true");
    assert_eq!(exit(&kube.run(&["rollout", "resume", "eu"])), 0);
    assert_eq!(annotation("rollout-paused"), "");
    let (code, said) = kube.json(&["restart", "eu", "--dry-run"]);
    assert_eq!((code, annotation("restarted-at").as_str()), (0, ""));
    assert_eq!(
        said["steps"][0]["pods"].as_array().unwrap().len(),
        6,
        "{said:#}"
    );
    let (code, said) = kube.json(&["restart", "eu"]);
    assert_eq!(
        (code, said["restartedAt"].as_str()),
        (0, Some(annotation("restarted-at").as_str()))
    );
    // Without an operator, and paused besides, nothing will come of it.
    assert_eq!(exit(&kube.run(&["restart", "eu", "--wait=3s"])), 6);
}

fn an_archive_without_secrets(kube: &Kube) {
    let seed = format!("SU{}", "A2B3".repeat(14));
    let metadata = |name: &str| serde_json::json!({"name": name, "labels": {"app.kubernetes.io/managed-by": "nightjar-operator", "nightjar.dev/fleet": "eu"}});
    let objects = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("eu-a-nats-config"), "data": {"x.conf": format!("LEAF_SEED: \"{seed}\"")}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata("eu-keys"), "stringData": {"keyring.json": format!("keys of {seed}")}},
    ]});
    kube.apply(&objects.to_string());
    let (code, made) = kube.json(&["bundle", "eu", "--to", "eu.tar"]);
    assert_eq!(
        (code, made["removed"].as_i64(), made["missing"].as_i64()),
        (0, Some(1), Some(0)),
        "{made:#}"
    );
    let archive = std::fs::read(kube.dir.path().join("eu.tar")).unwrap();
    let text = String::from_utf8_lossy(&archive);
    assert!(!text.contains(&seed), "the seed is in it");
    for word in ["REMOVED.txt", "nkey seed", "keyring.json", "PodNotReady"] {
        assert!(text.contains(word), "{word} is not in it");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(kube.dir.path().join("eu.tar"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        exit(&kube.run(&["bundle", "eu", "--to", "eu.tar"])),
        1,
        "nothing is overwritten"
    );
    let (_, report) = kube.json(&["check", "eu"]);
    let keys = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "keys")
        .unwrap();
    assert_eq!(keys["result"], "ok", "{keys}");
}

fn rights_that_are_missing_are_named(kube: &Kube) {
    kube.kubectl(&["create", "serviceaccount", "nobody", "-n", NAMESPACE], "");
    let token = kube.kubectl(&["create", "token", "nobody", "-n", NAMESPACE], "");
    let config = kube.kubectl(
        &[
            "config",
            "view",
            "--raw",
            "--minify",
            "--flatten",
            "-o",
            "json",
        ],
        "",
    );
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
    let file = kube.write("nobody-rights.yaml", &config.to_string());
    let output = kube.run(&["why", "eu", "--kubeconfig", &file]);
    assert_eq!(exit(&output), 4, "{}", said(&output));
    assert!(
        said(&output).contains("you may not `get relayclusters` in namespace cli-test"),
        "{}",
        said(&output)
    );
}

#[test]
fn the_same_binary_is_a_plug_in_of_kubectl() {
    let dir = tempfile::tempdir().expect("a folder");
    let plugin = dir.path().join("kubectl-nightjar");
    std::os::unix::fs::symlink(program("nightjar"), &plugin).expect("a link");
    let output = Command::new(&plugin)
        .args(["why", "--help"])
        .output()
        .expect("it starts");
    assert!(
        said(&output).contains("Usage: kubectl nightjar why"),
        "{}",
        said(&output)
    );
}
