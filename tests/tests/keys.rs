//! Keys are data: what happens when the keyring is gone, when an entry is sealed under an epoch nobody knows, when an envelope is
//! damaged, and when a region sends hints in another's name.

use std::path::PathBuf;

use nightjar_envelope::{
    Body, BodyKind, BucketLabel, Class, FleetId, Keyring, RegionName, Route, open, seal,
};
use nightjar_tests::event::{Person, Signed, now};
use nightjar_tests::fleet::{Fleet, READY_LIMIT, Shared};
use nightjar_tests::nats::{Certificate, Connection, Credentials, listeners};
use nightjar_tests::socket::Socket;
use nightjar_tests::wait::until;
use nightjar_tests::yaml;
use serde_json::{Value, json};

static FLEET: Shared = Shared::new();

async fn fleet() -> &'static Fleet {
    FLEET.get("keys", &yaml::fleet(&["a", "b"], 1)).await
}

fn keyring_file(fleet: &Fleet) -> PathBuf {
    fleet.state().join("keys/keyring.json")
}

fn keyring_json(fleet: &Fleet) -> Value {
    let text = std::fs::read(keyring_file(fleet)).expect("the keyring");
    serde_json::from_slice(&text).expect("JSON")
}

fn fleet_id(fleet: &Fleet) -> FleetId {
    let text = std::fs::read(fleet.state().join("fleet.json")).expect("fleet.json");
    let facts: Value = serde_json::from_slice(&text).expect("JSON");
    let id = facts["fleet_id"]
        .as_str()
        .or_else(|| facts["id"].as_str())
        .expect("a fleet id");
    id.parse().expect("a fleet id")
}

fn seed(fleet: &Fleet, region: &str, user: &str) -> String {
    let path = fleet
        .state()
        .join("keys/regions")
        .join(region)
        .join(format!("{user}.nk"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn port(fleet: &Fleet, process: &str, role: &str, purpose: &str) -> u16 {
    let found = listeners(&fleet.process_dir(process).join(format!("{role}.conf")));
    found
        .into_iter()
        .find(|(block, _)| block == purpose)
        .unwrap_or_else(|| panic!("{process} has no {purpose} port"))
        .1
}

/// A connection to region a's log with the rights of its relays.
fn log_of_a(fleet: &Fleet) -> Connection {
    Connection::open_as(
        port(fleet, "a-nats-0", "nats", "client"),
        &seed(fleet, "a", "relay"),
    )
}

/// The route of a public event of `person` in region a.
fn route_of(keyring: &Keyring, person: &Person) -> Route {
    let pubkey: [u8; 32] = hex::decode(person.pubkey())
        .expect("hex")
        .try_into()
        .expect("32 bytes");
    let region: RegionName = "a".parse().expect("a region");
    Route::home(
        region,
        1,
        Class::Messages,
        keyring.bucket(BucketLabel::Author, &pubkey),
    )
}

fn sealed(fleet: &Fleet, keyring: &Keyring, route: &Route, event: &Signed) -> Vec<u8> {
    let body = Body {
        admitted_ms: now() * 1000,
        trace: None,
        kind: BodyKind::Event,
        json: event.json.as_bytes(),
    };
    seal(keyring, &fleet_id(fleet), route, &body).expect("sealed")
}

async fn wait_served(fleet: &Fleet, region: &str, event: &Signed) {
    until(
        &format!("region {region} serves {}", event.id),
        READY_LIMIT,
        async || {
            let socket = Socket::try_open(&fleet.relay(region)).await?;
            let found = socket.query(&[json!({"ids": [event.id]})]).await?;
            if found.len() == 1 {
                Ok(())
            } else {
                Err(format!("{} events", found.len()))
            }
        },
    )
    .await;
}

/// One number of a relay's metrics: the sum over the lines that begin with `name` and have `label` in them.
async fn metric(fleet: &Fleet, relay: &str, name: &str, label: &str) -> f64 {
    let (_, text) = fleet.admin(relay, "/metrics").await.expect("metrics");
    let of_name = text
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    of_name
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_envelope_is_skipped_counted_and_recorded() {
    let fleet = fleet().await;
    let alice = Person::new();
    let keyring = Keyring::parse(&std::fs::read(keyring_file(fleet)).expect("the keyring"))
        .expect("a keyring");
    let route = route_of(&keyring, &alice);
    let before = metric(
        fleet,
        "b-relay-0",
        "nj_log_skipped_entries_total",
        "damaged",
    )
    .await;
    let event = alice.note("never seen");
    let mut envelope = sealed(fleet, &keyring, &route, &event);
    *envelope.last_mut().expect("not empty") ^= 1;
    let mut log = log_of_a(fleet);
    log.publish_to_stream(&route.subject(), &envelope);
    log.publish_to_stream(&route.subject(), b"no envelope at all");
    // One sealed for another place: moved within the log, it must not open.
    let elsewhere = Route {
        bucket: (route.bucket + 4) % 64,
        ..route.clone()
    };
    log.publish_to_stream(
        &elsewhere.subject(),
        &sealed(fleet, &keyring, &route, &event),
    );

    // What comes behind them is not held up.
    let good = alice.note("after the damage");
    Socket::open(&fleet.relay("a"))
        .await
        .publish_ok(&good)
        .await;
    for region in ["a", "b"] {
        wait_served(fleet, region, &good).await;
        let hidden = Socket::open(&fleet.relay(region))
            .await
            .ids(json!({"ids": [event.id]}))
            .await;
        assert!(
            hidden.is_empty(),
            "region {region} serves what does not open"
        );
    }
    // An event that was spilled to another shard overtakes them.
    until(
        "three entries counted and recorded",
        READY_LIMIT,
        async || {
            let counted =
                metric(fleet, "b-relay-0", "nj_log_skipped_entries_total", "").await - before;
            let file = fleet
                .process_dir("b-relay-0")
                .join("index/quarantine.jsonl");
            let records = std::fs::read_to_string(file).unwrap_or_default();
            let done = (counted - 3.0).abs() < 0.5 && records.lines().count() == 3;
            if done {
                Ok(())
            } else {
                Err(format!("{counted} counted, recorded: {records}"))
            }
        },
    )
    .await;
    let (status, body) = fleet
        .admin("b-relay-0", "/readyz")
        .await
        .expect("an answer");
    assert_eq!(status, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_epoch_stops_the_stream_until_its_key_comes() {
    let fleet = fleet().await;
    let alice = Person::new();
    let known = keyring_json(fleet);
    // The next epoch, as a relay that got the new key first would seal.
    let mut extended = known.clone();
    let other = serde_json::from_str::<Value>(&Keyring::generate().expect("a keyring").to_json())
        .expect("JSON");
    let mut key = other["open"][0].clone();
    key["epoch"] = json!(77);
    extended["open"].as_array_mut().expect("an array").push(key);
    let mut sealing = extended.clone();
    sealing["seal"] = json!(77);
    let next = Keyring::parse(sealing.to_string().as_bytes()).expect("a keyring");

    let event = alice.note("sealed under the next epoch");
    let route = route_of(&next, &alice);
    log_of_a(fleet).publish_to_stream(&route.subject(), &sealed(fleet, &next, &route, &event));
    until("/readyz names the epoch", READY_LIMIT, async || {
        let (status, body) = fleet.admin("b-relay-0", "/readyz").await?;
        if status == 503 && body.contains("unknown-epoch") && body.contains("77") {
            Ok(())
        } else {
            Err(format!("{status} {body}"))
        }
    })
    .await;
    assert!(metric(fleet, "b-relay-0", "nj_log_unknown_epoch", "epoch=\"77\"").await > 0.0);

    replace(&keyring_file(fleet), &extended.to_string());
    for region in ["a", "b"] {
        wait_served(fleet, region, &event).await;
        until("ready again", READY_LIMIT, async || {
            let (status, body) = fleet.admin(&format!("{region}-relay-0"), "/readyz").await?;
            if status == 200 { Ok(()) } else { Err(body) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_in_another_region_s_name_reach_nobody() {
    let fleet = fleet().await;
    let alice = Person::new();
    let keyring = Keyring::parse(&std::fs::read(keyring_file(fleet)).expect("the keyring"))
        .expect("a keyring");
    let route = route_of(&keyring, &alice);
    let forged = alice.note("forged in region b");
    let envelope = sealed(fleet, &keyring, &route, &forged);
    assert!(
        open(&keyring, &fleet_id(fleet), &route, &envelope).is_ok(),
        "the forgery is as good as a key holder can make it"
    );
    let hint = route.hint_subject().expect("messages have hints");

    let mut listeners_live = Vec::new();
    for region in ["a", "b"] {
        let socket = Socket::open(&fleet.relay(region)).await;
        socket
            .stored("live", &[json!({"authors": [alice.pubkey()]})])
            .await
            .expect("a subscription");
        listeners_live.push((region, socket));
    }

    // As a relay of region b: its own server refuses.
    let mut relay = Connection::open_as(
        port(fleet, "b-nats-0", "nats", "client"),
        &seed(fleet, "b", "relay"),
    );
    let refused = relay.say(&publication("PUB", &hint, &envelope));
    assert!(
        refused.said.contains("Permissions Violation"),
        "{refused:?}"
    );
    // As a JetStream server of region b that its owner has changed: the hub refuses to carry it.
    let certificate = |file: &str| fleet.state().join("keys/regions/b").join(file);
    let credentials = Credentials {
        tls: true,
        certificate: Some(Certificate {
            certificate: certificate("b-nats-0.region.crt"),
            key: certificate("b-nats-0.region.key"),
        }),
        seed: Some(seed(fleet, "b", "leaf")),
    };
    let mut leaf = Connection::open(port(fleet, "b-hub-0", "hub", "leafnodes"), &credentials)
        .expect("a leaf link");
    leaf.say(&publication("LMSG", &hint, &envelope));

    // A true event, sent after the forgeries in the same way to everybody, comes first and alone.
    let honest = alice.note("published in region b");
    Socket::open(&fleet.relay("b"))
        .await
        .publish_ok(&honest)
        .await;
    for (region, socket) in listeners_live {
        let event = socket.next_event("live").await.expect("the honest event");
        assert_eq!(
            event["id"],
            honest.id.as_str(),
            "region {region} was shown {event}"
        );
        let stored = socket.ids(json!({"ids": [forged.id]})).await;
        assert!(stored.is_empty(), "region {region} stored a hint");
    }
}

fn publication(verb: &str, subject: &str, payload: &[u8]) -> Vec<u8> {
    let mut protocol = format!("{verb} {subject} {}\r\n", payload.len()).into_bytes();
    protocol.extend_from_slice(payload);
    protocol.extend_from_slice(b"\r\n");
    protocol
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_keyring_stops_the_start_and_loses_nothing() {
    let fleet = Fleet::start("keys-missing", &yaml::fleet(&["a"], 1)).await;
    let event = Person::new().note("published before");
    Socket::open(&fleet.relay("a"))
        .await
        .publish_ok(&event)
        .await;
    fleet.interrupt().await;
    let dir = fleet.dir().to_path_buf();
    let keyring = keyring_file(&fleet);
    let aside = dir.join("keyring.json");
    drop(fleet);
    std::fs::rename(&keyring, &aside).expect("moved aside");

    let fleet = Fleet::spawn(&dir);
    until(
        "the operator says that keys are missing",
        READY_LIMIT,
        async || {
            let said = fleet.errors().join("\n");
            if said.contains("keyring.json") {
                Ok(())
            } else {
                Err(fleet.lines().join("\n"))
            }
        },
    )
    .await;
    assert!(
        !keyring.exists(),
        "a keyring was generated while streams exist"
    );
    assert!(
        fleet.regions().is_empty(),
        "the fleet says ready without its keys"
    );

    std::fs::rename(&aside, &keyring).expect("put back");
    // It goes on by itself, or at the next start if it gave up.
    let fleet = if fleet.ended().is_some() {
        Fleet::spawn(&dir)
    } else {
        fleet
    };
    fleet.wait_ready().await;
    wait_served(&fleet, "a", &event).await;
}

fn replace(file: &std::path::Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let new = file.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut written = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .expect("a file");
    std::io::Write::write_all(&mut written, text.as_bytes()).expect("written");
    std::fs::rename(&new, file).expect("renamed");
}
