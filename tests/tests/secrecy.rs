//! What was sent is nowhere in the clear: not in any NATS server's folder, Raft logs included, and not in any log. The same
//! search finds a canary that the test publishes unsealed, or it would prove nothing.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use nightjar_tests::event::{Person, Signed, now, wrap_for};
use nightjar_tests::fleet::Fleet;
use nightjar_tests::load::CONVERGE_LIMIT;
use nightjar_tests::nats::{Connection, contains, listeners};
use nightjar_tests::report::measured;
use nightjar_tests::socket::Socket;
use nightjar_tests::wait::until;
use nightjar_tests::yaml;
use serde_json::json;

const REGIONS: [&str; 3] = ["a", "b", "c"];

/// Something to look for: what it is, and its bytes as they would lie in a file.
struct Needle {
    what: String,
    bytes: Vec<u8>,
}

/// Ways in which an id or a public key may stand in a file.
fn needles_of_32_bytes(what: &str, hex_text: &str) -> Vec<Needle> {
    let raw = hex::decode(hex_text).expect("hex");
    let forms: [(&str, Vec<u8>); 5] = [
        ("hex", hex_text.as_bytes().to_vec()),
        ("upper-case hex", hex_text.to_uppercase().into_bytes()),
        ("base64", STANDARD_NO_PAD.encode(&raw).into_bytes()),
        ("base64url", URL_SAFE_NO_PAD.encode(&raw).into_bytes()),
        ("raw", raw),
    ];
    forms
        .into_iter()
        .map(|(form, bytes)| Needle {
            what: format!("{what} as {form}"),
            bytes,
        })
        .collect()
}

fn needle_of_text(what: &str, text: &str) -> Needle {
    Needle {
        what: what.to_owned(),
        bytes: text.as_bytes().to_vec(),
    }
}

/// Where each needle is found: what, file.
fn search(files: &[PathBuf], needles: &[Needle]) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for file in files {
        // A Raft log may be compacted away between listing and reading.
        let Ok(content) = std::fs::read(file) else {
            continue;
        };
        found.extend(
            needles
                .iter()
                .filter(|needle| contains(&content, &needle.bytes))
                .map(|needle| (needle.what.clone(), file.clone())),
        );
    }
    found
}

/// Everything that NATS servers keep, and every log of every process; not the keys and not the relays' own index.
fn files_to_search(fleet: &Fleet) -> Vec<PathBuf> {
    let mut files = vec![fleet.dir().join("operator.log")];
    for (name, process) in fleet.processes() {
        let all = files_under(&fleet.process_dir(&name));
        files.extend(all.into_iter().filter(|path| {
            process.role != "relay" || path.extension().is_some_and(|extension| extension == "log")
        }));
    }
    files
}

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_under(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Events of every kind of path through a relay, from people whose keys are looked for.
fn conversation(alice: &Person, bob: &Person) -> Vec<Signed> {
    let note = alice.event(
        1,
        now(),
        &[&["p", &bob.pubkey()], &["t", "topic-kestrel"]],
        "a public plaintext-nightingale",
    );
    let mut events = vec![
        alice.message(bob, "a private plaintext-bittern"),
        wrap_for(1059, &bob.pubkey(), "content of plaintext-wryneck"),
        wrap_for(21059, &bob.pubkey(), "ephemeral plaintext-corncrake"),
        alice.event(
            10_050,
            now(),
            &[&["relay", "ws://127.0.0.1/plaintext-swift"]],
            "",
        ),
        alice.event(30_023, now(), &[&["d", "plaintext-whimbrel"]], "an article"),
        alice.event(5, now(), &[&["e", &note.id]], "plaintext-dunlin is gone"),
        alice.event(20_001, now(), &[], "fleeting plaintext-godwit"),
    ];
    // Before the deletion that names it.
    events.insert(0, note);
    // Larger than one block of anything, and often enough that Raft logs and snapshots have some.
    events.extend((0..60).map(|n| {
        alice.event(
            1,
            now(),
            &[],
            &format!("plaintext-curlew {n} {}", "x".repeat(n * 97)),
        )
    }));
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_sent_is_readable_in_nats_or_in_logs() {
    let fleet = Fleet::start("secrecy", &yaml::fleet(&REGIONS, 3)).await;
    let (alice, bob, eve) = (Person::new(), Person::new(), Person::new());
    let events = conversation(&alice, &bob);
    let socket = Socket::open_as(&fleet.relay("a"), &alice).await;
    for event in &events {
        socket.publish_ok(event).await;
    }
    read_and_be_refused(&fleet, &events, [&alice, &bob, &eve]).await;

    let canary = Person::new().note("canary-redstart");
    let mut needles: Vec<Needle> = ["plaintext-", "topic-kestrel"]
        .iter()
        .map(|word| needle_of_text(word, word))
        .collect();
    for (who, person) in [
        ("Alice's public key", &alice),
        ("Bob's public key", &bob),
        ("Eve's public key", &eve),
    ] {
        needles.extend(needles_of_32_bytes(who, &person.pubkey()));
    }
    for event in events.iter().take(16) {
        needles.extend(needles_of_32_bytes("an event id", &event.id));
        needles.extend(needles_of_32_bytes(
            "a wrap's author",
            event.value()["pubkey"].as_str().unwrap_or_default(),
        ));
    }
    let files = files_to_search(&fleet);
    let bytes: u64 = files
        .iter()
        .filter_map(|file| file.metadata().ok())
        .map(|meta| meta.len())
        .sum();
    let found = search(&files, &needles);
    assert!(found.is_empty(), "found in the clear: {found:#?}");
    measured(&format!(
        "searched {} files, {} KiB, for {} needles: none found",
        files.len(),
        bytes / 1024,
        needles.len()
    ));

    publish_unsealed(&fleet, &canary);
    let needles = [
        needle_of_text("the canary's text", "canary-redstart"),
        needle_of_text("the canary's id", &canary.id),
    ];
    until(
        "the search finds the canary in every kind of place",
        CONVERGE_LIMIT,
        async || {
            let found = search(&files_to_search(&fleet), &needles);
            let places: Vec<String> = found
                .iter()
                .map(|(_, file)| file.display().to_string())
                .collect();
            // A stream's blocks and the Raft log of its group: `$SYS/_js_/<group>/` holds the latter.
            let in_streams = places.iter().any(|place| place.contains("/streams/"));
            let in_raft = places.iter().any(|place| place.contains("/_js_/"));
            if in_streams && in_raft {
                Ok(())
            } else {
                Err(format!("found in {places:#?}"))
            }
        },
    )
    .await;
}

/// Reading, and being refused, leave nothing behind either.
async fn read_and_be_refused(fleet: &Fleet, events: &[Signed], [alice, bob, eve]: [&Person; 3]) {
    let last = events.last().expect("events");
    for region in REGIONS {
        let reader = Socket::open_as(&fleet.relay(region), bob).await;
        until(
            &format!("everything in region {region}"),
            CONVERGE_LIMIT,
            async || {
                let filters = [
                    json!({"ids": [last.id]}),
                    json!({"kinds": [1059], "#p": [bob.pubkey()]}),
                ];
                let found = reader.query(&filters).await?;
                if found.len() == 3 {
                    Ok(())
                } else {
                    Err(format!("{} events", found.len()))
                }
            },
        )
        .await;
        let stranger = Socket::open_as(&fleet.relay(region), eve).await;
        stranger
            .ids(json!({"authors": [alice.pubkey()], "#p": [bob.pubkey()]}))
            .await;
        let mut bad = last.value();
        bad["sig"] = json!("0".repeat(128));
        stranger
            .send(&json!(["EVENT", bad]).to_string())
            .await
            .expect("open");
        stranger
            .send(&json!(["REQ", "s", {"ids": [last.id, 1]}]).to_string())
            .await
            .expect("open");
        stranger.settle().await;
    }
}

/// Puts an event into region a's log as it is, with the rights of a relay.
fn publish_unsealed(fleet: &Fleet, canary: &Signed) {
    let conf = fleet.process_dir("a-nats-0").join("nats.conf");
    let port = listeners(&conf)
        .into_iter()
        .find(|(block, _)| block == "client")
        .expect("a client port")
        .1;
    let seed =
        std::fs::read_to_string(fleet.state().join("keys/regions/a/relay.nk")).expect("a seed");
    let mut log = Connection::open_as(port, &seed);
    log.publish_to_stream("ev.a.1.0.0", canary.json.as_bytes());
}
