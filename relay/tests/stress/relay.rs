//! A relay on a runtime of its own, without a log: what is published goes straight to its index, as the log's publisher does after its
//! acknowledgement.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use nightjar_config::RelayConfig;
use nightjar_envelope::Keyring;
use nightjar_relay::admission::{Admission, VerifierOptions};
use nightjar_relay::cursor::Cursors;
use nightjar_relay::event::Event;
use nightjar_relay::http::{self, PublicPort};
use nightjar_relay::index::{Applied, Index, IndexOptions, LogEntry, LogTime};
use nightjar_relay::live::{Live, Source};
use nightjar_relay::log::{Keys, PublishContext, PublishError, Published, Readiness};
use nightjar_relay::management::record::SignedChange;
use nightjar_relay::metrics::Metrics;
use nightjar_relay::plugin::{PluginMetrics, Plugins};
use nightjar_relay::session::{Parts, Publish, Services};
use nightjar_relay::socket::Timings;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const CONFIG: &str = "
fleet: {id: 00112233445566778899aabbccddeeff, name: stress}
region: a
name: a-relay-0
listen: 127.0.0.1:0
admin: 127.0.0.1:0
public_urls: ['ws://127.0.0.1:4001']
nats: {servers: ['nats://127.0.0.1:4222'], nkey_seed_file: unused}
keyring_file: unused
index: {dir: unused, max_bytes: 1073741824}
log: {replicas: 1, message_retention_seconds: 7776000, regions: [{region: a, generation: 1}]}
limits: {connections_per_address: 10000, events_burst_per_address: 1000000, events_per_second_per_address: 1000000}
";

/// A relay.
pub(crate) struct Relay {
    runtime: Runtime,
    port: PublicPort,
    services: Arc<Services>,
    index: Index,
    _folder: TempDir,
}

/// What is there of clients, or of what served them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Gauges of the metrics by name, and the entries of the live index.
    pub(crate) gauges: [(&'static str, i64); 7],
    /// Open files of the process.
    files: usize,
    /// Tasks of the relay's runtime.
    tasks: usize,
}

impl Left {
    pub(crate) const NO_GAUGES: [(&'static str, i64); 7] = [
        ("connections", 0),
        ("subscriptions", 0),
        ("filters", 0),
        ("out-queue bytes", 0),
        ("publish bytes in flight", 0),
        ("reconciled events", 0),
        ("live index entries", 0),
    ];
}

struct StraightToIndex {
    index: Index,
    live: Live,
}

impl Publish for StraightToIndex {
    fn publish(
        &self,
        event: Arc<Event>,
        context: PublishContext,
    ) -> BoxFuture<'_, Result<Published, PublishError>> {
        let (index, live) = (self.index.clone(), self.live.clone());
        let publish = move || {
            let entry = LogEntry {
                content: event.clone().into(),
                at: None,
                log_time: LogTime::Provisional(context.admitted_ms),
            };
            let applied = index
                .apply(&[entry], &[], context.admitted_ms / 1000)
                .map_err(|_| PublishError::IndexUnavailable)?;
            if applied == [Applied::New] {
                live.deliver(&event, Source::Publisher);
            }
            Ok(Published::Stored)
        };
        tokio::task::spawn_blocking(publish)
            .map(|published| published.unwrap_or(Err(PublishError::IndexUnavailable)))
            .boxed()
    }

    /// Nobody manages this relay.
    fn publish_change(
        &self,
        _change: Arc<SignedChange>,
        _context: PublishContext,
    ) -> BoxFuture<'_, Result<bool, PublishError>> {
        std::future::ready(Err(PublishError::IndexUnavailable)).boxed()
    }
}

impl Relay {
    pub(crate) fn start() -> Relay {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let config = RelayConfig::from_yaml(CONFIG).expect("settings");
        let options = IndexOptions {
            dir: folder.path().to_owned(),
            max_bytes: 256 << 20,
            message_retention: Duration::from_secs(config.log.message_retention_seconds),
            fleet: config.fleet.id.to_string(),
        };
        let (index, _) = Index::open(&options).expect("an index");
        let metrics = Arc::new(Metrics::new());
        let live = Live::new(metrics.clone());
        let keys = Keys::fixed(Keyring::generate().expect("a key"));
        let cursors = Cursors::new(keys, config.fleet.id);
        let mut counted = None;
        metrics.register(|registry| counted = Some(PluginMetrics::register(registry)));
        let counted = counted.expect("metrics of plugins");
        let config = Arc::new(config);
        let services = Services::new(Parts {
            config: Arc::new(ArcSwap::new(config.clone())),
            index: index.clone(),
            publisher: Arc::new(StraightToIndex {
                index: index.clone(),
                live: live.clone(),
            }),
            live,
            readiness: Readiness::default(),
            admission: Arc::new(Admission::new(
                config.clone(),
                VerifierOptions::default(),
                metrics.clone(),
            )),
            metrics,
            cursors,
            plugins: Plugins::start(&config.plugins, &counted),
        });
        let port = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            http::serve(listener, None, services.clone(), Timings::default()).expect("a listener")
        });
        Relay {
            runtime,
            port,
            services,
            index,
            _folder: folder,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// What is there now.
    pub(crate) fn left(&self) -> Left {
        let metrics = &self.services.metrics;
        let entries = i64::try_from(self.services.live.index_entries()).unwrap_or(i64::MAX);
        let mut gauges = Left::NO_GAUGES;
        let values = [
            metrics.connections.get(),
            metrics.subscriptions.get(),
            metrics.filters.get(),
            metrics.out_queue_bytes.get(),
            metrics.in_flight_publish_bytes.get(),
            metrics.reconciled_events.get(),
            entries,
        ];
        for (gauge, value) in gauges.iter_mut().zip(values) {
            gauge.1 = value;
        }
        Left {
            gauges,
            files: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            tasks: self.runtime.metrics().num_alive_tasks(),
        }
    }

    /// What is there of a relay that has answered once, and has nothing to do: its own tasks have all begun.
    pub(crate) fn idle(&self) -> Left {
        let mut stream = std::net::TcpStream::connect(self.address()).expect("TCP");
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("a write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        drop(stream);
        let mut before = self.left();
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now = self.left();
            if now == before {
                return now;
            }
            before = now;
        }
    }

    /// Waits until there is no more than `expected`, and says what there is.
    pub(crate) fn until(&self, expected: &Left, within: Duration) -> Left {
        let began = Instant::now();
        loop {
            let left = self.left();
            if left == *expected || began.elapsed() > within {
                return left;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Events in the index.
    pub(crate) fn stored(&self) -> u64 {
        let stats = self.index.stats().expect("figures");
        stats.public_events + stats.private_events
    }

    /// Ends the relay, and says how many tasks are left of it.
    pub(crate) fn stop(self) -> usize {
        let Relay { runtime, port, .. } = self;
        assert_eq!(runtime.block_on(port.drain()), 0);
        let began = Instant::now();
        while runtime.metrics().num_alive_tasks() > 0 && began.elapsed() < crate::SOON {
            std::thread::sleep(Duration::from_millis(20));
        }
        runtime.metrics().num_alive_tasks()
    }
}
