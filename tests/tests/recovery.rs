//! Nothing acknowledged is lost when every process is killed, and an index is only a cache of the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nightjar_tests::event::{Person, Signed, now};
use nightjar_tests::fleet::{Fleet, READY_LIMIT};
use nightjar_tests::load::{Run, publish_steadily};
use nightjar_tests::report::measured;
use nightjar_tests::socket::Socket;
use nightjar_tests::wait::until;
use nightjar_tests::yaml;
use serde_json::{Value, json};

const REGIONS: [&str; 3] = ["a", "b", "c"];

#[tokio::test(flavor = "multi_thread")]
async fn everything_acknowledged_survives_the_death_of_all_processes() {
    let fleet = Fleet::start("recovery", &yaml::fleet(&REGIONS, 3)).await;
    let run = Run::new("all killed");
    let mut acknowledged = BTreeSet::new();
    let publishers: Vec<_> = REGIONS
        .iter()
        .map(|region| {
            tokio::spawn(publish_steadily(
                fleet.relay(region),
                run.events(300),
                100.0,
            ))
        })
        .collect();
    for publisher in publishers {
        acknowledged.extend(publisher.await.expect("published").acknowledged);
    }

    // Killed while more is under way: what got OK by then counts too.
    let last = run.events(200);
    let socket = Socket::open(&fleet.relay("a")).await;
    for event in &last {
        socket
            .send(&format!("[\"EVENT\",{}]", event.json))
            .await
            .expect("open");
    }
    for event in &last[..50] {
        if let Ok((true, _)) = socket.ok(&event.id).await {
            acknowledged.insert(event.id.clone());
        }
    }
    let started = Instant::now();
    let fleet = fleet.restart_after_kill().await;
    measured(&format!(
        "all processes killed: ready again after {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    let relays: Vec<String> = REGIONS.iter().map(|region| fleet.relay(region)).collect();
    run.wait_served_once(&relays, &acknowledged).await;

    // And the fleet still takes and carries events.
    let after = run.events(30);
    let published = publish_steadily(fleet.relay("b"), after, 100.0).await;
    run.wait_served_once(&relays, &published.acknowledged).await;

    deleted_index_is_rebuilt(&fleet).await;
}

/// Questions whose answers must not depend on how the index came to be.
struct Questions {
    people: Vec<Person>,
    filters: Vec<Value>,
}

impl Questions {
    /// Ids in order, for each filter.
    async fn ask(&self, relay: &str) -> Result<BTreeMap<String, Vec<String>>, String> {
        let socket = Socket::try_open(relay).await?;
        for person in &self.people {
            socket.authenticate(person).await;
        }
        let mut answers = BTreeMap::new();
        for filter in &self.filters {
            let events = socket.query(std::slice::from_ref(filter)).await?;
            let ids = events
                .iter()
                .map(|event| event["id"].as_str().unwrap_or_default().to_owned())
                .collect();
            answers.insert(filter.to_string(), ids);
        }
        Ok(answers)
    }
}

/// Events that supersede, delete and outlive each other, in the order to publish them: newest first and oldest first, so that
/// a relay meets what supersedes both ways.
struct History {
    events: Vec<Signed>,
    /// Ids that must be served in the end.
    shown: BTreeSet<String>,
    /// Seconds since 1970; one of the events is gone after it.
    expiry: u64,
    questions: Questions,
}

fn history() -> History {
    let (alice, bob) = (Person::new(), Person::new());
    let time = now() - 100;
    let expiry = now() + 3;
    let deleted = alice.event(1, time, &[], "deleted");
    let deleted_wrap = alice.message(&bob, "deleted wrap");
    let shown = [
        alice.event(10_002, time + 1, &[], "newer"),
        alice.event(30_023, time + 1, &[&["d", "x"]], "article"),
        alice.event(5, time + 2, &[&["e", &deleted.id], &["k", "1"]], ""),
        alice.event(1, time, &[&["t", "kept"]], "kept"),
        alice.message(&bob, "kept wrap"),
        bob.event(5, now(), &[&["e", &deleted_wrap.id]], ""),
    ];
    let [newer, article, deletion, kept, wrap, wrap_deletion] = shown.clone();
    let older = alice.event(10_002, time, &[], "older");
    let draft = alice.event(30_023, time, &[&["d", "x"]], "draft");
    let expiring = alice.event(1, time, &[&["expiration", &expiry.to_string()]], "expires");
    let events = vec![
        newer,
        older,
        draft,
        article,
        deleted,
        deletion,
        kept,
        expiring,
        wrap,
        deleted_wrap,
        wrap_deletion,
    ];
    let ids: Vec<&String> = events.iter().map(|event| &event.id).collect();
    let filters = vec![
        json!({"ids": ids}),
        json!({"authors": [alice.pubkey()]}),
        json!({"authors": [alice.pubkey()], "kinds": [1]}),
        json!({"authors": [alice.pubkey()], "kinds": [10_002]}),
        json!({"authors": [alice.pubkey()], "until": time, "limit": 1}),
        json!({"kinds": [30_023], "#d": ["x"]}),
        json!({"#t": ["kept"]}),
        json!({"kinds": [1059], "#p": [bob.pubkey()]}),
        json!({"kinds": [5]}),
    ];
    let shown = shown.into_iter().map(|event| event.id).collect();
    History {
        events,
        shown,
        expiry,
        questions: Questions {
            people: vec![bob],
            filters,
        },
    }
}

async fn deleted_index_is_rebuilt(fleet: &Fleet) {
    let history = history();
    let socket = Socket::open(&fleet.relay("a")).await;
    for event in &history.events {
        socket.publish_ok(event).await;
    }
    until(
        "the short-lived event has expired",
        Duration::from_secs(20),
        async || {
            if now() > history.expiry {
                Ok(())
            } else {
                Err("not yet".to_owned())
            }
        },
    )
    .await;

    // What the writer's own region says is what every region must say.
    let expected = history
        .questions
        .ask(&fleet.relay("a"))
        .await
        .expect("answers");
    let by_id: BTreeSet<String> = expected[&history.questions.filters[0].to_string()]
        .iter()
        .cloned()
        .collect();
    for event in &history.events {
        let (shown, wanted) = (by_id.contains(&event.id), history.shown.contains(&event.id));
        assert_eq!(
            shown, wanted,
            "served (left) or to be served (right): {}",
            event.json
        );
    }
    same_answers(&history.questions, fleet, "b", &expected).await;

    let index = fleet.process_dir("b-relay-0").join("index");
    assert!(index.is_dir(), "{} is the index", index.display());
    // With the region's NATS frozen the rebuilding lasts as long as the test wants to look at it.
    fleet.freeze_nats("b", true);
    // The relay must not write while its folder goes: kill it, and delete before the operator has it up again.
    let old = fleet.kill("b-relay-0");
    std::fs::remove_dir_all(&index).expect("the index folder goes");
    check_rebuilding(fleet, "b-relay-0", &history.questions).await;
    let started = Instant::now();
    fleet.freeze_nats("b", false);
    fleet.wait_restarted("b-relay-0", old).await;
    same_answers(&history.questions, fleet, "b", &expected).await;
    let seconds = started.elapsed().as_secs_f64();
    measured(&format!(
        "index folder deleted: same answers after {seconds:.1} s"
    ));
}

/// `/readyz` of a relay that lost its index says that it rebuilds, and no REQ is answered as if the index were whole.
async fn check_rebuilding(fleet: &Fleet, relay: &str, questions: &Questions) {
    until("/readyz says that it rebuilds", READY_LIMIT, async || {
        let (status, body) = fleet.admin(relay, "/readyz").await?;
        let rebuilding = status == 503 && body.contains(r#""rebuilding":true"#);
        if rebuilding {
            Ok(())
        } else {
            Err(format!("{status} {body}"))
        }
    })
    .await;
    let answer = questions.ask(&fleet.relay("b")).await;
    assert!(
        answer
            .as_ref()
            .is_err_and(|message| message.starts_with("error:")),
        "{answer:?}"
    );
}

async fn same_answers(
    questions: &Questions,
    fleet: &Fleet,
    region: &str,
    expected: &BTreeMap<String, Vec<String>>,
) {
    until(
        &format!("region {region} answers the same"),
        READY_LIMIT,
        async || {
            let answers = questions.ask(&fleet.relay(region)).await?;
            if answers == *expected {
                Ok(())
            } else {
                Err(format!("{answers:#?}\ninstead of {expected:#?}"))
            }
        },
    )
    .await;
}
