//! The door of the public port: accepts TCP connections, no more than there is room for, and keeps calm when the system has none.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::Shared;
use super::wire::{Guarded, Place, Tls, Wire};
use crate::metrics::{Handshake, Metrics};

/// TCP connections beyond `max_connections`: handshakes under way, and requests for the information document.
pub(super) const SPARE_CONNECTIONS: usize = 1_000;
/// Between two attempts when the system refuses: out of files or memory, which only time mends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A refusal that goes on is told this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The listener: no delay, a time limit for the handshakes, and an end to the number of connections.
pub(super) struct Door {
    listener: TcpListener,
    tls: Option<Tls>,
    shared: Shared,
    open: Arc<AtomicUsize>,
    told: Option<Instant>,
}

impl Door {
    pub(super) fn new(listener: TcpListener, tls: Option<Tls>, shared: Shared) -> Self {
        Self {
            listener,
            tls,
            shared,
            open: Arc::default(),
            told: None,
        }
    }
}

impl Listener for Door {
    type Io = Guarded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let services = &self.shared.services;
        let (stream, address, place) = loop {
            let accept = || self.listener.accept();
            let (stream, address) = accepted(accept, &mut self.told, &services.metrics).await;
            let place = Place(self.open.clone());
            let limit = services.config.load().limits.max_connections + SPARE_CONNECTIONS;
            if self.open.fetch_add(1, Ordering::Relaxed) < limit {
                break (stream, address, place);
            }
            // Too many to answer each: closed unheard.
            services.metrics.on_handshake(Handshake::relay_full);
        };
        // Without it an answer of several writes waits some 40 ms for the peer's acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let timings = &self.shared.timings;
        let wire = match &self.tls {
            Some(tls) => tls.wire(stream, timings.handshake_within),
            None => Wire::Plain(stream),
        };
        (Guarded::new(wire, timings.upgrade_within, place), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// The next connection. A client that is gone again is nobody's fault; what the system refuses is counted, told now and then, and tried
/// again after a pause.
async fn accepted<F: Future<Output = io::Result<(TcpStream, SocketAddr)>>>(
    mut accept: impl FnMut() -> F,
    told: &mut Option<Instant>,
    metrics: &Metrics,
) -> (TcpStream, SocketAddr) {
    loop {
        let error = match accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_client(&error) => continue,
            Err(error) => error,
        };
        metrics.accept_failures.inc();
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(
                %error,
                failures = metrics.accept_failures.get(),
                "connections cannot be accepted; see nj_open_files_limit if too many files are open"
            );
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn out_of_files_it_waits_between_attempts_and_counts_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let client = std::net::TcpStream::connect(address).expect("TCP");
        let metrics = Metrics::new();
        let (mut attempts, mut told) = (0, None);
        let began = Instant::now();
        let accept = || {
            attempts += 1;
            let refusal = match attempts {
                // Too many open files in this process, then in the system.
                1..=3 => Some(io::Error::from_raw_os_error(24)),
                4 => Some(io::ErrorKind::ConnectionAborted.into()),
                5 => Some(io::Error::from_raw_os_error(23)),
                _ => None,
            };
            let accept = listener.accept();
            async move {
                match refusal {
                    Some(refusal) => Err(refusal),
                    None => accept.await,
                }
            }
        };
        accepted(accept, &mut told, &metrics).await;
        drop(client);
        assert_eq!(attempts, 6);
        assert_eq!(metrics.accept_failures.get(), 4);
        assert!(began.elapsed() >= 4 * ACCEPT_PAUSE, "{:?}", began.elapsed());
        assert_eq!(told, Some(began), "told once");
    }
}
