//! The pod template of a role: what runs, with which files, probes and rights. Passes the restricted Pod Security Standard.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
    EnvVar, EnvVarSource, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler,
    LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, PreferredSchedulingTerm,
    Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, SleepAction,
    Toleration, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sha2::{Digest, Sha256};

use super::Group;
use crate::cluster::names::{
    CONFIG_DIR, DATA_DIR, KEYS_DIR, MONITOR_PORT, Names, OPERATOR_USERS, PUBLIC_TLS_DIR,
    RESTART_HASH, RUN_DIR, TLS_DIR, USER, USER_DIR, port_name, port_number,
};
use crate::crd::parse_quantity;
use crate::plan::{Port, Role};

const REGION_TOPOLOGY: &str = "topology.kubernetes.io/region";
const ZONE_TOPOLOGY: &str = "topology.kubernetes.io/zone";
const HOST_TOPOLOGY: &str = "kubernetes.io/hostname";
/// A server that leaves hands over its streams (5 s), then closes its clients one a second.
const NATS_GRACE_SECONDS: i64 = 60;
/// Beside the drain of clients, a relay needs this to end its publishes and close its index.
const RELAY_GRACE_BESIDE_DRAIN: i64 = 15;
/// Time for endpoints to follow before a relay turns clients away.
const RELAY_LEAVES_SERVICE_SECONDS: i64 = 3;
const DEFAULT_CPU: &str = "100m";
const DEFAULT_HUB_CPU: &str = "20m";
const DEFAULT_MEMORY: &str = "256Mi";
const HUB_MEMORY: &str = "64Mi";

/// What the pods of a role are started with, as one hash: another one means that they must be restarted.
///
/// It covers what the plan says cannot be reloaded, the image, and the parts of the pod that the spec decides. Not the whole
/// template: a newer operator may write it differently, and that restarts nothing.
pub fn restart_hash(group_name: &str, parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in std::iter::once(&group_name).chain(parts) {
        hasher.update(part.len().to_be_bytes());
        hasher.update(part);
    }
    hex::encode(&hasher.finalize()[..12])
}

/// The hash of a group.
pub(super) fn hash_of(group: &Group<'_>) -> String {
    let name = group.name();
    let asked = &group.spec.asked;
    let resources = match group.role {
        Role::Nats => Some(&asked.nats.resources),
        Role::Relay => Some(&asked.relays.resources),
        // A hub's are fixed.
        Role::Hub => None,
    };
    // The time that a relay has for its end is fixed when its pod is made.
    let drain = (group.role == Role::Relay).then_some(group.input.fleet.limits.drain_seconds);
    let pod =
        serde_json::to_string(&(&asked.placement, resources, drain)).expect("a spec is plain JSON");
    // Pods of one role differ in their names alone, so the first speaks for all, also when their number changes.
    let process = group
        .processes()
        .first()
        .map_or("", |process| process.restart_hash.as_str());
    let secrets = group
        .input
        .secrets_hash
        .get(&name)
        .map_or("", String::as_str);
    let restarted_at = group.input.restarted_at.unwrap_or_default();
    let mut parts = vec![process, image(group), &pod, secrets, restarted_at];
    // Only where there is one: fleets without it keep the hash that they have.
    parts.extend(public_tls(group));
    restart_hash(&name, &parts)
}

/// The pod template of a role.
pub(super) fn template(group: &Group<'_>) -> PodTemplateSpec {
    let mut labels = group
        .input
        .names
        .role_labels(&group.region.name, group.role);
    labels.insert("app.kubernetes.io/name".to_owned(), "nightjar".to_owned());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations(group)),
            ..ObjectMeta::default()
        }),
        spec: Some(pod_spec(group)),
    }
}

fn annotations(group: &Group<'_>) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([(RESTART_HASH.to_owned(), hash_of(group))]);
    let users = group.input.operator_users.get(&group.region.name);
    if let Some(users) = users.filter(|_| group.role != Role::Relay) {
        annotations.insert(OPERATOR_USERS.to_owned(), users.clone());
    }
    annotations
}

fn pod_spec(group: &Group<'_>) -> PodSpec {
    let placement = &group.spec.asked.placement;
    let pull_secrets = &group.input.fleet.images.pull_secrets;
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(match group.role {
            Role::Nats | Role::Hub => NATS_GRACE_SECONDS,
            Role::Relay => {
                i64::try_from(group.input.fleet.limits.drain_seconds).unwrap_or(i64::MAX / 2)
                    + RELAY_GRACE_BESIDE_DRAIN
            }
        }),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        image_pull_secrets: (!pull_secrets.is_empty()).then(|| {
            pull_secrets
                .iter()
                .map(|name| LocalObjectReference { name: name.clone() })
                .collect()
        }),
        node_selector: (!placement.node_selector.is_empty())
            .then(|| placement.node_selector.clone()),
        tolerations: (!placement.tolerations.is_empty()).then(|| {
            placement
                .tolerations
                .iter()
                .map(|asked| Toleration {
                    key: Some(asked.key.clone()),
                    operator: Some(
                        if asked.value.is_some() {
                            "Equal"
                        } else {
                            "Exists"
                        }
                        .to_owned(),
                    ),
                    value: asked.value.clone(),
                    effect: asked.effect.clone(),
                    toleration_seconds: None,
                })
                .collect()
        }),
        affinity: Some(affinity(group)),
        topology_spread_constraints: Some(spread(group)),
        volumes: Some(volumes(group)),
        containers: vec![container(group)],
        ..PodSpec::default()
    }
}

/// Nodes of the region are preferred; zones that were named are required of NATS servers.
fn affinity(group: &Group<'_>) -> Affinity {
    let expression = |key: &str, values: Vec<String>| NodeSelectorTerm {
        match_expressions: Some(vec![NodeSelectorRequirement {
            key: key.to_owned(),
            operator: "In".to_owned(),
            values: Some(values),
        }]),
        match_fields: None,
    };
    let zones = &group.spec.asked.placement.zones;
    let required = (group.role == Role::Nats && !zones.is_empty()).then(|| NodeSelector {
        node_selector_terms: vec![expression(ZONE_TOPOLOGY, zones.clone())],
    });
    Affinity {
        node_affinity: Some(NodeAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                PreferredSchedulingTerm {
                    weight: 100,
                    preference: expression(REGION_TOPOLOGY, vec![group.region.name.to_string()]),
                },
            ]),
            required_during_scheduling_ignored_during_execution: required,
        }),
        ..Affinity::default()
    }
}

fn spread(group: &Group<'_>) -> Vec<TopologySpreadConstraint> {
    let required = group.role == Role::Nats && !group.spec.asked.placement.zones.is_empty();
    let constraint = |topology: &str, required: bool| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: topology.to_owned(),
        when_unsatisfiable: if required {
            "DoNotSchedule"
        } else {
            "ScheduleAnyway"
        }
        .to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(
                group
                    .input
                    .names
                    .role_selector(&group.region.name, group.role),
            ),
            ..LabelSelector::default()
        }),
        ..TopologySpreadConstraint::default()
    };
    vec![
        constraint(ZONE_TOPOLOGY, required),
        constraint(HOST_TOPOLOGY, false),
    ]
}

fn image<'a>(group: &Group<'a>) -> &'a str {
    match group.role {
        Role::Nats | Role::Hub => &group.input.images.nats,
        Role::Relay => &group.input.images.relay,
    }
}

fn container(group: &Group<'_>) -> Container {
    let config = |extension: &str| format!("{CONFIG_DIR}/$(POD_NAME).{extension}");
    let args = match group.role {
        Role::Nats | Role::Hub => vec!["--config".to_owned(), config("conf")],
        Role::Relay => vec!["--config".to_owned(), config("yaml")],
    };
    let mut ports: Vec<ContainerPort> = Port::of(group.role)
        .iter()
        .map(|port| container_port(port_name(*port), port_number(*port)))
        .collect();
    if group.role != Role::Relay {
        ports.push(container_port("monitor", MONITOR_PORT));
    }
    let (startup, readiness, liveness) = probes(group.role);
    Container {
        name: group.role.to_string(),
        image: Some(image(group).to_owned()),
        args: Some(args),
        env: Some(env(group)),
        ports: Some(ports),
        resources: Some(resources(group)),
        startup_probe: startup,
        readiness_probe: Some(readiness),
        liveness_probe: Some(liveness),
        lifecycle: Some(before_stop(group.role)),
        volume_mounts: Some(mounts(group)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn container_port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn env(group: &Group<'_>) -> Vec<EnvVar> {
    let mut env = vec![EnvVar {
        name: "POD_NAME".to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: "metadata.name".to_owned(),
            }),
            ..EnvVarSource::default()
        }),
        value: None,
    }];
    if group.role != Role::Relay {
        // Go's collector must know the limit, or the kernel ends the server at it.
        let bytes = parse_quantity(&memory(group)).unwrap_or(256 << 20) / 10 * 8;
        env.push(EnvVar {
            name: "GOMEMLIMIT".to_owned(),
            value: Some(format!("{bytes}B")),
            value_from: None,
        });
    }
    env
}

fn memory(group: &Group<'_>) -> String {
    let asked = &group.spec.asked;
    match group.role {
        Role::Nats => asked.nats.resources.memory.as_deref(),
        Role::Hub => Some(HUB_MEMORY),
        Role::Relay => asked.relays.resources.memory.as_deref(),
    }
    .unwrap_or(DEFAULT_MEMORY)
    .to_owned()
}

fn resources(group: &Group<'_>) -> ResourceRequirements {
    let asked = &group.spec.asked;
    let cpu = match group.role {
        Role::Nats => asked.nats.resources.cpu.as_deref().unwrap_or(DEFAULT_CPU),
        Role::Hub => DEFAULT_HUB_CPU,
        Role::Relay => asked.relays.resources.cpu.as_deref().unwrap_or(DEFAULT_CPU),
    };
    let memory = memory(group);
    let quantities = |pairs: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned())))
            .collect()
    };
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", cpu), ("memory", &memory)])),
        limits: Some(quantities(&[("memory", &memory)])),
        claims: None,
    }
}

/// Startup, readiness and liveness. Never the full `/healthz` of NATS: a region that lost its meta leader would restart itself.
fn probes(role: Role) -> (Option<Probe>, Probe, Probe) {
    let get = |path: &str, port: u16| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(port.into()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(5),
        period_seconds: Some(10),
        failure_threshold: Some(3),
        ..Probe::default()
    };
    let often = |probe: Probe, every: i32, failures: i32| Probe {
        period_seconds: Some(every),
        failure_threshold: Some(failures),
        ..probe
    };
    match role {
        Role::Nats | Role::Hub => (
            Some(often(
                get("/healthz?js-server-only=true", MONITOR_PORT),
                2,
                90,
            )),
            often(get("/healthz?js-server-only=true", MONITOR_PORT), 5, 3),
            get("/healthz?js-enabled-only=true", MONITOR_PORT),
        ),
        Role::Relay => {
            let admin = port_number(Port::Admin);
            (
                Some(often(get("/healthz", admin), 1, 120)),
                often(get("/readyz", admin), 2, 2),
                get("/healthz", admin),
            )
        }
    }
}

/// What happens before a pod is told to stop. A server is asked to leave: it hands over its streams, and ignores the signal to stop
/// until it is through. A relay waits until no Service sends it clients any more.
fn before_stop(role: Role) -> Lifecycle {
    let handler = match role {
        Role::Nats | Role::Hub => LifecycleHandler {
            exec: Some(ExecAction {
                command: Some(
                    [
                        "nats-server",
                        "--signal",
                        &format!("ldm={RUN_DIR}/nats.pid"),
                    ]
                    .map(str::to_owned)
                    .into(),
                ),
            }),
            ..LifecycleHandler::default()
        },
        Role::Relay => LifecycleHandler {
            sleep: Some(SleepAction {
                seconds: RELAY_LEAVES_SERVICE_SECONDS,
            }),
            ..LifecycleHandler::default()
        },
    };
    Lifecycle {
        pre_stop: Some(handler),
        ..Lifecycle::default()
    }
}

/// The Secret with the certificate that the pods serve to clients.
fn public_tls<'a>(group: &Group<'a>) -> Option<&'a str> {
    let secret = group.input.fleet.relay_tls_secret.as_deref();
    secret.filter(|_| group.role == Role::Relay)
}

/// Volume name, folder, and the Secret that fills it.
fn secrets(group: &Group<'_>) -> Vec<(&'static str, &'static str, String)> {
    let names = group.input.names;
    let region = &group.region.name;
    let tls = ("tls", TLS_DIR, names.tls(region, group.role));
    let user = ("user", USER_DIR, names.user(region, group.role));
    let has_seed = group
        .processes()
        .iter()
        .any(|process| !process.seeds.is_empty());
    match group.role {
        Role::Nats if has_seed => vec![tls, user],
        Role::Nats | Role::Hub => vec![tls],
        Role::Relay => {
            let public =
                public_tls(group).map(|secret| ("public-tls", PUBLIC_TLS_DIR, secret.to_owned()));
            let keys = ("keys", KEYS_DIR, names.keys());
            [user, keys].into_iter().chain(public).collect()
        }
    }
}

fn volumes(group: &Group<'_>) -> Vec<Volume> {
    let mut volumes = vec![Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: group.input.names.config(&group.region.name, group.role),
            default_mode: Some(0o444),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }];
    volumes.extend(secrets(group).into_iter().map(|(name, _, secret)| Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o400),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }));
    volumes.push(Volume {
        name: "run".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    });
    volumes
}

fn mounts(group: &Group<'_>) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("config", CONFIG_DIR, true)];
    mounts.extend(
        secrets(group)
            .into_iter()
            .map(|(name, path, _)| mount(name, path, true)),
    );
    mounts.push(mount("run", RUN_DIR, false));
    if group.role != Role::Hub {
        mounts.push(mount(Names::claim(), DATA_DIR, false));
    }
    mounts
}
