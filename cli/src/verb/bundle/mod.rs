//! `nightjar bundle`: an archive for whoever helps, without secrets, and with a list of what was taken out. Reads the cluster only.

mod redact;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt};
use nightjar_operator::crd::RelayCluster;
use serde::Serialize;
use serde_json::{Value, json};

use super::check;
use crate::context::Context;
use crate::error::CliError;
use crate::kubernetes::{
    Cluster, Failure, OPERATOR_LEASE, OPERATOR_SELECTOR, Where, events, found_fleet, keys_secret,
    selector,
};
use crate::output::Record;
use redact::{Taken, prune, redact};

#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// Name of the fleet
    fleet: String,
    /// Archive to write (tar), which must not exist yet [default: nightjar-FLEET-TIME.tar]
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Lines of each container's log, from its end
    #[arg(long, value_name = "N", default_value_t = 2000)]
    log_lines: u32,
    #[command(flatten)]
    at: Where,
}

#[derive(Debug, Serialize)]
struct BundleRecord {
    file: String,
    files: usize,
    bytes: usize,
    /// Secrets that were taken out.
    removed: usize,
    /// What could not be read.
    missing: usize,
}
impl Record for BundleRecord {
    const COLUMNS: &'static [&'static str] = &["file", "files", "bytes", "removed", "missing"];
}

/// What goes into the archive.
#[derive(Debug, Default)]
struct Bundle {
    files: BTreeMap<String, String>,
    taken: BTreeMap<String, Taken>,
    /// What could not be read, and why.
    missing: Vec<String>,
}

impl Bundle {
    /// Adds text, without its secrets.
    fn text(&mut self, name: &str, text: &str, is_log: bool) {
        let mut taken = self.taken.remove(name).unwrap_or_default();
        let text = redact(text, is_log, &mut taken);
        if !taken.is_empty() {
            self.taken.insert(name.to_owned(), taken);
        }
        self.files.insert(name.to_owned(), text);
    }

    /// Adds an object, or a list of them, as YAML.
    fn object<T: Serialize>(&mut self, name: &str, object: &T) {
        let mut value = serde_json::to_value(object).unwrap_or_default();
        let mut taken = Taken::new();
        prune(&mut value, &mut taken);
        if !taken.is_empty() {
            self.taken.insert(name.to_owned(), taken);
        }
        match serde_yaml::to_string(&value) {
            Ok(text) => self.text(name, &text, false),
            Err(error) => self.missing.push(format!("{name}: {error}")),
        }
    }

    fn found<T: Serialize>(&mut self, name: &str, found: Result<T, Failure>) {
        match found {
            Ok(object) => self.object(name, &object),
            Err(failure) => self.missing.push(format!("{name}: {}", failure.message)),
        }
    }

    fn removed(&self) -> usize {
        self.taken.values().flat_map(BTreeMap::values).sum()
    }

    /// `REMOVED.txt`.
    fn removals(&self) -> String {
        let mut text = "What this archive does not hold, and why.\n\n\
            Always left out:\n\
            - values of all Secrets: they hold keys. secrets.yaml lists their names, the names of their keys, and sizes in bytes\n\
            - metadata.managedFields and the last applied configuration: they repeat the object\n\n\
            Taken out where they were found:\n"
            .to_owned();
        for (file, taken) in &self.taken {
            for (what, count) in taken {
                text += &format!("- {file}: {count} x {what}\n");
            }
        }
        if self.taken.is_empty() {
            text += "- nothing was found\n";
        }
        text += "\nCould not be read:\n";
        text.extend(self.missing.iter().map(|missing| format!("- {missing}\n")));
        if self.missing.is_empty() {
            text += "- nothing\n";
        }
        text + "\nSecrets are recognised by their form. Look through the archive before you hand it on.\n"
    }
}

pub(crate) async fn run(args: &BundleArgs, context: &Context) -> Result<(), CliError> {
    let cluster = Cluster::find(&args.at).await?;
    let fleet = found_fleet(&cluster, &args.fleet).await?;
    let now = Timestamp::now();
    let time = now.strftime("%Y%m%dT%H%M%SZ");
    let stem = format!("nightjar-{}-{time}", args.fleet);
    let path = args
        .to
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{stem}.tar")));
    // First of all, so that nothing is collected for nothing.
    let file = create(&path)?;
    let bundle = collect(&cluster, &fleet, args.log_lines, now, context).await;
    let (removed, missing) = (bundle.removed(), bundle.missing.len());
    let written = archive(&bundle, &stem, now, file);
    let bytes = written.map_err(|error| CliError::file("write", &path, &error))?;
    context.out.one(&BundleRecord {
        file: path.display().to_string(),
        files: bundle.files.len() + 1,
        bytes,
        removed,
        missing,
    })?;
    context.console.note("REMOVED.txt in it lists what was taken out; look through the archive before you hand it on");
    Ok(())
}

fn create(path: &Path) -> Result<File, CliError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(path)
        .map_err(|error| CliError::file("make", path, &error))
}

async fn collect(
    cluster: &Cluster,
    fleet: &RelayCluster,
    lines: u32,
    now: Timestamp,
    context: &Context,
) -> Bundle {
    let mut bundle = Bundle::default();
    let name = fleet.name_any();
    let labels = selector(&name);
    let version = cluster
        .ask("get", "version", cluster.client.apiserver_version())
        .await;
    bundle.object(
        "about.yaml",
        &json!({
            "nightjar": env!("CARGO_PKG_VERSION"),
            "kubernetes": version.map(|info| info.git_version).unwrap_or_default(),
            "fleet": name,
            "namespace": cluster.namespace,
            "made": now.to_string(),
        }),
    );
    bundle.found("relaycluster.yaml", cluster.raw_fleet(&name).await);
    bundle.object("check.yaml", &check::of_fleet(cluster, fleet).await);
    bundle.found("events.yaml", events(cluster, &name).await);
    bundle.found(
        "statefulsets.yaml",
        cluster.list::<StatefulSet>(&labels).await,
    );
    bundle.found(
        "persistentvolumeclaims.yaml",
        cluster.list::<PersistentVolumeClaim>(&labels).await,
    );
    bundle.found("services.yaml", cluster.list::<Service>(&labels).await);
    bundle.found(
        "endpointslices.yaml",
        cluster.list::<EndpointSlice>(&labels).await,
    );
    bundle.found("configmaps.yaml", cluster.list::<ConfigMap>(&labels).await);
    bundle.found(
        "poddisruptionbudgets.yaml",
        cluster.list::<PodDisruptionBudget>(&labels).await,
    );
    bundle.found(
        "networkpolicies.yaml",
        cluster.list::<NetworkPolicy>(&labels).await,
    );
    bundle.found("ingresses.yaml", cluster.list::<Ingress>(&labels).await);
    bundle.found("secrets.yaml", secrets(cluster, &name, &labels).await);
    let nodes = Api::<Node>::all(cluster.client.clone());
    let nodes = cluster
        .ask("list", "nodes", nodes.list(&ListParams::default()))
        .await;
    bundle.found("nodes.yaml", nodes.map(|nodes| nodes.items));
    let pods = cluster.list::<Pod>(&labels).await;
    for pod in pods.iter().flatten() {
        context
            .console
            .detail(&format!("log of {}", pod.name_any()));
        logs(cluster, pod, "logs", lines, &mut bundle).await;
    }
    bundle.found("pods.yaml", pods);
    operator(cluster, lines, &mut bundle).await;
    bundle
}

/// Names and sizes; a value is looked at for its length alone.
async fn secrets(cluster: &Cluster, fleet: &str, labels: &str) -> Result<Vec<Value>, Failure> {
    let mut found = cluster.list::<Secret>(labels).await?;
    let keys = keys_secret(fleet);
    if !found.iter().any(|secret| secret.name_any() == keys) {
        found.extend(cluster.get::<Secret>(&keys).await?);
    }
    let sizes = |secret: &Secret| -> BTreeMap<String, usize> {
        let data = secret.data.iter().flatten();
        data.map(|(key, value)| (key.clone(), value.0.len()))
            .collect()
    };
    let shown = |secret: &Secret| json!({"name": secret.name_any(), "type": secret.type_, "bytes": sizes(secret)});
    Ok(found.iter().map(shown).collect())
}

/// The logs of all containers of a pod, and of their last run before.
async fn logs(cluster: &Cluster, pod: &Pod, folder: &str, lines: u32, bundle: &mut Bundle) {
    let name = pod.name_any();
    let namespace = pod.namespace().unwrap_or_else(|| cluster.namespace.clone());
    let api = Api::<Pod>::namespaced(cluster.client.clone(), &namespace);
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let restarted: Vec<&str> = statuses
        .filter(|status| status.restart_count > 0)
        .map(|status| status.name.as_str())
        .collect();
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|spec| {
        spec.init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
    });
    for container in containers {
        for previous in [false, true] {
            if previous && !restarted.contains(&container.name.as_str()) {
                continue;
            }
            let params = LogParams {
                container: Some(container.name.clone()),
                tail_lines: Some(lines.into()),
                limit_bytes: Some(4 << 20),
                timestamps: true,
                previous,
                ..LogParams::default()
            };
            let suffix = if previous { ".previous" } else { "" };
            let file = format!("{folder}/{name}.{}{suffix}.log", container.name);
            match cluster
                .ask("get", "pods/log", api.logs(&name, &params))
                .await
            {
                Ok(text) => bundle.text(&file, &text, true),
                Err(failure) => bundle.missing.push(format!(
                    "{file}: {}",
                    failure.causes.first().unwrap_or(&failure.message)
                )),
            }
        }
    }
}

async fn operator(cluster: &Cluster, lines: u32, bundle: &mut Bundle) {
    let params = ListParams::default().labels(OPERATOR_SELECTOR);
    let deployments = Api::<Deployment>::all(cluster.client.clone());
    let deployments = cluster
        .ask("list", "deployments", deployments.list(&params))
        .await;
    let deployments = match deployments {
        Ok(list) => Ok(list.items),
        Err(failure) if failure.is_forbidden() => {
            cluster.list::<Deployment>(OPERATOR_SELECTOR).await
        }
        Err(failure) => Err(failure),
    };
    let mut namespaces: Vec<String> = deployments
        .iter()
        .flatten()
        .filter_map(ResourceExt::namespace)
        .collect();
    namespaces.dedup();
    bundle.found("operator/deployments.yaml", deployments);
    for namespace in namespaces {
        let leases = Api::<Lease>::namespaced(cluster.client.clone(), &namespace);
        let lease = cluster
            .ask("get", "leases", leases.get_opt(OPERATOR_LEASE))
            .await;
        bundle.found(&format!("operator/{namespace}.lease.yaml"), lease);
        let pods = Api::<Pod>::namespaced(cluster.client.clone(), &namespace);
        let pods = cluster
            .ask("list", "pods", pods.list(&params))
            .await
            .map(|list| list.items);
        for pod in pods.iter().flatten() {
            logs(cluster, pod, "operator/logs", lines, bundle).await;
        }
        bundle.found(&format!("operator/{namespace}.pods.yaml"), pods);
    }
}

/// Writes the archive, all files below one folder; bytes written.
fn archive(bundle: &Bundle, stem: &str, now: Timestamp, mut file: File) -> std::io::Result<usize> {
    let mut builder = tar::Builder::new(Vec::new());
    let removals = bundle.removals();
    let all = std::iter::once(("REMOVED.txt", removals.as_str()));
    let all = all.chain(
        bundle
            .files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str())),
    );
    for (name, text) in all {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or(0));
        builder.append_data(&mut header, format!("{stem}/{name}"), text.as_bytes())?;
    }
    let bytes = builder.into_inner()?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    Ok(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;
    use std::io::Read;

    #[test]
    fn table_and_json_have_the_same_fields() {
        assert_same_fields(&BundleRecord {
            file: String::new(),
            files: 0,
            bytes: 0,
            removed: 0,
            missing: 0,
        });
    }

    #[test]
    fn archive_holds_no_seed_and_lists_what_was_taken_out() {
        let seed = format!("SU{}", "A2B3".repeat(14));
        let mut bundle = Bundle::default();
        bundle.text(
            "logs/eu-a-nats-0.nats.log",
            &format!("seed {seed}\nfine\n"),
            true,
        );
        bundle.object(
            "configmaps.yaml",
            &json!([{"data": {"x.conf": format!("LEAF_SEED: \"{seed}\"")}}]),
        );
        bundle
            .missing
            .push("nodes.yaml: you may not `list nodes`".to_owned());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.tar");
        archive(
            &bundle,
            "nightjar-eu",
            Timestamp::UNIX_EPOCH,
            create(&path).unwrap(),
        )
        .unwrap();
        assert!(create(&path).is_err(), "nothing is overwritten");
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(File::open(&path).unwrap())
            .entries()
            .unwrap()
        {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert!(!text.contains(&seed), "{text}");
            found.insert(entry.path().unwrap().display().to_string(), text);
        }
        let removed = &found["nightjar-eu/REMOVED.txt"];
        insta::assert_snapshot!(removed);
        assert!(found["nightjar-eu/logs/eu-a-nats-0.nats.log"].contains("fine"));
    }
}
