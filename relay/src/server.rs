//! The server: starts every part in order and stops them in reverse, within `limits.drain_seconds` and 3 s more.
//!
//! Order: admin port (so that `/readyz` tells the rest), index, admission, log, policy programs, public port. A client that connects early
//! is told what the relay waits for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nightjar_config::RelayConfig;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, VerifierOptions};
use crate::cursor::Cursors;
use crate::event::Event;
use crate::http::{self, PublicPort, Tls};
use crate::index::{Index, IndexError, IndexOptions, OpenedAs};
use crate::index_metrics::IndexMetrics;
use crate::live::Live;
use crate::log::{
    Log, LogError, LogMetrics, LogOptions, PublishContext, PublishError, Published, Publisher,
    Readiness, Waiting,
};
use crate::management::record::SignedChange;
use crate::metrics::Metrics;
use crate::metrics::state::{KeyMetrics, ReadinessMetrics};
use crate::plugin::{PluginMetrics, Plugins};
use crate::session::{Parts, Publish, Services};
use crate::socket::Timings;
use crate::trust::TrustTask;
use crate::{admin, reload};

/// The log side and the index get this after the connections, which get `limits.drain_seconds` and [`http::DRAIN_GRACE`].
/// The last traces and threads get the rest of 3 s.
const LOG_WITHIN: Duration = Duration::from_millis(1_200);

/// Why the relay did not start, or ended by itself.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A setting that only the start could find wrong.
    #[error("{0}")]
    Config(String),
    /// A port cannot be listened on.
    #[error("{field}: {address}: {source}")]
    Listen {
        /// The setting: `listen` or `admin`.
        field: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The index cannot be used.
    #[error("{0}")]
    Index(#[from] IndexError),
    /// The log side did not start.
    #[error("{0}")]
    Log(LogError),
    /// The system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ServerError {
    fn system(what: &'static str, source: std::io::Error) -> Self {
        Self::System { what, source }
    }
}

impl From<LogError> for ServerError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Connection(error) => Self::Config(error.to_string()),
            error @ LogError::System { .. } => Self::Log(error),
        }
    }
}

impl Publish for Publisher {
    fn publish(
        &self,
        event: Arc<Event>,
        context: PublishContext,
    ) -> BoxFuture<'_, Result<Published, PublishError>> {
        Self::publish(self, event, context).boxed()
    }

    fn publish_change(
        &self,
        change: Arc<SignedChange>,
        context: PublishContext,
    ) -> BoxFuture<'_, Result<bool, PublishError>> {
        Self::publish_change(self, change, context).boxed()
    }
}

/// Runs a relay until SIGTERM or SIGINT.
pub async fn run(path: PathBuf, config: RelayConfig) -> Result<(), ServerError> {
    let mut signals = Signals::new()?;
    let hangups = caught(SignalKind::hangup())?;
    let server = Server::start(path, config, hangups).await?;
    let name = signals.next().await;
    tracing::info!(signal = name, "stopping");
    // A second signal: who sent it does not want to wait for the clients.
    let hurry = async move { signals.next().await };
    server.stop(hurry).await;
    tracing::info!("stopped");
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, ServerError> {
        Ok(Self {
            terminate: caught(SignalKind::terminate())?,
            interrupt: caught(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn caught(kind: SignalKind) -> Result<Signal, ServerError> {
    signal(kind).map_err(|source| ServerError::system("signals", source))
}

/// A running relay.
struct Server {
    config: Arc<ArcSwap<RelayConfig>>,
    readiness: Readiness,
    public: PublicPort,
    plugins: Plugins,
    log: Log,
    index: Index,
    /// Ends what only watches: the configuration file and the admin port.
    stop: CancellationToken,
}

impl Server {
    async fn start(
        path: PathBuf,
        config: RelayConfig,
        hangups: Signal,
    ) -> Result<Self, ServerError> {
        let config = Arc::new(ArcSwap::from_pointee(config));
        let settings = config.load_full();
        let readiness = Readiness::starting();
        let metrics = Arc::new(Metrics::new());
        let stop = CancellationToken::new();
        let tls = open_tls(&settings, &metrics, &stop)?;
        let admin_port = bind("admin", settings.admin).await?;
        let public_port = bind("listen", settings.listen).await?;
        let state = Box::new(ReadinessMetrics(readiness.clone()));
        metrics.register(|registry| registry.register_collector(state));
        tokio::spawn(admin::serve(
            admin_port,
            readiness.clone(),
            Arc::clone(&metrics),
            stop.clone(),
        ));
        let (index, opened) = open_index(&settings).await?;
        let figures = Box::new(IndexMetrics {
            index: index.clone(),
        });
        metrics.register(|registry| registry.register_collector(figures));
        let live = Live::new(Arc::clone(&metrics));
        let (reloaded, reloads) = watch::channel(0);
        let admission = Arc::new(Admission::new(
            config.load_full(),
            VerifierOptions::default(),
            Arc::clone(&metrics),
        ));
        let log = Log::start(LogOptions {
            config: Arc::clone(&config),
            reloads: reloads.clone(),
            index: index.clone(),
            fresh: matches!(opened, OpenedAs::Fresh(_)),
            budgets: admission.budgets(),
            live: live.clone(),
            readiness: readiness.clone(),
            metrics: registered(&metrics, LogMetrics::register),
        })
        .await?;
        let keys = KeyMetrics(log.keys());
        metrics.register(|registry| registry.register_collector(Box::new(keys)));
        let counted = registered(&metrics, PluginMetrics::register);
        let plugins = Plugins::start(&settings.plugins, &counted);
        let services = Services::new(Parts {
            config: Arc::clone(&config),
            index: index.clone(),
            live,
            publisher: Arc::new(log.publisher()),
            metrics: Arc::clone(&metrics),
            readiness: readiness.clone(),
            admission: Arc::clone(&admission),
            cursors: Cursors::new(log.keys(), settings.fleet.id),
            plugins: plugins.clone(),
        });
        let trust = TrustTask::of(&services);
        tokio::spawn(trust.run(admission.trust_gates(), stop.clone()));
        let public = http::serve(public_port, tls, services, Timings::default());
        let public = public.map_err(|source| ServerError::system("listen", source))?;
        tokio::spawn(reload::watch(
            path,
            Arc::clone(&config),
            reloaded,
            hangups,
            stop.clone(),
        ));
        let following = follow_reloads(Arc::clone(&config), admission, metrics, reloads);
        tokio::spawn(following);
        readiness.clear("start");
        tell_serving(&settings, &public);
        Ok(Self {
            config,
            readiness,
            public,
            plugins,
            log,
            index,
            stop,
        })
    }

    /// Stops; when `hurry` resolves, without waiting for connections any longer.
    async fn stop(self, hurry: impl Future<Output = &'static str>) {
        let drain = Duration::from_secs(self.config.load().limits.drain_seconds);
        let drained_by = Instant::now() + drain + http::DRAIN_GRACE + http::LAST_ANSWERS;
        self.readiness.set("drain", Waiting::Draining);
        let drained = tokio::select! {
            drained = timeout_at(drained_by, self.public.drain()) => drained,
            signal = hurry => {
                tracing::warn!(signal, "connections are cut");
                Ok(0)
            }
        };
        match drained {
            Ok(0) => {}
            Ok(open) => tracing::warn!(open, "connections did not close in time"),
            Err(_) => tracing::warn!("connections did not close in time"),
        }
        let deadline = Instant::now() + LOG_WITHIN;
        tokio::join!(self.log.stop(LOG_WITHIN / 2), async {
            // What is not ended by then is killed with the process's last handle on it.
            let _ = timeout_at(deadline, self.plugins.stop()).await;
        });
        let index = self.index;
        let closed = tokio::task::spawn_blocking(move || index.close());
        match timeout_at(deadline, closed).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the index was not closed"),
            _ => tracing::warn!("the index was not closed in time; after a reboot it is rebuilt"),
        }
        self.stop.cancel();
    }
}

/// Reads the certificate of the public port and watches it until `stop`.
fn open_tls(
    config: &RelayConfig,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<Option<Tls>, ServerError> {
    let Some(files) = &config.tls else {
        return Ok(None);
    };
    let opened = http::open_tls(files, metrics);
    let (watch, tls) = opened.map_err(|error| ServerError::Config(error.to_string()))?;
    tokio::spawn(watch.run(stop.clone()));
    Ok(Some(tls))
}

async fn bind(field: &'static str, address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServerError::Listen {
            field,
            address,
            source,
        })
}

async fn open_index(config: &RelayConfig) -> Result<(Index, OpenedAs), ServerError> {
    let options = IndexOptions {
        dir: config.index.dir.clone(),
        max_bytes: config.index.max_bytes,
        message_retention: Duration::from_secs(config.log.message_retention_seconds),
        fleet: config.fleet.id.to_string(),
    };
    let opened = tokio::task::spawn_blocking(move || Index::open(&options))
        .await
        .map_err(|error| ServerError::system("index", std::io::Error::other(error)))??;
    match &opened.1 {
        OpenedAs::Resumed => tracing::info!("the index goes on where it was"),
        OpenedAs::Fresh(reason) => tracing::info!(%reason, "the index is filled from the log"),
    }
    Ok(opened)
}

/// Metrics of one part of the relay, in the registry of all.
fn registered<M>(metrics: &Metrics, register: impl Fn(&mut Registry) -> M) -> M {
    let mut made = None;
    metrics.register(|registry| made = Some(register(registry)));
    made.unwrap_or_else(|| register(&mut Registry::default()))
}

fn tell_serving(settings: &RelayConfig, public: &PublicPort) {
    tracing::info!(
        relay = settings.name,
        region = %settings.region,
        listen = %public.address(),
        tls = settings.tls.is_some(),
        admin = %settings.admin,
        "serving"
    );
}

/// Tells those who keep something that follows from the configuration. The sessions read it where they need it.
async fn follow_reloads(
    config: Arc<ArcSwap<RelayConfig>>,
    admission: Arc<Admission>,
    metrics: Arc<Metrics>,
    mut reloads: watch::Receiver<u64>,
) {
    let mut connections = config.load().limits.max_connections;
    while reloads.changed().await.is_ok() {
        let now = config.load_full();
        let before = std::mem::replace(&mut connections, now.limits.max_connections);
        if connections != before {
            http::raise_file_limit(connections, &metrics);
        }
        admission.reconfigure(now);
    }
}
