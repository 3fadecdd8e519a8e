//! The one NATS connection of a relay: nkey, every server of the region, fast reconnect.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{ClientError, ConnectOptions, Event, ServerAddr};
use nightjar_config::NatsClient;
use prometheus_client::metrics::counter::Counter;
use rand::Rng;
use thiserror::Error;
use tokio::sync::watch;

use super::private_file::{self, PrivateFileError};
use super::readiness::{Readiness, Waiting};

/// Between two attempts to connect: from here, doubled each time ...
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
/// ... up to here, each with jitter of half its length.
const RECONNECT_MOST: Duration = Duration::from_secs(1);
/// A dead connection is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// A TCP connect or handshake that takes longer is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests of the JetStream API give up after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the connection cannot even be tried. All of them are mistakes of the configuration.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The seed file cannot be used.
    #[error("nats.nkey_seed_file: {0}")]
    Seed(#[from] PrivateFileError),
    /// The seed file holds no nkey seed.
    #[error("nats.nkey_seed_file: {0}: not an nkey user seed (SU...)")]
    NotASeed(String),
    /// A server address cannot be parsed.
    #[error("nats.servers[{at}]: {problem}")]
    Address {
        /// Which of the list, from 0.
        at: usize,
        /// What is wrong.
        problem: String,
    },
    /// No server is listed.
    #[error("nats.servers: empty, list every NATS server of the region")]
    NoServer,
    /// The client refused the options.
    #[error("nats: {0}")]
    Refused(String),
}

/// The connection and how often it was made, so that those who hold server-side state can make it anew.
#[derive(Clone)]
pub(crate) struct Connection {
    /// The NATS client.
    pub(crate) client: async_nats::Client,
    /// JetStream of the region's own domain.
    pub(crate) jetstream: async_nats::jetstream::Context,
    /// Grows with every connect.
    pub(crate) connects: watch::Receiver<u64>,
}

impl Connection {
    /// Whether there is a connection now.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}

/// Connects in the background and keeps trying for ever; `readiness` tells when there is no connection.
pub(crate) async fn connect(
    nats: &NatsClient,
    name: &str,
    readiness: Readiness,
    made: Counter,
) -> Result<Connection, ConnectionError> {
    let seed = read_seed(nats)?;
    let servers = parse_servers(&nats.servers)?;
    let (count, connects) = watch::channel(0u64);
    let state = Arc::new(ConnectionState::new(readiness, count, made));
    let told = Arc::clone(&state);
    let mut options = ConnectOptions::with_nkey(seed)
        .name(name)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .ignore_discovered_servers()
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .reconnect_delay_callback(reconnect_delay)
        // Chooses no server. It is the one place where the client tells why each of them was not reached.
        .reconnect_to_server_callback(move |servers, _| {
            let problems = servers.iter().filter_map(|server| {
                let error = server.last_error.as_deref()?;
                Some(format!("{server}: {error}"))
            });
            told.on_unreached(problems.collect());
            std::future::ready(None)
        })
        .event_callback(move |event| {
            state.on_event(&event);
            std::future::ready(())
        });
    if let Some(ca_file) = &nats.ca_file {
        // The client reads the file for each connection it makes: a new authority counts from the next one on.
        options = options
            .add_root_certificates(ca_file.clone())
            .require_tls(true);
    }
    let client = options
        .connect(servers)
        .await
        .map_err(|error| ConnectionError::Refused(error.to_string()))?;
    let mut jetstream = async_nats::jetstream::new(client.clone());
    jetstream.set_timeout(REQUEST_TIMEOUT);
    Ok(Connection {
        client,
        jetstream,
        connects,
    })
}

fn read_seed(nats: &NatsClient) -> Result<String, ConnectionError> {
    let (bytes, _) = private_file::read(&nats.nkey_seed_file)?;
    let not_a_seed = || ConnectionError::NotASeed(nats.nkey_seed_file.display().to_string());
    let seed = std::str::from_utf8(&bytes)
        .map_err(|_| not_a_seed())?
        .trim();
    if !seed.starts_with("SU") || seed.len() != 58 {
        return Err(not_a_seed());
    }
    Ok(seed.to_owned())
}

fn parse_servers(servers: &[String]) -> Result<Vec<ServerAddr>, ConnectionError> {
    if servers.is_empty() {
        return Err(ConnectionError::NoServer);
    }
    servers
        .iter()
        .enumerate()
        .map(|(at, server)| {
            server
                .parse::<ServerAddr>()
                .map_err(|error| ConnectionError::Address {
                    at,
                    problem: error.to_string(),
                })
        })
        .collect()
}

fn reconnect_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    let full = RECONNECT_FIRST
        .saturating_mul(1u32.checked_shl(doublings.min(10)).unwrap_or(u32::MAX))
        .min(RECONNECT_MOST);
    full / 2 + full.mul_f64(rand::rng().random_range(0.0..0.5))
}

/// What the client told of the connection since it was last there.
struct ConnectionState {
    readiness: Readiness,
    /// Grows with every connect.
    count: watch::Sender<u64>,
    /// The same for `/metrics`.
    made: Counter,
    trouble: Mutex<Trouble>,
}

#[derive(Default)]
struct Trouble {
    connected: bool,
    /// Of each server that was reached by name: why there is no connection to it.
    servers: BTreeSet<String>,
    /// The sorts of failures; all there is when a name does not resolve.
    sorts: BTreeSet<String>,
}

impl Trouble {
    fn text(&self) -> String {
        let covered = |sort: &&String| !self.servers.iter().any(|text| text.contains(*sort));
        let texts: Vec<&str> = self
            .servers
            .iter()
            .chain(self.sorts.iter().filter(covered))
            .map(String::as_str)
            .collect();
        if texts.is_empty() {
            "not connected yet".to_owned()
        } else {
            texts.join("; ")
        }
    }
}

impl ConnectionState {
    fn new(readiness: Readiness, count: watch::Sender<u64>, made: Counter) -> Self {
        let state = Self {
            readiness,
            count,
            made,
            trouble: Mutex::default(),
        };
        state.tell(&Trouble::default());
        state
    }

    /// Every change of the reason is logged once, however often it is tried.
    fn tell(&self, trouble: &Trouble) {
        let problem = trouble.text();
        let waiting = Waiting::NatsDisconnected {
            problem: problem.clone(),
        };
        if self.readiness.set("nats", waiting) {
            tracing::warn!(problem, "no connection to NATS");
        }
    }

    /// Before each round over the servers: why the last one did not reach them.
    fn on_unreached(&self, problems: BTreeSet<String>) {
        let mut trouble = self.lock();
        if !trouble.connected && trouble.servers != problems {
            trouble.servers = problems;
            self.tell(&trouble);
        }
    }

    fn on_event(&self, event: &Event) {
        let mut trouble = self.lock();
        match event {
            Event::Connected => {
                tracing::info!("connected to NATS");
                *trouble = Trouble {
                    connected: true,
                    ..Trouble::default()
                };
                self.readiness.clear("nats");
                self.made.inc();
                self.count.send_modify(|connects| *connects += 1);
            }
            Event::Disconnected | Event::Closed => {
                *trouble = Trouble::default();
                trouble.sorts.insert("the connection was lost".to_owned());
                self.tell(&trouble);
            }
            Event::ClientError(ClientError::Other(sort)) if !trouble.connected => {
                let sort = match sort.as_str() {
                    "DNS error" => "DNS error: a name in nats.servers does not resolve",
                    sort => sort,
                };
                if trouble.sorts.insert(sort.to_owned()) {
                    self.tell(&trouble);
                }
            }
            Event::ServerError(_) | Event::ClientError(_) | Event::SlowConsumer(_) => {
                tracing::warn!(nats.event = %event, "NATS");
            }
            Event::LameDuckMode | Event::Draining => tracing::info!(nats.event = %event, "NATS"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnect_delays_grow_from_tens_of_milliseconds_to_a_second() {
        for attempt in 0..200 {
            let delay = reconnect_delay(attempt);
            assert!(
                delay >= RECONNECT_FIRST / 2 && delay <= RECONNECT_MOST,
                "{attempt}: {delay:?}"
            );
        }
        assert!(reconnect_delay(1) <= RECONNECT_FIRST);
        assert!(reconnect_delay(20) >= RECONNECT_MOST / 2);
    }

    #[test]
    fn a_bad_server_address_is_named_by_its_place() {
        let text = parse_servers(&["nats://127.0.0.1:4222".into(), "http://[".into()])
            .expect_err("bad")
            .to_string();
        assert!(text.starts_with("nats.servers[1]: "), "{text}");
    }

    #[test]
    fn readiness_names_what_each_server_said_and_logs_no_attempt_twice() {
        let (count, connects) = watch::channel(0);
        let state = ConnectionState::new(Readiness::default(), count, Counter::default());
        let problem = || match state.readiness.report().waiting_for.first() {
            Some(Waiting::NatsDisconnected { problem }) => Some(problem.clone()),
            _ => None,
        };
        let other = |sort: &str| Event::ClientError(ClientError::Other(sort.to_owned()));
        assert_eq!(problem().as_deref(), Some("not connected yet"));
        state.on_event(&other("DNS error"));
        let text = problem().expect("a problem");
        assert!(text.contains("nats.servers does not resolve"), "{text}");
        let refused = "nats://b:4222: TLS error: invalid peer certificate".to_owned();
        for _ in 0..3 {
            state.on_unreached(BTreeSet::from([refused.clone()]));
            state.on_event(&other("TLS error"));
            state.on_event(&other("DNS error"));
        }
        let both = format!("{refused}; {text}");
        assert_eq!(problem(), Some(both));
        state.on_event(&Event::Connected);
        assert_eq!((problem(), *connects.borrow()), (None, 1));
        // What an earlier round left behind says nothing about a connection that is there.
        state.on_unreached(BTreeSet::from([refused]));
        assert_eq!(problem(), None);
        state.on_event(&Event::Disconnected);
        assert_eq!(problem().as_deref(), Some("the connection was lost"));
    }
}
