//! Who may say what: the subjects of each NATS user, and what crosses a leaf link.
//!
//! A region lets in of the others only what mirrors and hints need. Both ends of a leaf link refuse the rest: the hub by the
//! permissions of the user `leaf`, the JetStream server by its own deny lists, so that a hub cannot widen them.

use nightjar_envelope::{Class, MESSAGE_SHARDS, RegionName, STATE_SHARDS, StreamName};

/// What one NATS user may publish and subscribe to; everything else is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Permissions {
    pub(super) publish: Vec<String>,
    pub(super) subscribe: Vec<String>,
}

/// Verbs of the consumer API (nats-server 2.15) that no other region has a use for: a mirror only creates its consumer.
const FOREIGN_CONSUMER_VERBS: [&str; 11] = [
    "DELETE", "DURABLE", "INFO", "LEADER", "LIST", "MSG", "NAMES", "PAUSE", "PEER", "RESET",
    "UNPIN",
];

/// Parts of the JetStream API that administer: never for another region.
const ADMIN_PARTS: [&str; 7] = [
    "STREAM", "DIRECT", "META", "SERVER", "ACCOUNT", "$KV", "$OBJ",
];

/// Core subjects of a mirror at work: replies to its consumer requests, delivery, flow control.
const MIRROR_SUBJECTS: [&str; 3] = ["$JSC.R.>", "$JS.M.>", "$JS.FC.>"];

/// The streams that a region writes: messages first, then state.
pub(crate) fn own_streams(region: &RegionName, generation: u32) -> Vec<StreamName> {
    let of = |class, shards: u8| {
        (0..shards)
            .filter_map(move |shard| StreamName::new(class, region.clone(), generation, shard))
    };
    of(Class::Messages, MESSAGE_SHARDS)
        .chain(of(Class::State, STATE_SHARDS))
        .collect()
}

/// Relays of a region: publish into its own log, follow every log, remove superseded state.
pub(super) fn relay(region: &RegionName, all: &[(RegionName, u32)]) -> Permissions {
    let mut publish = own_writes(region);
    publish.extend(
        [
            "INFO",
            "STREAM.INFO.*",
            "CONSUMER.CREATE.>",
            "CONSUMER.INFO.>",
            "CONSUMER.DELETE.>",
            "CONSUMER.MSG.NEXT.>",
            "DIRECT.GET.>",
        ]
        .map(|verb| format!("$JS.API.{verb}")),
    );
    let state = all
        .iter()
        .flat_map(|(region, generation)| own_streams(region, *generation))
        .filter(|stream| stream.class == Class::State);
    publish.extend(state.map(|stream| format!("$JS.API.STREAM.MSG.DELETE.{stream}")));
    Permissions {
        publish,
        subscribe: texts(["rp.>", "eph.>", "_INBOX.>"]),
    }
}

/// The operator in the relays' account: the whole JetStream API of its own region, and whether other regions answer.
pub(super) fn admin() -> Permissions {
    Permissions {
        publish: texts(["$JS.API.>", "$JS.*.API.INFO"]),
        // Another region's answer comes back under the prefix that mirrors use.
        subscribe: texts(["_INBOX.>", "$JS.EVENT.>", "$JSC.R.>"]),
    }
}

/// The user `leaf` on a hub, seen from the region's JetStream servers: what they may send out, and what they may be sent.
///
/// Only allowed subjects, no denied ones: nats-server 2.15 also applies a leaf's denied imports to what it sends out when the
/// other side subscribed to a wildcard, so that denying `rp.a.>` as an import would keep region a's own hints at home.
pub(super) fn leaf(region: &RegionName, all: &[(RegionName, u32)]) -> Permissions {
    let mut publish = texts(MIRROR_SUBJECTS);
    let mut subscribe = texts(MIRROR_SUBJECTS);
    for (of, generation) in all {
        let (live, calls) = if of == region {
            (&mut publish, &mut subscribe)
        } else {
            (&mut subscribe, &mut publish)
        };
        // Hints and ephemeral events in a region's name are that region's to send.
        live.extend([
            format!("rp.{of}.>"),
            format!("{}.{of}.>", Class::Ephemeral.subject_prefix()),
        ]);
        // Whether the other JetStream answers at all: it tells a stalled mirror from a cut link.
        calls.push(format!("$JS.{of}.API.INFO"));
        for stream in own_streams(of, *generation) {
            let create = format!("$JS.{of}.API.CONSUMER.CREATE.{stream}");
            calls.extend([format!("{create}.>"), create]);
        }
    }
    Permissions { publish, subscribe }
}

/// What a region's JetStream servers refuse from their hub, whatever the hub allows.
pub(super) fn deny_imports(region: &RegionName) -> Vec<String> {
    let api = |part: &str| format!("$JS.{region}.API.{part}.>");
    let mut deny: Vec<String> = ADMIN_PARTS.iter().map(|part| api(part)).collect();
    deny.extend(
        FOREIGN_CONSUMER_VERBS
            .iter()
            .map(|verb| api(&format!("CONSUMER.{verb}"))),
    );
    deny.extend(
        [Class::Messages, Class::State]
            .map(|class| format!("{}.{region}.>", class.subject_prefix())),
    );
    deny
}

/// What a region's JetStream servers never send to their hub: what relays publish stays in the region's own streams.
pub(super) fn deny_exports() -> Vec<String> {
    texts(["ev.>", "st.>"])
}

fn own_writes(region: &RegionName) -> Vec<String> {
    [Class::Messages, Class::State, Class::Ephemeral]
        .map(|class| format!("{}.{region}.>", class.subject_prefix()))
        .into()
}

fn texts<'a>(subjects: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    subjects.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use nightjar_envelope::Spending;

    use super::*;

    /// What keys spent is told under the subjects of ephemeral events, so that it crosses as these do, and in the region's own name only.
    #[test]
    fn a_region_tells_what_keys_spent_in_its_own_name_and_hears_all() {
        let regions = ["a", "b"].map(|name| (name.parse::<RegionName>().unwrap(), 1));
        let covers = |allowed: &[String], subject: &str| {
            allowed.iter().any(|pattern| {
                let prefix = pattern.strip_suffix('>');
                prefix.map_or(pattern == subject, |prefix| subject.starts_with(prefix))
            })
        };
        let [own, other] = [0, 1].map(|at| Spending::subject(&regions[at].0));
        let relay = relay(&regions[0].0, &regions);
        assert!(covers(&relay.publish, &own) && !covers(&relay.publish, &other));
        assert!(covers(&relay.subscribe, &own) && covers(&relay.subscribe, &other));
        let leaf = leaf(&regions[0].0, &regions);
        assert!(covers(&leaf.publish, &own) && !covers(&leaf.publish, &other));
        assert!(covers(&leaf.subscribe, &other) && !covers(&leaf.subscribe, &own));
        assert!(!covers(&deny_imports(&regions[0].0), &other));
        assert!(!covers(&deny_exports(), &own));
    }
}
