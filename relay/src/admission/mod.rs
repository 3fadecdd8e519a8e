//! Admission: may this client do this now? Cheap questions first (size, rate, amount), then the event's own rules, the
//! signature last and on threads of its own. Every refusal is an answer that the client can act on.

mod address;
mod budget;
mod contact;
mod in_flight;
mod lists;
mod rates;
mod refusal;
mod rules;
mod share;
mod trust;
mod verifier;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use nightjar_config::{AuthRequired, RelayConfig};
use tokio::sync::watch;

pub use address::{AddressKey, AddressPermit};
pub use budget::KeyBudgets;
pub use in_flight::InFlightPermit;
pub use lists::{FleetLists, ListRules};
pub use rates::ConnectionRates;
pub use refusal::Refusal;
pub use rules::Rules;
pub use trust::{TrustGate, Trusted};
pub use verifier::VerifierOptions;

use crate::event::{Event, PublicKey, is_wrap};
use crate::http_auth;
use crate::metrics::{LimitRule, Metrics, Stage};
use crate::plugin::Source;
use crate::visibility::Readers;
use address::AddressBook;
use contact::{Contact, ContactRules};
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
    budgets: KeyBudgets,
    /// The web of trust that is asked, for whoever computes it.
    trust: watch::Sender<Option<Arc<TrustGate>>>,
    metrics: Arc<Metrics>,
}

/// What follows from the configuration and is made anew when it is read again.
#[derive(Debug)]
struct Settings {
    config: Arc<RelayConfig>,
    rules: Arc<Rules>,
    contact: ContactRules,
    trust: Option<Arc<TrustGate>>,
    lists: Arc<ListRules>,
    address_rates: Arc<AddressRates>,
}

impl Settings {
    /// The settings of a configuration that follows these. Full buckets for everyone would let a burst through with every reload, so an
    /// address keeps its own unless their size or rate is what changed.
    fn new(config: Arc<RelayConfig>, before: Option<&Self>) -> Self {
        let trust_before = before.and_then(|settings| settings.trust.as_deref());
        let rates_before = before.map(|settings| &settings.address_rates);
        let address_rates = rates_before
            .filter(|rates| rates.fit(&config.limits))
            .cloned()
            .unwrap_or_else(|| Arc::new(AddressRates::new(&config.limits)));
        Self {
            rules: Arc::new(Rules::new(&config)),
            contact: ContactRules::new(&config.admission.gift_wraps),
            trust: TrustGate::new(&config.admission.trust, trust_before),
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
        let settings = Settings::new(config.clone(), None);
        Self {
            addresses: AddressBook::default(),
            in_flight: InFlight::for_relay(metrics.clone()),
            share: UnauthenticatedShare::new(&config),
            verifier: Verifier::start(workers, metrics.clone()),
            budgets: KeyBudgets::new(&config.admission.key_budget),
            trust: watch::Sender::new(settings.trust.clone()),
            settings: ArcSwap::from_pointee(settings),
            metrics,
        }
    }

    /// Takes a configuration that was read again. Rates of open connections stay as they were when these began.
    pub fn reconfigure(&self, config: Arc<RelayConfig>) {
        set_limit(&self.metrics, &config);
        self.share.reconfigure(&config);
        self.budgets.reconfigure(&config.admission.key_budget);
        let settings = Settings::new(config, Some(&self.settings.load()));
        let trust = settings.trust.clone();
        self.settings.store(Arc::new(settings));
        self.trust.send_replace(trust);
    }

    /// The budgets of keys, for whoever shares them with the other relays.
    pub fn budgets(&self) -> KeyBudgets {
        self.budgets.clone()
    }

    /// The web of trust that is asked, as configurations follow each other. Its set is to be computed, and until then it lets nobody pass.
    pub fn trust_gates(&self) -> watch::Receiver<Option<Arc<TrustGate>>> {
        self.trust.subscribe()
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

    /// The cheap half for an EVENT: rates, whether anyone must have authenticated, and room for its bytes until the permit is dropped.
    pub fn admit_event(
        &self,
        connection: &ConnectionAdmission,
        readers: &Readers,
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
            .and_then(|()| match settings.config.admission.auth_required {
                AuthRequired::Writes | AuthRequired::Always if readers.is_empty() => {
                    Err(Refusal::WriteNeedsAuth)
                }
                _ => Ok(()),
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

    /// A token for a REQ, or another question to the index, and whether anyone must have authenticated to ask it.
    pub fn admit_req(
        &self,
        connection: &ConnectionAdmission,
        readers: &Readers,
    ) -> Result<(), Refusal> {
        self.counted(connection.rates.check_req())?;
        match self.settings.load().config.admission.auth_required {
            AuthRequired::Always if readers.is_empty() => Err(Refusal::ReadNeedsAuth),
            _ => Ok(()),
        }
    }

    /// A token for an AUTH attempt, charged before its signature is looked at.
    pub fn admit_auth(&self, connection: &ConnectionAdmission) -> Result<(), Refusal> {
        self.counted(connection.rates.check_auth())
    }

    /// A token for a management call, charged before its signature is looked at.
    pub fn admit_call(&self, address: std::net::IpAddr) -> Result<(), Refusal> {
        let settings = self.settings.load();
        let key = self.addresses.key(address);
        self.counted(settings.address_rates.check_event(&key))
    }

    /// The dear half for an EVENT, on a worker: shape, rules, id, work and signature. `known` is asked last, on the same worker:
    /// only who holds a genuine event may learn what the relay knows of it. So is `is_known`, whether a recipient is, and only where that
    /// decides. What is known of the event is asked after everything that may refuse it but the budget: who sends again what is known spends
    /// nothing, and nobody spends a key's budget without an event that the key signed.
    pub async fn verify_event(
        &self,
        json: Bytes,
        readers: Arc<Readers>,
        now_s: u64,
        is_known: impl FnOnce(&PublicKey) -> Result<bool, Refusal> + Send + 'static,
        known: impl FnOnce(&Event, &ListRules, &Readers) -> Result<(), Refusal> + Send + 'static,
    ) -> Result<Arc<Event>, Refusal> {
        // One configuration answers all questions, also if another one comes meanwhile.
        let settings = self.settings.load_full();
        let started = Instant::now();
        let (before, identified) = (settings.clone(), settings.clone());
        let (of_rules, of_contact) = (readers.clone(), readers.clone());
        let budgets = self.budgets.clone();
        let checks = Checks {
            before: Box::new(move |event| {
                before.rules.check(event, &of_rules, now_s)?;
                before.lists.check_denied(event)?;
                let trust = before.trust.as_ref();
                trust.map_or(Ok(()), |trust| trust.check(event, &of_rules))
            }),
            identified: Box::new(move |event| {
                identified.rules.check_work(event)?;
                match identified.contact.judge(event, &of_contact) {
                    Contact::Refused(refusal) => Err(refusal),
                    Contact::Welcome | Contact::IfKnown(_) => Ok(()),
                }
            }),
            after: Box::new(move |event| {
                if let Contact::IfKnown(recipient) = settings.contact.judge(event, &readers)
                    && !is_known(&recipient)?
                {
                    return Err(settings.contact.refusal(event));
                }
                known(event, &settings.lists, &readers)?;
                spend(&budgets, event, &readers)
            }),
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
        self.budgets.forget_whole(Instant::now());
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

/// Takes an event off the budget of its author, or, of a gift wrap, whose author is a throw-away key, off that of everyone who authenticated.
fn spend(budgets: &KeyBudgets, event: &Event, readers: &Readers) -> Result<(), Refusal> {
    let now = Instant::now();
    let spent = if is_wrap(event.kind) {
        budgets.spend(readers.iter(), now)
    } else {
        budgets.spend(std::iter::once(&event.pubkey), now)
    };
    spent.map_err(|wait| {
        let wait = wait.as_millis() + 1;
        let text = format!("too many events of this key on this fleet, try again in {wait} ms");
        Refusal::limited(LimitRule::events_key, text)
    })
}

/// What an event under way costs at least, in bytes: the smallest one, too, has a task and an answer.
const LEAST_IN_FLIGHT: usize = 1024;

/// How often [`Admission::tidy`] is to be called.
pub const TIDY_EVERY: Duration = Duration::from_secs(60);
