//! `nightjar-operator local` as a person uses it: start, change the file, start twice, stop, start again.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use nightjar_tests::event::Person;
use nightjar_tests::fleet::{Fleet, READY_LIMIT, is_alive};
use nightjar_tests::programs::{nats_server, program};
use nightjar_tests::report::measured;
use nightjar_tests::socket::Socket;
use nightjar_tests::wait::until;
use nightjar_tests::yaml;
use serde_json::{Value, json};

/// What Ctrl-C may take (draining included).
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

fn pids(fleet: &Fleet) -> BTreeMap<String, Option<u32>> {
    fleet
        .processes()
        .into_iter()
        .map(|(name, process)| (name, process.pid))
        .collect()
}

async fn relay_name(fleet: &Fleet, region: &str) -> Result<String, String> {
    let (status, body) = fleet.get(region, "/", "application/nostr+json").await?;
    let document: Value =
        serde_json::from_str(&body).map_err(|error| format!("{status} {error}: {body}"))?;
    Ok(document["name"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_stops_within_ten_seconds_and_resumes() {
    let fleet = Fleet::start("resume", &yaml::fleet(&["a", "b"], 1)).await;
    let event = Person::new().note("before the stop");
    Socket::open(&fleet.relay("a"))
        .await
        .publish_ok(&event)
        .await;
    let urls = (fleet.relays("a"), fleet.relays("b"));

    // A second copy on the same folder is refused and disturbs nobody.
    let before = pids(&fleet);
    let mut second = Command::new(program("nightjar-operator"));
    second
        .arg("local")
        .arg(fleet.file())
        .arg("--state")
        .arg(fleet.state())
        .arg("--json")
        .env("NATS_SERVER", nats_server());
    let second = second
        .stdin(Stdio::null())
        .output()
        .expect("nightjar-operator starts");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&second.stdout),
        String::from_utf8_lossy(&second.stderr)
    );
    assert!(!second.status.success(), "{said}");
    assert!(
        said.contains(&fleet.state().display().to_string()),
        "{said}"
    );
    assert_eq!(pids(&fleet), before);

    let took = fleet.interrupt().await;
    assert!(took <= DRAIN_LIMIT, "Ctrl-C took {took:?}");
    measured(&format!(
        "Ctrl-C: everything ended after {:.1} s",
        took.as_secs_f64()
    ));

    let dir = fleet.dir().to_path_buf();
    drop(fleet);
    let fleet = Fleet::spawn(&dir);
    fleet.wait_ready().await;
    assert_eq!(
        (fleet.relays("a"), fleet.relays("b")),
        urls,
        "addresses stay"
    );
    until("the event from before", READY_LIMIT, async || {
        let socket = Socket::try_open(&fleet.relay("b")).await?;
        let found = socket.query(&[json!({"ids": [event.id]})]).await?;
        if found.len() == 1 {
            Ok(())
        } else {
            Err("not served".to_owned())
        }
    })
    .await;

    leftovers_are_ended_by_the_next_start(fleet).await;
}

async fn leftovers_are_ended_by_the_next_start(fleet: Fleet) {
    let operator = fleet.operator();
    let old: Vec<u32> = pids(&fleet).into_values().flatten().collect();
    nightjar_tests::fleet::signal(operator, rustix::process::Signal::KILL);
    until("the operator is dead", READY_LIMIT, async || {
        fleet.ended().ok_or_else(|| "alive".to_owned())
    })
    .await;
    let dir = fleet.dir().to_path_buf();
    // Not dropped: dropping waits for the processes, and a crash does not.
    let fleet_of_before = std::mem::ManuallyDrop::new(fleet);
    let fleet = Fleet::spawn(&dir);
    fleet.wait_ready().await;
    let left: Vec<&u32> = old.iter().filter(|pid| is_alive(**pid)).collect();
    assert!(left.is_empty(), "still there from before: {left:?}");
    drop(std::mem::ManuallyDrop::into_inner(fleet_of_before));

    ports_that_others_took_are_named(fleet).await;
}

async fn ports_that_others_took_are_named(fleet: Fleet) {
    let address = fleet
        .relay("a")
        .trim_start_matches("ws://")
        .trim_end_matches('/')
        .to_owned();
    fleet.interrupt().await;
    let dir = fleet.dir().to_path_buf();
    drop(fleet);
    let taken = TcpListener::bind(&address).expect("the port is free now");
    let fleet = Fleet::spawn(&dir);
    let port = address.rsplit(':').next().unwrap_or_default().to_owned();
    until("the operator names the port", READY_LIMIT, async || {
        let said = fleet.errors().join("\n");
        if said.contains(&port) {
            Ok(())
        } else {
            Err(fleet.lines().join("\n"))
        }
    })
    .await;
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_file_restart_only_what_must() {
    let file = yaml::fleet(&["a", "b"], 1);
    let fleet = Fleet::start("changes", &file).await;
    let before = pids(&fleet);
    assert_eq!(relay_name(&fleet, "a").await.expect("NIP-11"), "test relay");

    // A setting that is taken over live.
    let renamed = file.replace("name: test relay", "name: renamed");
    std::fs::write(fleet.file(), &renamed).expect("the file");
    until(
        "the new name in NIP-11",
        READY_LIMIT,
        async || match relay_name(&fleet, "b").await? {
            name if name == "renamed" => Ok(()),
            name => Err(name),
        },
    )
    .await;
    assert_eq!(pids(&fleet), before, "nothing had to restart");

    // A bad file changes nothing and is told.
    std::fs::write(
        fleet.file(),
        renamed
            .replace("replicas: 1, ", "replicas: 2, ")
            .replace("name: b", "name: B"),
    )
    .expect("the file");
    until("an error that names the field", READY_LIMIT, async || {
        let said = fleet.errors().join("\n");
        if said.contains("spec.regions[1].name") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    assert_eq!(pids(&fleet), before, "a bad file changes nothing");

    // One relay more in region a.
    let one_more = renamed.replacen("relays: {replicas: 1}", "relays: {replicas: 2}", 1);
    std::fs::write(fleet.file(), &one_more).expect("the file");
    until("a second relay in region a", READY_LIMIT, async || {
        if fleet.relays("a").len() == 2 {
            Ok(())
        } else {
            Err(format!("{:?}", fleet.relays("a")))
        }
    })
    .await;
    Socket::open(&fleet.relays("a")[1]).await.settle().await;
    let after = pids(&fleet);
    for (name, pid) in &before {
        assert_eq!(
            after.get(name),
            Some(pid),
            "{name} was restarted for nothing"
        );
    }

    // A third region, and then region b goes.
    regions_come_and_go(&fleet, &one_more).await;
}

async fn regions_come_and_go(fleet: &Fleet, file: &str) {
    let region = |name: &str| {
        format!(
            "    - {{name: {name}, relays: {{replicas: 1}}, nats: {{replicas: 1, storage: 2Gi}}}}\n"
        )
    };
    let three = file.replace(&region("b"), &format!("{}{}", region("b"), region("c")));
    assert_ne!(three, file);
    std::fs::write(fleet.file(), &three).expect("the file");
    until("region c", READY_LIMIT, async || {
        if fleet.regions() == ["a", "b", "c"] {
            Ok(())
        } else {
            Err(fleet.lines().last().cloned().unwrap_or_default())
        }
    })
    .await;
    let event = Person::new().note("from the new region");
    Socket::open(&fleet.relay("c"))
        .await
        .publish_ok(&event)
        .await;
    for region in ["a", "b"] {
        until(
            &format!("the new region's event in region {region}"),
            READY_LIMIT,
            async || {
                let socket = Socket::try_open(&fleet.relay(region)).await?;
                let found = socket.query(&[json!({"ids": [event.id]})]).await?;
                if found.len() == 1 {
                    Ok(())
                } else {
                    Err("not served".to_owned())
                }
            },
        )
        .await;
    }

    let b: Vec<u32> = fleet
        .processes()
        .values()
        .filter(|process| process.region == "b")
        .filter_map(|process| process.pid)
        .collect();
    std::fs::write(fleet.file(), three.replace(&region("b"), "")).expect("the file");
    until("region b gone", READY_LIMIT, async || {
        if fleet.regions() == ["a", "c"] && b.iter().all(|pid| !is_alive(*pid)) {
            Ok(())
        } else {
            Err(format!("{:?}", fleet.regions()))
        }
    })
    .await;
    Socket::open(&fleet.relay("a"))
        .await
        .publish_ok(&Person::new().note("without region b"))
        .await;
}
