//! Looks after one region's log while the fleet runs: streams first, mirrors once the others have theirs, then the watch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use nightjar_envelope::{RegionName, StreamName};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::plan::{Port, RegionPlan, StreamKind, StreamPlan};
use crate::streams::{Change, Links, Login, MirrorHealth, RegionAdmin, StreamError, Watchdog};

/// Pause between tries to connect while servers start.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Pause between questions whether another region answers.
const REACH_PAUSE: Duration = Duration::from_millis(100);
/// How long another region may take to answer one question.
const REACH_DEADLINE: Duration = Duration::from_millis(500);
/// How long a region waits for the leaf links of all its servers.
const LINK_PATIENCE: Duration = Duration::from_secs(5);
/// How often mirrors are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Of those looks, how many pass between two looks at leaf links.
const LINKS_EVERY: u32 = 5;
/// Of those looks, how many pass between two comparisons of streams with the plan.
const COMPARE_EVERY: u32 = 30;
/// A server without a leaf link for so many looks in a row is reported.
const LINKLESS_LOOKS: u32 = 3;

/// What the task of a region reports.
#[derive(Debug)]
pub(crate) enum RegionReport {
    /// The region's own streams are there.
    Written(RegionName, BTreeSet<StreamName>),
    /// All its streams are there, mirrors too.
    Settled(RegionName),
    /// All its JetStream servers were well, asked at that time: one of them may restart without breaking the majority.
    Healthy(RegionName, Instant),
    /// Something is wrong with its log, and a person should know.
    Problem(String),
    /// Something was put right.
    Corrected(String),
}

/// Secrets that the operator needs in a region.
#[derive(Clone)]
pub(crate) struct RegionSeeds {
    pub(crate) admin: Zeroizing<String>,
    pub(crate) system: Zeroizing<String>,
}

impl std::fmt::Debug for RegionSeeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RegionSeeds")
    }
}

/// What the task of a region needs.
#[derive(Debug)]
pub(crate) struct RegionContext {
    pub(crate) seeds: RegionSeeds,
    pub(crate) plan: watch::Receiver<Arc<RegionPlan>>,
    /// Regions whose own streams are there.
    pub(crate) written: watch::Receiver<BTreeSet<RegionName>>,
    /// Streams of this region that were made in an earlier run.
    pub(crate) made: BTreeSet<StreamName>,
    pub(crate) reports: mpsc::Sender<RegionReport>,
}

/// A handle to the task of one region. Dropping it ends the task.
#[derive(Debug)]
pub(crate) struct RegionTask {
    plan: watch::Sender<Arc<RegionPlan>>,
    task: JoinHandle<()>,
}

impl RegionTask {
    /// Starts looking after a region.
    pub(crate) fn start(
        plan: RegionPlan,
        seeds: RegionSeeds,
        made: BTreeSet<StreamName>,
        written: watch::Receiver<BTreeSet<RegionName>>,
        reports: mpsc::Sender<RegionReport>,
    ) -> Self {
        let (sender, receiver) = watch::channel(Arc::new(plan));
        let context = RegionContext {
            seeds,
            plan: receiver,
            written,
            made,
            reports,
        };
        Self {
            plan: sender,
            task: tokio::spawn(context.run()),
        }
    }

    /// Goes on with a new plan; an equal one changes nothing.
    pub(crate) fn replan(&self, plan: &RegionPlan) -> bool {
        self.plan.send_if_modified(|current| {
            let differs = **current != *plan;
            if differs {
                *current = Arc::new(plan.clone());
            }
            differs
        })
    }
}

impl Drop for RegionTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RegionContext {
    async fn run(mut self) {
        loop {
            let plan = Arc::clone(&self.plan.borrow_and_update());
            let mut changes = self.plan.clone();
            let health = report_health(Arc::clone(&plan), self.seeds.clone(), self.reports.clone());
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.look_after(&plan) => {}
                () = health => {}
            }
        }
    }

    /// Never ends by itself.
    async fn look_after(&mut self, plan: &RegionPlan) {
        let admin = self.connect(plan).await;
        let own = plan.streams.iter().filter(|stream| is_own(stream));
        let results = admin.apply_until_settled(own, &self.made).await;
        let present: BTreeSet<StreamName> = results
            .iter()
            .filter(|(_, result)| result.is_ok())
            .map(|(name, _)| name.clone())
            .collect();
        self.made.extend(present.iter().cloned());
        self.tell(plan, &results, false).await;
        let links = self.links(plan).await;
        if let Some(links) = &links {
            wait_linked(links, plan.nats.len()).await;
        }
        self.send(RegionReport::Written(plan.name.clone(), present))
            .await;
        let this = &*self;
        let mirror = async {
            this.mirror(plan, &admin).await;
            this.send(RegionReport::Settled(plan.name.clone())).await;
        };
        // A region that stays away holds up its own mirrors here, not the watch over all else.
        tokio::join!(mirror, this.watch(plan, admin.clone(), links));
    }

    async fn connect(&self, plan: &RegionPlan) -> RegionAdmin {
        loop {
            match RegionAdmin::connect(
                &plan.name,
                &plan.nats_urls,
                &Login::plain(&self.seeds.admin),
            )
            .await
            {
                Ok(admin) => return admin,
                Err(error) => tracing::debug!(region = %plan.name, %error, "not connected yet"),
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }

    /// Makes the mirrors of each other region as soon as that region has its streams and answers from here:
    /// one that is made earlier backs off for minutes.
    async fn mirror(&self, plan: &RegionPlan, admin: &RegionAdmin) {
        let others: BTreeSet<&RegionName> = plan.streams.iter().filter_map(origin).collect();
        join_all(others.into_iter().map(|other| async move {
            let mut written = self.written.clone();
            if written
                .wait_for(|regions| regions.contains(other))
                .await
                .is_err()
            {
                return;
            }
            while !admin.reaches(other, REACH_DEADLINE).await {
                tokio::time::sleep(REACH_PAUSE).await;
            }
            let mirrors = plan
                .streams
                .iter()
                .filter(|stream| origin(stream) == Some(other));
            let results = admin.apply_until_settled(mirrors, &self.made).await;
            self.tell(plan, &results, false).await;
        }))
        .await;
    }

    /// Mirrors every second; leaf links and the streams' settings now and then.
    async fn watch(&self, plan: &RegionPlan, admin: RegionAdmin, links: Option<Links>) {
        let mut watchdog = Watchdog::new(admin.clone());
        let mut linkless = Linkless::default();
        let mut ticks = tokio::time::interval(WATCH_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for look in 1_u32.. {
            ticks.tick().await;
            self.tell_moved(plan, watchdog.round(&plan.streams).await)
                .await;
            if look % LINKS_EVERY == 0
                && let Some(links) = &links
            {
                for server in linkless.observe(links.read().await) {
                    let message = format!(
                        "{server} has no link to a hub: region {} is cut off from the others through it; restart it if that lasts",
                        plan.name
                    );
                    self.send(RegionReport::Problem(message)).await;
                }
            }
            if look % COMPARE_EVERY == 0 {
                // Mirrors of a region that is not there yet are made when it is.
                let written = self.written.borrow().clone();
                let here =
                    |stream: &&StreamPlan| origin(stream).is_none_or(|of| written.contains(of));
                let results = admin
                    .apply(plan.streams.iter().filter(here), &self.made)
                    .await;
                self.tell(plan, &results, true).await;
            }
        }
    }

    /// A region alone has no links to watch.
    async fn links(&self, plan: &RegionPlan) -> Option<Links> {
        if plan.hubs.is_empty() {
            return None;
        }
        let urls: Vec<String> = plan
            .nats
            .iter()
            .filter_map(|server| server.listener(Port::Client))
            .map(|listener| format!("nats://{}", listener.connect))
            .collect();
        match Links::connect(&plan.name, &urls, &Login::plain(&self.seeds.system)).await {
            Ok(links) => Some(links),
            Err(error) => {
                self.send(RegionReport::Problem(error.to_string())).await;
                None
            }
        }
    }

    /// One line for each origin: after a cut all its mirrors stall together.
    async fn tell_moved(&self, plan: &RegionPlan, round: Vec<Result<MirrorHealth, StreamError>>) {
        let mut moved: BTreeMap<RegionName, usize> = BTreeMap::new();
        for mirror in round.into_iter().flatten().filter(|mirror| mirror.moved) {
            tracing::info!(region = %plan.name, stream = %mirror.stream, lag = mirror.lag, "mirror had stalled: its leader moves");
            *moved.entry(mirror.of).or_default() += 1;
        }
        for (origin, mirrors) in moved {
            let message = format!(
                "region {}: {mirrors} mirrors of region {origin} had stalled though it answers: their leaders moved",
                plan.name
            );
            self.send(RegionReport::Corrected(message)).await;
        }
    }

    /// Reports what could not be applied, and what was corrected.
    async fn tell(
        &self,
        plan: &RegionPlan,
        results: &[(StreamName, Result<Change, StreamError>)],
        later: bool,
    ) {
        for (stream, result) in results {
            match result {
                // While a region has no majority, its own processes say so.
                Err(error) if later && error.is_temporary() => {
                    tracing::debug!(region = %plan.name, %error, "stream not compared");
                }
                Err(error) => self.send(RegionReport::Problem(error.to_string())).await,
                Ok(Change::Corrected(settings)) => {
                    let message = format!(
                        "stream {stream} in region {}: corrected {}",
                        plan.name,
                        settings.join(", ")
                    );
                    self.send(RegionReport::Corrected(message)).await;
                }
                Ok(Change::Created | Change::Unchanged) => {}
            }
        }
    }

    async fn send(&self, report: RegionReport) {
        // The fleet is gone only when everything ends.
        let _ = self.reports.send(report).await;
    }
}

/// Counts looks in a row at which a server had no leaf link.
#[derive(Debug, Default)]
struct Linkless(BTreeMap<String, u32>);

impl Linkless {
    /// Servers to report now: each once until it has a link again.
    fn observe(&mut self, servers: Vec<crate::streams::ServerLinks>) -> Vec<String> {
        let mut report = Vec::new();
        for server in servers {
            if server.leafs > 0 {
                self.0.remove(&server.server);
                continue;
            }
            let looks = self.0.entry(server.server.clone()).or_insert(0);
            *looks += 1;
            if *looks == LINKLESS_LOOKS {
                report.push(server.server);
            }
        }
        report
    }
}

/// Reports every second in which all servers are well. Never ends by itself.
async fn report_health(
    plan: Arc<RegionPlan>,
    seeds: RegionSeeds,
    reports: mpsc::Sender<RegionReport>,
) {
    let links = loop {
        match Links::connect(&plan.name, &plan.nats_urls, &Login::plain(&seeds.system)).await {
            Ok(links) => break links,
            Err(error) => tracing::debug!(region = %plan.name, %error, "not connected yet"),
        }
        tokio::time::sleep(CONNECT_PAUSE).await;
    };
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        if links.healthy().await.len() == plan.nats.len() {
            // The fleet is gone only when everything ends.
            let _ = reports
                .send(RegionReport::Healthy(plan.name.clone(), asked))
                .await;
        }
    }
}

/// Waits until every JetStream server of a region has its leaf link: the mirrors of one that has none yet would back off.
async fn wait_linked(links: &Links, servers: usize) {
    let linked = async {
        loop {
            let linked = links
                .read()
                .await
                .iter()
                .filter(|server| server.leafs > 0)
                .count();
            if linked >= servers {
                return;
            }
            tokio::time::sleep(REACH_PAUSE).await;
        }
    };
    // A server that stays down must not hold up the others.
    let _ = tokio::time::timeout(LINK_PATIENCE, linked).await;
}

fn is_own(stream: &StreamPlan) -> bool {
    matches!(stream.kind, StreamKind::Writer { .. })
}

fn origin(stream: &StreamPlan) -> Option<&RegionName> {
    match &stream.kind {
        StreamKind::Mirror { of, .. } => Some(of),
        StreamKind::Writer { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::ServerLinks;

    #[test]
    fn a_server_without_a_leaf_link_is_reported_once_until_it_has_one_again() {
        let look = |leafs| {
            vec![ServerLinks {
                server: "a-nats-0".to_owned(),
                leafs,
                gateways: Vec::new(),
            }]
        };
        let mut linkless = Linkless::default();
        let reports: Vec<usize> = [0, 0, 0, 0, 1, 0, 0, 0]
            .into_iter()
            .map(|leafs| linkless.observe(look(leafs)).len())
            .collect();
        assert_eq!(reports, [0, 0, 1, 0, 0, 0, 0, 1]);
    }
}
