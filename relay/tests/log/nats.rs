//! One nats-server with nkeys and one region's streams.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish};
use nkeys::KeyPair;

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

/// A server whose process may die and come back; its data and its port stay.
pub(crate) struct Nats {
    program: PathBuf,
    config: PathBuf,
    child: Option<Child>,
    pub(crate) port: u16,
    /// The seed of the relays' user.
    pub(crate) relay_seed: String,
    admin_seed: String,
}

impl Nats {
    /// Starts a server in `dir` and makes the streams; nothing when there is no nats-server.
    pub(crate) async fn start(dir: &Path) -> Option<Self> {
        let program = program()?;
        let (relay, admin) = (KeyPair::new_user(), KeyPair::new_user());
        let port = free_port();
        let config = dir.join("nats.conf");
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: a-nats-0\n\
             jetstream {{ store_dir: \"{}\", domain: a, max_mem: 64M, max_file: 1G }}\n\
             accounts {{ SYS {{}}, RELAY {{ jetstream: enabled, users: [\n\
               {{ nkey: {}, permissions {{ publish: [\"ev.a.>\", \"st.a.>\", \"eph.a.>\", \"$JS.API.STREAM.INFO.*\",\n\
                  \"$JS.API.CONSUMER.CREATE.>\", \"$JS.API.CONSUMER.MSG.NEXT.>\", \"$JS.API.STREAM.MSG.DELETE.ST_a_1_0\", \"$JS.API.STREAM.MSG.DELETE.ST_a_1_1\"],\n\
                  subscribe: [\"rp.>\", \"eph.>\", \"_INBOX.>\"] }} }},\n\
               {{ nkey: {} }} ] }} }}\nsystem_account: SYS\n",
            dir.join("nats").display(),
            relay.public_key(),
            admin.public_key(),
        );
        std::fs::write(&config, text).expect("the server's configuration");
        let mut nats = Self {
            program,
            config,
            child: None,
            port,
            relay_seed: relay.seed().expect("a seed"),
            admin_seed: admin.seed().expect("a seed"),
        };
        nats.spawn().await;
        nats.make_streams("a").await;
        Some(nats)
    }

    /// Starts the process (again) and waits until it answers.
    pub(crate) async fn spawn(&mut self) {
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(&self.config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts");
        self.child = Some(child);
        let port = self.port;
        until("nats-server answers", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .map(drop)
        })
        .await;
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a process to kill");
            child.wait().expect("its end");
        }
    }

    /// A client that may do everything.
    pub(crate) async fn admin(&self) -> async_nats::Client {
        let seed = self.admin_seed.clone();
        let address = format!("nats://127.0.0.1:{}", self.port);
        until("an admin connection", async || {
            async_nats::ConnectOptions::with_nkey(seed.clone())
                .request_timeout(Some(Duration::from_secs(5)))
                .connect(&address)
                .await
        })
        .await
    }

    /// Makes the streams of a region, generation 1.
    pub(crate) async fn make_streams(&self, region: &str) {
        let jetstream = async_nats::jetstream::new(self.admin().await);
        for name in streams(region) {
            let tail = name.split_once('_').expect("a class").1.replace('_', ".");
            let class = if name.starts_with("EV") { "ev" } else { "st" };
            let (region, rest) = tail.split_once('.').expect("a region");
            let config = Config {
                name: name.clone(),
                subjects: vec![format!("{class}.{tail}.*")],
                republish: Some(Republish {
                    source: format!("{class}.{tail}.>"),
                    destination: format!("rp.{region}.{class}.{rest}.>"),
                    headers_only: false,
                }),
                discard: DiscardPolicy::New,
                duplicate_window: Duration::from_secs(60),
                allow_direct: true,
                ..Config::default()
            };
            jetstream.create_stream(config).await.expect("a stream");
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}
