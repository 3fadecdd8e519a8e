//! Real nats-servers under a planned configuration, on loopback, gone when the test ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use nightjar_envelope::{FleetId, RegionName};
use nightjar_operator::pki::{Authority, UserKey};
use nightjar_operator::plan::{
    Addresses, Credential, FileRef, FleetFacts, FleetPlan, HostPort, Issuer, Port, ProcessId,
    ProcessPlan, RegionFacts, RegionKeys, Role, plan,
};
use nightjar_operator::validate::ValidFleet;

/// A fleet of nats-servers; dropping it ends them.
pub(crate) struct Fleet {
    pub(crate) plan: FleetPlan,
    keys: Keys,
    intruder: UserKey,
    children: Vec<Child>,
    _folder: tempfile::TempDir,
}

/// Secrets of the fleet's regions.
struct Keys {
    users: BTreeMap<(RegionName, Credential), UserKey>,
    regions: BTreeMap<RegionName, Authority>,
    gateways: Authority,
}

const CREDENTIALS: [Credential; 4] = [
    Credential::Relay,
    Credential::Admin,
    Credential::System,
    Credential::Leaf,
];

impl Fleet {
    /// Starts the NATS servers and hubs of a fleet with these regions; relays are not part of it.
    pub(crate) fn start(regions: &[(&str, u8)]) -> Self {
        Self::start_with_intruders(regions, &[])
    }

    /// The same, with a user without any limits in the relays' account of the servers named.
    pub(crate) fn start_with_intruders(regions: &[(&str, u8)], intruded: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fleet = fleet_of(regions);
        let keys = Keys::generate(&fleet);
        let addresses = Loopback::new(folder.path());
        let plan = plan(&fleet, &keys.facts(), &addresses).unwrap();
        let mut running = Self {
            plan,
            keys,
            intruder: UserKey::generate(),
            children: Vec::new(),
            _folder: folder,
        };
        let servers: Vec<ProcessPlan> = running
            .plan
            .processes()
            .filter(|p| p.id.role != Role::Relay)
            .cloned()
            .collect();
        for process in &servers {
            running.write_files(process);
            if intruded.contains(&process.name().as_str()) {
                running.let_intruder_in(process);
            }
        }
        for process in &servers {
            running.children.push(spawn(process));
        }
        running
    }

    fn let_intruder_in(&self, process: &ProcessPlan) {
        let users = "RELAY {";
        let text = fs::read_to_string(&process.config).unwrap();
        let at = text
            .find(users)
            .and_then(|at| {
                text[at..]
                    .find("users: [")
                    .map(|more| at + more + "users: [".len())
            })
            .unwrap();
        let intruder = format!("{{ nkey: \"{}\" }}", self.intruder.public());
        write(
            &process.config,
            &format!("{} {intruder} {}", &text[..at], &text[at..]),
        );
    }

    /// A connection of the user without limits.
    pub(crate) async fn intruder(&self, process: &str) -> async_nats::Client {
        self.connect_as(
            process,
            self.intruder.seed(Credential::Admin).unwrap().to_string(),
        )
        .await
    }

    fn write_files(&self, process: &ProcessPlan) {
        for folder in &process.folders {
            fs::create_dir_all(folder).unwrap();
        }
        for file in &process.files {
            write(&file.path, &file.text);
        }
        for seed in &process.seeds {
            let key = self.keys.user(&process.id.region, seed.credential);
            write(
                &seed.path,
                &seed.form.text(&key.seed(seed.credential).unwrap()),
            );
        }
        for wanted in &process.certificates {
            let authority = self.keys.authority(&wanted.issuer);
            let issued = authority
                .issue(&process.name(), &wanted.hosts, SystemTime::now())
                .unwrap();
            write(
                &wanted.authority,
                &authority.certificate_pem(SystemTime::now()).unwrap(),
            );
            write(&wanted.certificate, &issued.certificate);
            write(&wanted.private_key, issued.key.as_str());
        }
    }

    /// A certificate with its key under an authority of the fleet, for a peer that is not a process of the plan.
    pub(crate) fn certificate(&self, issuer: &Issuer) -> (String, String, String) {
        let authority = self.keys.authority(issuer);
        let issued = authority
            .issue("intruder", &["127.0.0.1".to_owned()], SystemTime::now())
            .unwrap();
        (
            issued.certificate,
            issued.key.to_string(),
            authority.certificate_pem(SystemTime::now()).unwrap(),
        )
    }

    /// The seed of a region's user.
    pub(crate) fn seed(&self, region: &str, credential: Credential) -> String {
        self.keys
            .user(&region.parse().unwrap(), credential)
            .seed(credential)
            .unwrap()
            .to_string()
    }

    /// A process by name.
    pub(crate) fn process(&self, name: &str) -> &ProcessPlan {
        self.plan
            .processes()
            .find(|process| process.name() == name)
            .unwrap()
    }

    /// Connects to a process's client port, waiting until it listens.
    pub(crate) async fn connect(
        &self,
        process: &str,
        region: &str,
        credential: Credential,
    ) -> async_nats::Client {
        self.connect_as(process, self.seed(region, credential))
            .await
    }

    async fn connect_as(&self, process: &str, seed: String) -> async_nats::Client {
        let at = self.process(process).listener(Port::Client).unwrap().listen;
        eventually(process, async || {
            let options = async_nats::ConnectOptions::with_nkey(seed.clone())
                .connection_timeout(Duration::from_secs(2));
            options
                .connect(format!("nats://{at}"))
                .await
                .map_err(|error| format!("{error}; {}", self.log(process)))
        })
        .await
    }

    /// The end of a process's log.
    pub(crate) fn log(&self, process: &str) -> String {
        let log = log_path(self.process(process));
        let text = fs::read_to_string(log).unwrap_or_default();
        text.lines()
            .rev()
            .take(12)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Keys {
    fn generate(fleet: &ValidFleet) -> Self {
        let mut users = BTreeMap::new();
        let mut regions = BTreeMap::new();
        for region in &fleet.regions {
            for credential in CREDENTIALS {
                users.insert((region.name.clone(), credential), UserKey::generate());
            }
            regions.insert(
                region.name.clone(),
                Authority::generate(&format!("region {}", region.name)).unwrap(),
            );
        }
        Self {
            users,
            regions,
            gateways: Authority::generate("gateways").unwrap(),
        }
    }

    fn user(&self, region: &RegionName, credential: Credential) -> &UserKey {
        &self.users[&(region.clone(), credential)]
    }

    fn authority(&self, issuer: &Issuer) -> &Authority {
        match issuer {
            Issuer::Region(region) => &self.regions[region],
            Issuer::Gateways => &self.gateways,
        }
    }

    fn facts(&self) -> FleetFacts {
        let public = |region: &RegionName, credential| self.user(region, credential).public();
        let regions = self.regions.keys().map(|region| {
            let nkeys = RegionKeys {
                relay: public(region, Credential::Relay),
                admin: public(region, Credential::Admin),
                system: public(region, Credential::System),
                leaf: public(region, Credential::Leaf),
            };
            (
                region.clone(),
                RegionFacts {
                    generation: 1,
                    nkeys,
                },
            )
        });
        FleetFacts {
            fleet_id: FleetId::from_bytes([7; 16]),
            regions: regions.collect(),
            former: Default::default(),
        }
    }
}

/// Loopback addresses on ports that were free when first asked for, and files below one folder.
struct Loopback {
    folder: PathBuf,
    ports: Mutex<BTreeMap<(ProcessId, Port), u16>>,
}

impl Loopback {
    fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            ports: Mutex::default(),
        }
    }
}

/// A port that was free just now, at random from below those that the system gives to outgoing connections: nobody else is handed it
/// before its server listens. No two tests of this run get the same.
fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(10_000..15_000);
        let is_new = GIVEN.lock().unwrap().insert(port);
        if is_new && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

impl Addresses for Loopback {
    fn listen(&self, process: &ProcessId, port: Port) -> SocketAddr {
        let mut ports = self.ports.lock().unwrap();
        let port = *ports
            .entry((process.clone(), port))
            .or_insert_with(free_port);
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    fn connect(&self, process: &ProcessId, port: Port) -> HostPort {
        let at = self.listen(process, port);
        HostPort {
            host: at.ip().to_string(),
            port: at.port(),
        }
    }

    fn relay_url(&self, process: &ProcessId) -> String {
        format!("ws://{}", self.listen(process, Port::Relay))
    }

    fn path(&self, process: &ProcessId, file: &FileRef) -> PathBuf {
        let own = self
            .folder
            .join(process.region.as_str())
            .join(process.to_string());
        let issuer = |issuer: &Issuer| match issuer {
            Issuer::Region(_) => "region",
            Issuer::Gateways => "gateways",
        };
        match file {
            FileRef::Config => own.join("process.conf"),
            FileRef::Store => own.join("store"),
            FileRef::Index => own.join("index"),
            FileRef::Keyring => self.folder.join("keyring.json"),
            FileRef::Seed(credential, form) => self
                .folder
                .join("seeds")
                .join(format!("{credential:?}-{form:?}-{}", process.region)),
            FileRef::Authority(of) => own.join(format!("{}-ca.pem", issuer(of))),
            FileRef::Certificate(of) => own.join(format!("{}-cert.pem", issuer(of))),
            FileRef::PrivateKey(of) => own.join(format!("{}-key.pem", issuer(of))),
            FileRef::PublicCertificate => own.join("public.pem"),
            FileRef::PublicKey => own.join("public-key.pem"),
        }
    }
}

fn fleet_of(regions: &[(&str, u8)]) -> ValidFleet {
    let regions: Vec<String> = regions
        .iter()
        .map(|(name, replicas)| {
            format!("{{name: {name}, nats: {{replicas: {replicas}, storage: 1Gi}}}}")
        })
        .collect();
    let mut fleet = nightjar_operator::validate::from_yaml(&format!(
        "{{apiVersion: nightjar.dev/v1alpha1, kind: RelayCluster, metadata: {{name: layout}}, \
         spec: {{regions: [{}], log: {{maxBytesPerRegion: 64Mi}}}}}}",
        regions.join(", ")
    ))
    .unwrap();
    // These tests start NATS servers alone.
    for region in &mut fleet.regions {
        region.relay_replicas = 0;
    }
    fleet
}

fn spawn(process: &ProcessPlan) -> Child {
    let log = fs::File::create(log_path(process)).unwrap();
    let mut command = Command::new(nats_server());
    command
        .arg("-c")
        .arg(&process.config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command
        .spawn()
        .unwrap_or_else(|error| panic!("nats-server does not start: {error}"))
}

fn log_path(process: &ProcessPlan) -> PathBuf {
    process.config.with_extension("log")
}

/// `NATS_SERVER`, or nats-server from PATH.
fn nats_server() -> PathBuf {
    std::env::var_os("NATS_SERVER").map_or_else(|| "nats-server".into(), PathBuf::from)
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Tries until it works, for at most a minute.
pub(crate) async fn eventually<T>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if Instant::now() > deadline => panic!("{what}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
