//! The cluster's network on this machine: a bridge, one namespace a node, routes; and its faults. All addresses are of
//! 198.18.0.0/15, which is reserved for tests, and nothing is forwarded to any other network.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::plan::{self, BRIDGE, CUT_TABLE, HOST, Node, SERVICES};
use crate::run::{output, run};

/// Makes the bridge, and for each node a namespace whose `eth0` is plugged into it.
pub(super) fn build(nodes: &[Node]) -> Result<()> {
    let mut here = format!(
        "link add {BRIDGE} type bridge\naddress add {HOST}/24 dev {BRIDGE}\nlink set {BRIDGE} up\n"
    );
    for node in nodes {
        let Node { name, .. } = node;
        here.push_str(&format!(
            "netns add {name}\nlink add {name} type veth peer name eth0 netns {name}\nlink set {name} master {BRIDGE} up\n"
        ));
    }
    for node in nodes {
        here.push_str(&format!(
            "route add {} via {} dev {BRIDGE}\n",
            node.pods(),
            node.address()
        ));
    }
    // For addresses of Services; the kube-proxy of this machine replaces them before a packet leaves.
    here.push_str(&format!("route add {SERVICES} dev {BRIDGE} src {HOST}\n"));
    ip_batch(&[], &here).context("cannot build the network")?;
    for node in nodes {
        let mut there = format!(
            "link set lo up\naddress add {}/24 dev eth0\nlink set eth0 up\nroute add {SERVICES} dev eth0\n",
            node.address()
        );
        for other in nodes.iter().filter(|other| *other != node) {
            there.push_str(&format!(
                "route add {} via {}\n",
                other.pods(),
                other.address()
            ));
        }
        ip_batch(&["-n", node.name], &there)
            .with_context(|| format!("cannot build the network of {}", node.name))?;
        run(in_node(node, Path::new("sysctl")).args(["-q", "-w", "net.ipv4.ip_forward=1"]))?;
    }
    Ok(())
}

/// `program` in the network of `node`, with the caller's file systems and cgroups.
pub(super) fn in_node(node: &Node, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", node.netns().display()))
        .arg(program);
    command
}

fn ip_batch(options: &[&str], lines: &str) -> Result<()> {
    feed(
        Command::new("ip").args(options).args(["-batch", "-"]),
        lines,
    )
}

fn feed(command: &mut Command, text: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{name}`"))?;
    child
        .stdin
        .take()
        .context("no stdin")?
        .write_all(text.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("`{name}` refused ({status}):\n{text}");
    }
    Ok(())
}

/// Drops all packets between `region` and the other regions, nodes and pods alike. The API server stays reachable.
pub(super) fn cut(region: &str, nodes: &[Node]) -> Result<()> {
    let rules = plan::cut_rules(&plan::beyond(region, nodes));
    for node in nodes_of(region, nodes)? {
        feed(in_node(node, Path::new("nft")).args(["-f", "-"]), &rules)?;
    }
    Ok(())
}

/// Undoes `cut`; nothing to undo is fine.
pub(super) fn heal(region: &str, nodes: &[Node]) -> Result<()> {
    let rules = format!("add table inet {CUT_TABLE}\ndelete table inet {CUT_TABLE}\n");
    for node in nodes_of(region, nodes)? {
        feed(in_node(node, Path::new("nft")).args(["-f", "-"]), &rules)?;
    }
    Ok(())
}

fn nodes_of<'a>(region: &str, nodes: &'a [Node]) -> Result<Vec<&'a Node>> {
    let of_region: Vec<&Node> = nodes.iter().filter(|node| node.region == region).collect();
    if of_region.is_empty() {
        bail!("no region `{region}` here: the regions are a, b and c");
    }
    Ok(of_region)
}

/// Unplugs a node from everything, or plugs it in again.
pub(super) fn plug(name: &str, nodes: &[Node], into: bool) -> Result<()> {
    let Some(node) = nodes.iter().find(|node| node.name == name) else {
        let names: Vec<&str> = nodes.iter().map(|node| node.name).collect();
        bail!("no node `{name}` here: the nodes are {}", names.join(", "));
    };
    let state = if into { "up" } else { "down" };
    run(Command::new("ip").args(["link", "set", node.name, state]))
}

/// Faults that are in force, in words.
pub(super) fn faults(nodes: &[Node]) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for node in nodes {
        let tables = output(in_node(node, Path::new("nft")).args(["list", "tables"]))?;
        if String::from_utf8_lossy(&tables).contains(CUT_TABLE) {
            faults.push(format!(
                "{}: cut from the other regions (heal {})",
                node.name, node.region
            ));
        }
        let link = output(Command::new("ip").args(["-o", "link", "show", "dev", node.name]))?;
        if !String::from_utf8_lossy(&link).contains(",UP") {
            faults.push(format!("{}: isolated (rejoin {})", node.name, node.name));
        }
    }
    Ok(faults)
}
