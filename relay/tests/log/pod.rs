//! What a relay meets as a pod: TLS to NATS, certificates that change, names that do not resolve yet, an orderly end.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tokio_tungstenite::tungstenite::Error;

use crate::client::{id, note};
use crate::keys;
use crate::nats::Nats;
use crate::relay::Relay;
use crate::tls::Authority;
use crate::wait::until;

#[tokio::test]
async fn a_relay_speaks_tls_with_nats_and_a_new_authority_needs_no_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let Some(mut nats) = Nats::start_tls(dir.path(), &first).await else {
        return;
    };
    let mut relay = Relay::prepare(dir.path(), "a-relay-0", &nats, Some(&keys::keyring()));
    let ca_file = dir.path().join("relay-ca.crt");
    first.write(&ca_file);
    relay.config.nats.ca_file = Some(ca_file.clone());
    relay.write_config();
    relay.spawn();
    relay.wait_ready().await;
    let mut client = relay.client().await;
    let kept = note("over TLS");
    assert_eq!(client.publish(&kept).await, (true, String::new()));

    // The servers get certificates of another authority: told with the reason, until the relay's file says so too.
    nats.kill();
    nats.certify(&second);
    nats.spawn().await;
    relay.wait_not_ready("invalid peer certificate").await;
    second.write(&ca_file);
    relay.wait_ready().await;
    client.publish_until_ok(&note("under the second")).await;
    assert_eq!(client.ids(json!({"ids": [id(&kept)]})).await, [id(&kept)]);
    assert!(relay.log().contains("invalid peer certificate"));
}

#[tokio::test]
async fn a_relay_that_trusts_another_authority_sends_nothing_and_says_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let Some(nats) = Nats::start_tls(dir.path(), &other).await else {
        return;
    };
    let mut relay = Relay::prepare(dir.path(), "a-relay-0", &nats, Some(&keys::keyring()));
    let ca_file = dir.path().join("relay-ca.crt");
    ours.write(&ca_file);
    relay.config.nats.ca_file = Some(ca_file.clone());
    // TLS is asked for by the CA file, also where the address does not say so.
    let plain = |address: &String| address.replace("tls://", "nats://");
    relay.config.nats.servers = nats.addresses().iter().map(plain).collect();
    relay.write_config();
    relay.spawn();
    relay.wait_not_ready("invalid peer certificate").await;
    let (accepted, reason) = relay.client().await.publish(&note("nowhere")).await;
    assert!(
        !accepted && reason.starts_with("error: not durable in time"),
        "{reason}"
    );

    std::fs::remove_file(&ca_file).expect("removed");
    relay.wait_not_ready("No such file").await;
    other.write(&ca_file);
    relay.wait_ready().await;
}

/// A pod may start before the names of the servers resolve.
#[tokio::test]
async fn a_relay_waits_for_names_that_do_not_resolve() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let keyring = keys::keyring();
    let mut relay = Relay::prepare(dir.path(), "a-relay-0", &nats, Some(&keyring));
    relay.config.nats.servers = vec![
        "nats://a-nats-0.nightjar.invalid:4222".into(),
        "nats://a-nats-1.nightjar.invalid:4222".into(),
    ];
    relay.write_config();
    relay.spawn();
    relay
        .wait_not_ready("a name in nats.servers does not resolve")
        .await;
    let long = std::env::var_os("NIGHTJAR_LONG").is_some();
    let end = Instant::now() + Duration::from_secs(if long { 180 } else { 5 });
    while Instant::now() < end {
        assert!(relay.is_running());
        let (status, body) = relay.get("/readyz").await.expect("an answer");
        assert!(
            status == 503 && body.contains("nats-disconnected"),
            "{body}"
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let told = relay.log().matches("no connection to NATS").count();
    assert!(told <= 4, "told {told} times, not at each attempt");
    assert_eq!(relay.stop(), Some(0));

    // One server whose name resolves is enough.
    relay.config.nats.servers.extend(nats.addresses());
    relay.write_config();
    relay.spawn();
    relay.wait_ready().await;
}

#[tokio::test]
async fn a_relay_that_is_told_to_stop_drains_and_is_not_ready_meanwhile() {
    const CLIENTS: usize = 60;
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let mut relay = Relay::prepare(dir.path(), "a-relay-0", &nats, Some(&keys::keyring()));
    relay.config.limits.drain_seconds = 10;
    relay.write_config();
    relay.spawn();
    relay.wait_ready().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(relay.client().await);
    }
    let goodbyes = tokio::spawn(async move {
        let closed = clients.iter_mut().map(async |client| {
            let code = client.closed().await;
            (Instant::now(), code)
        });
        futures_util::future::join_all(closed).await
    });
    let began = Instant::now();
    relay.signal(Signal::TERM);
    relay.wait_not_ready("draining").await;
    match tokio_tungstenite::connect_async(relay.url()).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("{other:?}"),
    }
    let goodbyes = goodbyes.await.expect("all were told");
    assert!(goodbyes.iter().all(|(_, code)| *code == Some(1001)));
    let times = || goodbyes.iter().map(|(at, _)| *at);
    let spread = times().max().expect("clients") - times().min().expect("clients");
    // 60 clients go within 1.2 s: more time would not help anybody.
    assert!(spread > Duration::from_millis(700), "{spread:?}");
    assert_eq!(relay.wait_end(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "no need to wait");
}

#[tokio::test]
async fn a_second_signal_cuts_a_long_drain() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let mut relay = Relay::prepare(dir.path(), "a-relay-0", &nats, Some(&keys::keyring()));
    relay.config.limits.drain_seconds = 300;
    relay.write_config();
    relay.spawn();
    relay.wait_ready().await;
    // So many are told within 8 s.
    let mut clients = Vec::new();
    for _ in 0..400 {
        clients.push(relay.client().await);
    }
    let began = Instant::now();
    relay.signal(Signal::TERM);
    relay.wait_not_ready("draining").await;
    relay.signal(Signal::TERM);
    assert_eq!(relay.wait_end(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(6), "{began:?}");
}

/// The sum of the values of all series whose line begins so.
fn sum(text: &str, begins: &str) -> f64 {
    let series: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with(begins))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    assert!(!series.is_empty(), "no {begins} in\n{text}");
    series.iter().sum()
}

#[tokio::test]
async fn metrics_follow_an_event_from_its_publisher_to_the_index() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let before = note("from before");
    let keyring = keys::keyring();
    let mut relay = Relay::start(dir.path(), "a-relay-0", &nats, &keyring).await;
    assert!(relay.client().await.publish(&before).await.0);
    let (_, text) = relay.get("/metrics").await.expect("metrics");
    for (begins, expected) in [
        ("nj_ready ", 1.0),
        ("nj_draining ", 0.0),
        ("nj_waiting_for{", 0.0),
        ("nj_nats_connects_total ", 1.0),
        ("nj_ok_seconds_count{result=\"ok\"}", 1.0),
        ("nj_puback_seconds_count{", 1.0),
        ("nj_keyring_epochs{state=\"active\"}", 1.0),
        ("nj_ws_connections_limit ", 20_000.0),
    ] {
        assert_eq!(sum(&text, begins), expected, "{begins}\n{text}");
    }
    assert_eq!(text.matches("nj_puback_seconds_count{").count(), 6);
    let secret = [
        id(&before),
        before["pubkey"].as_str().expect("a key").to_owned(),
    ];
    assert!(secret.iter().all(|secret| !text.contains(secret)));

    // Another relay of the region hears of it from the log.
    let other = Relay::start(dir.path(), "a-relay-1", &nats, &keyring).await;
    until("position and head", async || {
        let (_, text) = other.get("/metrics").await?;
        let caught_up = sum(&text, "nj_log_position{") == 1.0
            && sum(&text, "nj_log_head{") == 1.0
            && sum(&text, "nj_delivery_seconds_count{from=\"a\"}") == 1.0
            && !text.contains("nj_log_caught_up_timestamp_seconds{stream=\"EV_a_1_0\"} 0.0");
        if caught_up { Ok(()) } else { Err(text) }
    })
    .await;
    assert_eq!(relay.stop(), Some(0));
}
