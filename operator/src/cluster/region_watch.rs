//! Watches the NATS servers of one region: makes its streams when it may, has servers load new configurations, moves stalled mirrors,
//! and tells what it sees. I/O only; what it sees is judged elsewhere. It is dropped with the leadership.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use nightjar_envelope::{RegionName, StreamName};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::plan::{Role, StreamKind, StreamPlan};
use crate::streams::{Links, Login, RegionAdmin, ServerLinks, ServerState, StreamError, Watchdog};

/// Pause between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// A region that is not seen for this long is connected to anew.
const ANEW_AFTER: Duration = Duration::from_secs(20);
/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A server is asked to load its configuration at most this often.
const RELOAD_PAUSE: Duration = Duration::from_secs(5);
/// How long one pass over the streams may take: a little more than one request may.
const APPLY_WITHIN: Duration = Duration::from_secs(6);
/// A look that began longer ago says nothing any more. Looks begin every 2 s and take a second or two; this is some that failed.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// What the watch is to do.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    /// The region.
    pub region: RegionName,
    /// `tls://` of its JetStream servers.
    pub nats_urls: Vec<String>,
    /// `tls://` of its hubs.
    pub hub_urls: Vec<String>,
    /// In the account of the relays.
    pub admin: Login,
    /// In the system account.
    pub system: Login,
    /// The streams that it holds.
    pub streams: Vec<StreamPlan>,
    /// Streams that were made before.
    pub made: BTreeSet<StreamName>,
    /// Whether missing streams may be made: links are up everywhere, and the intent is on record.
    pub may_create: bool,
    /// By server: what it should have loaded, where a reload is all that is needed.
    pub loads: BTreeMap<String, Loaded>,
    /// Certificates were renewed a moment ago: servers that do not tell which one they have load them in any case.
    pub reload_certificates: bool,
}

/// What a server has loaded, or should have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Loaded {
    /// The tag of its configuration.
    pub config: Option<String>,
    /// When its certificate ends, in seconds of Unix.
    pub certificate_until: Option<i64>,
}

/// A stream as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamView {
    /// Its name.
    pub name: StreamName,
    /// The region whose copy it is, of a mirror.
    pub mirror_of: Option<RegionName>,
    /// Server that leads it.
    pub leader: Option<String>,
    /// The other replicas: server, whether it is current, entries behind.
    pub replicas: Vec<(String, bool, u64)>,
    /// Entries.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
    /// Sequence of the last entry.
    pub last_sequence: u64,
    /// Of a mirror: entries behind its origin, as it knows itself.
    pub lag: u64,
    /// Of a mirror: since when it has not heard of its origin.
    pub silent_for: Option<Duration>,
}

/// A server as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ServerView {
    /// It says that it is well.
    pub healthy: bool,
    /// What it has loaded.
    pub loaded: Loaded,
    /// Leaf links.
    pub leafs: usize,
    /// Gateways to other regions (`hub-<region>`).
    pub gateways: Vec<String>,
    /// Bytes that JetStream stores, and may store.
    pub storage: (u64, u64),
}

/// What was seen of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RegionHealth {
    /// When the look began: nothing that happened later is in it.
    pub began: Instant,
    /// Why nothing could be seen.
    pub unreachable: Option<String>,
    /// Servers of this role do not know the user of the operator, which is why nothing could be seen.
    pub refused: Option<Role>,
    /// JetStream servers and hubs that answered, by name.
    pub servers: BTreeMap<String, ServerView>,
    /// Streams that exist.
    pub streams: BTreeMap<StreamName, StreamView>,
    /// Planned streams of which JetStream said that they do not exist. One that did not answer is in neither.
    pub absent: BTreeSet<StreamName>,
    /// What went wrong with streams, by stream; permanent ones first need a person.
    pub problems: BTreeMap<String, (String, bool)>,
    /// Why servers did not load their configuration.
    pub reload_problems: BTreeMap<String, String>,
}

impl RegionHealth {
    /// A look in which nothing was seen yet.
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            unreachable: None,
            refused: None,
            servers: BTreeMap::new(),
            streams: BTreeMap::new(),
            absent: BTreeSet::new(),
            problems: BTreeMap::new(),
            reload_problems: BTreeMap::new(),
        }
    }

    /// A look that saw nothing, and why. The reason must not change from look to look, or the status is written each time.
    pub(super) fn unseen(began: Instant, reason: impl Into<String>) -> Self {
        Self {
            unreachable: Some(reason.into()),
            ..Self::new(began)
        }
    }

    /// What the look still says at `now`: if it is too old, nothing but that.
    pub(super) fn at(self: Arc<Self>, now: Instant) -> Arc<Self> {
        let fresh = now.duration_since(self.began) <= FRESH_FOR;
        if fresh || (self.unreachable.is_some() && self.refused.is_none()) {
            return self;
        }
        let old = || {
            let seconds = FRESH_FOR.as_secs();
            format!("its servers were not looked at for more than {seconds} s")
        };
        let reason = self.unreachable.clone().unwrap_or_else(old);
        Arc::new(Self::unseen(self.began, reason))
    }
}

/// A watch that runs. Dropping it ends it.
#[derive(Debug)]
pub(super) struct RegionWatch {
    orders: watch::Sender<Arc<Orders>>,
    health: watch::Receiver<Option<Arc<RegionHealth>>>,
    task: JoinHandle<()>,
}

impl Drop for RegionWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RegionWatch {
    /// Starts to watch; `changed` is called whenever something looks otherwise than before.
    pub(super) fn start(orders: Orders, changed: impl Fn() + Send + 'static) -> Self {
        let (orders, received) = watch::channel(Arc::new(orders));
        let (told, health) = watch::channel(None);
        let task = tokio::spawn(run(received, told, changed));
        Self {
            orders,
            health,
            task,
        }
    }

    /// Gives new orders.
    pub(super) fn order(&self, orders: Orders) {
        self.orders.send_replace(Arc::new(orders));
    }

    /// What was seen last, as far as it still counts; `None` before the first look.
    pub(super) fn health(&self) -> Option<Arc<RegionHealth>> {
        let last = self.health.borrow().clone()?;
        Some(last.at(Instant::now()))
    }
}

/// Connections to a region, made anew when the login or the addresses change.
struct Connections {
    key: String,
    admin: RegionAdmin,
    servers: Links,
    hubs: Option<Links>,
    watchdog: Watchdog,
}

async fn run(
    orders: watch::Receiver<Arc<Orders>>,
    told: watch::Sender<Option<Arc<RegionHealth>>>,
    changed: impl Fn() + Send + 'static,
) {
    let mut connections: Option<Connections> = None;
    let mut reloaded: BTreeMap<String, Instant> = BTreeMap::new();
    let mut unseen_since: Option<Instant> = None;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Arc::clone(&orders.borrow());
        let health = match ensure(&mut connections, &now).await {
            Ok(known) => {
                let began = Instant::now();
                match timeout(FRESH_FOR, look(known, &now, &mut reloaded, began)).await {
                    Ok(health) => health,
                    // It would be too old when it ends, and what hangs may hang for ever.
                    Err(_) => {
                        connections = None;
                        RegionHealth::unseen(began, "a look at its servers came to no end")
                    }
                }
            }
            Err(unseen) => unseen,
        };
        match health.unreachable {
            // A client gives up after a while; a new one begins.
            Some(_) if unseen_since.get_or_insert_with(Instant::now).elapsed() > ANEW_AFTER => {
                connections = None;
                unseen_since = None;
            }
            Some(_) => {}
            None => unseen_since = None,
        }
        let differs = told
            .borrow()
            .as_ref()
            .is_none_or(|before| gist(before) != gist(&health));
        told.send_replace(Some(Arc::new(health)));
        if differs {
            changed();
        }
    }
}

/// What of a look is worth another pass over the fleet; counters change all the time.
type Gist = (
    Option<String>,
    Vec<(String, bool, Option<String>, usize, usize)>,
    Vec<(StreamName, bool, Vec<(String, bool)>, bool)>,
    Vec<String>,
);

fn gist(health: &RegionHealth) -> Gist {
    (
        health.unreachable.clone(),
        health
            .servers
            .iter()
            .map(|(name, server)| {
                (
                    name.clone(),
                    server.healthy,
                    server.loaded.config.clone(),
                    server.leafs,
                    server.gateways.len(),
                )
            })
            .collect(),
        health
            .streams
            .values()
            .map(|stream| {
                (
                    stream.name.clone(),
                    stream.leader.is_some(),
                    stream
                        .replicas
                        .iter()
                        .map(|(server, current, _)| (server.clone(), *current))
                        .collect(),
                    stream.lag == 0,
                )
            })
            .collect(),
        health.problems.keys().cloned().collect(),
    )
}

async fn ensure<'a>(
    connections: &'a mut Option<Connections>,
    orders: &Orders,
) -> Result<&'a mut Connections, RegionHealth> {
    let began = Instant::now();
    let key = format!(
        "{:?} {:?} {}",
        orders.nats_urls,
        orders.hub_urls,
        orders.admin.digest() + &orders.system.digest()
    );
    if connections.as_ref().is_some_and(|known| known.key == key) {
        return Ok(connections.as_mut().expect("just seen"));
    }
    *connections = None;
    let region = &orders.region;
    let connect = async {
        let of = |role| move |error| (role, error);
        let admin = RegionAdmin::connect(region, &orders.nats_urls, &orders.admin).await;
        let admin = admin.map_err(of(Role::Nats))?;
        let servers = Links::connect(region, &orders.nats_urls, &orders.system).await;
        let servers = servers.map_err(of(Role::Nats))?;
        let hubs = if orders.hub_urls.is_empty() {
            None
        } else {
            let hubs = Links::connect(region, &orders.hub_urls, &orders.system).await;
            Some(hubs.map_err(of(Role::Hub))?)
        };
        Ok::<_, (Role, StreamError)>(Connections {
            key,
            watchdog: Watchdog::new(admin.clone()),
            admin,
            servers,
            hubs,
        })
    };
    let made = timeout(CONNECT_WITHIN, connect)
        .await
        .map_err(|_| RegionHealth::unseen(began, "no answer within 5 s"))?
        .map_err(|(role, error)| not_connected(began, role, &error))?;
    Ok(connections.insert(made))
}

fn not_connected(began: Instant, role: Role, error: &StreamError) -> RegionHealth {
    RegionHealth {
        refused: matches!(error, StreamError::Login { .. }).then_some(role),
        ..RegionHealth::unseen(began, error.to_string())
    }
}

/// What the servers of one cluster say. One that is there, and does not say in time that it is well, is asked once more: an answer that is
/// late is no news.
async fn ask(links: &Links) -> (Vec<ServerState>, Vec<String>, Vec<ServerLinks>) {
    let (states, mut healthy, read) = tokio::join!(links.servers(), links.healthy(), links.read());
    let is_well = |state: &ServerState| healthy.contains(&state.server);
    if !states.iter().all(is_well) {
        healthy.extend(links.healthy().await);
    }
    (states, healthy, read)
}

async fn look(
    connections: &mut Connections,
    orders: &Orders,
    reloaded: &mut BTreeMap<String, Instant>,
    began: Instant,
) -> RegionHealth {
    let mut health = RegionHealth::new(began);
    let clusters = std::iter::once(&connections.servers).chain(connections.hubs.as_ref());
    let mut ids = BTreeMap::new();
    let seen = join_all(clusters.clone().map(ask)).await;
    for (states, healthy, links) in seen {
        for state in states {
            ids.insert(state.server.clone(), state.id);
            let server = health.servers.entry(state.server).or_default();
            server.loaded = Loaded {
                config: state.config,
                certificate_until: state.certificate_until,
            };
            server.storage = (state.storage_used, state.storage_max);
        }
        for name in healthy {
            health.servers.entry(name).or_default().healthy = true;
        }
        for link in links {
            let server = health.servers.entry(link.server).or_default();
            server.leafs = link.leafs;
            server.gateways = link.gateways;
        }
    }
    if health.servers.is_empty() {
        health.unreachable = Some("no NATS server of the region answers".to_owned());
        return health;
    }
    reload(connections, orders, &ids, &mut health, reloaded).await;
    streams(connections, orders, &mut health).await;
    health
}

impl Loaded {
    /// How long after the last request a server that has this is asked again to load what is wanted; `None` if it has it.
    fn asked_again_after(&self, wanted: &Self, renewed: bool) -> Option<Duration> {
        if self.config != wanted.config {
            return Some(RELOAD_PAUSE);
        }
        let old = match (self.certificate_until, wanted.certificate_until) {
            (Some(loaded), Some(wanted)) => loaded != wanted,
            (None, Some(_)) => renewed,
            (_, None) => false,
        };
        // The files of a renewed certificate take a minute or two, and a server that has them says so.
        old.then_some(RELOAD_PAUSE * 4)
    }
}

/// Servers whose configuration or certificate is not the planned one are asked to load it; the files reach pods some time after they were written.
async fn reload(
    connections: &Connections,
    orders: &Orders,
    ids: &BTreeMap<String, String>,
    health: &mut RegionHealth,
    reloaded: &mut BTreeMap<String, Instant>,
) {
    let mut asked = Vec::new();
    for (server, wanted) in &orders.loads {
        let (Some(view), Some(id)) = (health.servers.get(server), ids.get(server)) else {
            continue;
        };
        let renewed = orders.reload_certificates;
        let Some(pause) = view.loaded.asked_again_after(wanted, renewed) else {
            continue;
        };
        if reloaded.get(server).is_some_and(|at| at.elapsed() < pause) {
            continue;
        }
        reloaded.insert(server.clone(), Instant::now());
        let links = match &connections.hubs {
            Some(hubs) if server.contains("-hub-") => hubs,
            _ => &connections.servers,
        };
        asked.push(async move { (server, links.reload(id).await) });
    }
    for (server, answer) in join_all(asked).await {
        if let Err(problem) = answer {
            health.reload_problems.insert(server.clone(), problem);
        }
    }
}

async fn streams(connections: &mut Connections, orders: &Orders, health: &mut RegionHealth) {
    let admin = &connections.admin;
    let seen = join_all(
        orders
            .streams
            .iter()
            .map(|plan| async move { (plan, admin.info(&plan.name.to_string()).await) }),
    )
    .await;
    let mut missing = Vec::new();
    for (plan, info) in seen {
        match info {
            Ok(Some(info)) => {
                health
                    .streams
                    .insert(plan.name.clone(), stream_view(plan, &info));
            }
            Ok(None) => {
                health.absent.insert(plan.name.clone());
                missing.push(plan);
            }
            Err(error) => {
                let temporary = error.is_temporary();
                health
                    .problems
                    .insert(plan.name.to_string(), (error.to_string(), temporary));
            }
        }
    }
    if orders.may_create {
        // Corrects what drifted, and makes what is missing.
        let applied = timeout(APPLY_WITHIN, admin.apply(&orders.streams, &orders.made)).await;
        for (name, result) in applied.into_iter().flatten() {
            if let Err(error) = result {
                let temporary = error.is_temporary();
                health
                    .problems
                    .insert(name.to_string(), (error.to_string(), temporary));
            }
        }
    } else {
        for plan in missing {
            let waits = "is made when every server is linked".to_owned();
            health.problems.insert(plan.name.to_string(), (waits, true));
        }
    }
    for moved in connections.watchdog.round(&orders.streams).await {
        match moved {
            Ok(mirror) if mirror.moved => {
                tracing::warn!(region = %orders.region, stream = %mirror.stream, of = %mirror.of, "a stalled mirror got another leader");
            }
            _ => {}
        }
    }
}

fn stream_view(plan: &StreamPlan, info: &async_nats::jetstream::stream::Info) -> StreamView {
    let cluster = info.cluster.as_ref();
    let mirror = info.mirror.as_ref();
    StreamView {
        name: plan.name.clone(),
        mirror_of: match &plan.kind {
            StreamKind::Mirror { of, .. } => Some(of.clone()),
            StreamKind::Writer { .. } => None,
        },
        leader: cluster.and_then(|cluster| cluster.leader.clone()),
        replicas: cluster
            .into_iter()
            .flat_map(|cluster| &cluster.replicas)
            .map(|peer| {
                let lag = peer.lag.unwrap_or(0);
                (peer.name.clone(), peer.current && !peer.offline, lag)
            })
            .collect(),
        messages: info.state.messages,
        bytes: info.state.bytes,
        last_sequence: info.state.last_sequence,
        lag: mirror.map_or(0, |mirror| mirror.lag),
        silent_for: mirror.and_then(|mirror| mirror.active),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_says_nothing_when_it_is_old_and_why_does_not_change_with_time() {
        let began = Instant::now();
        let mut look = RegionHealth::new(began);
        look.servers
            .insert("a-nats-0".to_owned(), ServerView::default());
        let look = Arc::new(look);
        let at = |after| Arc::clone(&look).at(began + after);
        assert_eq!(at(FRESH_FOR), look);
        let old = at(FRESH_FOR + Duration::from_millis(1));
        assert!(old.servers.is_empty());
        assert!(
            old.unreachable
                .as_ref()
                .is_some_and(|why| why.contains("10 s"))
        );
        assert_eq!(old, at(FRESH_FOR * 100));
    }

    #[test]
    fn a_server_is_asked_until_it_says_that_it_has_the_renewed_certificate() {
        let has = |config: &str, certificate_until| Loaded {
            config: Some(config.to_owned()),
            certificate_until,
        };
        let wanted = has("new", Some(9));
        for (loaded, renewed, asked) in [
            (has("new", Some(9)), true, false),
            (has("new", Some(5)), false, true),
            (has("old", Some(9)), false, true),
            (has("new", None), true, true),
            (has("new", None), false, false),
        ] {
            let again = loaded.asked_again_after(&wanted, renewed);
            assert_eq!(again.is_some(), asked, "{loaded:?} {renewed}");
        }
    }

    #[test]
    fn why_a_region_is_not_seen_stays_what_it_was() {
        let began = Instant::now();
        let look = Arc::new(RegionHealth::unseen(began, "no answer"));
        assert_eq!(Arc::clone(&look).at(began + FRESH_FOR * 2), look);
    }

    #[test]
    fn a_refusal_that_is_old_is_no_ground_to_restart_anything() {
        let began = Instant::now();
        let mut look = RegionHealth::unseen(began, "refused");
        look.refused = Some(Role::Nats);
        let look = Arc::new(look);
        let at = |after| Arc::clone(&look).at(began + after);
        assert_eq!(at(FRESH_FOR).refused, Some(Role::Nats));
        let old = at(FRESH_FOR * 2);
        assert_eq!((old.refused, &old.unreachable), (None, &look.unreachable));
    }
}
