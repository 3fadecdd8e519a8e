//! Configuration text of the nats-servers: a region's JetStream servers, and the hubs that join regions.

use std::net::SocketAddr;
use std::path::Path;

use nightjar_envelope::RegionName;

use super::conf::{Conf, relative};
use super::planner::{Planner, ProcessText, hash, ids};
use super::subjects::{self, Permissions};
use super::{
    Credential, FileRef, HUBS_PER_REGION, Issuer, Port, ProcessId, RegionKeys, Role, SeedForm,
};

/// Account of everything that carries events.
const RELAY_ACCOUNT: &str = "RELAY";
/// Account in which the operator asks a region's servers for their state. It never crosses a leaf link, and since gateways join
/// accounts by name, each region has its own: the system key of one region is nothing to the hubs of another.
fn system_account(region: &RegionName) -> String {
    format!("SYS-{region}")
}

/// Name of the seed in the file that a JetStream server includes.
const LEAF_SEED_VARIABLE: &str = "LEAF_SEED";

/// The largest message: an envelope of 512 KiB with its headers.
const MAX_PAYLOAD_BYTES: u32 = 1_048_576;
/// JetStream's memory store holds only consumers' state: streams are on disk.
const MAX_MEMORY_BYTES: u32 = 268_435_456;

/// A JetStream server of a region.
pub(super) fn jetstream(plan: &Planner<'_>, id: &ProcessId) -> ProcessText {
    let region = plan.region(&id.region);
    let mut conf = Conf::default();
    conf.comment(&format!(
        "{id}: JetStream server of region {}. Written by nightjar-operator; changes here are lost.",
        id.region
    ));
    // The seed stays in a file of mode 0600: it never is in this text.
    if plan.has_hubs() {
        let seed = plan.path(id, &FileRef::Seed(Credential::Leaf, SeedForm::NatsVariable));
        let config = plan.path(id, &FileRef::Config);
        conf.include(&relative(config.parent().unwrap_or(Path::new("/")), &seed));
    }
    client_tls(&mut conf, plan, id);
    let mut fixed = Conf::default();
    server_head(&mut fixed, plan, id);
    fixed.blank();
    fixed.open("jetstream");
    fixed.string("store_dir", plan.path(id, &FileRef::Store).display());
    fixed.string("domain", &id.region);
    fixed.bare("max_mem", MAX_MEMORY_BYTES);
    fixed.bare("max_file", region.spec.nats_storage);
    if region.spec.nats_replicas > 1 {
        fixed.comment("Flushed to disk on a majority before an event is acknowledged.");
        fixed.bare("sync_interval", "always");
    }
    fixed.close();
    if region.spec.nats_replicas > 1 {
        cluster(
            &mut fixed,
            plan,
            id,
            id.region.as_str(),
            u32::from(region.spec.nats_replicas),
        );
    }
    if plan.has_hubs() {
        leaf_remotes(&mut fixed, plan, id);
    }
    let keys = region.keys;
    accounts(
        &mut conf,
        &[
            (
                RELAY_ACCOUNT,
                true,
                vec![
                    (
                        "relays of the region",
                        &keys.relay,
                        "STANDARD",
                        Some(subjects::relay(&id.region, &plan.logs())),
                    ),
                    (
                        "the operator",
                        &keys.admin,
                        "STANDARD",
                        Some(subjects::admin()),
                    ),
                ],
            ),
            (
                &system_account(&id.region),
                false,
                vec![("the operator", &keys.system, "STANDARD", None)],
            ),
        ],
    );
    joined(id, conf, fixed)
}

/// A hub of a region.
pub(super) fn hub(plan: &Planner<'_>, id: &ProcessId) -> ProcessText {
    let mut conf = Conf::default();
    conf.comment(&format!(
        "{id}: joins region {} to the others. Written by nightjar-operator; changes here are lost.",
        id.region
    ));
    client_tls(&mut conf, plan, id);
    let mut fixed = Conf::default();
    server_head(&mut fixed, plan, id);
    cluster(
        &mut fixed,
        plan,
        id,
        &hub_cluster(&id.region),
        HUBS_PER_REGION,
    );
    fixed.blank();
    fixed.open("leafnodes");
    listen(&mut fixed, &plan.listen(id, Port::Leaf));
    fixed.bare("no_advertise", true);
    tls(&mut fixed, plan, id, &Issuer::Region(id.region.clone()));
    fixed.close();
    gateway(&mut fixed, plan, id);
    let keys = plan.region(&id.region).keys;
    let leaf = subjects::leaf(&id.region, &plan.generations());
    accounts(
        &mut conf,
        &[
            (
                RELAY_ACCOUNT,
                false,
                vec![(
                    "the region's JetStream servers",
                    &keys.leaf,
                    "LEAFNODE",
                    Some(leaf),
                )],
            ),
            (
                &system_account(&id.region),
                false,
                vec![("the operator", &keys.system, "STANDARD", None)],
            ),
        ],
    );
    joined(id, conf, fixed)
}

/// Cluster and gateway name of a region's hubs. It must differ from the cluster name of the servers whose leafs they take.
fn hub_cluster(region: &RegionName) -> String {
    format!("hub-{region}")
}

/// The two parts of a configuration, with a tag that tells which one a server has loaded: servers show their tags.
fn joined(id: &ProcessId, reloadable: Conf, fixed: Conf) -> ProcessText {
    let restart = fixed.finish();
    let reloadable = reloadable.finish();
    let mut tags = Conf::default();
    tags.list(
        "server_tags",
        &[
            format!("region:{}", id.region),
            format!("role:{}", id.role),
            format!("config:{}", &hash([reloadable.as_str(), &restart])[..16]),
        ],
    );
    let full = format!("{reloadable}{}{restart}", tags.finish());
    ProcessText { full, restart }
}

/// TLS towards clients; who they are is told by their nkeys.
fn client_tls(conf: &mut Conf, plan: &Planner<'_>, id: &ProcessId) {
    if !plan.options().client_tls {
        return;
    }
    conf.blank();
    let issuer = Issuer::Region(id.region.clone());
    conf.open("tls");
    conf.string(
        "cert_file",
        plan.path(id, &FileRef::Certificate(issuer.clone()))
            .display(),
    );
    conf.string(
        "key_file",
        plan.path(id, &FileRef::PrivateKey(issuer)).display(),
    );
    conf.string("min_version", "1.3");
    conf.bare("timeout", 5);
    conf.close();
    conf.blank();
}

fn server_head(conf: &mut Conf, plan: &Planner<'_>, id: &ProcessId) {
    conf.blank();
    conf.string("server_name", id);
    listen(conf, &plan.listen(id, Port::Client));
    if let Some(monitor) = plan.options().monitor {
        conf.string("http", monitor);
    }
    if let Some(pid_file) = &plan.options().pid_file {
        conf.string("pid_file", pid_file.display());
    }
    conf.string("system_account", system_account(&id.region));
    conf.bare("max_payload", MAX_PAYLOAD_BYTES);
    conf.comment("A dead peer is noticed within 20 s; the defaults are minutes.");
    conf.string("ping_interval", "10s");
    conf.bare("ping_max", 2);
    conf.string("write_deadline", "5s");
    conf.comment("Lame duck (SIGUSR2): leaders move away, then clients are asked to leave. 30 s is the least that the server accepts.");
    // A hub leads nothing; its links turn to the other one at once.
    let grace = if id.role == Role::Hub { "1s" } else { "5s" };
    conf.string("lame_duck_grace_period", grace);
    conf.string("lame_duck_duration", "30s");
}

fn listen(conf: &mut Conf, at: &SocketAddr) {
    conf.string("listen", at);
}

/// Routes to the other servers of the same role, by certificates of the region.
fn cluster(conf: &mut Conf, plan: &Planner<'_>, id: &ProcessId, name: &str, servers: u32) {
    conf.blank();
    conf.open("cluster");
    conf.string("name", name);
    listen(conf, &plan.listen(id, Port::Route));
    conf.bare("no_advertise", true);
    // Servers tell each other where to reach third ones: by the name in their certificates, not by the address of today.
    conf.string("advertise", plan.connect(id, Port::Route));
    tls(conf, plan, id, &Issuer::Region(id.region.clone()));
    let routes: Vec<String> = ids(&id.region, id.role, servers)
        .filter(|other| other != id)
        .map(|other| format!("tls://{}", plan.connect(&other, Port::Route)))
        .collect();
    conf.list("routes", &routes);
    conf.close();
}

/// The link from a JetStream server to the hubs of its region.
fn leaf_remotes(conf: &mut Conf, plan: &Planner<'_>, id: &ProcessId) {
    conf.blank();
    conf.open("leafnodes");
    conf.string("reconnect", "1s");
    conf.open_list("remotes");
    conf.open_item();
    let urls: Vec<String> = ids(&id.region, Role::Hub, HUBS_PER_REGION)
        .map(|hub| format!("tls://{}", plan.connect(&hub, Port::Leaf)))
        .collect();
    conf.list("urls", &urls);
    conf.string("account", RELAY_ACCOUNT);
    conf.bare("nkey", format!("${LEAF_SEED_VARIABLE}"));
    conf.bare("ignore_discovered_servers", true);
    tls(conf, plan, id, &Issuer::Region(id.region.clone()));
    conf.comment("Another region creates the consumers of its mirrors here, and nothing else.");
    conf.list("deny_imports", &subjects::deny_imports(&id.region));
    conf.list("deny_exports", &subjects::deny_exports());
    conf.close();
    conf.close_list();
    conf.close();
}

/// The links between the hubs of all regions.
fn gateway(conf: &mut Conf, plan: &Planner<'_>, id: &ProcessId) {
    conf.blank();
    conf.open("gateway");
    conf.string("name", hub_cluster(&id.region));
    listen(conf, &plan.listen(id, Port::Gateway));
    conf.string("advertise", plan.connect(id, Port::Gateway));
    tls(conf, plan, id, &Issuer::Gateways);
    conf.open_list("gateways");
    for (region, _) in plan.generations() {
        let urls: Vec<String> = ids(&region, Role::Hub, HUBS_PER_REGION)
            .map(|hub| format!("tls://{}", plan.connect(&hub, Port::Gateway)))
            .collect();
        conf.open_item();
        conf.string("name", hub_cluster(&region));
        conf.list("urls", &urls);
        conf.close();
    }
    conf.close_list();
    conf.close();
}

/// Mutual TLS: both ends show a certificate of this issuer, and trust no other.
fn tls(conf: &mut Conf, plan: &Planner<'_>, id: &ProcessId, issuer: &Issuer) {
    conf.open("tls");
    conf.string(
        "cert_file",
        plan.path(id, &FileRef::Certificate(issuer.clone()))
            .display(),
    );
    conf.string(
        "key_file",
        plan.path(id, &FileRef::PrivateKey(issuer.clone()))
            .display(),
    );
    conf.string(
        "ca_file",
        plan.path(id, &FileRef::Authority(issuer.clone())).display(),
    );
    conf.bare("verify", true);
    conf.string("min_version", "1.3");
    conf.bare("timeout", 5);
    conf.close();
}

type User<'a> = (&'a str, &'a str, &'a str, Option<Permissions>);

fn accounts(conf: &mut Conf, accounts: &[(&str, bool, Vec<User<'_>>)]) {
    conf.blank();
    conf.open("accounts");
    for (name, jetstream, users) in accounts {
        conf.open(name);
        if *jetstream {
            conf.string("jetstream", "enabled");
        }
        conf.open_list("users");
        for (who, nkey, connection, permissions) in users {
            conf.comment(who);
            conf.open_item();
            conf.string("nkey", nkey);
            conf.list("allowed_connection_types", &[(*connection).to_owned()]);
            if let Some(permissions) = permissions {
                conf.open("permissions");
                rule(conf, "publish", &permissions.publish);
                rule(conf, "subscribe", &permissions.subscribe);
                conf.close();
            }
            conf.close();
        }
        conf.close_list();
        conf.close();
    }
    conf.close();
}

fn rule(conf: &mut Conf, key: &str, allow: &[String]) {
    conf.open(key);
    conf.list("allow", allow);
    conf.close();
}

impl RegionKeys {
    /// The public key of a credential.
    pub fn get(&self, credential: Credential) -> &str {
        match credential {
            Credential::Relay => &self.relay,
            Credential::Admin => &self.admin,
            Credential::System => &self.system,
            Credential::Leaf => &self.leaf,
        }
    }
}
