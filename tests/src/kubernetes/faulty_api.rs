//! A proxy before the API server that answers what a busy or broken API server answers. Operators reach it by their environment, with the
//! API server's own certificate; everything that is not made to fail is passed on as it is.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use futures_util::StreamExt as _;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::cluster::{Cluster, machine_dir};

/// Address of the API server on the cluster of `cargo xtask cluster`.
const UPSTREAM: (&str, u16) = ("198.18.0.1", 6443);
/// How long a watch lives that is cut.
const WATCH_LIFE: Duration = Duration::from_millis(700);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nothing.
    Nothing,
    /// Every write of an object is refused with this HTTP status; statuses and Leases are written.
    Writes(u16),
    /// Everything but Leases is refused with this HTTP status.
    Everything(u16),
    /// Each watch ends after a moment, in the middle of the stream.
    WatchesCut,
    /// Each watch is told at once that its `resourceVersion` is too old.
    WatchesExpired,
}

/// The proxy; ends when it is dropped.
#[derive(Debug)]
pub struct FaultyApi {
    cluster: &'static Cluster,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    wrong: Mutex<Wrong>,
    failed: Mutex<Vec<Instant>>,
    used: AtomicBool,
    upstream: TlsUpstream,
}

impl FaultyApi {
    /// Listens beside the API server, and has the operators come by; nothing is wrong yet.
    pub async fn start(cluster: &'static Cluster) -> FaultyApi {
        let pki = machine_dir()
            .expect("the cluster of cargo xtask cluster")
            .join("pki");
        let listener = TcpListener::bind((UPSTREAM.0, 0))
            .await
            .expect("a port beside the API server");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            wrong: Mutex::new(Wrong::Nothing),
            failed: Mutex::default(),
            used: AtomicBool::new(false),
            upstream: TlsUpstream::new(&pki.join("ca.crt")),
        });
        let router = axum::Router::new()
            .fallback(any(answer))
            .with_state(Arc::clone(&shared));
        let listener = TlsListener {
            listener,
            acceptor: acceptor(&pki),
        };
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.ok();
        });
        let api = FaultyApi {
            cluster,
            shared,
            task,
        };
        let mut values = super::operator::values("dev");
        values["extraEnv"] = serde_json::json!([
            {"name": "KUBERNETES_SERVICE_HOST", "value": address.ip().to_string()},
            {"name": "KUBERNETES_SERVICE_PORT", "value": address.port().to_string()},
        ]);
        super::operator::helm_upgrade(cluster, &values).expect("operators that come by the proxy");
        assert!(
            api.shared.used.load(Ordering::Relaxed),
            "no operator came by the proxy"
        );
        api
    }

    /// From now on this goes wrong, and the count of failures begins anew.
    pub fn set(&self, wrong: Wrong) {
        *self.shared.wrong.lock().expect("no panic") = wrong;
        self.shared.failed.lock().expect("no panic").clear();
    }

    /// When each request was that failed since the last [`FaultyApi::set`].
    pub fn failed(&self) -> Vec<Instant> {
        self.shared.failed.lock().expect("no panic").clone()
    }
}

impl Drop for FaultyApi {
    /// Operators ask the API server itself again, also after a test that failed.
    fn drop(&mut self) {
        self.set(Wrong::Nothing);
        let values = super::operator::values("dev");
        if let Err(error) = super::operator::helm_upgrade(self.cluster, &values) {
            eprintln!("operators still come by a proxy that is gone: {error}");
        }
        self.task.abort();
    }
}

fn is_watch(request: &Request) -> bool {
    request
        .uri()
        .query()
        .is_some_and(|query| query.split('&').any(|part| part.starts_with("watch=")))
}

/// The HTTP status with which a request fails at once.
fn refused(wrong: Wrong, request: &Request) -> Option<u16> {
    let path = request.uri().path();
    if path.contains("/leases") {
        return None;
    }
    let reads = request.method() == "GET";
    match wrong {
        Wrong::Writes(code) => {
            let told = path.ends_with("/status") || path.contains("/events");
            (!reads && !told).then_some(code)
        }
        Wrong::Everything(code) => Some(code),
        Wrong::Nothing | Wrong::WatchesCut | Wrong::WatchesExpired => None,
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.used.store(true, Ordering::Relaxed);
    let wrong = *shared.wrong.lock().expect("no panic");
    let failed = || {
        shared.failed.lock().expect("no panic").push(Instant::now());
    };
    if let Some(code) = refused(wrong, &request) {
        failed();
        return refusal(code);
    }
    let watch = is_watch(&request);
    if watch && wrong == Wrong::WatchesExpired {
        failed();
        let event = serde_json::json!({"type": "ERROR", "object": status(410, "Expired")});
        return format!("{event}\n").into_response();
    }
    let response = match shared.upstream.ask(request).await {
        Ok(response) => response,
        Err(error) => return (axum::http::StatusCode::BAD_GATEWAY, error).into_response(),
    };
    if !watch {
        return response;
    }
    let (parts, body) = response.into_parts();
    Response::from_parts(parts, Body::from_stream(cut(shared, body)))
}

/// The stream of a watch, which ends with an error once watches are cut, also when it began before.
fn cut(
    shared: Arc<Shared>,
    body: Body,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> {
    let began = Instant::now();
    let doomed = async move {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let wrong = *shared.wrong.lock().expect("no panic");
            let ends = matches!(wrong, Wrong::WatchesCut | Wrong::WatchesExpired)
                && began.elapsed() > WATCH_LIFE;
            if ends {
                shared.failed.lock().expect("no panic").push(Instant::now());
                return;
            }
        }
    };
    let end = futures_util::stream::once(async { Err(std::io::Error::other("cut")) });
    body.into_data_stream()
        .map(|chunk| chunk.map_err(std::io::Error::other))
        .take_until(Box::pin(doomed))
        .chain(end)
}

fn status(code: u16, reason: &str) -> serde_json::Value {
    serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": format!("made to fail with {code}"),
    })
}

fn refusal(code: u16) -> Response {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let code_ = axum::http::StatusCode::from_u16(code).expect("a status of HTTP");
    let headers = [("content-type", "application/json"), ("retry-after", "1")];
    (code_, headers, status(code, reason).to_string()).into_response()
}

/// The API server itself, with its certificate checked.
#[derive(Clone)]
struct TlsUpstream {
    connector: TlsConnector,
}

impl std::fmt::Debug for TlsUpstream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("TlsUpstream")
    }
}

impl TlsUpstream {
    fn new(authority: &Path) -> TlsUpstream {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authority).expect("the cluster's CA") {
            roots
                .add(certificate.expect("a certificate"))
                .expect("a CA certificate");
        }
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsUpstream {
            connector: TlsConnector::from(Arc::new(config)),
        }
    }

    async fn ask(&self, request: Request) -> Result<Response, String> {
        let stream = TcpStream::connect(UPSTREAM)
            .await
            .map_err(|error| error.to_string())?;
        let name = ServerName::try_from(UPSTREAM.0).expect("an address");
        let stream = self
            .connector
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        Ok(response.map(Body::new))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn acceptor(pki: &Path) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(pki.join("apiserver.crt"))
        .expect("the API server's certificate")
        .collect::<Result<Vec<_>, _>>()
        .expect("certificates");
    let key = PrivateKeyDer::from_pem_file(pki.join("apiserver.key")).expect("its key");
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a key that fits");
    TlsAcceptor::from(Arc::new(config))
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = tokio_rustls::server::TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
