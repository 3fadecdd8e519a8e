//! The first minutes with Nightjar: install, apply, look, and a message from one region to the others.

use std::time::Instant;

use nightjar_tests::cli::Home;
use nightjar_tests::interop::{ForeignClient, Library};
use nightjar_tests::kubernetes::cluster::{cluster, list, text, until};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec, condition};
use nightjar_tests::kubernetes::{limits, shared, turn};
use nightjar_tests::programs::fresh_dir;
use nightjar_tests::report::measured;

const CONDITIONS: [&str; 6] = [
    "Ready",
    "Progressing",
    "Degraded",
    "Durable",
    "Paused",
    "UpgradeAvailable",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_fleet_says_at_once_how_it_is_and_soon_serves() {
    let Some(cluster) = cluster("first status") else {
        return;
    };
    let _turn = turn::with_operators().await;
    let spec = FleetSpec::new(&["a"], 1);
    let fleet = Fleet::namespace(cluster, "status");
    let started = Instant::now();
    fleet.apply(&spec);
    let first = until("a status", limits::FIRST_STATUS, async || {
        let object = fleet.object()?;
        if list(&object["status"]["conditions"]).is_empty() {
            return Err("no conditions yet".to_owned());
        }
        Ok(object)
    })
    .await;
    for of in CONDITIONS {
        let found = condition(&first, of);
        assert!(
            !found.reason.is_empty() && !found.message.is_empty(),
            "{of} is missing or says nothing: {}",
            first["status"]
        );
    }
    assert_ne!(
        condition(&first, "Ready").status,
        "True",
        "nothing runs yet"
    );
    fleet.wait_calm(limits::FLEET_READY).await;
    measured(&format!(
        "Kubernetes: one region for development Ready {:.1} s after apply",
        started.elapsed().as_secs_f64()
    ));
    let durable = condition(&fleet.object().expect("the fleet"), "Durable");
    assert_eq!(
        (durable.status.as_str(), durable.reason.as_str()),
        ("False", "Development"),
        "one NATS server is not called durable"
    );

    let table = fleet.kubectl(&["get", "njc"]);
    let mut lines = table.lines();
    let header: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let wanted = "NAME READY REGIONS RELAYS DURABLE WAITING FOR AGE";
    assert_eq!(header.join(" "), wanted, "{table}");
    let row: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(
        row[..5],
        ["fleet", "True", "1/1", "1/1", "False"],
        "{table}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kubectl_explains_every_field() {
    let Some(cluster) = cluster("kubectl explain") else {
        return;
    };
    let _turn = turn::beside().await;
    for path in [
        "relaycluster.spec",
        "relaycluster.spec.regions.nats",
        "relaycluster.spec.rollout",
        "relaycluster.status.waitingFor",
    ] {
        let said = cluster.kubectl(&["explain", path]);
        let (_, fields) = said.split_once("FIELDS:").unwrap_or_default();
        let mut lines = fields.lines().filter(|line| !line.trim().is_empty());
        let mut known = 0;
        while let Some(line) = lines.next() {
            if !line.starts_with("  ") || !line.contains("\t<") {
                continue;
            }
            known += 1;
            // Permitted words stand between a field and its text.
            let explained = lines
                .by_ref()
                .find(|next| !next.starts_with("  enum:"))
                .is_some_and(|next| next.starts_with("    ") && !next.contains("<no description>"));
            assert!(explained, "{path}: nothing is said of {line}:\n{said}");
        }
        assert!(known > 1, "{path}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_sent_in_one_region_is_read_in_the_others() {
    let Some(cluster) = cluster("messages across regions") else {
        return;
    };
    let three = shared::beside(cluster).await;
    let dir = fresh_dir("kubernetes");
    let (alice_home, bob_home, carol_home) = (
        Home::new(&dir, "alice"),
        Home::new(&dir, "bob"),
        Home::new(&dir, "carol"),
    );
    let alice = alice_home.make_key("alice", &three.url("a"));
    let bob = bob_home.make_key("bob", &three.url("b"));
    let carol = carol_home.make_key("carol", &three.url("c"));
    for (home, name, to) in [(&bob_home, "bob", &bob), (&carol_home, "carol", &carol)] {
        let said = format!("to {name}: żółw 🐢");
        alice_home.send("alice", to, &three.url("a"), &said);
        let received = until(
            &format!("the message of {name}"),
            limits::DELIVERED,
            async || {
                let inbox = home.inbox(name);
                inbox
                    .into_iter()
                    .next()
                    .ok_or_else(|| "the inbox is empty".to_owned())
            },
        )
        .await;
        assert_eq!(received, (alice.clone(), said));
    }
    for pod in three.fleet.pods() {
        assert_eq!(pod.restarts, 0, "{} was started again", pod.name);
    }
    let object = three.fleet.object().expect("the fleet");
    let summary = &object["status"]["summary"];
    assert_eq!(
        (text(&summary["regions"]), text(&summary["relays"])),
        ("3/3".to_owned(), "3/3".to_owned())
    );

    let Some(mut foreign) = ForeignClient::start(
        Library::NostrTools,
        &three.url("c"),
        "nostr-tools through Services",
    ) else {
        return;
    };
    alice_home.send("alice", &foreign.pubkey, &three.url("a"), "to nostr-tools");
    assert_eq!(
        foreign.received(),
        (alice.clone(), "to nostr-tools".to_owned())
    );
    foreign.send(&alice, "to the CLI: ćma 🦋");
    until(
        "the message of nostr-tools",
        limits::DELIVERED,
        async || {
            let inbox = alice_home.inbox("alice");
            let wanted = (foreign.pubkey.clone(), "to the CLI: ćma 🦋".to_owned());
            inbox
                .contains(&wanted)
                .then_some(())
                .ok_or_else(|| format!("there are {inbox:?}"))
        },
    )
    .await;
}
