//! Keys that are missing, entries that are damaged, hints that are forged.

use std::time::Duration;

use nostr::key::Keys;
use serde_json::json;

use crate::client::{Read, event, id, note, now};
use crate::keys;
use crate::nats::Nats;
use crate::relay::Relay;
use crate::wait::until;

#[tokio::test]
async fn without_its_keyring_a_relay_waits_makes_nothing_and_goes_on_when_it_is_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let keyring = keys::keyring();
    let note = note("kept");
    let mut first = Relay::start(dir.path(), "a-relay-0", &nats, &keyring).await;
    assert!(first.client().await.publish(&note).await.0);
    first.stop();

    let mut relay = Relay::prepare(dir.path(), "a-relay-1", &nats, None);
    relay.spawn();
    relay.wait_not_ready("keyring-unavailable").await;
    let mut client = relay.client().await;
    let (accepted, reason) = client.publish(&crate::client::note("too early")).await;
    assert!(!accepted && reason.contains("no sealing key"), "{reason}");
    let read = client.read(json!({"ids": [id(&note)]})).await;
    let refused =
        matches!(&read, Read::Closed(reason) if reason.starts_with("error: this relay rebuilds"));
    assert!(
        refused,
        "an EOSE over an empty index would be a lie: {read:?}"
    );
    assert!(!relay.keyring_file().exists(), "nothing is generated");

    keys::write(relay.keyring_file(), &keyring.to_json());
    relay.wait_ready().await;
    assert_eq!(client.ids(json!({"ids": [id(&note)]})).await, [id(&note)]);

    // Gone at runtime: told, and what is loaded stays in use.
    std::fs::remove_file(relay.keyring_file()).expect("removed");
    relay.wait_not_ready("keyring-unavailable").await;
    assert!(client.publish(&crate::client::note("still sealed")).await.0);
    keys::write(relay.keyring_file(), &keyring.to_json());
    relay.wait_ready().await;
}

#[tokio::test]
async fn an_unknown_key_epoch_stops_its_stream_until_the_key_arrives() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let old = keys::keyring();
    let next = keys::with_next_epoch(&old);
    let epoch = next.seal_epoch().0;
    let relay = Relay::start(dir.path(), "a-relay-0", &nats, &old).await;

    let (early, late) = (note("of the next epoch"), note("behind it"));
    let jetstream = async_nats::jetstream::new(nats.admin().await);
    for (keyring, event) in [(&next, &early), (&old, &late)] {
        let envelope = keys::seal(keyring, "ev.a.1.0.4", &event.to_string());
        let ack = jetstream
            .publish("ev.a.1.0.4", envelope.into())
            .await
            .expect("sent");
        ack.await.expect("stored");
    }
    relay
        .wait_not_ready(&format!("EV_a_1_0 needs key epoch {epoch}"))
        .await;
    let metric = format!("nj_log_unknown_epoch{{stream=\"EV_a_1_0\",epoch=\"{epoch}\"}}");
    assert_eq!(relay.metric(&metric).await, 1.0);
    assert_eq!(
        relay.metric("nj_log_position{stream=\"EV_a_1_0\"}").await,
        0.0
    );
    let mut client = relay.client().await;
    let both = json!({"ids": [id(&early), id(&late)]});
    assert!(client.ids(both.clone()).await.is_empty());

    keys::write(relay.keyring_file(), &next.to_json());
    relay.wait_ready().await;
    until("both events", async || {
        let found = client.ids(both.clone()).await;
        if found.len() == 2 { Ok(()) } else { Err(found) }
    })
    .await;
}

/// A Secret volume of a pod: `keyring.json` -> `..data/keyring.json`, `..data` -> the version, swapped by a rename.
#[tokio::test]
async fn a_keyring_in_a_volume_whose_symlink_is_swapped_is_read_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let volume = dir.path().join("volume");
    let version = |name: &str, keyring: &nightjar_envelope::Keyring| {
        std::fs::create_dir_all(volume.join(name)).expect("a folder");
        keys::write(&volume.join(name).join("keyring.json"), &keyring.to_json());
        std::os::unix::fs::symlink(name, volume.join("..data_tmp")).expect("a link");
        std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).expect("swapped");
    };
    let old = keys::keyring();
    let next = keys::with_next_epoch(&old);
    version("..1", &old);
    let link = volume.join("keyring.json");
    std::os::unix::fs::symlink("..data/keyring.json", &link).expect("a link");
    let mut relay = Relay::prepare(dir.path(), "a-relay-0", &nats, None);
    relay.config.keyring_file = link;
    relay.write_config();
    relay.spawn();
    relay.wait_ready().await;

    version("..2", &next);
    std::fs::remove_dir_all(volume.join("..1")).expect("removed, as the kubelet does");
    let epochs = format!("{:?}", [old.seal_epoch().0, next.seal_epoch().0]);
    until("the new keyring is loaded", async || {
        let log = relay.log();
        if log.contains(&epochs) {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    relay.wait_ready().await;
    assert!(relay.client().await.publish(&note("sealed anew")).await.0);
}

#[tokio::test]
async fn damaged_entries_are_recorded_and_the_stream_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let keyring = keys::keyring();
    let mut relay = Relay::start(dir.path(), "a-relay-0", &nats, &keyring).await;
    let jetstream = async_nats::jetstream::new(nats.admin().await);

    let good = note("good");
    let mut forged_id = note("its id is not its hash");
    forged_id["content"] = json!("changed");
    let mut flipped = keys::seal(&keyring, "ev.a.1.0.4", &note("flipped").to_string());
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for envelope in [
        flipped,
        b"plainly not an envelope".to_vec(),
        keys::seal(
            &keyring,
            "ev.a.1.0.5",
            &note("of another bucket").to_string(),
        ),
        keys::seal(&keyring, "ev.a.1.0.4", "{}"),
        keys::seal(&keyring, "ev.a.1.0.4", &forged_id.to_string()),
        keys::seal(
            &keyring,
            "ev.a.1.0.4",
            &event(&Keys::generate(), 0, now(), &[], "state").to_string(),
        ),
        keys::seal(&keyring, "ev.a.1.0.4", &good.to_string()),
    ] {
        let ack = jetstream
            .publish("ev.a.1.0.4", envelope.into())
            .await
            .expect("sent");
        ack.await.expect("stored");
    }
    let mut client = relay.client().await;
    until("the good event", async || {
        let found = client.ids(json!({"ids": [id(&good)]})).await;
        if found.len() == 1 { Ok(()) } else { Err(found) }
    })
    .await;
    let records =
        std::fs::read_to_string(relay.index_dir().join("quarantine.jsonl")).expect("records");
    let sequences: Vec<u64> = records
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|record| record["sequence"].as_u64().expect("a number"))
        .collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6]);
    for (reason, count) in [("damaged", 2.0), ("event", 2.0), ("class", 1.0)] {
        let line = format!("nj_log_skipped_entries_total{{reason=\"{reason}\"}}");
        assert!(relay.metric(&line).await >= count, "{reason}");
    }
    assert_eq!(
        relay.metric("nj_log_position{stream=\"EV_a_1_0\"}").await,
        7.0
    );

    // They are behind the position now: a restart does not meet them again.
    relay.stop();
    relay.spawn();
    relay.wait_ready().await;
    assert_eq!(
        relay
            .metric("nj_log_skipped_entries_total{reason=\"event\"}")
            .await,
        0.0
    );
}

#[tokio::test]
async fn a_forged_or_repeated_hint_reaches_nobody_and_no_index() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let keyring = keys::keyring();
    let relay = Relay::start(dir.path(), "a-relay-0", &nats, &keyring).await;
    let mut client = relay.client().await;
    let author = Keys::generate();
    let deleted = event(&author, 1, now() - 5, &[], "deleted");
    let deletion = event(
        &author,
        5,
        now() - 4,
        &[&["e", &id(&deleted)], &["k", "1"]],
        "",
    );
    assert!(client.publish(&deleted).await.0);
    assert!(client.publish(&deletion).await.0);
    let mut watcher = relay.client().await;
    assert!(matches!(
        watcher.read(json!({"kinds": [1]})).await,
        Read::Events(_)
    ));

    let admin = nats.admin().await;
    let stranger = keys::keyring();
    let forged = note("sealed with a stranger's key");
    let unlogged = note("a hint without an entry");
    for (subject, envelope) in [
        ("rp.a.ev.1.0.4", b"nothing".to_vec()),
        (
            "rp.a.ev.1.0.4",
            keys::seal(&stranger, "ev.a.1.0.4", &forged.to_string()),
        ),
        (
            "rp.a.ev.1.1.5",
            keys::seal(
                &keyring,
                "ev.a.1.0.4",
                &note("of another shard").to_string(),
            ),
        ),
        (
            "rp.b.ev.1.0.4",
            keys::seal(
                &keyring,
                "ev.b.1.0.4",
                &note("of a region that is none").to_string(),
            ),
        ),
        (
            "rp.a.ev.1.0.4",
            keys::seal(&keyring, "ev.a.1.0.4", &deleted.to_string()),
        ),
        (
            "rp.a.ev.1.0.4",
            keys::seal(&keyring, "ev.a.1.0.4", &unlogged.to_string()),
        ),
    ] {
        admin.publish(subject, envelope.into()).await.expect("sent");
    }
    admin.flush().await.expect("flushed");
    // What the fleet itself sealed is delivered live, and only live.
    let fence = watcher.live_until(&unlogged).await;
    assert_eq!(fence, [id(&unlogged)]);
    assert_eq!(watcher.next_within(Duration::from_millis(200)).await, None);
    assert!(client.ids(json!({"kinds": [1]})).await.is_empty());
    assert_eq!(
        relay.metric("nj_log_hints_total{result=\"refused\"}").await,
        4.0
    );
}

#[tokio::test]
async fn a_bad_configuration_ends_with_code_2_and_one_line_that_names_the_field() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("relay.yaml");
    let run = || {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_nightjar-relay"))
            .arg("--config")
            .arg(&file)
            .output()
            .expect("it runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, text) = run();
    assert_eq!((code, text.lines().count()), (Some(2), 1), "{text}");
    std::fs::write(&file, "fleet: {id: x, name: y}\n").expect("written");
    let (code, text) = run();
    assert_eq!((code, text.lines().count()), (Some(2), 1), "{text}");
    assert!(text.contains("fleet"), "{text}");
    let good = "\
fleet: {id: 000102030405060708090a0b0c0d0e0f, name: tests}
region: a
name: a-relay-0
listen: 127.0.0.1:0
admin: 127.0.0.1:0
public_urls: ['wss://relay.test']
tls: {cert_file: /nonexistent/tls.crt, key_file: /nonexistent/tls.key}
nats: {servers: ['nats://127.0.0.1:1'], nkey_seed_file: /nonexistent/seed}
keyring_file: /nonexistent/keyring.json
index: {dir: /nonexistent/index, max_bytes: 16777216}
log: {replicas: 1, message_retention_seconds: 7776000, regions: [{region: a, generation: 1}]}
";
    std::fs::write(&file, good).expect("written");
    let (code, text) = run();
    assert_eq!((code, text.lines().count()), (Some(2), 1), "{text}");
    assert!(
        text.contains("tls.cert_file: /nonexistent/tls.crt"),
        "{text}"
    );
}

#[tokio::test]
async fn a_full_index_acknowledges_nothing_and_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let mut relay = Relay::prepare(dir.path(), "a-relay-0", &nats, Some(&keys::keyring()));
    relay.config.index.max_bytes = 16 << 20;
    relay.config.limits.events_burst_per_connection = 1_000;
    relay.config.limits.events_burst_per_address = 1_000;
    relay.write_config();
    relay.spawn();
    relay.wait_ready().await;
    let mut client = relay.client().await;
    // Strangers may fill only their share.
    client.authenticate(&relay.url(), &Keys::generate()).await;
    let content = "x".repeat(260_000);
    let mut accepted = Vec::new();
    let reason = loop {
        let note = note(&format!("{} {content}", accepted.len()));
        match client.publish(&note).await {
            (true, _) => accepted.push(id(&note)),
            (false, reason) => break reason,
        }
        assert!(accepted.len() < 100, "16 MiB hold no 100 events of 260 kB");
    };
    assert!(
        reason.starts_with("error: the relay's index takes no entries"),
        "{reason}"
    );
    relay.wait_not_ready("index-failed").await;
    let found = client.ids(json!({"kinds": [1], "limit": 500})).await;
    let lost: Vec<_> = accepted.iter().filter(|id| !found.contains(id)).collect();
    assert!(lost.is_empty(), "what was acknowledged is served: {lost:?}");
}
