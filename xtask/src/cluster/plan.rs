//! Which nodes a topology has and which address, name and folder each thing gets. Pure: touches no network and no file.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Everything a running cluster writes lies here; `down` removes the folder.
pub(super) const RUN: &str = "/var/lib/nightjar-cluster";
/// Held by whoever starts or ends the cluster.
pub(super) const LOCK: &str = "/run/nightjar-cluster.lock";
/// The bridge on this machine that joins the nodes; its address is the API server's.
pub(super) const BRIDGE: &str = "nj-br0";
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// All pods of all nodes.
pub(super) const PODS: &str = "198.18.64.0/18";
pub(super) const SERVICES: &str = "198.19.0.0/20";
/// The API server as pods see it: the first address of `SERVICES`.
pub(super) const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
pub(super) const DNS: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 10);
pub(super) const API_PORT: u16 = 6443;
/// etcd asks nobody who they are, so it listens on loopback alone, where no pod reaches it.
pub(super) const ETCD_PORT: u16 = 23790;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topology {
    /// Three nodes, one in each region.
    Small,
    /// Five nodes, three of them in zones of region a.
    Zones,
}

impl Topology {
    pub(super) fn parse(name: &str) -> Result<Self> {
        match name {
            "small" => Ok(Self::Small),
            "zones" => Ok(Self::Zones),
            other => bail!(
                "unknown topology `{other}`: small (three nodes, one a region) or zones (five, three of them in region a)"
            ),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Zones => "zones",
        }
    }

    pub(super) fn nodes(self) -> Vec<Node> {
        ALL_NODES
            .into_iter()
            .filter(|node| self == Self::Zones || node.zone.ends_with('1'))
            .collect()
    }
}

/// Every node of every topology: a zone has the same name and addresses in all of them.
pub(super) const ALL_NODES: [Node; 5] = [
    Node::new("nj-a1", "a", "a1", 1),
    Node::new("nj-a2", "a", "a2", 2),
    Node::new("nj-a3", "a", "a3", 3),
    Node::new("nj-b1", "b", "b1", 4),
    Node::new("nj-c1", "c", "c1", 5),
];

/// One node. Its name is also that of its network namespace, of its link on the bridge and of its cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) region: &'static str,
    pub(super) zone: &'static str,
    number: u8,
}

impl Node {
    const fn new(name: &'static str, region: &'static str, zone: &'static str, number: u8) -> Self {
        Self {
            name,
            region,
            zone,
            number,
        }
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 0, 10 + self.number)
    }

    /// The range of this node's pods.
    pub(super) fn pods(&self) -> String {
        format!("198.18.{}.0/24", 64 + self.number)
    }

    pub(super) fn dir(&self) -> PathBuf {
        run_dir().join(self.name)
    }

    pub(super) fn containerd_socket(&self) -> PathBuf {
        self.dir().join("containerd.sock")
    }

    /// The file to hand to `nsenter --net=`.
    pub(super) fn netns(&self) -> PathBuf {
        Path::new("/run/netns").join(self.name)
    }
}

pub(super) fn run_dir() -> PathBuf {
    PathBuf::from(RUN)
}

/// The kubeconfig of the cluster's administrator.
pub(super) fn kubeconfig() -> PathBuf {
    run_dir().join("kubeconfig")
}

/// kubectl, helm and helm3, for a PATH.
pub(super) fn bin_dir() -> PathBuf {
    run_dir().join("bin")
}

/// What to drop in the nodes of `region` to cut it off from all other regions: addresses of nodes and ranges of pods.
pub(super) fn beyond(region: &str, nodes: &[Node]) -> Vec<String> {
    nodes
        .iter()
        .filter(|node| node.region != region)
        .flat_map(|node| [node.address().to_string(), node.pods()])
        .collect()
}

/// The rules that cut a region off, for `nft -f` in each of its nodes. The API server is in no set, so it stays reachable.
pub(super) fn cut_rules(beyond: &[String]) -> String {
    let beyond = beyond.join(", ");
    format!(
        "add table inet {CUT_TABLE}
delete table inet {CUT_TABLE}
table inet {CUT_TABLE} {{
  chain incoming {{ type filter hook prerouting priority -300; ip saddr {{ {beyond} }} drop; }}
  chain outgoing {{ type filter hook postrouting priority 0; ip daddr {{ {beyond} }} drop; }}
}}
"
    )
}

/// The nftables table, in the namespaces of nodes, that holds `cut_rules`.
pub(super) const CUT_TABLE: &str = "nightjar-cut";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn small_has_one_node_a_region_and_zones_has_three_in_region_a() {
        let regions = |topology: Topology| -> Vec<_> {
            topology.nodes().iter().map(|node| node.region).collect()
        };
        assert_eq!(regions(Topology::Small), ["a", "b", "c"]);
        assert_eq!(regions(Topology::Zones), ["a", "a", "a", "b", "c"]);
        assert!(Topology::parse("large").is_err());
        for topology in [Topology::Small, Topology::Zones] {
            assert_eq!(Topology::parse(topology.name()).ok(), Some(topology));
        }
    }

    #[test]
    fn no_two_nodes_share_a_name_an_address_or_a_range() {
        let unique = |of: fn(&Node) -> String| {
            ALL_NODES.iter().map(of).collect::<BTreeSet<_>>().len() == ALL_NODES.len()
        };
        assert!(unique(|node| node.name.to_owned()));
        assert!(unique(|node| node.address().to_string()));
        assert!(unique(Node::pods));
        assert!(ALL_NODES.iter().all(|node| node.address() != HOST));
        // The name is that of a network link too, which has at most 15 bytes.
        assert!(ALL_NODES.iter().all(|node| node.name.len() <= 15));
    }

    #[test]
    fn a_cut_names_other_regions_alone() {
        let beyond = beyond("a", &Topology::Zones.nodes());
        assert_eq!(
            beyond,
            [
                "198.18.0.14",
                "198.18.68.0/24",
                "198.18.0.15",
                "198.18.69.0/24"
            ]
        );
        let rules = cut_rules(&beyond);
        assert!(rules.contains("ip saddr { 198.18.0.14, 198.18.68.0/24,"));
        assert!(!beyond.contains(&HOST.to_string()));
    }
}
