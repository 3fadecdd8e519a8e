//! What is measured: a fleet that this program starts, or a peer relay.

use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::options::Common;
use super::process::Watched;
use crate::fleet::Fleet;
use crate::programs::{dies_with_this_thread, fresh_dir};

/// A peer that does not listen by then does not start.
const PEER_START_LIMIT: Duration = Duration::from_secs(30);

/// The shape of a fleet.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Name in the output.
    pub name: &'static str,
    /// Regions a, b, c ...
    pub regions: usize,
    /// NATS servers in each region.
    pub nats: usize,
    /// Relays in region a; other regions have one.
    pub relays: usize,
}

/// One region, one NATS server: not durable against loss of power.
pub const ONE_REGION_R1: Shape = Shape {
    name: "one-region-r1",
    regions: 1,
    nats: 1,
    relays: 1,
};
/// One region, three NATS servers.
pub const ONE_REGION_R3: Shape = Shape {
    name: "one-region-r3",
    regions: 1,
    nats: 3,
    relays: 1,
};
/// One region with six relays, for more connections than one process may have.
pub const SIX_RELAYS: Shape = Shape {
    name: "six-relays",
    regions: 1,
    nats: 1,
    relays: 6,
};
/// Three regions with three NATS servers each.
pub const THREE_REGIONS: Shape = Shape {
    name: "three-regions-r3",
    regions: 3,
    nats: 3,
    relays: 1,
};
/// The same with a second relay in region a.
pub const THREE_REGIONS_TWO_RELAYS: Shape = Shape {
    name: "three-regions-r3",
    regions: 3,
    nats: 3,
    relays: 2,
};

/// Something that runs and can be measured. Dropping it ends what it started.
pub struct Target {
    /// Name in the output.
    pub name: String,
    /// What its OK means.
    pub durability: &'static str,
    /// Relays: region (empty for a peer) and URL.
    pub relays: Vec<(String, String)>,
    /// Its processes.
    pub processes: Vec<Watched>,
    /// Whether it is a peer.
    pub is_peer: bool,
    _guard: Guard,
}

#[expect(dead_code, reason = "held for their Drop")]
enum Guard {
    Fleet(Fleet),
    Peer(Peer),
    Nothing,
}

impl Target {
    /// URLs of all relays.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.relays.iter().map(|(_, url)| url.clone()).collect()
    }

    /// Starts a fleet and waits until it is ready.
    pub async fn fleet(shape: Shape) -> Self {
        let fleet = Fleet::start(&format!("bench-{}", shape.name), &yaml(shape)).await;
        let relays = fleet
            .regions()
            .into_iter()
            .flat_map(|region| {
                fleet
                    .relays(&region)
                    .into_iter()
                    .map(move |url| (region.clone(), url))
            })
            .collect();
        let operator = Watched {
            name: "operator".to_owned(),
            pid: fleet.operator(),
        };
        let processes = fleet
            .processes()
            .into_iter()
            .filter_map(|(name, process)| {
                Some(Watched {
                    name,
                    pid: process.pid?,
                })
            })
            .chain(std::iter::once(operator))
            .collect();
        Self {
            name: shape.name.to_owned(),
            durability: if shape.nats == 1 {
                "1 copy, not flushed"
            } else {
                "3 copies, flushed on 2"
            },
            relays,
            processes,
            is_peer: false,
            _guard: Guard::Fleet(fleet),
        }
    }

    /// The peer of the command line, started if there is a command for it.
    pub fn peer(common: &Common) -> Result<Option<Self>> {
        let Some(url) = &common.peer_url else {
            return Ok(None);
        };
        let peer = common
            .peer_command
            .as_deref()
            .map(Peer::start)
            .transpose()?;
        wait_listening(url)?;
        let processes = peer
            .iter()
            .map(|peer| Watched {
                name: common.peer_name.clone(),
                pid: peer.0.id(),
            })
            .collect();
        Ok(Some(Self {
            name: common.peer_name.clone(),
            durability: "as its documentation says",
            relays: vec![(String::new(), url.clone())],
            processes,
            is_peer: true,
            _guard: peer.map_or(Guard::Nothing, Guard::Peer),
        }))
    }
}

/// Whether the command line asks for this fleet.
#[must_use]
pub fn wanted(common: &Common, shape: Shape) -> bool {
    common
        .fleets
        .as_ref()
        .is_none_or(|names| names.iter().any(|name| name == shape.name))
}

/// The `RelayCluster` of a shape. Limits that protect a relay from one address are lifted: all load comes from one.
fn yaml(shape: Shape) -> String {
    let regions: String = ('a'..='z')
        .take(shape.regions)
        .map(|name| {
            let relays = if name == 'a' { shape.relays } else { 1 };
            format!("    - {{name: {name}, relays: {{replicas: {relays}}}, nats: {{replicas: {}, storage: 8Gi}}}}\n", shape.nats)
        })
        .collect();
    format!(
        "apiVersion: nightjar.dev/v1alpha1
kind: RelayCluster
metadata: {{name: bench}}
spec:
  regions:
{regions}  log: {{maxBytesPerRegion: 1Gi, retention: {{messages: 90d}}}}
  relay:
    limits:
      eventsPerSecondPerConnection: 100000
      eventsBurstPerConnection: 1000000
      eventsPerSecondPerAddress: 100000
      eventsBurstPerAddress: 1000000
      reqsPerSecondPerConnection: 100000
      reqsBurstPerConnection: 1000000
      readPercentPerConnection: 100
      connectionsPerAddress: 100000
      maxConnections: 100000
      maxSubscriptions: 1000
      unauthenticatedLogPercent: 100
"
    )
}

/// A peer's process.
struct Peer(Child);

impl Peer {
    fn start(command: &str) -> Result<Self> {
        let dir = fresh_dir("bench-peer");
        let line = command.replace("{dir}", &dir.to_string_lossy());
        let log = std::fs::File::create(dir.join("peer.log")).context("the peer's log")?;
        let mut shell = Command::new("sh");
        // `exec`: the process to measure is the peer, not a shell around it.
        shell
            .args(["-c", &format!("exec {line}")])
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("the peer's log")?)
            .stderr(log)
            .process_group(0);
        dies_with_this_thread(&mut shell);
        Ok(Self(
            shell.spawn().context("the peer's shell does not start")?,
        ))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn wait_listening(url: &str) -> Result<()> {
    let address = url.trim_start_matches("ws://").trim_end_matches('/');
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        if began.elapsed() > PEER_START_LIMIT {
            bail!("the peer does not listen on {address} after {PEER_START_LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
