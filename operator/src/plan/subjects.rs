//! Who may say what: the subjects of each NATS user, and what crosses a leaf link.
//!
//! A region lets in of the others only what mirrors and hints need. Both ends of a leaf link refuse the rest: the hub by the
//! permissions of the user `leaf`, the JetStream server by its own deny lists, so that a hub cannot widen them.

use nightjar_envelope::{Class, MESSAGE_SHARDS, RegionName, STATE_SHARDS, StreamName};

/// What one NATS user may publish and subscribe to; everything else is refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Permissions {
    pub(super) publish: Vec<String>,
    pub(super) deny_publish: Vec<String>,
    pub(super) subscribe: Vec<String>,
    pub(super) deny_subscribe: Vec<String>,
}

/// Verbs of the consumer API (nats-server 2.15) that no other region has a use for: a mirror only creates its consumer.
const FOREIGN_CONSUMER_VERBS: [&str; 11] = [
    "DELETE", "DURABLE", "INFO", "LEADER", "LIST", "MSG", "NAMES", "PAUSE", "PEER", "RESET",
    "UNPIN",
];

/// Parts of the JetStream API that administer: never for another region.
const ADMIN_PARTS: [&str; 5] = ["STREAM", "DIRECT", "META", "SERVER", "ACCOUNT"];

/// Core subjects of a mirror at work: replies to its consumer requests, delivery, flow control.
const MIRROR_SUBJECTS: [&str; 3] = ["$JSC.R.>", "$JS.M.>", "$JS.FC.>"];

/// The streams that a region writes: messages first, then state.
pub(super) fn own_streams(region: &RegionName, generation: u32) -> Vec<StreamName> {
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
        ..Permissions::default()
    }
}

/// The operator in the relays' account: the whole JetStream API of its own region, and whether other regions answer.
pub(super) fn admin() -> Permissions {
    Permissions {
        publish: texts(["$JS.API.>", "$JS.*.API.INFO"]),
        // Another region's answer comes back under the prefix that mirrors use.
        subscribe: texts(["_INBOX.>", "$JS.EVENT.>", "$JSC.R.>"]),
        ..Permissions::default()
    }
}

/// The user `leaf` on a hub, seen from the region's JetStream servers: what they may send out, and what they may be sent.
pub(super) fn leaf(region: &RegionName, all: &[(RegionName, u32)]) -> Permissions {
    let others = all
        .iter()
        .map(|(other, _)| other)
        .filter(|other| *other != region);
    let crossing = ["rp.>", "eph.>"].into_iter().chain(MIRROR_SUBJECTS);
    let mut publish = texts(crossing.clone());
    publish.extend(texts(["$JS.*.API.CONSUMER.>", "$JS.*.API.INFO"]));
    let mut subscribe = texts(crossing);
    subscribe.push(format!("$JS.{region}.API.CONSUMER.>"));
    subscribe.push(format!("$JS.{region}.API.INFO"));
    // Hints and ephemeral events in another region's name are that region's to send.
    let mut deny_publish: Vec<String> = others.flat_map(own_live).collect();
    deny_publish.extend(FOREIGN_CONSUMER_VERBS.map(|verb| format!("$JS.*.API.CONSUMER.{verb}.>")));
    Permissions {
        publish,
        deny_publish,
        subscribe,
        deny_subscribe: foreign_denied(region),
    }
}

/// What a region's JetStream servers refuse from their hub, whatever the hub allows.
pub(super) fn deny_imports(region: &RegionName) -> Vec<String> {
    let mut deny: Vec<String> = ADMIN_PARTS
        .iter()
        .map(|part| format!("$JS.{region}.API.{part}.>"))
        .collect();
    deny.push(format!("$JS.{region}.API.$KV.>"));
    deny.push(format!("$JS.{region}.API.$OBJ.>"));
    deny.extend(foreign_denied(region));
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

fn foreign_denied(region: &RegionName) -> Vec<String> {
    let mut deny: Vec<String> = FOREIGN_CONSUMER_VERBS
        .iter()
        .map(|verb| format!("$JS.{region}.API.CONSUMER.{verb}.>"))
        .collect();
    deny.extend(own_live(region));
    deny
}

fn own_writes(region: &RegionName) -> Vec<String> {
    [Class::Messages, Class::State, Class::Ephemeral]
        .map(|class| format!("{}.{region}.>", class.subject_prefix()))
        .into()
}

/// Live subjects that only this region may send: hints of its streams, and its ephemeral events.
fn own_live(region: &RegionName) -> [String; 2] {
    [
        format!("rp.{region}.>"),
        format!("{}.{region}.>", Class::Ephemeral.subject_prefix()),
    ]
}

fn texts<'a>(subjects: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    subjects.into_iter().map(str::to_owned).collect()
}
