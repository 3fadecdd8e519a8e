//! One pass over a fleet: dereference, validate, plan, build, apply, restart, status. A list of stages; each has a file of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::Api;
use kube::{Client, Resource as _, ResourceExt as _};
use nightjar_envelope::{FleetId, RegionName};
use tokio::time::Instant;

use super::addresses::ClusterAddresses;
use super::apply::{Applier, Written};
use super::build::{self, Desired, Kind};
use super::dereference::Observed;
use super::error::ClusterError;
use super::locked_out::{self, Locked};
use super::material::{self, CertificateTerms, Certificates, Keys, OperatorSeeds, RegionUsers};
use super::names::{self, Names, OPERATOR_USERS};
use super::record::{FleetRecord, RegionRecord, StoredRecord};
use super::region_watch::{Loaded, Orders, RegionHealth};
use super::rollout::{self, Decision, PodView, RegionView, Situation, Wait};
use super::secrets::SecretStore;
use super::sightings::Sightings;
use super::{deletion, disks, health, images, leaving, pods, relay_tls, stream_waits};
use crate::crd::{DeletionPolicy, Images, RelayCluster};
use crate::plan::{FleetFacts, FleetPlan, Port, ProcessPlan, RegionFacts, RegionPlan, Role, plan};
use crate::streams::Login;
use crate::validate::{ValidFleet, validate};

/// What a pass needs besides the fleet.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) client: Client,
    /// Images for fleets that name none.
    pub(super) images: Images,
    pub(super) terms: CertificateTerms,
}

/// What was seen of every region, by name.
pub(super) type HealthOf = BTreeMap<RegionName, Arc<RegionHealth>>;

/// What a pass found and did.
pub(super) struct Pass {
    pub(super) plan: FleetPlan,
    pub(super) images: Images,
    pub(super) newer: Option<String>,
    pub(super) written: Vec<Written>,
    pub(super) certificates: Certificates,
    pub(super) keys: Keys,
    pub(super) views: Vec<RegionView>,
    pub(super) decision: Decision,
    pub(super) waits: Vec<Wait>,
    pub(super) orders: Vec<Orders>,
    pub(super) leaving: BTreeSet<RegionName>,
    /// Servers of a region became ready after the last look at them began.
    pub(super) look_due: bool,
}

/// The API handles and names of one fleet.
pub(super) struct Scope<'a> {
    pub(super) tools: &'a Tools,
    pub(super) cluster: &'a RelayCluster,
    pub(super) names: Names,
    pub(super) owner: OwnerReference,
}

impl<'a> Scope<'a> {
    pub(super) fn new(tools: &'a Tools, cluster: &'a RelayCluster) -> Self {
        let names = Names::new(cluster.name_any(), cluster.namespace().unwrap_or_default());
        let owner = OwnerReference {
            block_owner_deletion: Some(true),
            ..cluster.controller_owner_ref(&()).unwrap_or_default()
        };
        Self {
            tools,
            cluster,
            names,
            owner,
        }
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.cluster.annotations().get(key).map(String::as_str)
    }

    pub(super) fn is_annotated(&self, key: &str) -> bool {
        self.annotation(key) == Some("true")
    }

    pub(super) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.tools.client.clone(), &self.names.namespace)
    }

    pub(super) fn store(&self) -> SecretStore {
        SecretStore::new(self.api::<Secret>(), self.names.clone(), self.owner.clone())
    }
}

/// What a pass stands on: what is there, what is asked for, and what it needs to be made of.
struct Ground {
    observed: Observed,
    record: StoredRecord,
    fleet: ValidFleet,
    leaving: BTreeSet<RegionName>,
    waits: Vec<Wait>,
    keys: Keys,
    users: BTreeMap<RegionName, RegionUsers>,
    /// The operator's users of each region, as one hash of their public keys.
    operator_users: BTreeMap<RegionName, String>,
    plan: FleetPlan,
    certificates: Certificates,
    /// Why relays that start now would have no certificate for their clients.
    without_tls: Option<Wait>,
}

/// Reads what is there, checks what is asked for, and makes the keys and the plan.
async fn ground(
    scope: &Scope<'_>,
    health: &HealthOf,
    sightings: &mut Sightings,
) -> Result<Ground, ClusterError> {
    let mut observed = Observed::read(&scope.tools.client, &scope.names).await?;
    sight(scope, &observed, sightings);
    let asked = validate(scope.cluster).map_err(ClusterError::Invalid)?;
    let mut record = record(&observed, scope, &asked)?;
    let leaving::Effective {
        mut fleet,
        leaving,
        unread,
        mut waits,
    } = leaving::effective(&asked, &mut record.record, scope, health, sightings);
    observed.objects.retain(|_, object| {
        let region = object["metadata"]["labels"][names::REGION_LABEL].as_str();
        !unread.iter().any(|unread| Some(unread.as_str()) == region)
    });
    let growths = disks::wanted(&fleet, &scope.names, &observed);
    for refused in disks::grow(&scope.api(), growths).await? {
        waits.push(disks::hold(&mut fleet, &record.record, &refused));
    }
    let data_exists = record.record.streams_made || has_log_disks(&observed);
    let store = scope.store();
    let keys = material::keyring(&store, &scope.names, data_exists).await?;
    remember(&fleet, &mut record.record, health);
    record.save(&scope.api(), &scope.names).await?;
    let mut users = BTreeMap::new();
    for region in &fleet.regions {
        let of_region = material::users(&store, &scope.names, &region.name).await?;
        users.insert(region.name.clone(), of_region);
    }
    let addresses = ClusterAddresses::of(&scope.names, &fleet);
    let plan = plan(&fleet, &facts(&record.record, &users), &addresses)?;
    let terms = scope.tools.terms;
    let now = SystemTime::now();
    let certificates = material::certificates(&store, &scope.names, &plan, terms, now).await?;
    let without_tls = relay_tls::wait(&scope.api(), &fleet).await?;
    Ok(Ground {
        without_tls,
        observed,
        record,
        fleet,
        leaving,
        waits,
        keys,
        operator_users: operator_users(&users),
        users,
        plan,
        certificates,
    })
}

/// Everything up to the status. What may go wrong ends the pass; what is done stays, and the next pass goes on from there.
pub(super) async fn pass(
    scope: &Scope<'_>,
    health: &HealthOf,
    sightings: &mut Sightings,
) -> Result<Pass, ClusterError> {
    let mut ground = ground(scope, health, sightings).await?;
    let brought = &scope.tools.images;
    let images = images::to_run(&ground.fleet, &scope.names, brought, &ground.observed);
    let mut desired = desired(scope, &ground, &images);
    let views = views(scope, &ground, &desired, health, sightings);
    let mut decision = decide(scope, &ground.fleet, &views);
    let locked = unlock(scope, &ground, &views, health, sightings, &mut decision);
    hold_restart(&mut decision, scope, &ground, &views);
    hold_back(&mut desired, &decision, &ground.observed);
    let written = applier(scope).apply(&desired, &ground.observed).await?;
    let mut waits = std::mem::take(&mut ground.waits);
    let may_create = stream_waits::allowed(&ground.plan, health, &ground.keys, &mut waits);
    if may_create && !ground.record.record.streams_made {
        ground.record.record.streams_made = true;
        ground.record.save(&scope.api(), &scope.names).await?;
    }
    remove_left(scope, &ground).await?;
    waits.splice(0..0, decision.wait.clone().into_iter().chain(locked));
    waits.extend(ground.without_tls.clone());
    waits.extend(pods::waits(&views, &ground.observed));
    waits.extend(stream_waits::waits(
        &ground.plan,
        health,
        &views,
        decision.wait.as_ref(),
    ));
    let orders = orders(&ground, may_create, &views);
    let look_due = health
        .iter()
        .any(|(name, seen)| health::is_before(seen, sightings.servers_since(name)));
    Ok(Pass {
        newer: images::newer(&ground.fleet, brought, &images),
        plan: ground.plan,
        images,
        written,
        certificates: ground.certificates,
        keys: ground.keys,
        views,
        decision,
        waits,
        orders,
        leaving: ground.leaving,
        look_due,
    })
}

/// Remembers since when pods are as they are. Before anything else: what fails later does not make it less true.
fn sight(scope: &Scope<'_>, observed: &Observed, sightings: &mut Sightings) {
    let known = observed.record.iter();
    let regions = known.flat_map(|stored| stored.record.regions.keys());
    sightings.observe(regions, &scope.names, observed, Instant::now());
}

fn applier<'a>(scope: &'a Scope<'_>) -> Applier<'a> {
    let status = scope.cluster.status.as_ref();
    Applier {
        client: &scope.tools.client,
        names: &scope.names,
        owner_uid: &scope.owner.uid,
        settled: status.is_some_and(|status| {
            status.observed_generation == scope.cluster.metadata.generation
                && status.observed_generation.is_some()
                && !status.regions.is_empty()
        }),
    }
}

/// With `Delete`, the disks and Secrets of a region that left go when its last pod is gone.
async fn remove_left(scope: &Scope<'_>, ground: &Ground) -> Result<(), ClusterError> {
    let Ground {
        fleet,
        record,
        observed,
        ..
    } = ground;
    if fleet.deletion_policy != DeletionPolicy::Delete {
        return Ok(());
    }
    let of = |labels: &BTreeMap<String, String>, region: &RegionName| {
        labels.get(names::REGION_LABEL).map(String::as_str) == Some(region.as_str())
    };
    for region in record
        .record
        .regions
        .iter()
        .filter(|(_, known)| known.removed && known.disposable)
        .map(|(name, _)| name)
    {
        let claims: Vec<&String> = observed
            .claims
            .iter()
            .filter(|(_, claim)| of(claim.labels(), region))
            .map(|(name, _)| name)
            .collect();
        let running = observed.pods.values().any(|pod| of(pod.labels(), region));
        if claims.is_empty() || running {
            continue;
        }
        deletion::remove_region(scope, region, &claims).await?;
    }
    Ok(())
}

/// The record of the fleet, checked against what it is asked to become.
fn record(
    observed: &Observed,
    scope: &Scope<'_>,
    asked: &ValidFleet,
) -> Result<StoredRecord, ClusterError> {
    let Some(mut record) = observed.record.clone() else {
        if has_log_disks(observed) {
            return Err(ClusterError::Damaged {
                object: format!("configmap/{}", scope.names.record()),
                reason: "it is gone although disks of the fleet exist; put it back from a backup, or remove the disks to begin anew".to_owned(),
            });
        }
        let id = FleetId::from_bytes(rand::random());
        return Ok(StoredRecord::fresh(FleetRecord::new(id)));
    };
    disks::correct_record(&mut record.record, &scope.names, observed);
    let errors = leaving::check_change(asked, &record.record);
    if errors.is_empty() {
        Ok(record)
    } else {
        Err(ClusterError::Invalid(errors))
    }
}

fn has_log_disks(observed: &Observed) -> bool {
    observed.claims.values().any(|claim| {
        claim
            .labels()
            .get(names::COMPONENT_LABEL)
            .map(String::as_str)
            == Some("nats")
    })
}

/// Puts into the record what regions there are, and which streams were seen.
fn remember(fleet: &ValidFleet, record: &mut FleetRecord, health: &HealthOf) {
    for region in &fleet.regions {
        let entry = record
            .regions
            .entry(region.name.clone())
            .or_insert_with(|| RegionRecord {
                generation: 1,
                streams: BTreeSet::new(),
                spec: region.asked.clone(),
                removed: false,
                disposable: false,
            });
        entry.spec = region.asked.clone();
        if let Some(seen) = health.get(&region.name) {
            entry.streams.extend(seen.streams.keys().cloned());
        }
    }
}

fn facts(record: &FleetRecord, users: &BTreeMap<RegionName, RegionUsers>) -> FleetFacts {
    FleetFacts {
        fleet_id: record.fleet_id,
        regions: users
            .iter()
            .filter_map(|(name, users)| {
                let generation = record.regions.get(name)?.generation;
                let nkeys = users.public.clone();
                Some((name.clone(), RegionFacts { generation, nkeys }))
            })
            .collect(),
        former: record.former(),
    }
}

fn desired(scope: &Scope<'_>, ground: &Ground, images: &Images) -> Vec<Desired> {
    let certificates = &ground.certificates;
    let mut secrets_hash = certificates.fixed.clone();
    for (region, users) in &ground.users {
        // A relay and a leaf link read their seed when they start.
        for (role, public) in [
            (Role::Relay, &users.public.relay),
            (Role::Nats, &users.public.leaf),
        ] {
            let own = certificates.current.get(region).map_or("", String::as_str);
            let set = scope.names.set(region, role);
            let known = secrets_hash.get(&set).cloned().unwrap_or_default();
            let hash = build::restart_hash(&set, &[&known, public, own]);
            secrets_hash.insert(set, hash);
        }
    }
    build::build(&build::Input {
        names: &scope.names,
        fleet: &ground.fleet,
        plan: &ground.plan,
        owner: &scope.owner,
        images,
        authorities: &certificates.authorities,
        secrets_hash: &secrets_hash,
        operator_users: &ground.operator_users,
        restarted_at: scope.annotation(names::RESTARTED_AT),
    })
}

fn operator_users(users: &BTreeMap<RegionName, RegionUsers>) -> BTreeMap<RegionName, String> {
    let hash = |users: &RegionUsers| {
        let public = &users.public;
        build::restart_hash("operator", &[&public.admin, &public.system])
    };
    let users = users.iter();
    users
        .map(|(region, users)| (region.clone(), hash(users)))
        .collect()
}

/// Looks for a way into regions whose servers refuse the operator, which may be the restart of one pod.
fn unlock(
    scope: &Scope<'_>,
    ground: &Ground,
    views: &[RegionView],
    health: &HealthOf,
    sightings: &Sightings,
    decision: &mut Decision,
) -> Vec<Wait> {
    let mut waits = Vec::new();
    for region in &ground.plan.regions {
        let view = views.iter().find(|view| view.name == region.name.as_str());
        let (Some(view), Some(seen), Some(users)) = (
            view,
            health.get(&region.name),
            ground.operator_users.get(&region.name),
        ) else {
            continue;
        };
        let locked = Locked {
            view,
            seen,
            servers_since: sightings.servers_since(&region.name),
            users,
            pods: &ground.observed.pods,
            paused: scope.is_annotated(names::ROLLOUT_PAUSED),
            now: Instant::now(),
        };
        if let Some(step) = locked.step() {
            waits.push(locked_out::take(step, &view.name, decision, whole_now()));
        }
    }
    waits
}

/// Kubernetes keeps whole seconds; finer ones would differ from what is read back.
fn whole_now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}

fn views(
    scope: &Scope<'_>,
    ground: &Ground,
    desired: &[Desired],
    health: &HealthOf,
    sightings: &Sightings,
) -> Vec<RegionView> {
    let Ground {
        plan,
        observed,
        record,
        ..
    } = ground;
    let none = BTreeSet::new();
    let made = |region: &RegionName| {
        let known = record.record.regions.get(region);
        known.map_or(&none, |known| &known.streams)
    };
    let wanted = |process: &ProcessPlan| {
        let set = scope.names.set(&process.id.region, process.id.role);
        desired
            .iter()
            .find(|object| object.kind == Kind::StatefulSet && object.name == set)
            .map(|object| build::template_hash(&object.object).to_owned())
            .unwrap_or_default()
    };
    let view = |process: &ProcessPlan| -> PodView {
        let name = scope.names.pod(&process.id);
        let pod: Option<&Pod> = observed.pods.get(&name);
        pods::view(name, process.id.role, wanted(process), pod)
    };
    plan.regions
        .iter()
        .map(|region| RegionView {
            name: region.name.to_string(),
            pods: region
                .hubs
                .iter()
                .chain(&region.nats)
                .chain(&region.relays)
                .map(view)
                .collect(),
            nats: health::nats(
                region,
                health.get(&region.name).map(Arc::as_ref),
                made(&region.name),
                sightings.servers_since(&region.name),
            ),
        })
        .collect()
}

fn decide(scope: &Scope<'_>, fleet: &ValidFleet, views: &[RegionView]) -> Decision {
    let status = scope.cluster.status.as_ref();
    rollout::decide(&Situation {
        regions: views,
        terms: fleet.rollout,
        paused: scope.is_annotated(names::ROLLOUT_PAUSED),
        before: status.and_then(|status| status.rollout.as_ref()),
        now: whole_now(),
    })
}

/// Why the pod that may be restarted cannot go right now: a budget that others use up, or keys or a certificate without which it would not
/// come back.
fn hold_restart(decision: &mut Decision, scope: &Scope<'_>, ground: &Ground, views: &[RegionView]) {
    let observed = &ground.observed;
    let Some(name) = decision.restart.clone() else {
        return;
    };
    let pod = views
        .iter()
        .flat_map(|view| &view.pods)
        .find(|pod| pod.name == name);
    let Some(pod) = pod else {
        return;
    };
    let set = name.rsplit_once('-').map_or("", |(set, _)| set).to_owned();
    let budget = observed
        .objects
        .get(&(Kind::PodDisruptionBudget, set.clone()))
        .and_then(|budget| budget["status"]["disruptionsAllowed"].as_i64());
    if matches!(ground.keys, Keys::Missing) {
        decision.restart = None;
    } else if let Some(wait) = ground
        .without_tls
        .as_ref()
        .filter(|_| pod.role == Role::Relay)
    {
        decision.restart = None;
        decision.wait = Some(wait.clone());
    } else if pod.ready && budget == Some(0) {
        decision.restart = None;
        decision.wait = Some(Wait {
            what: "DisruptionBudget",
            where_: format!("poddisruptionbudget/{set}"),
            unblocked_by: format!(
                "another pod of {set} coming back (a drain of a node?); then {name} is restarted"
            ),
        });
    }
    if decision.restart.is_none() {
        // It was not asked to go after all.
        let status = scope.cluster.status.as_ref();
        let before = status.and_then(|status| status.rollout.as_ref());
        if let Some(rollout) = &mut decision.status {
            rollout.moved_at = before.and_then(|before| before.moved_at.clone());
            rollout.settled_at = before.and_then(|before| before.settled_at.clone());
            rollout.pod = before.and_then(|before| before.pod.clone());
        }
    }
}

/// Regions whose turn has not come keep their template: a pod that dies there by itself comes back as it was.
fn hold_back(desired: &mut [Desired], decision: &Decision, observed: &Observed) {
    for object in desired
        .iter_mut()
        .filter(|object| object.kind == Kind::StatefulSet)
    {
        let region = object.object["metadata"]["labels"][names::REGION_LABEL]
            .as_str()
            .unwrap_or_default();
        if decision.released.iter().any(|released| released == region) {
            continue;
        }
        let Some(live) = observed.stateful_set(&object.name) else {
            continue;
        };
        if build::template_hash(live) != build::template_hash(&object.object) {
            let wanted = &object.object["spec"]["template"]["metadata"]["annotations"];
            let users = wanted[OPERATOR_USERS].clone();
            object.object["spec"]["template"] = live["spec"]["template"].clone();
            if users.is_string() {
                // Configurations are not held back, so a pod that starts now knows the operator's users of today.
                object.object["spec"]["template"]["metadata"]["annotations"][OPERATOR_USERS] =
                    users;
            }
        }
    }
}

fn orders(ground: &Ground, may_create: bool, views: &[RegionView]) -> Vec<Orders> {
    let Ground {
        plan,
        users,
        certificates,
        record,
        ..
    } = ground;
    let record = &record.record;
    let order = |region: &RegionPlan| {
        let OperatorSeeds { admin, system } = &users.get(&region.name)?.seeds;
        let authority = certificates.authorities.get(&region.name)?;
        let view = views
            .iter()
            .find(|view| region.name.as_str() == view.name)?;
        let hub_urls = region
            .hubs
            .iter()
            .filter_map(|hub| hub.listener(Port::Client))
            .map(|listener| format!("tls://{}", listener.connect))
            .collect();
        Some(Orders {
            region: region.name.clone(),
            nats_urls: region.nats_urls.clone(),
            hub_urls,
            admin: Login::tls(admin, authority),
            system: Login::tls(system, authority),
            streams: region.streams.clone(),
            made: record.regions.get(&region.name)?.streams.clone(),
            may_create,
            loads: loads(region, view, certificates),
            reload_certificates: !certificates.issued.is_empty() || certificates.fresh,
        })
    };
    plan.regions.iter().filter_map(order).collect()
}

/// Configurations and certificates that servers should have loaded. A server that waits for its restart cannot load its new ones.
fn loads(
    region: &RegionPlan,
    view: &RegionView,
    certificates: &Certificates,
) -> BTreeMap<String, Loaded> {
    let current = |process: &&ProcessPlan| {
        let suffix = format!("-{}", process.name());
        view.pods.iter().any(|pod| {
            pod.name.ends_with(&suffix) && pod.hash.as_ref() == Some(&pod.wanted) && pod.ready
        })
    };
    region
        .nats
        .iter()
        .chain(&region.hubs)
        .filter(current)
        .filter_map(|process| {
            let text = &process.files.first()?.text;
            let (_, tag) = text.split_once("\"config:")?;
            let until = certificates.until.get(&process.name());
            let loaded = Loaded {
                config: Some(tag.split('"').next()?.to_owned()),
                certificate_until: until.and_then(|until| i64::try_from(*until).ok()),
            };
            Some((process.name(), loaded))
        })
        .collect()
}
