//! The relay's public port: WebSocket upgrades, the NIP-11 document, a page for browsers, a line of text for others, management calls;
//! accept, count and drain.

mod certificate;
mod client_address;
mod door;
mod open_files;
mod origin;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use nightjar_config::TlsFiles;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::TIDY_EVERY;
use crate::management::api::{self, HttpRequest};
use crate::metrics::{Close, Handshake, Metrics};
use crate::nip11;
use crate::page;
use crate::session::outbox::Outbox;
use crate::session::{Services, Session};
use crate::socket::{self, Connection, Timings};
pub(crate) use certificate::CertificateMetrics;
pub use certificate::{CertificateError, CertificateWatch};
use client_address::client_address;
use door::{Door, SPARE_CONNECTIONS};
pub use wire::Tls;
pub(crate) use wire::TlsMetrics;

/// The subprotocol that some clients ask for; a client that asks for none, or for others, is served all the same.
const SUBPROTOCOL: &str = "nostr";
/// Connections may be a little longer in closing than `drain_seconds`: goodbyes and publishes under way.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_millis(1_000);
/// Refusals under way when the port closes get this long.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_millis(100);

/// A running public port.
#[derive(Debug)]
pub struct PublicPort {
    services: Shared,
    address: SocketAddr,
    /// Cancelled when nothing more is accepted, not even to be refused.
    closed: CancellationToken,
    accepting: tokio::task::JoinHandle<std::io::Result<()>>,
    tidying: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
struct Shared {
    services: Arc<Services>,
    connections: TaskTracker,
    timings: Timings,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("timings", &self.timings)
            .finish_non_exhaustive()
    }
}

/// The certificate of the public port: its watch, which is still to be run, and what TLS connections are made with. Both count in `metrics`.
///
/// # Errors
/// When the files cannot be used.
pub(crate) fn open_tls(
    files: &TlsFiles,
    metrics: &Metrics,
) -> Result<(CertificateWatch, Tls), CertificateError> {
    let (mut of_certificate, mut of_handshakes) = Default::default();
    metrics.register(|registry| {
        of_certificate = CertificateMetrics::register(registry);
        of_handshakes = TlsMetrics::register(registry);
    });
    let (watch, settings) = CertificateWatch::open(files, of_certificate)?;
    Ok((watch, Tls::new(settings, of_handshakes)))
}

/// Raises the limit of open files as far as possible, and says when `max_connections` need more.
pub(crate) fn raise_file_limit(max_connections: usize, metrics: &Metrics) {
    open_files::raise(max_connections.saturating_add(SPARE_CONNECTIONS), metrics);
}

/// Begins to accept connections; with TLS alone, if there is `tls`.
pub fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    services: Arc<Services>,
    timings: Timings,
) -> std::io::Result<PublicPort> {
    let address = listener.local_addr()?;
    let shared = Shared {
        services,
        connections: TaskTracker::new(),
        timings,
    };
    let closed = CancellationToken::new();
    let app = Router::new()
        .fallback(on_request)
        .with_state(shared.clone())
        .into_make_service_with_connect_info::<Peer>();
    let limits = &shared.services.config.load().limits;
    raise_file_limit(limits.max_connections, &shared.services.metrics);
    let door = Door::new(listener, tls, shared.clone());
    let stop = closed.clone();
    let accepting = tokio::spawn(async move {
        axum::serve(door, app)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
    });
    let admission = shared.services.admission.clone();
    let tidying = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(TIDY_EVERY);
        loop {
            ticks.tick().await;
            admission.tidy();
        }
    });
    Ok(PublicPort {
        services: shared,
        address,
        closed,
        accepting,
        tidying,
    })
}

impl PublicPort {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells every client that the relay is going away, spread over `drain_seconds`, and returns when all connections are
    /// closed or time is up. New ones are refused with a reason meanwhile, and not accepted afterwards. Answers how many
    /// were still open then.
    pub async fn drain(mut self) -> usize {
        let services = &self.services.services;
        let over = Duration::from_secs(services.config.load().limits.drain_seconds);
        services.drain.cancel();
        self.services.connections.close();
        let _ = tokio::time::timeout(over + DRAIN_GRACE, self.services.connections.wait()).await;
        self.closed.cancel();
        if tokio::time::timeout(LAST_ANSWERS, &mut self.accepting)
            .await
            .is_err()
        {
            self.accepting.abort();
        }
        self.tidying.abort();
        self.services.connections.len()
    }
}

/// Everything comes here: clients use any path.
async fn on_request(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    body: Body,
) -> Response {
    let config = shared.services.config.load_full();
    let is_managed = api::is_offered(&config);
    if method == Method::OPTIONS {
        let response = with_cors(StatusCode::NO_CONTENT.into_response());
        return if is_managed {
            with_cors_of_calls(response)
        } else {
            response
        };
    }
    match upgrade {
        Ok(upgrade) => on_upgrade(&shared, &peer, &headers, upgrade),
        Err(rejection) if headers.contains_key(header::UPGRADE) => {
            shared.services.metrics.on_handshake(Handshake::bad_request);
            rejection.into_response()
        }
        Err(_) if method == Method::POST && is_managed => {
            let request = HttpRequest {
                address: client_address(peer.address, &headers, &config.trusted_proxies),
                method,
                uri,
                headers,
                body,
            };
            with_cors_of_calls(with_cors(api::answer(&shared.services, request).await))
        }
        Err(_) if method != Method::GET && method != Method::HEAD => {
            StatusCode::METHOD_NOT_ALLOWED.into_response()
        }
        Err(_) => by_accept(answer_to(&headers), &shared),
    }
}

/// What one address answers with, by the Accept header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The NIP-11 document.
    Information,
    /// A page for people.
    Page,
    /// A line of text.
    Greeting,
}

/// Clients that name NIP-11 get it, whatever else they take. Only who names HTML gets it: `*/*` is a program.
fn answer_to(headers: &HeaderMap) -> Answer {
    if accepts(headers, "application/nostr+json") {
        Answer::Information
    } else if accepts(headers, "text/html") {
        Answer::Page
    } else {
        Answer::Greeting
    }
}

fn by_accept(answer: Answer, shared: &Shared) -> Response {
    let mut response = match answer {
        Answer::Information => information(shared),
        Answer::Page => page::response(&shared.services.config.load()),
        Answer::Greeting => with_cors(greeting(shared).into_response()),
    };
    let accept = HeaderValue::from_static("accept");
    response.headers_mut().insert(header::VARY, accept);
    response
}

fn information(shared: &Shared) -> Response {
    let config = shared.services.config.load();
    match serde_json::to_string(&nip11::Document::new(&config)) {
        Ok(body) => {
            with_cors(([(header::CONTENT_TYPE, "application/nostr+json")], body).into_response())
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn greeting(shared: &Shared) -> String {
    let config = shared.services.config.load();
    let name = config.info.name.as_deref().unwrap_or(&config.fleet.name);
    format!(
        "{name}: a Nostr relay of the fleet {}, region {}. Connect with a Nostr client, or ask with \
         \"Accept: application/nostr+json\".\n",
        config.fleet.name, config.region
    )
}

/// NIP-11 asks for these on every answer that a web client may read.
fn with_cors(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What a web client of the management API needs beside. The `*` of the headers does not stand for Authorization (Fetch standard).
fn with_cors_of_calls(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*, Authorization"),
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            "GET, HEAD, POST, OPTIONS",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a media type is named, and not with quality 0.
fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|accept| accept.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_named = parts
                .next()
                .is_some_and(|named| named.eq_ignore_ascii_case(kind));
            is_named && !parts.any(is_zero_quality)
        })
}

fn is_zero_quality(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let quality = value.trim().parse::<f32>();
    name.trim().eq_ignore_ascii_case("q") && quality.is_ok_and(|quality| quality <= 0.0)
}

fn on_upgrade(
    shared: &Shared,
    peer: &Peer,
    headers: &HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let services = &shared.services;
    let config = services.config.load();
    let limits = config.limits.clone();
    let refuse = |handshake, status, text: &'static str| {
        services.metrics.on_handshake(handshake);
        let headers = [(header::RETRY_AFTER, "5"), (header::CONNECTION, "close")];
        (status, headers, text).into_response()
    };
    if services.drain.is_cancelled() {
        let text = "this relay is going away, connect again\n";
        return refuse(Handshake::not_ready, StatusCode::SERVICE_UNAVAILABLE, text);
    }
    if !origin::is_allowed(headers, &config.allowed_origins) {
        let text = "this relay does not serve web pages of this origin\n";
        services.metrics.on_handshake(Handshake::origin_refused);
        return (StatusCode::FORBIDDEN, [(header::CONNECTION, "close")], text).into_response();
    }
    if shared.connections.len() >= limits.max_connections {
        let text = "this relay has as many connections as it may\n";
        return refuse(Handshake::relay_full, StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let address = client_address(peer.address, headers, &config.trusted_proxies);
    let Some(admission) = services.admission.admit_connection(address) else {
        let text = "too many connections from this address\n";
        return refuse(Handshake::address_full, StatusCode::TOO_MANY_REQUESTS, text);
    };
    services.metrics.on_handshake(Handshake::ok);
    peer.upgraded.store(true, Ordering::Relaxed);
    let open = Open {
        shared: shared.clone(),
        token: shared.connections.token(),
    };
    let upgrade = socket::configure(upgrade, limits.max_message_length).protocols([SUBPROTOCOL]);
    upgrade.on_upgrade(move |socket| async move {
        let shared = &open.shared;
        let services = shared.services.clone();
        let outbox = Outbox::new(limits.out_queue_bytes, services.metrics.clone());
        let session = Session::begin(services.clone(), admission, outbox.clone());
        let connection = Connection {
            session,
            outbox,
            clocks: shared.timings.of_connection(&limits),
            drain: services.drain.clone(),
            config: services.config.clone(),
        };
        let started = Instant::now();
        services.metrics.connections.inc();
        let reason = Box::pin(socket::run(socket, connection, &services.metrics)).await;
        services.metrics.connections.dec();
        services
            .metrics
            .connection_age
            .observe(started.elapsed().as_secs_f64());
        if reason == Close::slow_reader {
            tracing::info!("closed a connection that read too slowly");
        }
        drop(open);
    })
}

/// Counts a connection from the handshake to its end.
struct Open {
    shared: Shared,
    #[allow(dead_code, reason = "held for its drop")]
    token: tokio_util::task::task_tracker::TaskTrackerToken,
}

/// Who is at the other end of the TCP connection. The address goes to admission, which keeps a hash of it, and nowhere else.
#[derive(Clone)]
struct Peer {
    address: IpAddr,
    upgraded: Arc<AtomicBool>,
}

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self {
            address: stream.remote_addr().ip(),
            upgraded: stream.io().upgraded(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_decides_on_the_answer() {
        let browser =
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";
        for (accepts, answer) in [
            (vec![], Answer::Greeting),
            (vec!["*/*"], Answer::Greeting),
            (vec![""], Answer::Greeting),
            (vec!["text/*"], Answer::Greeting),
            (vec!["text/plain"], Answer::Greeting),
            (vec!["image/avif,image/webp,*/*"], Answer::Greeting),
            (vec!["application/json"], Answer::Greeting),
            (vec!["text/htmlx, x/text/html"], Answer::Greeting),
            (vec!["text/html;q=0"], Answer::Greeting),
            (vec!["text/html; level=1; Q=0.0, */*"], Answer::Greeting),
            (vec![browser], Answer::Page),
            (vec!["TEXT/HTML"], Answer::Page),
            (vec!["text/html;q=0.1"], Answer::Page),
            (vec!["*/*", "text/html ; charset=utf-8"], Answer::Page),
            (vec!["text/html, application/nostr+json;q=0"], Answer::Page),
            (vec!["application/nostr+json"], Answer::Information),
            (vec!["Application/Nostr+JSON"], Answer::Information),
            (
                vec!["application/nostr+json; charset=utf-8"],
                Answer::Information,
            ),
            (
                vec!["application/json, application/nostr+json"],
                Answer::Information,
            ),
            (vec![browser, "application/nostr+json"], Answer::Information),
            (
                vec!["text/html, application/nostr+json;q=0.1"],
                Answer::Information,
            ),
        ] {
            let mut headers = HeaderMap::new();
            for accept in &accepts {
                headers.append(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(answer_to(&headers), answer, "{accepts:?}");
        }
    }
}
