//! The relay as a process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nightjar_config::{
    AdmissionConfig, FleetRef, IndexConfig, Limits, LogConfig, ManagementConfig, NatsClient,
    Plugins, RegionLog, RelayConfig, RelayInfo,
};
use nightjar_envelope::Keyring;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::Client;
use crate::keys;
use crate::nats::Nats;
use crate::wait::{free_port, until};

/// One relay of region `a`: its files in a folder, its ports, its process.
pub(crate) struct Relay {
    dir: PathBuf,
    pub(crate) config: RelayConfig,
    child: Option<Child>,
}

impl Relay {
    /// Writes the files of a relay. Without a keyring the file is left out.
    pub(crate) fn prepare(dir: &Path, name: &str, nats: &Nats, keyring: Option<&Keyring>) -> Self {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).expect("a folder");
        keys::write(&dir.join("nats.seed"), &nats.relay_seed);
        if let Some(keyring) = keyring {
            keys::write(&dir.join("keyring.json"), &keyring.to_json());
        }
        let listen = free_port();
        let address = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let config = RelayConfig {
            fleet: FleetRef {
                id: keys::fleet(),
                name: "tests".into(),
            },
            region: "a".parse().expect("a name"),
            name: name.into(),
            sweeper: name.ends_with("-0"),
            listen: address(listen),
            admin: address(free_port()),
            public_urls: vec![format!("ws://127.0.0.1:{listen}")],
            tls: None,
            trusted_proxies: Vec::new(),
            allowed_origins: Vec::new(),
            nats: NatsClient {
                servers: nats.addresses(),
                nkey_seed_file: dir.join("nats.seed"),
                ca_file: nats.ca_file.clone(),
            },
            keyring_file: dir.join("keyring.json"),
            index: IndexConfig {
                dir: dir.join("index"),
                max_bytes: 64 << 20,
            },
            log: LogConfig {
                replicas: 1,
                message_retention_seconds: 90 * 86_400,
                regions: vec![RegionLog {
                    region: "a".parse().expect("a name"),
                    generation: 1,
                    message_shards: 4,
                    state_shards: 2,
                }],
            },
            info: RelayInfo::default(),
            limits: Limits::default(),
            admission: AdmissionConfig::default(),
            management: ManagementConfig::default(),
            plugins: Plugins::default(),
            tracing: None,
        };
        let relay = Self {
            dir,
            config,
            child: None,
        };
        relay.write_config();
        relay
    }

    /// Prepares, starts and waits until it is ready.
    pub(crate) async fn start(dir: &Path, name: &str, nats: &Nats, keyring: &Keyring) -> Self {
        let mut relay = Self::prepare(dir, name, nats, Some(keyring));
        relay.spawn();
        relay.wait_ready().await;
        relay
    }

    pub(crate) fn write_config(&self) {
        std::fs::write(self.config_file(), self.config.to_yaml()).expect("written");
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.join("relay.yaml")
    }

    pub(crate) fn spawn(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("relay.log"))
            .expect("a log file");
        let child = Command::new(env!("CARGO_BIN_EXE_nightjar-relay"))
            .arg("--config")
            .arg(self.config_file())
            .env("NIGHTJAR_LOG", "debug,async_nats=info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the relay starts");
        self.child = Some(child);
    }

    /// Whether the process runs.
    pub(crate) fn is_running(&mut self) -> bool {
        let child = self.child.as_mut().expect("a process");
        child.try_wait().expect("its state").is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a process");
        kill_process(Pid::from_child(child), signal).expect("signalled");
    }

    /// SIGTERM, and the end; answers the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait_end()
    }

    /// The end of a process that was told to stop; answers the exit code.
    pub(crate) fn wait_end(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        child.wait().expect("its end").code()
    }

    pub(crate) fn url(&self) -> String {
        self.config.public_urls[0].clone()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.url()).await
    }

    pub(crate) fn index_dir(&self) -> &Path {
        &self.config.index.dir
    }

    pub(crate) fn keyring_file(&self) -> &Path {
        &self.config.keyring_file
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("relay.log")).unwrap_or_default()
    }

    pub(crate) async fn wait_ready(&self) {
        until("ready", async || {
            let (status, body) = self.get("/readyz").await?;
            if status == 200 { Ok(()) } else { Err(body) }
        })
        .await;
    }

    /// Waits until `/readyz` refuses and says `text`.
    pub(crate) async fn wait_not_ready(&self, text: &str) {
        until(text, async || {
            let (status, body) = self.get("/readyz").await?;
            if status == 503 && body.contains(text) {
                Ok(())
            } else {
                Err(body)
            }
        })
        .await;
    }

    /// The value of one line of `/metrics`.
    pub(crate) async fn metric(&self, line: &str) -> f64 {
        let (_, text) = self.get("/metrics").await.expect("metrics");
        let value = text
            .lines()
            .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        value
            .unwrap_or_else(|| panic!("no {line} in\n{text}"))
            .parse()
            .expect("a number")
    }

    /// One request to the admin port.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String), String> {
        let mut stream = tokio::net::TcpStream::connect(self.config.admin)
            .await
            .map_err(|error| error.to_string())?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(|error| error.to_string())?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .map_err(|error| error.to_string())?;
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("not HTTP: {answer}"))?;
        Ok((
            status,
            answer
                .split_once("\r\n\r\n")
                .unwrap_or_default()
                .1
                .to_owned(),
        ))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            for line in tail.iter().rev() {
                eprintln!("{}: {line}", self.config.name);
            }
        }
    }
}
