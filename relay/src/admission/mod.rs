//! Admission: may this client do this now? Cheap questions first (size, rate, amount), then the event's own rules, the
//! signature last and on threads of its own. Every refusal is an answer that the client can act on.

mod address;
mod in_flight;
mod lists;
mod rates;
mod refusal;
mod rules;
mod share;
mod verifier;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use nightjar_config::RelayConfig;

pub use address::{AddressKey, AddressPermit};
pub use in_flight::InFlightPermit;
pub use lists::{FleetLists, ListRules};
pub use rates::ConnectionRates;
pub use refusal::Refusal;
pub use rules::Rules;
pub use verifier::VerifierOptions;

use crate::event::Event;
use crate::http_auth;
use crate::metrics::{LimitRule, Metrics, Stage};
use crate::plugin::Source;
use crate::visibility::Readers;
use address::AddressBook;
use in_flight::InFlight;
use rates::AddressRates;
use share::UnauthenticatedShare;
use verifier::{Checks, Verifier};

/// The admission of one relay, shared by its sessions.
#[derive(Debug)]
pub struct Admission {
    settings: ArcSwap<Settings>,
    addresses: AddressBook,
    in_flight: InFlight,
    share: UnauthenticatedShare,
    verifier: Verifier,
    metrics: Arc<Metrics>,
}

/// What follows from the configuration and is made anew when it is read again.
#[derive(Debug)]
struct Settings {
    config: Arc<RelayConfig>,
    rules: Arc<Rules>,
    lists: Arc<ListRules>,
    address_rates: Arc<AddressRates>,
}

impl Settings {
    fn new(config: Arc<RelayConfig>) -> Self {
        let address_rates = Arc::new(AddressRates::new(&config.limits));
        Self::with(config, address_rates)
    }

    /// The settings that follow these. Full buckets for everyone would let a burst through with every reload, so an address keeps
    /// its own unless their size or rate is what changed.
    fn followed_by(&self, config: Arc<RelayConfig>) -> Self {
        if self.address_rates.fit(&config.limits) {
            Self::with(config, self.address_rates.clone())
        } else {
            Self::new(config)
        }
    }

    fn with(config: Arc<RelayConfig>, address_rates: Arc<AddressRates>) -> Self {
        Self {
            rules: Arc::new(Rules::new(&config)),
            lists: Arc::new(ListRules::new(&config.admission)),
            address_rates,
            config,
        }
    }
}

/// What a session keeps for admission: its own buckets and the key of its address. The address itself is kept only where a policy
/// program is configured to be told it.
#[derive(Debug)]
pub struct ConnectionAdmission {
    /// The buckets of this connection.
    pub rates: ConnectionRates,
    /// What policy programs are told of where the client is.
    pub source: Source,
    in_flight: InFlight,
    address: AddressPermit,
}

fn set_limit(metrics: &Metrics, config: &RelayConfig) {
    let limit = i64::try_from(config.limits.max_connections).unwrap_or(i64::MAX);
    metrics.connections_limit.set(limit);
}

impl Admission {
    /// Starts the signature workers.
    pub fn new(config: Arc<RelayConfig>, workers: VerifierOptions, metrics: Arc<Metrics>) -> Self {
        set_limit(&metrics, &config);
        Self {
            addresses: AddressBook::default(),
            in_flight: InFlight::for_relay(metrics.clone()),
            share: UnauthenticatedShare::new(&config),
            verifier: Verifier::start(workers, metrics.clone()),
            settings: ArcSwap::from_pointee(Settings::new(config)),
            metrics,
        }
    }

    /// Takes a configuration that was read again. Rates of open connections stay as they were when these began.
    pub fn reconfigure(&self, config: Arc<RelayConfig>) {
        set_limit(&self.metrics, &config);
        self.share.reconfigure(&config);
        let next = self.settings.load().followed_by(config);
        self.settings.store(Arc::new(next));
    }

    /// A place for one more connection of this address, or `None` if it has as many as it may.
    pub fn admit_connection(&self, address: std::net::IpAddr) -> Option<ConnectionAdmission> {
        let settings = self.settings.load();
        let limits = &settings.config.limits;
        let permit = self
            .addresses
            .connect(address, limits.connections_per_address)?;
        let keep_address = settings.config.plugins.give_address();
        Some(ConnectionAdmission {
            rates: ConnectionRates::new(limits),
            source: Source::new(address, permit.key(), keep_address),
            in_flight: self.in_flight.for_connection(),
            address: permit,
        })
    }

    /// The cheap half for an EVENT: rates, and room for its bytes until the permit is dropped.
    pub fn admit_event(
        &self,
        connection: &ConnectionAdmission,
        bytes: usize,
    ) -> Result<InFlightPermit, Refusal> {
        let settings = self.settings.load();
        let admitted = connection
            .rates
            .check_event()
            .and_then(|()| {
                settings
                    .address_rates
                    .check_event(&connection.address.key())
            })
            .and_then(|()| {
                let limits = &settings.config.limits;
                connection.in_flight.take(
                    bytes.max(LEAST_IN_FLIGHT),
                    limits.in_flight_publish_bytes_per_connection,
                    limits.in_flight_publish_bytes_per_relay,
                )
            });
        self.counted(admitted)
    }

    /// A token for a REQ, or another question to the index.
    pub fn admit_req(&self, connection: &ConnectionAdmission) -> Result<(), Refusal> {
        self.counted(connection.rates.check_req())
    }

    /// A token for an AUTH attempt, charged before its signature is looked at.
    pub fn admit_auth(&self, connection: &ConnectionAdmission) -> Result<(), Refusal> {
        self.counted(connection.rates.check_auth())
    }

    /// A token for a management call, charged before its signature is looked at. A proxy's clients count as one address.
    pub fn admit_call(&self, address: std::net::IpAddr) -> Result<(), Refusal> {
        let settings = self.settings.load();
        let key = self.addresses.key(address);
        self.counted(settings.address_rates.check_event(&key))
    }

    /// The dear half for an EVENT, on a worker: shape, rules, id, work and signature. `known` is asked last, on the same worker:
    /// only who holds a genuine event may learn what the relay knows of it.
    pub async fn verify_event(
        &self,
        json: Bytes,
        readers: Arc<Readers>,
        now_s: u64,
        known: impl FnOnce(&Event, &ListRules, &Readers) -> Result<(), Refusal> + Send + 'static,
    ) -> Result<Arc<Event>, Refusal> {
        let (rules, lists) = {
            let settings = self.settings.load();
            (settings.rules.clone(), settings.lists.clone())
        };
        let started = Instant::now();
        let (of_work, of_readers, of_lists) = (rules.clone(), readers.clone(), lists.clone());
        let checks = Checks {
            before: Box::new(move |event| {
                rules.check(event, &of_readers, now_s)?;
                of_lists.check_denied(event)
            }),
            identified: Box::new(move |event| of_work.check_work(event)),
            after: Box::new(move |event| known(event, &lists, &readers)),
        };
        let verified = self.verifier.run(json, checks).await;
        self.metrics
            .on_stage(Stage::verify, started.elapsed().as_secs_f64());
        self.counted(verified)
    }

    /// The same for the event of an AUTH, whose rules are those of NIP-42.
    pub async fn verify_auth(
        &self,
        json: Bytes,
        challenge: String,
        now_s: u64,
    ) -> Result<Arc<Event>, Refusal> {
        let rules = self.settings.load().rules.clone();
        let checks = Checks {
            before: Box::new(move |event| rules.check_auth(event, &challenge, now_s)),
            // An answer to this connection's own challenge is of no use to a spammer.
            identified: Box::new(|_| Ok(())),
            after: Box::new(|_| Ok(())),
        };
        let verified = self.verifier.run(json, checks).await;
        self.counted(verified)
    }

    /// The same for the event of an Authorization header, whose rules are those of NIP-98.
    pub async fn verify_http_auth(
        &self,
        json: Bytes,
        request: http_auth::Request,
        now_s: u64,
    ) -> Result<Arc<Event>, Refusal> {
        let config = self.settings.load().config.clone();
        let checks = Checks {
            before: Box::new(move |event| {
                let urls = &config.public_urls;
                Ok(http_auth::check(event, &request, urls, now_s)?)
            }),
            identified: Box::new(|_| Ok(())),
            after: Box::new(|_| Ok(())),
        };
        let verified = self.verifier.run(json, checks).await;
        self.counted(verified)
    }

    /// Charges an event of a connection without AUTH to the share of the log that such connections may fill.
    pub fn charge_unauthenticated(&self, bytes: usize) -> Result<(), Refusal> {
        self.counted(self.share.take(bytes, Instant::now()))
    }

    /// Gives up memory of addresses not seen for a while, and changes the salt of their hashes in time.
    pub fn tidy(&self) {
        self.addresses.rotate_salt(Instant::now());
        self.settings.load().address_rates.forget_idle();
    }

    fn counted<T>(&self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        if let Err(refusal) = &result
            && let Some(rule) = refusal.rule()
        {
            self.metrics.on_limit(rule);
        }
        result
    }

    /// Counts a refusal that the session itself decided.
    pub fn on_limit(&self, rule: LimitRule) {
        self.metrics.on_limit(rule);
    }
}

/// What an event under way costs at least, in bytes: the smallest one, too, has a task and an answer.
const LEAST_IN_FLIGHT: usize = 1024;

/// How often [`Admission::tidy`] is to be called.
pub const TIDY_EVERY: Duration = Duration::from_secs(60);
