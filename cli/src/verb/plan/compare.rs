//! What a changed RelayCluster costs, field by field. Pure: two specs in, consequences out.
//!
//! The table here says in words, per field, what the operator's restart hashes say per pod; a test holds the two together.

use nightjar_operator::crd::{Images, RelayClusterSpec, parse_duration, parse_quantity};
use nightjar_operator::plan::Role;
use serde_json::Value;

/// One field that differs, and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Path with the region's name, `spec.regions[eu].nats.storage`.
    pub(super) field: String,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    /// For people: what happens, or why it is refused.
    pub(super) effect: String,
    pub(super) refused: bool,
    /// Regions whose pods restart; every one of the old spec when `None`.
    pub(super) region: Option<String>,
    /// Which pods of those regions restart.
    pub(super) restarts: &'static [Role],
}

impl Found {
    /// Whether pods of a role in a region restart for it.
    pub(super) fn restarts(&self, region: &str, role: Role) -> bool {
        let concerned = self.region.as_deref().is_none_or(|name| name == region);
        concerned && self.restarts.contains(&role)
    }
}

const NONE: &[Role] = &[];
const RELAYS: &[Role] = &[Role::Relay];
const NATS: &[Role] = &[Role::Nats];
const HUBS: &[Role] = &[Role::Hub];
const SERVERS: &[Role] = &[Role::Hub, Role::Nats];
const ALL: &[Role] = &[Role::Hub, Role::Nats, Role::Relay];

/// Everything in which `new` differs. `running` are the images that the fleet runs when its spec names none.
pub(super) fn compare(
    old: &RelayClusterSpec,
    new: &RelayClusterSpec,
    running: Option<&Images>,
) -> Vec<Found> {
    let mut found = Vec::new();
    for region in old.regions.iter().filter(|region| !has(new, &region.name)) {
        found.push(removed(&region.name, new));
    }
    for region in new.regions.iter().filter(|region| !has(old, &region.name)) {
        found.push(added(&region.name, old));
    }
    for region in &new.regions {
        if let Some(before) = old.regions.iter().find(|before| before.name == region.name) {
            let mut differences = Vec::new();
            walk("", &json(before), &json(region), &mut differences);
            for difference in differences {
                let shown = format!("spec.regions[{}]{}", region.name, difference.path);
                let path = format!("regions{}", difference.path);
                found.extend(difference.found(&path, shown, Some(&region.name)));
            }
        }
    }
    let without_regions = |spec: &RelayClusterSpec| {
        let mut value = json(spec);
        if let Some(fields) = value.as_object_mut() {
            fields.remove("regions");
            fields["images"] = images(spec, running);
        }
        value
    };
    let mut differences = Vec::new();
    walk(
        "",
        &without_regions(old),
        &without_regions(new),
        &mut differences,
    );
    for difference in differences {
        let path = difference.path.trim_start_matches('.').to_owned();
        found.extend(difference.found(&path, format!("spec{}", difference.path), None));
    }
    found.extend(log_growth(old, new));
    found
}

fn has(spec: &RelayClusterSpec, region: &str) -> bool {
    spec.regions.iter().any(|known| known.name == region)
}

fn json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// An image that is not named is the one that runs.
fn images(spec: &RelayClusterSpec, running: Option<&Images>) -> Value {
    let mut images = json(&spec.images);
    if let (Some(fields), Some(running)) = (images.as_object_mut(), running) {
        for (name, image) in [("relay", &running.relay), ("nats", &running.nats)] {
            fields.entry(name).or_insert_with(|| image.clone().into());
        }
    }
    images
}

fn removed(region: &str, new: &RelayClusterSpec) -> Found {
    let (effect, restarts) = match new.regions.len() {
        1 => (
            "leaves once the other region holds its log; the hubs of both go, and the NATS servers of the other restart",
            NATS,
        ),
        _ => (
            "leaves once every other region holds its log; the hubs of the others restart",
            HUBS,
        ),
    };
    Found {
        field: format!("spec.regions[{region}]"),
        from: Some("present".to_owned()),
        to: None,
        effect: effect.to_owned(),
        refused: false,
        region: None,
        restarts,
    }
}

fn added(region: &str, old: &RelayClusterSpec) -> Found {
    let (effect, restarts) = match old.regions.len() {
        // A single region has no hubs; its NATS servers get links to them.
        1 => (
            "is made, and receives everything the other still keeps; the other gets hubs, and its NATS servers restart",
            NATS,
        ),
        _ => (
            "is made, and receives everything the others still keep; the hubs of the others restart",
            HUBS,
        ),
    };
    Found {
        field: format!("spec.regions[{region}]"),
        from: None,
        to: Some("present".to_owned()),
        effect: effect.to_owned(),
        refused: false,
        region: None,
        restarts,
    }
}

/// Relays keep address space for their index in powers of two of the log: a much larger log restarts them.
fn log_growth(old: &RelayClusterSpec, new: &RelayClusterSpec) -> Option<Found> {
    const INDEX_PER_LOG_BYTE: u64 = 48;
    let index = |spec: &RelayClusterSpec| {
        let bytes = parse_quantity(&spec.log.max_bytes_per_region).ok()?;
        Some(
            bytes
                .saturating_mul(INDEX_PER_LOG_BYTE)
                .min(1 << 62)
                .next_power_of_two(),
        )
    };
    let (before, after) = (index(old)?, index(new)?);
    (before != after).then(|| Found {
        field: "spec.log.maxBytesPerRegion".to_owned(),
        from: Some(old.log.max_bytes_per_region.clone()),
        to: Some(new.log.max_bytes_per_region.clone()),
        effect: "relays restart: their index gets another size".to_owned(),
        refused: false,
        region: None,
        restarts: RELAYS,
    })
}

struct Difference {
    /// Begins with a dot.
    path: String,
    from: Option<Value>,
    to: Option<Value>,
}

fn walk(path: &str, old: &Value, new: &Value, differences: &mut Vec<Difference>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or_default()
                };
                // Keys of a user's own may hold dots.
                let below = match key.contains(['.', '/']) {
                    true => format!("{path}[{key}]"),
                    false => format!("{path}.{key}"),
                };
                walk(&below, &of(before), &of(after), differences);
            }
        }
        (old, new) if same(path, old, new) => {}
        _ => differences.push(Difference {
            path: path.to_owned(),
            from: Some(old.clone()).filter(|value| !value.is_null()),
            to: Some(new.clone()).filter(|value| !value.is_null()),
        }),
    }
}

/// `1Gi` is `1024Mi`, and `60s` is `1m`.
fn same(path: &str, old: &Value, new: &Value) -> bool {
    let (Some(before), Some(after)) = (old.as_str(), new.as_str()) else {
        return old == new;
    };
    let last = path.rsplit('.').next().unwrap_or_default();
    let equal = match last {
        "storage" | "memory" | "maxBytesPerRegion" => parse_quantity(before)
            .ok()
            .zip(parse_quantity(after).ok())
            .map(|(a, b)| a == b),
        "soak" | "settle" | "podDeadline" | "messages" => parse_duration(before)
            .ok()
            .zip(parse_duration(after).ok())
            .map(|(a, b)| a == b),
        _ => None,
    };
    equal.unwrap_or(before == after)
}

impl Difference {
    fn found(&self, path: &str, field: String, region: Option<&str>) -> Option<Found> {
        let text = |value: &Option<Value>| {
            value.as_ref().map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
        };
        let (from, to) = (text(&self.from), text(&self.to));
        let (effect, refused, restarts) = cost(path, from.as_deref(), to.as_deref());
        Some(Found {
            field,
            from,
            to,
            effect,
            refused,
            region: region.map(ToOwned::to_owned),
            restarts,
        })
    }
}

/// What a change of one field costs: words, whether it is refused, and who restarts. `path` is without names of regions.
fn cost(path: &str, from: Option<&str>, to: Option<&str>) -> (String, bool, &'static [Role]) {
    let live = |text: &str| (text.to_owned(), false, NONE);
    let restart = |roles: &'static [Role], text: &str| (text.to_owned(), false, roles);
    let refused = |text: &str| (text.to_owned(), true, NONE);
    let shrinks = || {
        let bytes = |text: Option<&str>| text.and_then(|text| parse_quantity(text).ok());
        bytes(to) < bytes(from)
    };
    let begins = |head: &str| {
        path.strip_prefix(head)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    match path {
        "regions.nats.replicas" => {
            refused("it cannot be changed; add a region with the wanted number instead")
        }
        "regions.nats.storageClass" | "regions.relays.storageClass" => {
            refused("its disks exist already; add a region instead")
        }
        "regions.nats.storage" | "regions.relays.storage" if shrinks() => {
            refused("disks can only grow")
        }
        "regions.nats.storage" => {
            restart(NATS, "disks grow, then the region's NATS servers restart")
        }
        "regions.relays.storage" => live("disks grow, nothing restarts"),
        "regions.relays.replicas" => live(
            "relays come or go, nothing else restarts; a relay that goes lets its clients go first",
        ),
        "regions.publicURL" => restart(RELAYS, "the region's relays restart"),
        "images.relay" => restart(RELAYS, "relays restart with the other image"),
        "images.nats" => restart(
            SERVERS,
            "hubs and NATS servers restart with the other image",
        ),
        "log.maxBytesPerRegion" => live("applied while running"),
        "relay.limits.drainSeconds" => restart(
            RELAYS,
            "relays restart: their pods get another grace period",
        ),
        "log.retention.messages" => restart(
            RELAYS,
            "relays restart; a shorter one removes older messages everywhere",
        ),
        _ if begins("regions.relays.resources") => restart(RELAYS, "the region's relays restart"),
        _ if begins("regions.nats.resources") => restart(NATS, "the region's NATS servers restart"),
        _ if begins("regions.placement") => restart(ALL, "all pods of the region restart"),
        _ if begins("tracing") || begins("relay.plugins") => restart(RELAYS, "relays restart"),
        _ if begins("relay.tls") => restart(
            RELAYS,
            "relays restart; the scheme of their URL (ws:// or wss://) is that of each relay as it runs",
        ),
        _ if begins("relay.trustedProxies") || begins("relay.allowedOrigins") => {
            live("holds for new connections, nothing restarts")
        }
        _ if begins("images.pullSecrets") => live("taken by pods that start from now on"),
        _ if begins("deletionPolicy") => live("holds from now on"),
        _ if begins("rollout") => live("holds from now on, also for a rollout that is under way"),
        _ => live("applied while running, nothing restarts"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nightjar_operator::crd::load;

    const BASE: &str = "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {name: eu}\nspec:\n  regions:\n  - {name: a, nats: {storage: 40Gi}}\n  - {name: b, nats: {storage: 40Gi}}\n";

    fn spec(text: &str) -> RelayClusterSpec {
        load(text).unwrap().spec
    }

    fn changed(edit: (&str, &str)) -> Vec<Found> {
        let text = BASE.replace(edit.0, edit.1);
        assert_ne!(text, BASE);
        compare(&spec(BASE), &spec(&text), None)
    }

    const A: &str = "name: a, nats: {storage: 40Gi}";
    /// An edit, the field it is told under, and who restarts.
    const CASES: &[((&str, &str), &str, &[Role])] = &[
        (
            (A, "name: a, nats: {storage: 50Gi}"),
            "spec.regions[a].nats.storage",
            NATS,
        ),
        (
            (A, "name: a, relays: {replicas: 3}, nats: {storage: 40Gi}"),
            "spec.regions[a].relays.replicas",
            NONE,
        ),
        (
            (
                A,
                "name: a, relays: {resources: {cpu: 1}}, nats: {storage: 40Gi}",
            ),
            "spec.regions[a].relays.resources.cpu",
            RELAYS,
        ),
        (
            (
                A,
                "name: a, placement: {nodeSelector: {topology.kubernetes.io/region: x}}, nats: {storage: 40Gi}",
            ),
            "spec.regions[a].placement.nodeSelector",
            ALL,
        ),
        (
            (
                A,
                "name: a, publicURL: 'wss://a.example.org', nats: {storage: 40Gi}",
            ),
            "spec.regions[a].publicURL",
            RELAYS,
        ),
        (
            ("spec:\n", "spec:\n  images: {relay: 'relay:2'}\n"),
            "spec.images.relay",
            RELAYS,
        ),
        (
            ("spec:\n", "spec:\n  images: {nats: 'nats:2'}\n"),
            "spec.images.nats",
            SERVERS,
        ),
        (
            ("spec:\n", "spec:\n  relay: {info: {name: Golden}}\n"),
            "spec.relay.info.name",
            NONE,
        ),
        (
            ("spec:\n", "spec:\n  relay: {limits: {maxFilters: 7}}\n"),
            "spec.relay.limits.maxFilters",
            NONE,
        ),
        (
            ("spec:\n", "spec:\n  relay: {tls: {secretName: s}}\n"),
            "spec.relay.tls",
            RELAYS,
        ),
        (
            (
                "spec:\n",
                "spec:\n  relay: {trustedProxies: [10.0.0.0/8]}\n",
            ),
            "spec.relay.trustedProxies",
            NONE,
        ),
        (
            (
                "spec:\n",
                "spec:\n  relay: {allowedOrigins: ['https://x.example.org']}\n",
            ),
            "spec.relay.allowedOrigins",
            NONE,
        ),
        (
            (
                "spec:\n",
                "spec:\n  relay: {plugins: {write: {command: [/policy]}}}\n",
            ),
            "spec.relay.plugins.write",
            RELAYS,
        ),
        (
            ("spec:\n", "spec:\n  log: {retention: {messages: 60d}}\n"),
            "spec.log.retention.messages",
            RELAYS,
        ),
        (
            ("spec:\n", "spec:\n  rollout: {soak: 1h}\n"),
            "spec.rollout.soak",
            NONE,
        ),
        (
            (
                "  - {name: b",
                "  - {name: c, nats: {storage: 40Gi}}\n  - {name: b",
            ),
            "spec.regions[c]",
            HUBS,
        ),
        (
            ("  - {name: b, nats: {storage: 40Gi}}\n", ""),
            "spec.regions[b]",
            NATS,
        ),
    ];

    #[test]
    fn each_change_restarts_whom_it_must_and_nobody_else() {
        for (edit, field, restarts) in CASES {
            let text = edit.1.replace("cpu: 1", "cpu: '1'");
            let found = changed((edit.0, &text));
            let found: Vec<_> = found
                .iter()
                .map(|found| (found.field.as_str(), found.restarts, found.refused))
                .collect();
            assert!(found[0].0.starts_with(field), "{found:?}");
            assert_eq!(
                (found.len(), found[0].1, found[0].2),
                (1, *restarts, false),
                "{field}"
            );
        }
    }

    #[test]
    fn the_words_say_what_the_operator_does() {
        let grown = ("spec:\n", "spec:\n  log: {maxBytesPerRegion: 8Gi}\n");
        let drain = ("spec:\n", "spec:\n  relay: {limits: {drainSeconds: 40}}\n");
        let more = [grown, drain];
        for edit in CASES.iter().map(|(edit, ..)| *edit).chain(more) {
            let text = BASE.replace(edit.0, &edit.1.replace("cpu: 1", "cpu: '1'"));
            let (old, new) = (load(BASE).unwrap(), load(&text).unwrap());
            let found = compare(&old.spec, &new.spec, None);
            let images = Images {
                relay: "relay:1".to_owned(),
                nats: "nats:1".to_owned(),
            };
            let moved = nightjar_operator::cluster::restarts(&old, &new, &images).unwrap();
            for region in new
                .spec
                .regions
                .iter()
                .filter(|region| has(&old.spec, &region.name))
            {
                for role in [Role::Hub, Role::Nats, Role::Relay] {
                    // Hubs come and go with the second region.
                    let there =
                        |spec: &RelayClusterSpec| role != Role::Hub || spec.regions.len() > 1;
                    let said = found.iter().any(|found| found.restarts(&region.name, role));
                    let does = moved
                        .iter()
                        .any(|(name, of)| name.as_str() == region.name && *of == role);
                    assert_eq!(
                        said && there(&old.spec) && there(&new.spec),
                        does,
                        "{edit:?}: {role} of {}",
                        region.name
                    );
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        let a = "name: a, nats: {storage: 40Gi}";
        for edit in [
            "name: a, nats: {storage: 40Gi, replicas: 1}",
            "name: a, nats: {storage: 39Gi}",
            "name: a, nats: {storage: 40Gi, storageClass: fast}",
            "name: a, relays: {storage: 1Gi}, nats: {storage: 40Gi}",
        ] {
            let found = changed((a, edit));
            assert_eq!(
                found.iter().map(|found| found.refused).collect::<Vec<_>>(),
                [true],
                "{edit}"
            );
        }
    }

    #[test]
    fn the_same_in_other_words_is_no_change() {
        assert_eq!(
            changed((
                "name: a, nats: {storage: 40Gi}",
                "name: a, nats: {storage: 40960Mi}"
            )),
            []
        );
        assert_eq!(changed(("spec:\n", "spec:\n  rollout: {soak: 300s}\n")), []);
        let running = Images {
            relay: "relay:1".to_owned(),
            nats: "nats:1".to_owned(),
        };
        let named = spec(&BASE.replace("spec:\n", "spec:\n  images: {relay: 'relay:1'}\n"));
        assert_eq!(compare(&spec(BASE), &named, Some(&running)), []);
    }

    #[test]
    fn a_much_larger_log_restarts_the_relays() {
        let restarts = |bytes: &str| {
            let found = changed((
                "spec:\n",
                &format!("spec:\n  log: {{maxBytesPerRegion: {bytes}}}\n"),
            ));
            found.iter().any(|found| found.restarts == RELAYS)
        };
        assert!(!restarts("1200Mi"));
        assert!(restarts("4Gi"));
    }
}
