//! Ends a cluster and removes all it made, whether it ran, started halfway or was killed. Touches nothing that others made.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::daemon;
use super::node::cgroups;
use super::plan::{self, ALL_NODES, BRIDGE};
use crate::run::{output, run};

/// Settings of the whole machine that kubelets change, or that many kubelets need changed.
const SETTINGS: [&str; 7] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "fs/inotify/max_user_instances",
];

/// Folders of fixed name that the programs make and share with any other of their kind.
const SHARED: [&str; 6] = [
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/lib/cni",
    "/run/containerd",
    "/run/netns",
    // Of `umount`.
    "/run/mount",
];

/// Notes how the machine was, so that `clean` can put it back.
pub(super) fn remember() -> Result<()> {
    let mut settings = String::new();
    for name in SETTINGS {
        if let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(name)) {
            settings.push_str(&format!("{name} {}\n", value.trim()));
        }
    }
    fs::write(plan::run_dir().join("settings"), settings)?;
    let absent: Vec<&str> = SHARED
        .into_iter()
        .filter(|dir| !Path::new(dir).exists())
        .collect();
    fs::write(plan::run_dir().join("absent"), absent.join("\n"))?;
    // One containerd, kubelet and kube-proxy a node: the usual 128 watchers of a user are soon used up.
    fs::write("/proc/sys/fs/inotify/max_user_instances", "8192")
        .context("cannot raise fs.inotify.max_user_instances")
}

/// Removes everything a cluster left; nothing to remove is fine.
pub(super) fn clean() -> Result<()> {
    daemon::kill_all()?;
    let run_dir = plan::run_dir();
    if !run_dir.exists() {
        return Ok(());
    }
    let sockets = shim_sockets();
    let sandboxes = sandboxes();
    unmount_all()?;
    for node in ALL_NODES {
        // The link first: with its namespace it would go too, but at a time of the kernel's choosing.
        delete_link(node.name)?;
        if node.netns().exists() {
            run(Command::new("ip").args(["netns", "delete", node.name]))?;
        }
    }
    delete_link(BRIDGE)?;
    delete_kube_proxy_tables()?;
    for dir in ALL_NODES.iter().flat_map(cgroups) {
        remove_cgroup(&dir)?;
    }
    restore_settings();
    remove_shared(&sockets, &sandboxes);
    if let Some(mount) = mounts()?.first() {
        bail!(
            "{} is still mounted, so {} stays",
            mount.display(),
            plan::RUN
        );
    }
    fs::remove_dir_all(&run_dir).with_context(|| format!("cannot remove {}", plan::RUN))
}

/// Whether this machine has nftables tables of a kube-proxy; ours would overwrite them.
pub(super) fn has_kube_proxy() -> Result<bool> {
    Ok(!kube_proxy_tables()?.is_empty())
}

fn kube_proxy_tables() -> Result<Vec<String>> {
    let tables = output(Command::new("nft").args(["list", "tables"]))?;
    Ok(String::from_utf8_lossy(&tables)
        .lines()
        .filter_map(|line| line.strip_prefix("table "))
        .filter(|table| table.ends_with(" kube-proxy"))
        .map(str::to_owned)
        .collect())
}

/// `up` refuses to start where such tables are, so those that are here are ours.
fn delete_kube_proxy_tables() -> Result<()> {
    for table in kube_proxy_tables()? {
        run(Command::new("nft")
            .args(["delete", "table"])
            .args(table.split(' ')))?;
    }
    Ok(())
}

fn delete_link(name: &str) -> Result<()> {
    if Path::new("/sys/class/net").join(name).exists() {
        run(Command::new("ip").args(["link", "delete", name]))?;
    }
    Ok(())
}

/// Mounts under the run folder, the innermost first.
fn mounts() -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts_under(&text, plan::RUN))
}

fn mounts_under(mountinfo: &str, dir: &str) -> Vec<PathBuf> {
    let inside = format!("{dir}/");
    let mut found: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescaped)
        .filter(|path| path.starts_with(&inside))
        .map(PathBuf::from)
        .collect();
    found.reverse();
    found
}

/// The kernel writes space, tab, newline and backslash as octal numbers.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

fn unmount_all() -> Result<()> {
    // Unmounting one may uncover another below it.
    for _ in 0..5 {
        let mounts = mounts()?;
        if mounts.is_empty() {
            return Ok(());
        }
        for some in mounts.chunks(100) {
            // A mount that is gone already, as part of another, is no failure: what is left is checked above.
            Command::new("umount")
                .args(["--lazy", "--quiet"])
                .args(some)
                .stderr(std::process::Stdio::null())
                .status()
                .context("cannot run `umount`")?;
        }
    }
    Ok(())
}

/// Removes a cgroup with those below it; its last processes may take a moment to leave.
fn remove_cgroup(dir: &Path) -> Result<()> {
    let start = Instant::now();
    while dir.exists() {
        match remove_cgroup_once(dir) {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > Duration::from_secs(10) => {
                return Err(error)
                    .with_context(|| format!("cannot remove the cgroup {}", dir.display()));
            }
            Err(_) => sleep(Duration::from_millis(50)),
        }
    }
    Ok(())
}

fn remove_cgroup_once(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup_once(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

fn restore_settings() {
    let settings = fs::read_to_string(plan::run_dir().join("settings")).unwrap_or_default();
    for (name, value) in settings.lines().filter_map(|line| line.split_once(' ')) {
        // A setting that cannot be written back could not be changed either.
        fs::write(Path::new("/proc/sys").join(name), value).ok();
    }
}

/// Sockets of containerd's shims: they lie in a folder that all containerds share.
fn shim_sockets() -> BTreeSet<PathBuf> {
    let mut sockets = BTreeSet::new();
    for node in ALL_NODES {
        let tasks = node
            .dir()
            .join("containerd-state/io.containerd.runtime.v2.task/k8s.io");
        for task in entries(tasks) {
            if let Ok(address) = fs::read_to_string(task.path().join("address"))
                && let Some(path) = address.trim().strip_prefix("unix://")
            {
                sockets.insert(PathBuf::from(path));
            }
        }
    }
    sockets
}

/// Ids of the pods' sandboxes.
fn sandboxes() -> BTreeSet<String> {
    ALL_NODES
        .iter()
        .flat_map(|node| ["containerd", "containerd-state"].map(|dir| node.dir().join(dir)))
        .flat_map(|dir| entries(dir.join("io.containerd.grpc.v1.cri/sandboxes")))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Removes our files from shared folders, and those folders that were not there before us.
fn remove_shared(sockets: &BTreeSet<PathBuf>, sandboxes: &BTreeSet<String>) {
    let absent = fs::read_to_string(plan::run_dir().join("absent")).unwrap_or_default();
    let made_by_us = |dir: &str| absent.lines().any(|line| line == dir);
    for socket in sockets {
        fs::remove_file(socket).ok();
    }
    for entry in entries("/var/lib/cni/results") {
        // `<network>-<sandbox>-<interface>`
        let name = entry.file_name();
        let mut parts = name.to_str().unwrap_or_default().rsplit('-').skip(1);
        if parts.next().is_some_and(|id| sandboxes.contains(id)) {
            fs::remove_file(entry.path()).ok();
        }
    }
    for entry in entries("/var/log/containers") {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(plan::RUN)) {
            fs::remove_file(entry.path()).ok();
        }
    }
    if made_by_us("/var/lib/kubelet") {
        fs::remove_dir_all("/var/lib/kubelet").ok();
    }
    if made_by_us("/run/netns") && entries("/run/netns").next().is_none() {
        // iproute2 mounts the folder on itself.
        Command::new("umount")
            .args(["--quiet", "/run/netns"])
            .stderr(std::process::Stdio::null())
            .status()
            .ok();
        fs::remove_dir("/run/netns").ok();
    }
    // Only empty folders go: what somebody else has put there since stays.
    for (parent, inner) in [
        ("/run/containerd", "/run/containerd/s"),
        ("/run/containerd", "/run/containerd"),
        ("/var/lib/cni", "/var/lib/cni/results"),
        ("/var/lib/cni", "/var/lib/cni"),
        ("/var/log/containers", "/var/log/containers"),
        ("/run/mount", "/run/mount"),
    ] {
        if made_by_us(parent) {
            fs::remove_dir(inner).ok();
        }
    }
}

fn entries(dir: impl AsRef<Path>) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(dir).into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_inside_the_folder_are_found_innermost_first() {
        let mountinfo = "\
22 1 0:20 / / rw - ext4 /dev/vda rw
30 22 0:31 / /var/lib/nightjar-cluster-other/x rw - tmpfs tmpfs rw
31 22 0:31 / /var/lib/nightjar-cluster/a rw - tmpfs tmpfs rw
32 31 0:32 / /var/lib/nightjar-cluster/a/b\\040c rw - tmpfs tmpfs rw
";
        assert_eq!(
            mounts_under(mountinfo, "/var/lib/nightjar-cluster"),
            [
                PathBuf::from("/var/lib/nightjar-cluster/a/b c"),
                PathBuf::from("/var/lib/nightjar-cluster/a")
            ]
        );
    }
}
