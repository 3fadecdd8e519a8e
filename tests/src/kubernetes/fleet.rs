//! A fleet on the cluster: what is asked for, what the operator says of it, and what its pods do. Its namespace goes when it is dropped.

use std::fmt::Write;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use super::cluster::{Cluster, TEST_LABEL, list, text, until};
use super::limits;
use super::operator;

/// What is asked for. Public fields are changed and applied again.
#[derive(Clone, Debug)]
pub struct FleetSpec {
    /// The regions.
    pub regions: Vec<RegionSpec>,
    /// `Retain` or `Delete`.
    pub deletion_policy: &'static str,
    /// Tag of the relays' image.
    pub relay_tag: String,
    /// Tag of the NATS servers' image.
    pub nats_tag: String,
    /// What else the spec says; merged over the rest.
    pub more: Value,
}

/// One region of what is asked for.
#[derive(Clone, Debug)]
pub struct RegionSpec {
    /// Its name.
    pub name: String,
    /// Relays.
    pub relays: u8,
    /// NATS servers: 1 or 3.
    pub nats: u8,
    /// NodePort of its Service.
    pub port: u16,
}

/// Ports are not used again while a namespace that had them may still be going.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

impl RegionSpec {
    /// A region with one relay.
    pub fn new(name: &str, nats: u8) -> RegionSpec {
        let run = u16::try_from(std::process::id() % 6).expect("below 6");
        let number = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        RegionSpec {
            name: name.to_owned(),
            relays: 1,
            nats,
            port: 30_100 + run * 400 + number % 400,
        }
    }
}

impl FleetSpec {
    /// Regions with the given number of NATS servers each.
    pub fn new(regions: &[&str], nats: u8) -> FleetSpec {
        FleetSpec {
            regions: regions
                .iter()
                .map(|name| RegionSpec::new(name, nats))
                .collect(),
            deletion_policy: "Retain",
            relay_tag: "dev".to_owned(),
            nats_tag: "dev".to_owned(),
            more: json!({}),
        }
    }

    fn region(&self, cluster: &Cluster, region: &RegionSpec) -> Value {
        let mut asked = json!({
            "name": region.name,
            "relays": {"replicas": region.relays, "storage": "1Gi", "resources": {"cpu": "20m", "memory": "128Mi"}},
            "nats": {"replicas": region.nats, "storage": "1Gi", "resources": {"cpu": "20m", "memory": "128Mi"}},
            "publicURL": format!("ws://{}:{}", cluster.address(&region.name), region.port),
            "service": {"type": "NodePort", "nodePort": region.port},
        });
        if cluster.has_region(&region.name) {
            asked["placement"] =
                json!({"nodeSelector": {"topology.kubernetes.io/region": region.name}});
        }
        asked
    }

    /// The `spec` of the RelayCluster.
    pub fn spec(&self, cluster: &Cluster) -> Value {
        let regions: Vec<Value> = self
            .regions
            .iter()
            .map(|region| self.region(cluster, region))
            .collect();
        let mut spec = json!({
            "regions": regions,
            "log": {"maxBytesPerRegion": "64Mi"},
            "images": {
                "relay": operator::image("relay", &self.relay_tag),
                "nats": operator::image("nats-server", &self.nats_tag),
            },
            "rollout": {"soak": "3s", "settle": "1s", "podDeadline": "60s"},
            "deletionPolicy": self.deletion_policy,
            "relay": {"limits": {
                "eventsPerSecondPerConnection": 1000, "eventsBurstPerConnection": 5000,
                "eventsPerSecondPerAddress": 5000, "eventsBurstPerAddress": 20_000,
                "reqsPerSecondPerConnection": 1000, "reqsBurstPerConnection": 5000,
                "readPercentPerConnection": 100,
            }},
        });
        merge(&mut spec, &self.more);
        spec
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// A pod of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its identity: another one with the same name is another pod.
    pub uid: String,
    /// Its region.
    pub region: String,
    /// `nats`, `hub` or `relay`.
    pub component: String,
    /// Ready, and not on its way out.
    pub ready: bool,
    /// How often its containers were started again.
    pub restarts: i64,
    /// Image of its first container.
    pub image: String,
    /// Where it runs.
    pub node: String,
}

impl Pod {
    /// From what the API server says.
    pub fn read(pod: &Value) -> Pod {
        let (metadata, status) = (&pod["metadata"], &pod["status"]);
        let ready = list(&status["conditions"])
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        Pod {
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            region: text(&metadata["labels"]["nightjar.dev/region"]),
            component: text(&metadata["labels"]["app.kubernetes.io/component"]),
            ready: ready && metadata["deletionTimestamp"].is_null(),
            restarts: list(&status["containerStatuses"])
                .iter()
                .filter_map(|container| container["restartCount"].as_i64())
                .sum(),
            image: text(&pod["spec"]["containers"][0]["image"]),
            node: text(&pod["spec"]["nodeName"]),
        }
    }
}

/// A fleet in a namespace of its own.
#[derive(Debug)]
pub struct Fleet {
    /// Where it is.
    pub cluster: &'static Cluster,
    /// Its namespace.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Fleet {
    /// A namespace for a fleet, and no fleet yet.
    pub fn namespace(cluster: &'static Cluster, test: &str) -> Fleet {
        let namespace = format!("nj-{test}-{}", std::process::id());
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": namespace,
            "labels": {TEST_LABEL: "fleet", "pod-security.kubernetes.io/enforce": "restricted"},
        }});
        let fleet = Fleet {
            cluster,
            namespace,
            name: "fleet".to_owned(),
        };
        fleet.apply_object(&object).expect("a namespace");
        fleet
    }

    /// Applies a fleet and waits until nothing is left to do.
    pub async fn start(cluster: &'static Cluster, test: &str, spec: &FleetSpec) -> Fleet {
        let fleet = Fleet::namespace(cluster, test);
        fleet.apply(spec);
        fleet.wait_calm(limits::FLEET_READY).await;
        fleet
    }

    /// `kubectl apply` of the RelayCluster.
    pub fn apply(&self, spec: &FleetSpec) {
        self.apply_object(&self.manifest(spec.spec(self.cluster)))
            .unwrap_or_else(|error| panic!("kubectl apply: {error}"));
    }

    /// A RelayCluster with this fleet's name.
    pub fn manifest(&self, spec: Value) -> Value {
        json!({
            "apiVersion": "nightjar.dev/v1alpha1",
            "kind": "RelayCluster",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        })
    }

    /// `kubectl apply` of any object.
    pub fn apply_object(&self, object: &Value) -> Result<String, String> {
        self.cluster
            .try_kubectl_with(&["apply", "-f", "-"], &object.to_string())
    }

    /// `kubectl -n NAMESPACE ARGS`, insisting on success.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args)
            .unwrap_or_else(|error| panic!("kubectl {}: {error}", args.join(" ")))
    }

    /// `kubectl -n NAMESPACE ARGS`.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        let mut all = vec!["-n", &self.namespace];
        all.extend_from_slice(args);
        self.cluster.try_kubectl(&all)
    }

    /// `kubectl -n NAMESPACE get ARGS -o json`.
    pub fn try_get(&self, args: &[&str]) -> Result<Value, String> {
        let mut all = vec!["-n", &self.namespace];
        all.extend_from_slice(args);
        self.cluster.try_get(&all)
    }

    /// An object as it would be applied again after it was removed.
    pub fn saved(&self, kind: &str, name: &str) -> Value {
        let found = self.try_get(&[kind, name]);
        let mut saved = found.unwrap_or_else(|error| panic!("kubectl get {kind} {name}: {error}"));
        let of_the_server = [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "managedFields",
        ];
        if let Some(metadata) = saved["metadata"].as_object_mut() {
            metadata.retain(|field, _| !of_the_server.contains(&field.as_str()));
        }
        saved
    }

    /// Objects of a kind that carry the fleet's label, by name.
    pub fn owned(&self, kind: &str) -> Vec<Value> {
        let selector = format!("nightjar.dev/fleet={}", self.name);
        let found = self.try_get(&[kind, "--selector", &selector]);
        let found = found.unwrap_or_else(|error| panic!("kubectl get {kind}: {error}"));
        list(&found["items"]).to_vec()
    }

    /// The RelayCluster.
    pub fn object(&self) -> Result<Value, String> {
        self.try_get(&["relaycluster", &self.name])
    }

    /// The URL of a region from this machine.
    pub fn url(&self, spec: &FleetSpec, region: &str) -> String {
        let region = spec
            .regions
            .iter()
            .find(|known| known.name == region)
            .expect("a region of the fleet");
        format!(
            "ws://{}:{}",
            self.cluster.address(&region.name),
            region.port
        )
    }

    /// The URLs of all regions.
    pub fn urls(&self, spec: &FleetSpec) -> Vec<String> {
        spec.regions
            .iter()
            .map(|region| self.url(spec, &region.name))
            .collect()
    }

    /// Its pods, by name.
    pub fn pods(&self) -> Vec<Pod> {
        let mut pods: Vec<Pod> = self.owned("pods").iter().map(Pod::read).collect();
        pods.sort_by(|one, other| one.name.cmp(&other.name));
        pods
    }

    /// Waits until everything is as asked: seen, ready, nothing waited for, no rollout under way.
    pub async fn wait_calm(&self, limit: std::time::Duration) {
        until(
            &format!("{} has nothing left to do", self.namespace),
            limit,
            async || is_calm(&self.object()?),
        )
        .await;
    }

    /// Waits until a condition has a status and a reason; returns its message.
    pub async fn wait_condition(&self, of: &str, status: &str, reason: &str) -> String {
        until(
            &format!("condition {of} is {status} ({reason})"),
            limits::TOLD,
            async || {
                let found = condition(&self.object()?, of);
                if found.status == status && found.reason == reason {
                    Ok(found.message)
                } else {
                    Err(format!("it is {found:?}"))
                }
            },
        )
        .await
    }

    /// Waits until `waitingFor` names `what`; returns where and what unblocks it.
    pub async fn wait_waiting(&self, what: &str) -> (String, String) {
        until(
            &format!("status.waitingFor names {what}"),
            limits::TOLD,
            async || {
                let object = self.object()?;
                let waits = list(&object["status"]["waitingFor"]);
                let found = waits.iter().find(|wait| wait["what"] == what);
                found
                    .map(|wait| (text(&wait["where"]), text(&wait["unblockedBy"])))
                    .ok_or_else(|| format!("it has {waits:?}"))
            },
        )
        .await
    }

    /// Notes of the Events of this fleet with a reason.
    pub fn events(&self, reason: &str) -> Vec<String> {
        let events = self.try_get(&["events.events.k8s.io"]).unwrap_or_default();
        list(&events["items"])
            .iter()
            .filter(|event| event["reason"] == reason)
            .map(|event| text(&event["note"]))
            .collect()
    }

    /// Waits for an Event with a reason whose note contains `about`.
    pub async fn wait_event(&self, reason: &str, about: &str) {
        until(
            &format!("an Event {reason} about {about}"),
            limits::TOLD,
            async || {
                let notes = self.events(reason);
                if notes.iter().any(|note| note.contains(about)) {
                    Ok(())
                } else {
                    Err(format!("there are {notes:?}"))
                }
            },
        )
        .await;
    }

    /// Deletes the RelayCluster and waits until it is gone.
    pub fn delete(&self) {
        self.kubectl(&["delete", "relaycluster", &self.name, "--timeout=120s"]);
    }

    fn describe(&self) -> String {
        let mut said = String::new();
        for args in [
            &[
                "get",
                "relaycluster",
                "-o",
                "jsonpath={range .items[*]}{.status}{\"\\n\"}{end}",
            ] as &[&str],
            &["get", "pods", "-o", "wide"],
            &[
                "get",
                "events.events.k8s.io",
                "-o",
                "custom-columns=AT:.metadata.creationTimestamp,REASON:.reason,ABOUT:.regarding.name,NOTE:.note",
                "--sort-by=.metadata.creationTimestamp",
            ],
        ] {
            let output = self.try_kubectl(args).unwrap_or_else(|error| error);
            let lines: Vec<&str> = output.lines().collect();
            let last = lines.len().saturating_sub(40);
            writeln!(said, "{}", lines[last..].join("\n")).ok();
        }
        let log = self.cluster.try_kubectl(&[
            "logs",
            "-n",
            operator::NAMESPACE,
            "--selector",
            "app.kubernetes.io/component=operator",
            "--tail=15",
            "--prefix",
        ]);
        writeln!(said, "{}", log.unwrap_or_else(|error| error)).ok();
        said
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                eprintln!("--- {}\n{}", self.namespace, self.describe());
            }));
        }
        let all = ["delete", "relaycluster", "--all", "--timeout=60s"];
        let gone = self.try_kubectl(&all).and_then(|_| {
            // Their work is done; a relay would let its clients go first.
            self.try_kubectl(&["delete", "pods", "--all", "--force", "--wait=false"])
        });
        // Kubernetes removes the rest by itself, while the next test begins.
        let gone = gone.and_then(|_| {
            self.cluster
                .try_kubectl(&["delete", "namespace", &self.namespace, "--wait=false"])
        });
        if let Err(error) = gone {
            eprintln!("{} is left over: {error}", self.namespace);
        }
    }
}

/// A condition of a RelayCluster; empty when it has none of that type.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// True, False or Unknown.
    pub status: String,
    /// A stable word.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// The condition of a type.
pub fn condition(object: &Value, of: &str) -> Condition {
    let found = list(&object["status"]["conditions"])
        .iter()
        .find(|condition| condition["type"] == of);
    found.map_or_else(Condition::default, |condition| Condition {
        status: text(&condition["status"]),
        reason: text(&condition["reason"]),
        message: text(&condition["message"]),
    })
}

/// Whether everything is as asked; the error says what is not.
pub fn is_calm(object: &Value) -> Result<(), String> {
    let status = &object["status"];
    if status["observedGeneration"] != object["metadata"]["generation"] {
        return Err("the operator has not seen the last change".to_owned());
    }
    for (of, wanted) in [
        ("Ready", "True"),
        ("Progressing", "False"),
        ("Degraded", "False"),
    ] {
        let found = condition(object, of);
        if found.status != wanted {
            return Err(format!(
                "{of} is {} ({}): {}",
                found.status, found.reason, found.message
            ));
        }
    }
    let durable = condition(object, "Durable");
    if durable.status != "True" && durable.reason != "Development" {
        return Err(format!("Durable: {}", durable.message));
    }
    match list(&status["waitingFor"]) {
        [] => Ok(()),
        waits => Err(format!("it waits for {waits:?}")),
    }
}
