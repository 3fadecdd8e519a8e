//! One RelayCluster, planned for this machine and for a cluster: golden texts, and what a change of the file costs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::*;
use crate::validate::from_yaml;

const FILE: &str = "
apiVersion: nightjar.dev/v1alpha1
kind: RelayCluster
metadata: {name: golden}
spec:
  regions:
    - {name: a, relays: {replicas: 2}, nats: {replicas: 3, storage: 4Gi}, publicURL: 'wss://a.example.org'}
    - {name: b, nats: {replicas: 1, storage: 4Gi}}
  log: {maxBytesPerRegion: 512Mi, retention: {messages: 60d}}
  relay: {info: {name: Golden}}
  tracing: {otlpEndpoint: 'http://127.0.0.1:4317', samplePercent: 5}
";

/// Ports and files of one machine.
struct Loopback;

/// Service names and mounted files of a cluster.
fn service_dns() -> crate::cluster::ClusterAddresses {
    crate::cluster::ClusterAddresses::new(
        crate::cluster::Names::new("golden", "chat"),
        BTreeMap::new(),
    )
}

fn file_name(file: &FileRef) -> String {
    let issuer = |issuer: &Issuer| match issuer {
        Issuer::Region(region) => format!("region-{region}"),
        Issuer::Gateways => "gateways".to_owned(),
    };
    match file {
        FileRef::Config => "process.conf".to_owned(),
        FileRef::Store => "store".to_owned(),
        FileRef::Index => "index".to_owned(),
        FileRef::Keyring => "keyring.json".to_owned(),
        FileRef::Seed(credential, _) => format!("{credential:?}.seed").to_lowercase(),
        FileRef::Authority(of) => format!("{}.ca.pem", issuer(of)),
        FileRef::Certificate(of) => format!("{}.pem", issuer(of)),
        FileRef::PrivateKey(of) => format!("{}.key", issuer(of)),
        FileRef::PublicCertificate => "public.crt".to_owned(),
        FileRef::PublicKey => "public.key".to_owned(),
    }
}

impl Addresses for Loopback {
    fn listen(&self, process: &ProcessId, port: Port) -> SocketAddr {
        let region = process
            .region
            .as_str()
            .bytes()
            .map(|byte| u16::from(byte - b'a'))
            .sum::<u16>();
        let ordinal = u16::try_from(process.ordinal).unwrap();
        let number =
            20_000 + region * 1000 + process.role as u16 * 100 + port as u16 * 10 + ordinal;
        SocketAddr::from((Ipv4Addr::LOCALHOST, number))
    }

    fn connect(&self, process: &ProcessId, port: Port) -> HostPort {
        HostPort {
            host: "127.0.0.1".to_owned(),
            port: self.listen(process, port).port(),
        }
    }

    fn relay_url(&self, process: &ProcessId) -> String {
        format!("ws://{}", self.listen(process, Port::Relay))
    }

    fn path(&self, process: &ProcessId, file: &FileRef) -> PathBuf {
        let folder = match file {
            FileRef::Config | FileRef::Store | FileRef::Index => {
                format!("/state/regions/{}/{process}", process.region)
            }
            _ => format!("/state/keys/{}", process.region),
        };
        PathBuf::from(folder).join(file_name(file))
    }
}

fn facts(fleet: &ValidFleet) -> FleetFacts {
    let keys = |region: &str| RegionKeys {
        relay: format!("U-relay-{region}"),
        admin: format!("U-admin-{region}"),
        system: format!("U-system-{region}"),
        leaf: format!("U-leaf-{region}"),
    };
    let region = |name: &RegionName| {
        (
            name.clone(),
            RegionFacts {
                generation: 1,
                nkeys: keys(name.as_str()),
            },
        )
    };
    let regions: BTreeMap<_, _> = fleet
        .regions
        .iter()
        .map(|spec| region(&spec.name))
        .collect();
    FleetFacts {
        fleet_id: FleetId::from_bytes([0xab; 16]),
        regions,
        former: Default::default(),
    }
}

fn planned(file: &str, addresses: &dyn Addresses) -> FleetPlan {
    let fleet = from_yaml(file).unwrap();
    plan(&fleet, &facts(&fleet), addresses).unwrap()
}

/// The whole plan as text; of processes that differ only in their ordinal, the first in full.
fn render(plan: &FleetPlan) -> String {
    let mut text = format!(
        "fleet {} {} {:?}\n",
        plan.name, plan.fleet_id, plan.durability
    );
    for step in &plan.start_order {
        match step {
            StartStep::Processes(ids) => {
                let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
                let _ = writeln!(text, "start {}", names.join(" "));
            }
            other => {
                let _ = writeln!(text, "{other:?}");
            }
        }
    }
    for region in &plan.regions {
        let _ = writeln!(
            text,
            "\nregion {} {:?} {:?}",
            region.name, region.nats_urls, region.relay_urls
        );
        for stream in &region.streams {
            let _ = writeln!(text, "  {stream:?}");
        }
    }
    for process in plan.processes() {
        let _ = writeln!(
            text,
            "\n=== {} {}",
            process.name(),
            process.config.display()
        );
        for listener in &process.listeners {
            let _ = writeln!(
                text,
                "{:?} binds {}, is reached at {}",
                listener.port, listener.listen, listener.connect
            );
        }
        for wanted in &process.certificates {
            let _ = writeln!(
                text,
                "certificate of {:?} for {:?}",
                wanted.issuer, wanted.hosts
            );
        }
        for seed in &process.seeds {
            let _ = writeln!(
                text,
                "seed of {:?} at {}",
                seed.credential,
                seed.path.display()
            );
        }
        for folder in &process.folders {
            let _ = writeln!(text, "folder {}", folder.display());
        }
        if process.id.ordinal == 0 {
            for file in &process.files {
                let _ = writeln!(
                    text,
                    "--- {}
{}",
                    file.path.display(),
                    file.text
                );
            }
        }
    }
    text
}

#[test]
fn golden_plan_for_this_machine() {
    insta::assert_snapshot!("loopback", render(&planned(FILE, &Loopback)));
}

#[test]
fn golden_plan_for_a_cluster() {
    insta::assert_snapshot!("service_dns", render(&planned(FILE, &service_dns())));
}

/// On one machine there is no Secret, and in a cluster the addresses say who serves what.
#[test]
fn relays_serve_tls_only_where_there_is_a_certificate() {
    let secret = "relay: {tls: {secretName: s}, info: {name: Golden}}";
    let file = FILE.replace("relay: {info: {name: Golden}}", secret);
    assert_ne!(file, FILE);
    assert_eq!(planned(&file, &Loopback), planned(FILE, &Loopback));
    let fleet = from_yaml(&file).unwrap();
    let names = crate::cluster::Names::new("golden", "chat");
    let cluster = crate::cluster::ClusterAddresses::of(&names, &fleet);
    let plan = planned(&file, &cluster);
    let relay = &plan.regions[0].relays[0];
    assert!(
        relay.files[0].text.contains("\ntls:\n"),
        "{}",
        relay.files[0].text
    );
    let urls = plan.regions.iter().flat_map(|region| &region.relay_urls);
    assert!(urls.clone().all(|url| url.starts_with("wss://")));
}

#[test]
fn a_plan_is_the_same_every_time() {
    assert_eq!(planned(FILE, &Loopback), planned(FILE, &Loopback));
}

#[test]
fn a_region_without_keys_is_not_planned() {
    let fleet = from_yaml(FILE).unwrap();
    let mut facts = facts(&fleet);
    facts.regions.remove(&"b".parse::<RegionName>().unwrap());
    assert_eq!(
        plan(&fleet, &facts, &Loopback),
        Err(PlanError::UnknownRegion("b".parse().unwrap()))
    );
}

#[test]
fn no_listener_is_planned_without_authentication() {
    let plan = planned(FILE, &Loopback);
    for process in plan
        .processes()
        .filter(|process| process.id.role != Role::Relay)
    {
        let text = &process.files[0].text;
        for block in ["cluster {", "leafnodes {", "gateway {"]
            .into_iter()
            .filter(|block| text.contains(block))
        {
            let body = &text[text.find(block).unwrap()..];
            let tls = body
                .find("tls {")
                .unwrap_or_else(|| panic!("{} {block}", process.name()));
            assert!(
                body[tls..]
                    .find("verify: true")
                    .is_some_and(|at| at < body[tls..].find('}').unwrap()),
                "{} {block}",
                process.name()
            );
        }
        let users = text.matches("nkey: \"U-").count();
        assert_eq!(
            users,
            if process.id.role == Role::Nats { 3 } else { 2 },
            "{}",
            process.name()
        );
        for word in ["no_auth_user", "allow_non_tls", "http", "\"SU"] {
            assert!(!text.contains(word), "{} has {word}", process.name());
        }
    }
}

/// Names of the processes whose hash of one kind differs; processes of one plan only are left out.
fn differing(old: &FleetPlan, new: &FleetPlan, hash: fn(&ProcessPlan) -> &str) -> BTreeSet<String> {
    let old: BTreeMap<String, &ProcessPlan> = old
        .processes()
        .map(|process| (process.name(), process))
        .collect();
    let changed = new.processes().filter(|process| {
        old.get(&process.name())
            .is_some_and(|before| hash(before) != hash(process))
    });
    changed.map(ProcessPlan::name).collect()
}

/// What a change of the file restarts, and what it has reloaded.
fn cost(change: (&str, &str)) -> (Vec<String>, Vec<String>) {
    let changed = FILE.replacen(change.0, change.1, 1);
    assert_ne!(FILE, changed, "nothing was changed");
    let (old, new) = (planned(FILE, &Loopback), planned(&changed, &Loopback));
    let restarted = differing(&old, &new, |process| &process.restart_hash);
    let reloaded = differing(&old, &new, |process| &process.reload_hash);
    let reloaded = reloaded.difference(&restarted).cloned().collect();
    (restarted.into_iter().collect(), reloaded)
}

#[test]
fn only_what_must_restart_restarts() {
    let nothing: [&str; 0] = [];
    let relays = ["a-relay-0", "a-relay-1", "b-relay-0"];
    let hubs = ["a-hub-0", "a-hub-1", "b-hub-0", "b-hub-1"];
    let others = [
        "a-nats-0",
        "a-nats-1",
        "a-nats-2",
        "a-relay-0",
        "a-relay-1",
        "b-nats-0",
        "b-relay-0",
    ];

    let (restarted, reloaded) = cost(("name: Golden", "name: Renamed"));
    assert_eq!(
        (restarted, reloaded),
        (
            nothing.map(String::from).into(),
            relays.map(String::from).into()
        )
    );
    let (restarted, reloaded) = cost(("relays: {replicas: 2}", "relays: {replicas: 3}"));
    assert_eq!((restarted, reloaded), (Vec::new(), Vec::new()));
    let (restarted, reloaded) = cost(("512Mi", "600Mi"));
    assert_eq!(
        (restarted, reloaded),
        (Vec::new(), Vec::new()),
        "only streams change"
    );
    let (restarted, _) = cost(("samplePercent: 5", "samplePercent: 6"));
    assert_eq!(restarted, relays);
    let (restarted, _) = cost((
        "relay: {",
        "relay: {plugins: {write: {command: [/policy]}}, ",
    ));
    assert_eq!(restarted, relays);
    let (restarted, reloaded) = cost(("storage: 4Gi", "storage: 5Gi"));
    assert_eq!(
        (restarted, reloaded),
        (
            ["a-nats-0", "a-nats-1", "a-nats-2"]
                .map(String::from)
                .into(),
            Vec::new()
        )
    );
    // Gateways cannot be reloaded; a hub keeps nothing, and its sister carries on while it restarts.
    let (restarted, reloaded) = cost((
        "  log:",
        "    - {name: c, nats: {replicas: 1, storage: 4Gi}}\n  log:",
    ));
    assert_eq!(
        (restarted, reloaded),
        (
            hubs.map(String::from).into(),
            others.map(String::from).into()
        )
    );
}

#[test]
fn the_streams_of_a_region_fit_its_share_of_the_log() {
    let plan = planned(FILE, &Loopback);
    for region in &plan.regions {
        let bytes: u64 = region
            .streams
            .iter()
            .filter_map(|stream| stream.max_bytes)
            .sum();
        assert!(bytes <= 512 << 20, "{bytes}");
        let mirrors = region
            .streams
            .iter()
            .filter(|stream| matches!(stream.kind, StreamKind::Mirror { .. }))
            .count();
        assert_eq!((region.streams.len(), mirrors), (12, 6));
    }
    let names = |region: usize| {
        plan.regions[region]
            .streams
            .iter()
            .map(|stream| stream.name.clone())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(names(0), names(1), "a mirror has the name of its origin");
}
