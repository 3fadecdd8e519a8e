//! One nats-server with nkeys and one region's streams.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish};
use nkeys::KeyPair;

use crate::tls::Authority;
use crate::wait::{free_port, until};

/// Where nats-server is: `NATS_SERVER`, or on the `PATH`. Says so when it is nowhere.
pub(crate) fn program() -> Option<PathBuf> {
    let named = std::env::var_os("NATS_SERVER").map(PathBuf::from);
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .map(|dir| dir.join("nats-server"))
            .find(|file| file.is_file())
    });
    let program = named.or(on_path);
    if program.is_none() {
        eprintln!("SKIPPED: no nats-server (set NATS_SERVER, or put it on the PATH)");
    }
    program
}

fn streams(region: &str) -> Vec<String> {
    let messages = (0..4).map(|shard| format!("EV_{region}_1_{shard}"));
    let state = (0..2).map(|shard| format!("ST_{region}_1_{shard}"));
    messages.chain(state).collect()
}

struct Server {
    config: PathBuf,
    port: u16,
    child: Option<Child>,
}

/// The NATS servers of one region. Their processes may die and come back; data and ports stay.
pub(crate) struct Nats {
    program: PathBuf,
    servers: Vec<Server>,
    /// The seed of the relays' user.
    pub(crate) relay_seed: String,
    admin_seed: String,
    dir: PathBuf,
    /// The authority of the servers' certificate, if they speak TLS.
    pub(crate) ca_file: Option<PathBuf>,
}

impl Nats {
    /// Starts one server in `dir` and makes the streams; nothing when there is no nats-server.
    pub(crate) async fn start(dir: &Path) -> Option<Self> {
        Self::start_cluster(dir, 1).await
    }

    /// One server that speaks TLS only, with a certificate of `authority`.
    pub(crate) async fn start_tls(dir: &Path, authority: &Authority) -> Option<Self> {
        let mut nats = Self::prepare_all(dir, 1)?;
        nats.certify(authority);
        let files =
            [dir.join("server.crt"), dir.join("server.key")].map(|file| file.display().to_string());
        let [cert, key] = files;
        for server in &nats.servers {
            let mut text = std::fs::read_to_string(&server.config).expect("the configuration");
            text += &format!("tls {{ cert_file: \"{cert}\", key_file: \"{key}\" }}\n");
            std::fs::write(&server.config, text).expect("the configuration");
        }
        nats.spawn().await;
        nats.make_streams("a").await;
        Some(nats)
    }

    /// Gives the servers a certificate of this authority; they read it when they start.
    pub(crate) fn certify(&mut self, authority: &Authority) {
        authority.issue(&self.dir.join("server.crt"), &self.dir.join("server.key"));
        let ca_file = self.dir.join("admin-ca.crt");
        authority.write(&ca_file);
        self.ca_file = Some(ca_file);
    }

    /// The same with a cluster of `count` servers, and each stream on all of them.
    pub(crate) async fn start_cluster(dir: &Path, count: usize) -> Option<Self> {
        let mut nats = Self::prepare_all(dir, count)?;
        nats.spawn().await;
        nats.make_streams("a").await;
        Some(nats)
    }

    fn prepare_all(dir: &Path, count: usize) -> Option<Self> {
        let program = program()?;
        let (relay, admin) = (KeyPair::new_user(), KeyPair::new_user());
        let routes: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let users = users(&relay.public_key(), &admin.public_key());
        let servers = (0..count)
            .map(|number| prepare(dir, number, &routes, &users))
            .collect();
        Some(Self {
            program,
            servers,
            relay_seed: relay.seed().expect("a seed"),
            admin_seed: admin.seed().expect("a seed"),
            dir: dir.to_owned(),
            ca_file: None,
        })
    }

    /// Addresses of all servers.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let scheme = if self.ca_file.is_some() {
            "tls"
        } else {
            "nats"
        };
        let address = |server: &Server| format!("{scheme}://127.0.0.1:{}", server.port);
        self.servers.iter().map(address).collect()
    }

    /// Starts every process that does not run, and waits until all answer.
    pub(crate) async fn spawn(&mut self) {
        for server in &mut self.servers {
            server.child.get_or_insert_with(|| {
                Command::new(&self.program)
                    .arg("-c")
                    .arg(&server.config)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("nats-server starts")
            });
            let port = server.port;
            until("nats-server answers", async || {
                tokio::net::TcpStream::connect(("127.0.0.1", port))
                    .await
                    .map(drop)
            })
            .await;
        }
    }

    /// kill -9 of all.
    pub(crate) fn kill(&mut self) {
        (0..self.servers.len()).for_each(|number| self.kill_one(number));
    }

    /// kill -9 of one, by its number.
    pub(crate) fn kill_one(&mut self, number: usize) {
        if let Some(mut child) = self.servers[number].child.take() {
            child.kill().expect("a process to kill");
            child.wait().expect("its end");
        }
    }

    /// The number of the server that leads a stream.
    pub(crate) async fn leader(&self, stream: &str) -> usize {
        let jetstream = async_nats::jetstream::new(self.admin().await);
        let name = until("a leader", async || {
            let stream = jetstream
                .get_stream(stream)
                .await
                .map_err(|error| error.to_string())?;
            let cluster = stream.cached_info().cluster.clone();
            cluster
                .and_then(|cluster| cluster.leader)
                .ok_or_else(|| "none".to_owned())
        })
        .await;
        name.trim_start_matches("a-nats-")
            .parse()
            .expect("a number")
    }

    /// Has a stream led by another server than this one.
    pub(crate) async fn leave_to_others(&self, stream: &str, number: usize) {
        let admin = self.admin().await;
        until("another leader", async || {
            if self.leader(stream).await != number {
                return Ok(());
            }
            let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
            let answer = admin.request(subject, "".into()).await;
            Err(answer.map_or_else(|error| error.to_string(), |_| "stepped down".to_owned()))
        })
        .await;
    }

    /// A client that may do everything.
    pub(crate) async fn admin(&self) -> async_nats::Client {
        let seed = self.admin_seed.clone();
        let addresses = self.addresses();
        until("an admin connection", async || {
            let mut options = async_nats::ConnectOptions::with_nkey(seed.clone());
            if let Some(ca_file) = &self.ca_file {
                options = options.add_root_certificates(ca_file.clone());
            }
            options
                .request_timeout(Some(Duration::from_secs(5)))
                .connect(&addresses[..])
                .await
        })
        .await
    }

    /// Makes the streams of a region, generation 1.
    pub(crate) async fn make_streams(&self, region: &str) {
        let jetstream = async_nats::jetstream::new(self.admin().await);
        for name in streams(region) {
            let config = stream_config(&name, self.servers.len());
            // A cluster that has just begun has no leader yet.
            until("a stream", async || {
                jetstream.create_stream(config.clone()).await
            })
            .await;
        }
    }
}

fn users(relay: &str, admin: &str) -> String {
    format!(
        "accounts {{ SYS {{}}, RELAY {{ jetstream: enabled, users: [\n\
           {{ nkey: {relay}, permissions {{ publish: [\"ev.a.>\", \"st.a.>\", \"eph.a.>\",\n\
              \"$JS.API.STREAM.INFO.*\", \"$JS.API.CONSUMER.CREATE.>\", \"$JS.API.CONSUMER.MSG.NEXT.>\",\n\
              \"$JS.API.STREAM.MSG.DELETE.ST_a_1_0\", \"$JS.API.STREAM.MSG.DELETE.ST_a_1_1\"],\n\
              subscribe: [\"rp.>\", \"eph.>\", \"_INBOX.>\"] }} }},\n\
           {{ nkey: {admin} }} ] }} }}\nsystem_account: SYS\n"
    )
}

fn prepare(dir: &Path, number: usize, routes: &[u16], users: &str) -> Server {
    let port = free_port();
    let config = dir.join(format!("nats-{number}.conf"));
    let mut text = format!(
        "listen: \"127.0.0.1:{port}\"\nserver_name: a-nats-{number}\n\
         jetstream {{ store_dir: \"{}\", domain: a, max_mem: 64M, max_file: 1G }}\n{users}",
        dir.join(format!("nats-{number}")).display(),
    );
    if routes.len() > 1 {
        let all: Vec<String> = routes
            .iter()
            .map(|port| format!("\"nats-route://127.0.0.1:{port}\""))
            .collect();
        text += &format!(
            "cluster {{ name: a, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
            routes[number],
            all.join(", ")
        );
    }
    std::fs::write(&config, text).expect("the server's configuration");
    Server {
        config,
        port,
        child: None,
    }
}

fn stream_config(name: &str, replicas: usize) -> Config {
    let tail = name.split_once('_').expect("a class").1.replace('_', ".");
    let class = if name.starts_with("EV") { "ev" } else { "st" };
    let (region, rest) = tail.split_once('.').expect("a region");
    Config {
        name: name.to_owned(),
        subjects: vec![format!("{class}.{tail}.*")],
        republish: Some(Republish {
            source: format!("{class}.{tail}.>"),
            destination: format!("rp.{region}.{class}.{rest}.>"),
            headers_only: false,
        }),
        discard: DiscardPolicy::New,
        duplicate_window: Duration::from_secs(60),
        allow_direct: true,
        num_replicas: replicas,
        ..Config::default()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}
