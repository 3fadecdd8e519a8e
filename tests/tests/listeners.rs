//! Every listener of every process lets in whom it is for, and nobody without credentials or with another region's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nightjar_tests::fleet::{Fleet, Shared};
use nightjar_tests::nats::{Certificate, Credentials, knock, listeners, listening};
use nightjar_tests::yaml;

static FLEET: Shared = Shared::new();

/// Three servers a region: with fewer, JetStream servers have no routes.
async fn fleet() -> &'static Fleet {
    FLEET.get("listeners", &yaml::fleet(&["a", "b"], 3)).await
}

/// Everything that a region's processes hold to show to others.
struct Wallet {
    /// Name and seed.
    seeds: Vec<(String, String)>,
    /// Name, whether it is of the gateways, and files.
    certificates: Vec<(String, bool, Certificate)>,
}

fn wallet(fleet: &Fleet, region: &str) -> Wallet {
    let dir = fleet.state().join("keys/regions").join(region);
    let mut wallet = Wallet {
        seeds: Vec::new(),
        certificates: Vec::new(),
    };
    for path in files(&dir) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".nk") {
            wallet
                .seeds
                .push((name, std::fs::read_to_string(&path).expect("a seed")));
        } else if name.ends_with(".crt") {
            let files = Certificate {
                key: path.with_extension("key"),
                certificate: path,
            };
            wallet
                .certificates
                .push((name.clone(), name.contains(".gateway."), files));
        }
    }
    assert!(
        !wallet.seeds.is_empty() && !wallet.certificates.is_empty(),
        "no keys in {}",
        dir.display()
    );
    wallet
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// Processes that speak NATS, with the configuration of each.
fn nats_processes(fleet: &Fleet) -> Vec<(String, String, PathBuf)> {
    let processes = fleet
        .processes()
        .into_iter()
        .filter(|(_, process)| process.role != "relay");
    let conf = |name: &str, role: &str| fleet.process_dir(name).join(format!("{role}.conf"));
    processes
        .map(|(name, process)| {
            (
                name.clone(),
                process.region.clone(),
                conf(&name, &process.role),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_listen_on_loopback_and_where_their_configuration_says_only() {
    let fleet = fleet().await;
    for (name, process) in fleet.processes() {
        let open = listening(process.pid.expect("it runs"));
        assert!(!open.is_empty(), "{name} listens nowhere");
        for (address, port) in &open {
            // As the kernel writes 127.0.0.1.
            assert_eq!(address, "0100007F", "{name} listens on {address}:{port}");
        }
        if process.role != "relay" {
            let conf = fleet
                .process_dir(&name)
                .join(format!("{}.conf", process.role));
            let named: BTreeSet<u16> = listeners(&conf).into_iter().map(|(_, port)| port).collect();
            let open: BTreeSet<u16> = open.into_iter().map(|(_, port)| port).collect();
            assert_eq!(open, named, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_credentials() {
    let fleet = fleet().await;
    for (name, _, conf) in nats_processes(fleet) {
        for (purpose, port) in listeners(&conf) {
            for tls in [false, true] {
                let answer = knock(
                    port,
                    &Credentials {
                        tls,
                        ..Credentials::default()
                    },
                );
                assert!(
                    answer.refused(),
                    "{name}, {purpose} port, TLS {tls}: {answer:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_with_credentials_of_another_region() {
    let fleet = fleet().await;
    // A refusal may take its time, and there are hundreds: each process is asked by a thread of its own.
    std::thread::scope(|scope| {
        for (name, region, conf) in nats_processes(fleet) {
            let stranger = wallet(fleet, if region == "a" { "b" } else { "a" });
            scope.spawn(move || check_refuses(&name, &conf, &stranger));
        }
    });
}

/// Knocks on every port of a process with everything that the stranger has.
fn check_refuses(name: &str, conf: &Path, stranger: &Wallet) {
    let leaf_seed = stranger
        .seeds
        .iter()
        .find(|(seed_name, _)| seed_name == "leaf.nk")
        .map(|(_, seed)| seed.clone());
    for (purpose, port) in listeners(conf) {
        for (seed_name, seed) in &stranger.seeds {
            let answer = knock(
                port,
                &Credentials {
                    seed: Some(seed.clone()),
                    ..Credentials::default()
                },
            );
            assert!(
                answer.refused(),
                "{name}, {purpose} port, {seed_name}: {answer:?}"
            );
        }
        for (certificate_name, of_gateways, certificate) in &stranger.certificates {
            // Gateways are how regions meet: there the other region's gateway certificate is the right one.
            if purpose == "gateway" && *of_gateways {
                continue;
            }
            for seed in [None, leaf_seed.clone()] {
                let shown = format!("{certificate_name}, seed {}", seed.is_some());
                let answer = knock(
                    port,
                    &Credentials {
                        tls: true,
                        certificate: Some(certificate.clone()),
                        seed,
                    },
                );
                assert!(
                    answer.refused(),
                    "{name}, {purpose} port, {shown}: {answer:?}"
                );
            }
        }
    }
}

/// Shows that a refusal above would not have come from a mistake of the test's.
#[tokio::test(flavor = "multi_thread")]
async fn a_region_s_own_credentials_open_its_own_listeners() {
    let fleet = fleet().await;
    for (name, region, conf) in nats_processes(fleet) {
        let own = wallet(fleet, &region);
        let seed = |wanted: &str| {
            own.seeds
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, seed)| seed.clone())
        };
        for (purpose, port) in listeners(&conf) {
            if purpose == "client" {
                let answer = knock(
                    port,
                    &Credentials {
                        seed: seed("system.nk"),
                        ..Credentials::default()
                    },
                );
                assert!(answer.pong, "{name}, client port: {answer:?}");
            } else {
                let fits = |of_gateways: bool| of_gateways == (purpose == "gateway");
                let certificate = own
                    .certificates
                    .iter()
                    .find(|(file, of_gateways, _)| fits(*of_gateways) && file != "ca.crt");
                let (_, _, certificate) = certificate.expect("a certificate for this purpose");
                let answer = knock(
                    port,
                    &Credentials {
                        tls: true,
                        certificate: Some(certificate.clone()),
                        seed: seed("leaf.nk"),
                    },
                );
                assert!(
                    !answer.said.is_empty(),
                    "{name}, {purpose} port says nothing to its own: {answer:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_servers_offer_no_monitoring_page() {
    let fleet = fleet().await;
    for (name, _, conf) in nats_processes(fleet) {
        for (purpose, port) in listeners(&conf) {
            let answer =
                nightjar_tests::fleet::http_get(&format!("127.0.0.1:{port}"), "/varz", "*/*").await;
            assert!(
                !matches!(answer, Ok((200, _))),
                "{name}, {purpose} port: {answer:?}"
            );
        }
    }
}
