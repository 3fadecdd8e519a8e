//! The one NATS connection of a relay: nkey, every server of the region, fast reconnect.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{ConnectOptions, Event, ServerAddr};
use nightjar_config::NatsClient;
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
) -> Result<Connection, ConnectionError> {
    let seed = read_seed(nats)?;
    let servers = parse_servers(&nats.servers)?;
    readiness.set("nats", Waiting::NatsDisconnected);
    let (count, connects) = watch::channel(0u64);
    let count = Arc::new(count);
    let mut options = ConnectOptions::with_nkey(seed)
        .name(name)
        .retry_on_initial_connect()
        .max_reconnects(None)
        .ignore_discovered_servers()
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            let (readiness, count) = (readiness.clone(), Arc::clone(&count));
            async move { on_event(&event, &readiness, &count) }
        });
    if let Some(ca_file) = &nats.ca_file {
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

fn on_event(event: &Event, readiness: &Readiness, count: &watch::Sender<u64>) {
    match event {
        Event::Connected => {
            tracing::info!("connected to NATS");
            readiness.clear("nats");
            count.send_modify(|connects| *connects += 1);
        }
        Event::Disconnected | Event::Closed => {
            tracing::warn!(nats.event = %event, "no connection to NATS");
            readiness.set("nats", Waiting::NatsDisconnected);
        }
        Event::ServerError(_) | Event::ClientError(_) | Event::SlowConsumer(_) => {
            tracing::warn!(nats.event = %event, "NATS");
        }
        Event::LameDuckMode | Event::Draining => tracing::info!(nats.event = %event, "NATS"),
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
}
