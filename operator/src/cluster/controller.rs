//! Keeps fleets as they are asked to be: one pass whenever something of a fleet changes, and now and then without. Runs on the leader.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, EvictParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config};
use kube::runtime::events::Recorder;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, watcher};
use kube::{Client, ResourceExt as _};
use nightjar_envelope::RegionName;
use serde_json::json;
use tokio::sync::{Mutex, mpsc};

use super::deletion;
use super::error::ClusterError;
use super::events;
use super::health;
use super::material::Keys;
use super::metrics::Metrics;
use super::names::{FINALIZER, FLEET_LABEL, MANAGER, PAUSED};
use super::pass::{HealthOf, Pass, Scope, Tools, pass};
use super::region_watch::RegionWatch;
use super::sightings::Sightings;
use super::status::{self, Facts, RegionFacts};
use crate::crd::{ConditionType, RegionState, RegionStatus, RelayCluster, RelayClusterStatus};
use crate::plan::Role;

/// A fleet that is as asked is looked at this often: Secrets are not watched, and time ends soaks and certificates.
const AT_REST: Duration = Duration::from_secs(20);
/// A fleet that waits for something is looked at this often.
const WAITING: Duration = Duration::from_secs(5);
/// A region whose servers are to be looked at for the first time, or the first time since they run, is judged again this soon.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// First pause after a failed pass; it doubles up to [`BACKOFF_MOST`].
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MOST: Duration = Duration::from_secs(60);
/// Fleets that are worked on at the same time.
const CONCURRENCY: u16 = 8;
/// Events of one change come together; this long they are collected.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// What all passes share.
pub(super) struct Context {
    pub(super) tools: Tools,
    pub(super) recorder: Recorder,
    pub(super) metrics: Arc<Metrics>,
    fleets: Mutex<HashMap<String, Fleet>>,
    /// Passes of a fleet that failed one after another; fleets whose last pass did not are not in it.
    failures: Mutex<HashMap<String, u32>>,
    changed: mpsc::UnboundedSender<ObjectRef<RelayCluster>>,
}

/// What is kept of a fleet between passes.
#[derive(Default)]
struct Fleet {
    watches: HashMap<RegionName, RegionWatch>,
    sightings: Sightings,
}

/// Works on the fleets of one namespace, or of all, until dropped.
pub(super) async fn run(
    client: Client,
    namespace: Option<&str>,
    tools: Tools,
    recorder: Recorder,
    metrics: Arc<Metrics>,
) {
    let (changed, mut changes) = mpsc::unbounded_channel();
    let context = Arc::new(Context {
        tools,
        recorder,
        metrics,
        fleets: Mutex::default(),
        failures: Mutex::default(),
        changed,
    });
    let clusters = scoped::<RelayCluster>(&client, namespace);
    let owned =
        watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"));
    let config = Config::default()
        .concurrency(CONCURRENCY)
        .debounce(DEBOUNCE);
    let on_change = futures_util::stream::poll_fn(move |context| changes.poll_recv(context));
    macro_rules! owns {
        ($controller:expr, $($kind:ty),+) => {
            $controller$(.owns(scoped::<PartialObjectMeta<$kind>>(&client, namespace), owned.clone()))+
        };
    }
    let controller = owns!(
        Controller::new(clusters, watcher::Config::default()).with_config(config),
        StatefulSet,
        ConfigMap,
        Service,
        NetworkPolicy,
        Ingress,
        PodDisruptionBudget
    );
    controller
        .watches(
            scoped::<PartialObjectMeta<Pod>>(&client, namespace),
            owned.clone(),
            |pod| fleet_of(&pod),
        )
        .watches(
            scoped::<PartialObjectMeta<PersistentVolumeClaim>>(&client, namespace),
            owned.clone(),
            |claim| fleet_of(&claim),
        )
        .reconcile_on(on_change)
        .run(reconcile, on_error, context)
        .for_each(|_| futures_util::future::ready(()))
        .await;
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn fleet_of<K: kube::Resource>(object: &K) -> Option<ObjectRef<RelayCluster>> {
    let name = object.labels().get(FLEET_LABEL)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

/// No pass ends with an error: when the next one comes is decided where it failed.
fn on_error(_: Arc<RelayCluster>, never: &Infallible, _: Arc<Context>) -> Action {
    match *never {}
}

/// What a pass came to: when the next one comes, and a word for the metrics.
type Ended = (Action, &'static str);

/// Counts the failure and says when to try again: later after each failure in a row.
async fn failed(context: &Context, key: &str, error: &ClusterError) -> Ended {
    if matches!(error, ClusterError::Outdated) {
        return (Action::requeue(BACKOFF_FIRST), "failed");
    }
    let failures = {
        let mut counts = context.failures.lock().await;
        let count = counts.entry(key.to_owned()).or_default();
        *count = count.saturating_add(1);
        *count
    };
    tracing::warn!(fleet = key, failures, %error, "a pass ended early");
    let pause = match error {
        // It changes only by an edit, which comes as an event.
        ClusterError::Invalid(_) => BACKOFF_MOST,
        _ => backoff(failures),
    };
    (Action::requeue(pause), "failed")
}

/// The pause after so many failures in a row.
fn backoff(failures: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
    (BACKOFF_FIRST * doubled).min(BACKOFF_MOST)
}

async fn reconcile(
    cluster: Arc<RelayCluster>,
    context: Arc<Context>,
) -> Result<Action, Infallible> {
    let began = std::time::Instant::now();
    let scope = Scope::new(&context.tools, &cluster);
    let key = format!("{}/{}", scope.names.namespace, scope.names.fleet);
    let result = if cluster.metadata.deletion_timestamp.is_some() {
        context.fleets.lock().await.remove(&key);
        context
            .metrics
            .forget(&scope.names.namespace, &scope.names.fleet);
        deletion::finalize(&scope, &context).await
    } else if scope.is_annotated(PAUSED) {
        context.fleets.lock().await.remove(&key);
        pause(&scope, &context).await
    } else {
        look_after(&scope, &context, &key).await
    };
    let (action, outcome) = match result {
        Ok(ended) => {
            context.failures.lock().await.remove(&key);
            ended
        }
        Err(error) => failed(&context, &key, &error).await,
    };
    context
        .metrics
        .reconciled(outcome, began.elapsed(), &scope.names);
    if cluster.metadata.deletion_timestamp.is_some() && ["applied", "unchanged"].contains(&outcome)
    {
        // It is gone. What is told of it now is told for ever, and its last pass would grow old.
        context
            .metrics
            .forget(&scope.names.namespace, &scope.names.fleet);
    }
    Ok(action)
}

/// Says that it is paused, and does nothing else.
async fn pause(scope: &Scope<'_>, context: &Context) -> Result<Ended, ClusterError> {
    let before = scope.cluster.status.as_ref();
    let mut new = before.cloned().unwrap_or_default();
    let facts = Facts {
        paused: true,
        ..Facts::unseen(scope.cluster, Timestamp::now())
    };
    let judged = status::status(facts);
    // Nothing is looked at, so nothing but the pause itself is judged.
    for condition in judged.conditions {
        let known = new
            .conditions
            .iter()
            .position(|old| old.type_ == condition.type_);
        match known {
            Some(at) if condition.type_ == ConditionType::Paused.name() => {
                new.conditions[at] = condition;
            }
            Some(_) => {}
            None => new.conditions.push(condition),
        }
    }
    new.observed_generation = scope.cluster.metadata.generation;
    write_status(scope, context, &new).await?;
    Ok((Action::await_change(), "unchanged"))
}

async fn look_after(
    scope: &Scope<'_>,
    context: &Arc<Context>,
    key: &str,
) -> Result<Ended, ClusterError> {
    if ensure_finalizer(scope).await? {
        // The change brings the object again, as it is now.
        return Ok((Action::requeue(WAITING), "applied"));
    }
    let (health, mut sightings) = known_of(context, key).await;
    let result = pass(scope, &health, &mut sightings).await;
    let mut fleets = context.fleets.lock().await;
    fleets.entry(key.to_owned()).or_default().sightings = sightings;
    drop(fleets);
    if let Ok(pass) = &result {
        // Before anything else can end this: what was written is not seen again by the next pass.
        events::of_pass(context, scope, pass).await;
    }
    let status = match &result {
        Ok(pass) => judge(scope, pass, &health, None),
        Err(error) => judge_error(scope, error),
    };
    if let Ok(pass) = &result
        && is_first_look(scope, pass, &health)
    {
        // A new leader has not seen the regions yet: what the last one wrote is truer than nothing.
        watch(context, scope, key, pass).await;
        return Ok((Action::requeue(FIRST_LOOK), "waiting"));
    }
    write_status(scope, context, &status).await?;
    match result {
        Ok(pass) => {
            watch(context, scope, key, &pass).await;
            context.metrics.fleet(scope, &status, &pass, &health);
            restart(scope, context, &pass).await?;
            Ok(after(&pass, &status))
        }
        Err(error) => {
            context.metrics.status(scope, &status);
            Err(error)
        }
    }
}

/// Whether a fleet that was judged before has a region that this leader has not looked at yet.
fn is_first_look(scope: &Scope<'_>, pass: &Pass, health: &HealthOf) -> bool {
    let judged = |name: &RegionName| {
        scope
            .cluster
            .status
            .iter()
            .flat_map(|status| &status.regions)
            .any(|known| known.name == name.as_str())
    };
    pass.plan
        .regions
        .iter()
        .any(|region| judged(&region.name) && !health.contains_key(&region.name))
}

/// When to look again.
fn after(pass: &Pass, status: &RelayClusterStatus) -> Ended {
    let outcome = if !pass.written.is_empty() || pass.decision.restart.is_some() {
        "applied"
    } else if status.waiting_for.is_empty() {
        "unchanged"
    } else {
        "waiting"
    };
    let calm = if pass.look_due {
        // The look that is due may look like the one before, and then nobody tells of it.
        FIRST_LOOK
    } else if status.waiting_for.is_empty() {
        AT_REST
    } else {
        WAITING
    };
    let pause = pass
        .decision
        .again_in
        .map_or(calm, |again| again.clamp(Duration::from_millis(500), calm));
    (Action::requeue(pause), outcome)
}

/// What was seen of the fleet's regions, and of its pods. A fleet has one pass at a time, so that its memory may be taken out.
async fn known_of(context: &Context, key: &str) -> (HealthOf, Sightings) {
    let mut fleets = context.fleets.lock().await;
    let Some(fleet) = fleets.get_mut(key) else {
        return (HealthOf::new(), Sightings::default());
    };
    let seen = fleet.watches.iter();
    let health = seen.filter_map(|(name, watch)| Some((name.clone(), watch.health()?)));
    (health.collect(), std::mem::take(&mut fleet.sightings))
}

/// Starts and instructs the watches of the fleet's regions; those of regions that went end.
async fn watch(context: &Arc<Context>, scope: &Scope<'_>, key: &str, pass: &Pass) {
    let mut fleets = context.fleets.lock().await;
    let fleet = fleets.entry(key.to_owned()).or_default();
    fleet
        .watches
        .retain(|name, _| pass.orders.iter().any(|orders| orders.region == *name));
    for orders in &pass.orders {
        if let Some(watch) = fleet.watches.get(&orders.region) {
            watch.order(orders.clone());
            continue;
        }
        let changed = context.changed.clone();
        let object = ObjectRef::new(&scope.names.fleet).within(&scope.names.namespace);
        let watch = RegionWatch::start(orders.clone(), move || {
            // Nobody listens any more when the leadership is over.
            let _ = changed.send(object.clone());
        });
        fleet.watches.insert(orders.region.clone(), watch);
    }
}

async fn ensure_finalizer(scope: &Scope<'_>) -> Result<bool, ClusterError> {
    if scope
        .cluster
        .finalizers()
        .iter()
        .any(|known| known == FINALIZER)
    {
        return Ok(false);
    }
    let mut finalizers = scope.cluster.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    let patch = json!({"metadata": {
        "finalizers": finalizers,
        "resourceVersion": scope.cluster.metadata.resource_version,
    }});
    scope
        .api::<RelayCluster>()
        .patch(
            &scope.names.fleet,
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
        .map(|_| true)
        .map_err(|source| ClusterError::api("write", "relaycluster", &scope.names.fleet, source))
}

/// Asks for the eviction of the pod that may be restarted. A budget that forbids it is told by the API server, and waited for.
async fn restart(scope: &Scope<'_>, context: &Context, pass: &Pass) -> Result<(), ClusterError> {
    let Some(pod) = &pass.decision.restart else {
        return Ok(());
    };
    match scope.api::<Pod>().evict(pod, &EvictParams::default()).await {
        Ok(_) => events::restarted(context, scope, pod).await,
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(kube::Error::Api(status)) if status.code == 429 => {
            tracing::info!(
                pod,
                reason = status.message,
                "a restart waits for the disruption budget"
            );
        }
        Err(source) => return Err(ClusterError::api("evict", "pod", pod, source)),
    }
    Ok(())
}

/// Writes the status if it is not what is there, and tells what turned.
pub(super) async fn write_status(
    scope: &Scope<'_>,
    context: &Context,
    new: &RelayClusterStatus,
) -> Result<(), ClusterError> {
    let before = scope.cluster.status.as_ref();
    if before == Some(new) {
        return Ok(());
    }
    let patch = json!({
        "metadata": {"resourceVersion": scope.cluster.metadata.resource_version},
        "status": new,
    });
    // A merge cannot remove what is no longer said, so the optional parts are named.
    let patch = status_patch(patch, new);
    let written = scope
        .api::<RelayCluster>()
        .patch_status(
            &scope.names.fleet,
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await;
    match written {
        Ok(_) => {
            events::of_status(context, scope, new).await;
            Ok(())
        }
        // The object changed or went in between; another pass is on its way.
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(kube::Error::Api(status)) if status.is_conflict() => Err(ClusterError::Outdated),
        Err(source) => Err(ClusterError::api(
            "write",
            "relaycluster/status",
            &scope.names.fleet,
            source,
        )),
    }
}

fn status_patch(mut patch: serde_json::Value, new: &RelayClusterStatus) -> serde_json::Value {
    let optional = ["rollout", "images", "fleetId", "keyEpoch"];
    for field in optional {
        if patch["status"].get(field).is_none() {
            patch["status"][field] = serde_json::Value::Null;
        }
    }
    if let Some(rollout) = &new.rollout {
        for (field, absent) in [
            ("region", rollout.region.is_none()),
            ("pod", rollout.pod.is_none()),
            ("canaryDoneAt", rollout.canary_done_at.is_none()),
            ("movedAt", rollout.moved_at.is_none()),
            ("settledAt", rollout.settled_at.is_none()),
        ] {
            if absent {
                patch["status"]["rollout"][field] = serde_json::Value::Null;
            }
        }
    }
    patch
}

fn judge_error(scope: &Scope<'_>, error: &ClusterError) -> RelayClusterStatus {
    status::status(Facts {
        error: Some(error),
        ..Facts::unseen(scope.cluster, Timestamp::now())
    })
}

fn judge(
    scope: &Scope<'_>,
    pass: &Pass,
    health: &HealthOf,
    error: Option<&ClusterError>,
) -> RelayClusterStatus {
    let regions = pass
        .plan
        .regions
        .iter()
        .filter_map(|plan| {
            let view = pass
                .views
                .iter()
                .find(|view| view.name == plan.name.as_str())?;
            let seen = health.get(&plan.name).map(Arc::as_ref);
            let ready = |role: Role| {
                let of = view.pods.iter().filter(|pod| pod.role == role);
                let ready = of.clone().filter(|pod| pod.ready).count();
                (
                    i32::try_from(ready).unwrap_or(i32::MAX),
                    i32::try_from(of.count()).unwrap_or(i32::MAX),
                )
            };
            let (relays_ready, relays) = ready(Role::Relay);
            let (nats_ready, nats) = ready(Role::Nats);
            let (hubs_ready, hubs) = ready(Role::Hub);
            let moving = view
                .pods
                .iter()
                .any(|pod| pod.hash.is_some() && pod.hash.as_ref() != Some(&pod.wanted));
            let all = relays_ready == relays && nats_ready == nats && hubs_ready == hubs;
            let quorum = nats_ready * 2 > nats;
            let state = if pass.leaving.contains(&plan.name) {
                RegionState::Leaving
            } else if seen.is_none_or(|seen| seen.streams.len() < plan.streams.len())
                && scope_is_new(scope, &plan.name)
            {
                RegionState::Starting
            } else if relays_ready == 0 || !quorum {
                RegionState::Down
            } else if moving {
                RegionState::RollingOut
            } else if seen.is_none_or(|seen| seen.unreachable.is_some()) {
                RegionState::Unknown
            } else if all && view.nats == super::rollout::NatsHealth::Well {
                RegionState::Ready
            } else {
                RegionState::Degraded
            };
            Some(RegionFacts {
                status: RegionStatus {
                    name: plan.name.to_string(),
                    state,
                    relays_ready,
                    relays,
                    nats_ready,
                    nats,
                    hubs_ready,
                    hubs,
                    url: plan.relay_urls.first().cloned().unwrap_or_default(),
                },
                durable: health::durable(plan, seen),
            })
        })
        .collect();
    let key_epoch = match &pass.keys {
        Keys::Present(keyring) => Some(i64::from(keyring.seal_epoch().0)),
        Keys::Missing => None,
    };
    status::status(Facts {
        generation: scope.cluster.metadata.generation,
        before: scope.cluster.status.as_ref(),
        now: Timestamp::now(),
        error,
        paused: false,
        regions,
        waits: pass.waits.clone(),
        rollout: pass.decision.status.clone(),
        images: Some(pass.images.clone()),
        newer: pass.newer.clone(),
        fleet_id: Some(pass.plan.fleet_id.to_string()),
        key_epoch,
    })
}

/// The region has not been Ready yet, as far as the status remembers.
fn scope_is_new(scope: &Scope<'_>, region: &RegionName) -> bool {
    scope
        .cluster
        .status
        .iter()
        .flat_map(|status| &status.regions)
        .find(|known| known.name == region.as_str())
        .is_none_or(|known| known.state == RegionState::Starting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_failures_double_up_to_a_minute() {
        let pauses: Vec<u64> = (1..9).map(|failures| backoff(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MOST);
    }
}
