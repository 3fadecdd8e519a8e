//! `nightjar-operator run`: election, controllers, and the port for probes and metrics. Starts in order, stops in reverse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use kube::api::{Api, ListParams};
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::controller;
use super::lease::{self, LeaseTerms};
use super::material::CertificateTerms;
use super::metrics::Metrics;
use super::names::MANAGER;
use super::pass::Tools;
use crate::crd::{Images, RelayCluster};

/// How long one request to the API server may take in silence; watches are longer and have their own bound.
const READ_TIMEOUT: Duration = Duration::from_secs(305);
/// Pause before the CRD is looked for again.
const CRD_PAUSE: Duration = Duration::from_secs(5);

/// Settings of an operator.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Namespaces to watch; all if there are none.
    pub namespaces: Vec<String>,
    /// Images for fleets that name none.
    pub images: Images,
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    pub metrics_addr: SocketAddr,
    /// Namespace of the Lease.
    pub lease_namespace: String,
    /// Name of the Lease.
    pub lease_name: String,
    /// Name of this operator in the election, unique.
    pub identity: String,
    /// Times of the election.
    pub lease: LeaseTerms,
    /// Validity of certificates between NATS servers.
    pub certificate_lifetime: Duration,
    /// Shown in metrics.
    pub version: String,
}

/// Why an operator did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No way to an API server.
    #[error(
        "no Kubernetes API server is configured: {0}; inside a pod a ServiceAccount is needed, outside a kubeconfig"
    )]
    Config(String),
    /// The client could not be made.
    #[error("Kubernetes client: {0}")]
    Client(kube::Error),
    /// The port cannot be listened on.
    #[error("--metrics-addr {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Signals cannot be caught.
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

#[derive(Clone)]
struct Admin {
    metrics: Arc<Metrics>,
    unready: watch::Receiver<Option<String>>,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(options: RunOptions) -> Result<(), RunError> {
    let mut config = Config::infer()
        .await
        .map_err(|error| RunError::Config(error.to_string()))?;
    config.read_timeout = Some(READ_TIMEOUT);
    // Whoever asks decides when to ask again: a retry below it, with pauses of minutes, would hide a refusal from the status, and wait
    // for a disruption budget in the middle of a pass.
    config.default_retry = false;
    let client = Client::try_from(config).map_err(RunError::Client)?;
    let metrics = Arc::new(Metrics::new(&options.version));
    let (told, unready) = watch::channel(Some("starting".to_owned()));
    let listener = TcpListener::bind(options.metrics_addr)
        .await
        .map_err(|source| RunError::Listen {
            address: options.metrics_addr,
            source,
        })?;
    let stop = CancellationToken::new();
    let admin = Admin {
        metrics: Arc::clone(&metrics),
        unready,
    };
    tokio::spawn(serve(listener, admin, stop.clone()));
    let (leading, mut lead) = watch::channel(false);
    let election = tokio::spawn(lease::run(
        Api::namespaced(client.clone(), &options.lease_namespace),
        options.lease_name.clone(),
        options.identity.clone(),
        options.lease,
        leading,
        stop.clone(),
    ));
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    tracing::info!(
        version = options.version,
        identity = options.identity,
        "started"
    );
    loop {
        metrics.lead(false);
        tokio::select! {
            () = crd_exists(&client, &options, &told) => {}
            () = signals.any() => break,
        }
        tokio::select! {
            led = lead.wait_for(|leading| *leading) => if led.is_err() { break },
            () = signals.any() => break,
        }
        metrics.lead(true);
        // Work in flight is dropped where it stands when the lease is lost: every write carries what it was decided on.
        tokio::select! {
            () = work(&client, &options, &metrics) => {}
            _ = lead.wait_for(|leading| !*leading) => {}
            () = signals.any() => break,
        }
    }
    stop.cancel();
    // The lease is released, so that another begins at once.
    let _ = tokio::time::timeout(Duration::from_secs(5), election).await;
    tracing::info!("stopped");
    Ok(())
}

async fn work(client: &Client, options: &RunOptions, metrics: &Arc<Metrics>) {
    let reporter = Reporter {
        controller: MANAGER.to_owned(),
        instance: Some(options.identity.clone()),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let tools = Tools {
        client: client.clone(),
        images: options.images.clone(),
        terms: CertificateTerms {
            lifetime: options.certificate_lifetime,
            renew_after: options.certificate_lifetime / 3 * 2,
        },
    };
    let scopes: Vec<Option<&str>> = if options.namespaces.is_empty() {
        vec![None]
    } else {
        options
            .namespaces
            .iter()
            .map(|namespace| Some(namespace.as_str()))
            .collect()
    };
    futures_util::future::join_all(scopes.into_iter().map(|namespace| {
        controller::run(
            client.clone(),
            namespace,
            tools.clone(),
            recorder.clone(),
            Arc::clone(metrics),
        )
    }))
    .await;
}

/// Waits until RelayClusters can be listed; says meanwhile why not.
async fn crd_exists(client: &Client, options: &RunOptions, told: &watch::Sender<Option<String>>) {
    let api: Api<RelayCluster> = match options.namespaces.first() {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    loop {
        let listed = tokio::time::timeout(
            Duration::from_secs(10),
            api.list(&ListParams::default().limit(1)),
        )
        .await;
        let reason = match listed {
            Ok(Ok(_)) => {
                told.send_replace(None);
                return;
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                "the CustomResourceDefinition relayclusters.nightjar.dev is missing: install the chart with crds.enabled".to_owned()
            }
            Ok(Err(error)) => format!("RelayClusters cannot be listed: {error}"),
            Err(_) => "the API server does not answer".to_owned(),
        };
        if told.send_replace(Some(reason.clone())) != Some(reason.clone()) {
            tracing::warn!(reason, "not ready");
        }
        tokio::time::sleep(CRD_PAUSE).await;
    }
}

async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(on_readyz))
        .route("/metrics", get(on_metrics))
        .with_state(admin);
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the metrics port ended");
    }
}

async fn on_readyz(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.unready.borrow().clone() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready\n{reason}\n"),
        ),
    }
}

async fn on_metrics(State(admin): State<Admin>) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match admin.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("metrics: {error}\n"),
        )
            .into_response(),
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
