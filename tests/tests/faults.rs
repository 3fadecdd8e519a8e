//! Things break while events are published at a steady rate into all regions. Afterwards every event that got OK is served in
//! every region, once, and no live subscriber that stayed connected saw one twice or missed one.
//!
//! Short by default; `cargo xtask test --long` publishes 20,000 events.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nightjar_tests::fleet::{Fleet, Shared};
use nightjar_tests::load::{Published, Run, publish_steadily};
use nightjar_tests::report::measured;
use nightjar_tests::yaml;

/// Events a second, in each of the three regions.
const RATE: f64 = 40.0;
const REGIONS: [&str; 3] = ["a", "b", "c"];

static FLEET: Shared = Shared::new();

async fn fleet() -> &'static Fleet {
    FLEET.get("faults", &yaml::fleet(&REGIONS, 3)).await
}

/// Events for each region: enough to go on for some seconds after the fault was mended, or a share of 20,000.
fn events_per_region(fault: Duration) -> usize {
    if std::env::var_os("NIGHTJAR_LONG").is_some() {
        return 20_000 / REGIONS.len() / 4 + 1;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few hundred"
    )]
    let events = ((fault.as_secs_f64() + 14.0) * RATE) as usize;
    events
}

/// Publishes in all regions, lets `fault` happen after three seconds, and checks everything that must hold afterwards.
/// `unharmed` are regions whose subscribers must stay connected throughout.
async fn check(what: &str, lasts: Duration, unharmed: &[&str], fault: impl AsyncFnOnce(&Fleet)) {
    let fleet = fleet().await;
    let relays: Vec<String> = REGIONS.iter().map(|region| fleet.relay(region)).collect();
    let run = Run::new(what);
    let mut subscribers = Vec::new();
    for (region, relay) in REGIONS.iter().zip(&relays) {
        subscribers.push((*region, run.subscriber(relay).await));
    }

    let events = run.events(events_per_region(lasts) * REGIONS.len());
    let shares = events
        .chunks(events.len() / REGIONS.len())
        .map(<[_]>::to_vec);
    let publishers: Vec<_> = relays
        .iter()
        .cloned()
        .zip(shares)
        .map(|(relay, share)| tokio::spawn(publish_steadily(relay, share, RATE)))
        .collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let started = Instant::now();
    fault(fleet).await;
    let mended = started.elapsed();

    let mut acknowledged = BTreeSet::new();
    for (region, publisher) in REGIONS.iter().zip(publishers) {
        let published = publisher.await.expect("the publisher went through");
        report(what, region, &published);
        acknowledged.extend(published.acknowledged);
    }
    assert_eq!(
        acknowledged.len(),
        events.len(),
        "every event got OK in the end"
    );
    run.wait_served_once(&relays, &acknowledged).await;
    for (region, subscriber) in subscribers {
        let stayed = subscriber.wait_saw_once(&acknowledged).await.is_some();
        assert!(
            stayed || !unharmed.contains(&region),
            "{what}: the subscriber in region {region} lost its connection"
        );
    }
    measured(&format!(
        "{what}: {} events in all regions, mended after {:.1} s",
        events.len(),
        mended.as_secs_f64()
    ));
}

fn report(what: &str, region: &str, published: &Published) {
    measured(&format!(
        "{what}: region {region}: OK p50 {} ms, p99 {} ms, max {} ms, sent again {}, reconnects {}",
        published.percentile_ms(0.5),
        published.percentile_ms(0.99),
        published.percentile_ms(1.0),
        published.again,
        published.reconnects
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_killed() {
    check(
        "kill -9 of a relay",
        Duration::from_secs(3),
        &["b", "c"],
        async |fleet| {
            let old = fleet.kill("a-relay-0");
            fleet.wait_restarted("a-relay-0", old).await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_is_killed() {
    check(
        "kill -9 of a NATS server",
        Duration::from_secs(6),
        &REGIONS,
        async |fleet| {
            let old = fleet.kill("b-nats-0");
            fleet.wait_restarted("b-nats-0", old).await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_is_killed() {
    check(
        "kill -9 of a hub",
        Duration::from_secs(6),
        &REGIONS,
        async |fleet| {
            let old = fleet.kill("c-hub-0");
            fleet.wait_restarted("c-hub-0", old).await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_stopped_and_comes_back() {
    check(
        "a region stopped for 30 s",
        Duration::from_secs(36),
        &["a", "b"],
        async |fleet| {
            fleet.hold("c").await;
            // The length of the outage is what is tested, so this one sleep is no waiting for luck.
            tokio::time::sleep(Duration::from_secs(30)).await;
            fleet.release("c").await;
        },
    )
    .await;
}
