//! One node: a containerd, a kubelet and a kube-proxy of its own, in a network namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::config::{fill, template};
use super::control_plane::{kube_proxy_flags, kubeconfig_of};
use super::daemon;
use super::parts::{PAUSE_IMAGE, Parts};
use super::plan::{self, DNS, Node};
use crate::run::{on_path, run};

/// Folders in which this node's cgroup lies: one a controller with cgroup v1, one with v2.
pub(super) fn cgroups(node: &Node) -> Vec<PathBuf> {
    cgroup_roots()
        .into_iter()
        .map(|root| root.join(node.name))
        .collect()
}

fn cgroup_roots() -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    if base.join("cgroup.controllers").exists() {
        return vec![base.to_path_buf()];
    }
    let mut roots: Vec<PathBuf> = fs::read_dir(base)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && !path.is_symlink())
        .collect();
    roots.sort();
    roots
}

/// Makes the cgroup under which the kubelet puts all pods.
fn make_cgroups(node: &Node) -> Result<()> {
    for root in cgroup_roots() {
        let dir = root.join(node.name);
        fs::create_dir_all(&dir)
            .with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
        // v1: an empty set of CPUs admits no process.
        for set in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(all) = fs::read(root.join(set)) {
                fs::write(dir.join(set), all)?;
            }
        }
        // v2: children have the controllers that their parent hands down.
        if let Ok(controllers) = fs::read_to_string(root.join("cgroup.controllers")) {
            for controller in controllers.split_whitespace() {
                for parent in [&root, &dir] {
                    fs::write(
                        parent.join("cgroup.subtree_control"),
                        format!("+{controller}"),
                    )
                    .ok();
                }
            }
        }
    }
    Ok(())
}

/// Starts containerd and gives it the images of pods that every node has. Needs the network, not the API.
pub(super) fn start_runtime(node: &Node, parts: &Parts) -> Result<()> {
    let dir = node.dir();
    let shown = dir.display().to_string();
    for folder in ["cni", "pod-logs", "volume-plugins", "kubelet"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    make_cgroups(node)?;
    fs::write(
        dir.join("cni/10-pods.conflist"),
        fill(template::CNI, &[("dir", &shown), ("pods", &node.pods())])?,
    )?;
    let config = dir.join("containerd.toml");
    fs::write(
        &config,
        fill(
            template::CONTAINERD,
            &[
                ("dir", &shown),
                ("pause_image", PAUSE_IMAGE),
                ("cni_bin", &parts.cni.display().to_string()),
            ],
        )?,
    )?;
    let containerd = on_path("containerd").context("containerd is not on PATH")?;
    daemon::start(
        &format!("{}-containerd", node.name),
        Some(node),
        &containerd,
        &[format!("--config={}", config.display())],
    )?;
    daemon::wait_for(
        &format!("containerd of {}", node.name),
        Duration::from_secs(30),
        || {
            let version = Command::new("ctr")
                .arg("--address")
                .arg(node.containerd_socket())
                .args(["--timeout", "2s", "version"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            Ok(node.containerd_socket().exists() && version.success())
        },
    )?;
    parts
        .images
        .iter()
        .try_for_each(|archive| import(node, archive))
}

/// Hands the images of a docker archive to the node.
pub(super) fn import(node: &Node, archive: &Path) -> Result<()> {
    run(daemon::mark(&mut Command::new("ctr"))
        .arg("--address")
        .arg(node.containerd_socket())
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(Stdio::null()))
    .with_context(|| format!("cannot import {} on {}", archive.display(), node.name))
}

/// Writes an image of a node into an archive of the Open Container Initiative's layout.
pub(super) fn export(node: &Node, image: &str, archive: &Path) -> Result<()> {
    run(daemon::mark(&mut Command::new("ctr"))
        .arg("--address")
        .arg(node.containerd_socket())
        .args(["--namespace", "k8s.io", "images", "export"])
        .arg(archive)
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::null()))
    .with_context(|| format!("cannot export {image} from {}", node.name))
}

/// Gives an image of a node another name too.
pub(super) fn alias(node: &Node, image: &str, other: &str) -> Result<()> {
    run(daemon::mark(&mut Command::new("ctr"))
        .arg("--address")
        .arg(node.containerd_socket())
        .args(["--namespace", "k8s.io", "images", "tag", "--force"])
        .args([image, other])
        .stdin(Stdio::null())
        .stdout(Stdio::null()))
    .with_context(|| format!("cannot name {image} {other} on {}", node.name))
}

/// Starts the kubelet and the kube-proxy. Needs the API.
pub(super) fn start_kubelet(node: &Node, parts: &Parts) -> Result<()> {
    let dir = node.dir();
    let config = dir.join("kubelet.yaml");
    fs::write(
        &config,
        fill(
            template::KUBELET,
            &[
                ("address", &node.address().to_string()),
                ("dir", &dir.display().to_string()),
                ("dns", &DNS.to_string()),
                ("node", node.name),
                ("pki", &plan::run_dir().join("pki").display().to_string()),
                ("run", plan::RUN),
            ],
        )?,
    )?;
    daemon::start(
        &format!("{}-kubelet", node.name),
        Some(node),
        &parts.program("kubelet"),
        &[
            format!("--kubeconfig={}", kubeconfig_of(node.name).display()),
            format!("--config={}", config.display()),
            format!("--root-dir={}", dir.join("kubelet").display()),
            format!("--cert-dir={}", dir.join("kubelet/pki").display()),
            format!("--hostname-override={}", node.name),
            format!("--node-ip={}", node.address()),
            format!(
                "--node-labels=topology.kubernetes.io/region={},topology.kubernetes.io/zone={}",
                node.region, node.zone
            ),
        ],
    )?;
    daemon::start(
        &format!("{}-kube-proxy", node.name),
        Some(node),
        &parts.program("kube-proxy"),
        &kube_proxy_flags(node, "127.0.0.1"),
    )
}
