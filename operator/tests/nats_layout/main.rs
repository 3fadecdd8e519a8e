//! The planned NATS configuration, run by real nats-servers: what must pass between regions passes, and nothing else.

mod fleet;
mod tls;

use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use fleet::{Fleet, eventually};
use futures_util::StreamExt;
use nightjar_operator::plan::{Credential, Issuer, Port, StreamKind, StreamPlan};
use serde_json::{Value, json};

/// How long to wait for a message before it counts as not come; retried where it must come.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks and returns the answer's JSON.
async fn ask(client: &Client, subject: &str, body: &Value) -> Result<Value, String> {
    let request = client.request(subject.to_owned(), Bytes::from(body.to_string()));
    let answer = tokio::time::timeout(Duration::from_secs(5), request).await;
    let message = answer
        .map_err(|_| format!("{subject}: no answer"))?
        .map_err(|error| format!("{subject}: {error}"))?;
    serde_json::from_slice(&message.payload).map_err(|error| format!("{subject}: {error}"))
}

/// Makes a stream as planned, until the region's JetStream is up.
async fn create(admin: &Client, stream: &StreamPlan) {
    let mut body = json!({
        "name": stream.name.to_string(), "storage": "file", "discard": "new", "num_replicas": stream.replicas,
        "allow_direct": stream.allow_direct, "retention": "limits",
        "max_bytes": stream.max_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap()),
        "max_age": stream.max_age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap()),
    });
    match &stream.kind {
        StreamKind::Writer {
            subjects,
            republish_from,
            republish_to,
        } => {
            body["subjects"] = json!(subjects);
            body["republish"] = json!({"src": republish_from, "dest": republish_to});
        }
        StreamKind::Mirror { external_api, .. } => {
            body["mirror"] =
                json!({"name": stream.name.to_string(), "external": {"api": external_api}});
        }
    }
    eventually("stream create", async || {
        let answer = ask(
            admin,
            &format!("$JS.API.STREAM.CREATE.{}", stream.name),
            &body,
        )
        .await?;
        if answer["error"].is_null() {
            Ok(())
        } else {
            Err(answer["error"].to_string())
        }
    })
    .await;
}

/// Makes the first message stream of each region, and its mirrors in all others.
async fn create_streams(fleet: &Fleet) {
    links_are_up(fleet).await;
    for region in &fleet.plan.regions {
        let admin = fleet
            .connect(
                &format!("{}-nats-0", region.name),
                region.name.as_str(),
                Credential::Admin,
            )
            .await;
        for stream in region
            .streams
            .iter()
            .filter(|stream| stream.name.to_string().starts_with("EV_") && stream.name.shard == 0)
        {
            create(&admin, stream).await;
        }
    }
}

/// Waits until every JetStream server has its leaf link and every hub reaches every other region.
async fn links_are_up(fleet: &Fleet) {
    for region in &fleet.plan.regions {
        for server in &region.nats {
            let system = fleet
                .connect(&server.name(), region.name.as_str(), Credential::System)
                .await;
            eventually("leaf link", async || {
                let leafs = ping(&system, &server.name(), "LEAFZ").await?;
                if leafs["data"]["leafnodes"] == json!(1) {
                    Ok(())
                } else {
                    Err(format!("{leafs}; {}", fleet.log(&server.name())))
                }
            })
            .await;
        }
        for hub in &region.hubs {
            let system = fleet
                .connect(&hub.name(), region.name.as_str(), Credential::System)
                .await;
            let others = fleet.plan.regions.len() - 1;
            eventually("gateways", async || {
                let gateways = ping(&system, &hub.name(), "GATEWAYZ").await?;
                let outbound = gateways["data"]["outbound_gateways"]
                    .as_object()
                    .map_or(0, serde_json::Map::len);
                if outbound == others {
                    Ok(())
                } else {
                    Err(format!("{gateways}; {}", fleet.log(&hub.name())))
                }
            })
            .await;
        }
    }
}

/// Asks the server of that name for its state.
async fn ping(system: &Client, server: &str, what: &str) -> Result<Value, String> {
    ask(
        system,
        &format!("$SYS.REQ.SERVER.PING.{what}"),
        &json!({"server_name": server, "exact_match": true}),
    )
    .await
}

async fn messages(admin: &Client, stream: &str) -> Result<u64, String> {
    let info = ask(admin, &format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await?;
    info["state"]["messages"]
        .as_u64()
        .ok_or_else(|| info.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_s_log_reaches_the_others_with_the_same_sequence_numbers() {
    let fleet = Fleet::start(&[("a", 3), ("b", 1), ("c", 1)]);
    create_streams(&fleet).await;
    let relay_a = fleet.connect("a-nats-1", "a", Credential::Relay).await;
    let relay_b = fleet.connect("b-nats-0", "b", Credential::Relay).await;
    let mut hints = relay_b.subscribe("rp.>").await.unwrap();
    let mut ephemeral = relay_b.subscribe("eph.>").await.unwrap();
    relay_b.flush().await.unwrap();

    for n in 0..20_u64 {
        let ack = ask(&relay_a, "ev.a.1.0.7", &json!({"n": n})).await.unwrap();
        assert_eq!(ack["seq"], json!(n + 1), "{ack}");
        assert_eq!(ack["domain"], json!("a"));
    }
    for region in ["a", "b", "c"] {
        let admin = fleet
            .connect(&format!("{region}-nats-0"), region, Credential::Admin)
            .await;
        eventually("mirror", async || {
            match messages(&admin, "EV_a_1_0").await? {
                20 => Ok(()),
                other => Err(format!("{other} messages in {region}")),
            }
        })
        .await;
        let last = ask(
            &admin,
            "$JS.API.STREAM.MSG.GET.EV_a_1_0",
            &json!({"seq": 20}),
        )
        .await
        .unwrap();
        assert_eq!(last["message"]["subject"], json!("ev.a.1.0.7"));
    }

    // Interest crosses the gateways after the subscription: hints and ephemeral events flow from then on.
    eventually("hint", async || {
        relay_a
            .publish("ev.a.1.0.7", "hinted".into())
            .await
            .map_err(|error| error.to_string())?;
        let hint = tokio::time::timeout(PATIENCE, hints.next())
            .await
            .map_err(|_| "none")?
            .ok_or("ended")?;
        assert_eq!(hint.subject.as_str(), "rp.a.ev.1.0.7");
        assert_eq!(
            hint.headers.unwrap().get("Nats-Stream").unwrap().as_str(),
            "EV_a_1_0"
        );
        Ok(())
    })
    .await;
    eventually("ephemeral", async || {
        relay_a
            .publish("eph.a.0.0.9", "typing".into())
            .await
            .map_err(|error| error.to_string())?;
        let event = tokio::time::timeout(PATIENCE, ephemeral.next())
            .await
            .map_err(|_| "none")?;
        assert_eq!(event.unwrap().subject.as_str(), "eph.a.0.0.9");
        Ok(())
    })
    .await;
}

/// JetStream calls with which another region could read past its mirrors, harm or fill this one.
const FORBIDDEN_CALLS: [&str; 14] = [
    "STREAM.DELETE.EV_a_1_0",
    "STREAM.PURGE.EV_a_1_0",
    "STREAM.INFO.EV_a_1_0",
    "STREAM.CREATE.NEW",
    "STREAM.MSG.GET.EV_a_1_0",
    "STREAM.NAMES",
    "DIRECT.GET.EV_a_1_0",
    "META.LEADER.STEPDOWN",
    "SERVER.REMOVE",
    "ACCOUNT.PURGE.RELAY",
    "CONSUMER.NAMES.EV_a_1_0",
    "CONSUMER.LIST.EV_a_1_0",
    "CONSUMER.DURABLE.CREATE.EV_a_1_0.mine",
    "$KV.x.y",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_region_can_neither_administer_nor_write_nor_impersonate_another() {
    // Region B with its servers in hostile hands: a user without limits, on its JetStream server and on its hub.
    let fleet = Fleet::start_with_intruders(&[("a", 1), ("b", 1)], &["b-nats-0", "b-hub-0"]);
    create_streams(&fleet).await;
    let admin_a = fleet.connect("a-nats-0", "a", Credential::Admin).await;
    let relay_a = fleet.connect("a-nats-0", "a", Credential::Relay).await;
    ask(&relay_a, "ev.a.1.0.7", &json!({})).await.unwrap();
    for place in ["b-nats-0", "b-hub-0"] {
        let hostile = fleet.intruder(place).await;
        only_mirror_consumers_are_answered(&hostile, place).await;
        only_own_live_subjects_arrive(&hostile, &relay_a, place).await;
        assert_eq!(messages(&admin_a, "EV_a_1_0").await, Ok(1), "{place}");
        let streams = ask(&admin_a, "$JS.API.STREAM.NAMES", &json!({}))
            .await
            .unwrap();
        assert_eq!(streams["total"], json!(2), "{place}: {streams}");
    }
}

/// Sends every forbidden call, then the one that a mirror makes: when that is answered, the others would have been.
async fn only_mirror_consumers_are_answered(hostile: &Client, place: &str) {
    // A reply subject that crosses regions: an ordinary inbox would not, which alone would hide the answer.
    let mut answers = hostile.subscribe("$JSC.R.hostile.>").await.unwrap();
    hostile.flush().await.unwrap();
    let name = place.replace('-', "_");
    let consumer = json!({"stream_name": "EV_a_1_0", "config": {"name": name, "deliver_subject": "$JS.M.hostile", "ack_policy": "none"}});
    eventually("consumer create", async || {
        for (n, call) in FORBIDDEN_CALLS.iter().enumerate() {
            let body = json!({"name": "NEW", "subjects": ["x"], "seq": 1}).to_string();
            let reply = format!("$JSC.R.hostile.forbidden.{n}");
            hostile
                .publish_with_reply(format!("$JS.a.API.{call}"), reply, body.into())
                .await
                .map_err(|e| e.to_string())?;
        }
        let reply = "$JSC.R.hostile.allowed".to_owned();
        let call = format!("$JS.a.API.CONSUMER.CREATE.EV_a_1_0.{name}");
        hostile
            .publish_with_reply(call, reply, consumer.to_string().into())
            .await
            .map_err(|e| e.to_string())?;
        let mut allowed = false;
        // "Nobody listens" (503) is this server's own word, not an answer.
        while let Ok(Some(answer)) = tokio::time::timeout(PATIENCE, answers.next()).await {
            let told = answer.status.is_none();
            let forbidden = told && answer.subject.contains("forbidden");
            assert!(
                !forbidden,
                "{place}: {} was answered: {:?}",
                answer.subject, answer.payload
            );
            allowed |= told;
        }
        if allowed {
            Ok(())
        } else {
            Err("a mirror's call was not answered".to_owned())
        }
    })
    .await;
}

/// Sends into A's log and in A's name, then in B's own name: when that arrives, the others would have.
async fn only_own_live_subjects_arrive(hostile: &Client, relay_a: &Client, place: &str) {
    let mut watcher = relay_a.subscribe("rp.>").await.unwrap();
    let mut ephemeral = relay_a.subscribe("eph.>").await.unwrap();
    relay_a.flush().await.unwrap();
    eventually(place, async || {
        for subject in [
            "ev.a.1.0.8",
            "st.a.1.0.8",
            "rp.a.ev.1.0.8",
            "eph.a.0.0.8",
            "rp.b.ev.1.0.8",
            "eph.b.0.0.8",
        ] {
            hostile
                .publish(subject, "forged".into())
                .await
                .map_err(|error| error.to_string())?;
        }
        let hint = tokio::time::timeout(PATIENCE, watcher.next())
            .await
            .map_err(|_| "no hint")?
            .ok_or("ended")?;
        assert_eq!(hint.subject.as_str(), "rp.b.ev.1.0.8", "{place}");
        let event = tokio::time::timeout(PATIENCE, ephemeral.next())
            .await
            .map_err(|_| "no event")?
            .ok_or("ended")?;
        assert_eq!(event.subject.as_str(), "eph.b.0.0.8", "{place}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_s_key_writes_its_own_region_s_log_and_removes_state_only() {
    let fleet = Fleet::start(&[("a", 1)]);
    let admin = fleet.connect("a-nats-0", "a", Credential::Admin).await;
    for stream in &fleet.plan.regions[0].streams {
        create(&admin, stream).await;
    }
    let relay = fleet.connect("a-nats-0", "a", Credential::Relay).await;
    for subject in ["ev.a.1.0.8", "st.a.1.0.8"] {
        let ack = ask(&relay, subject, &json!({})).await.unwrap();
        assert_eq!(ack["seq"], json!(1), "{ack}");
    }
    for subject in [
        "rp.a.ev.1.0.8",
        "$JS.API.STREAM.DELETE.EV_a_1_0",
        "$JS.API.STREAM.PURGE.ST_a_1_0",
        "$JS.API.STREAM.MSG.DELETE.EV_a_1_0",
    ] {
        relay
            .publish(subject, json!({"seq": 1}).to_string().into())
            .await
            .unwrap();
    }
    let removed = ask(
        &relay,
        "$JS.API.STREAM.MSG.DELETE.ST_a_1_0",
        &json!({"seq": 1, "no_erase": true}),
    )
    .await
    .unwrap();
    assert_eq!(removed["success"], json!(true), "{removed}");
    assert_eq!(messages(&admin, "EV_a_1_0").await, Ok(1));
    assert_eq!(messages(&admin, "ST_a_1_0").await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_listener_takes_a_stranger_or_another_region() {
    let fleet = Fleet::start(&[("a", 3), ("b", 1)]);
    links_are_up(&fleet).await;

    for process in fleet.plan.processes() {
        for listener in &process.listeners {
            let region = process.id.region.as_str();
            let other = if region == "a" { "b" } else { "a" };
            if listener.port == Port::Client {
                let url = format!("nats://{}", listener.listen);
                let anonymous = async_nats::connect(&url).await;
                assert!(
                    anonymous.is_err(),
                    "{} let a client in without credentials",
                    process.name()
                );
                for credential in [
                    Credential::Relay,
                    Credential::Admin,
                    Credential::System,
                    Credential::Leaf,
                ] {
                    let foreign =
                        async_nats::ConnectOptions::with_nkey(fleet.seed(other, credential))
                            .connect(&url)
                            .await;
                    assert!(
                        foreign.is_err(),
                        "{} let {credential:?} of region {other} in",
                        process.name()
                    );
                }
            } else {
                let own = if listener.port == Port::Gateway {
                    Issuer::Gateways
                } else {
                    Issuer::Region(region.parse().unwrap())
                };
                let wrong = [
                    None,
                    Some(Issuer::Region(other.parse().unwrap())),
                    Some(Issuer::Gateways),
                ];
                for shown in wrong
                    .into_iter()
                    .filter(|shown| shown.as_ref() != Some(&own))
                {
                    let refused = tls::greet(&fleet, listener, &own, shown.as_ref());
                    assert!(
                        refused.is_err(),
                        "{} {:?} took a peer with {shown:?}",
                        process.name(),
                        listener.port
                    );
                }
                let taken = tls::greet(&fleet, listener, &own, Some(&own));
                assert!(
                    taken.is_ok(),
                    "{} {:?} refused its own authority: {taken:?}",
                    process.name(),
                    listener.port
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_leaf_link_opens_nothing_else() {
    let fleet = Fleet::start(&[("a", 1), ("b", 1)]);
    links_are_up(&fleet).await;
    for process in ["a-nats-0", "a-hub-0"] {
        let at = fleet
            .process(process)
            .listener(Port::Client)
            .unwrap()
            .listen;
        let options = async_nats::ConnectOptions::with_nkey(fleet.seed("a", Credential::Leaf));
        assert!(
            options.connect(format!("nats://{at}")).await.is_err(),
            "{process}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_of_one_region_needs_no_hub() {
    let fleet = Fleet::start(&[("a", 1)]);
    assert!(fleet.plan.regions[0].hubs.is_empty());
    let admin = fleet.connect("a-nats-0", "a", Credential::Admin).await;
    for stream in &fleet.plan.regions[0].streams {
        create(&admin, stream).await;
    }
    let relay = fleet.connect("a-nats-0", "a", Credential::Relay).await;
    let ack = ask(&relay, "st.a.1.1.63", &json!({})).await.unwrap();
    assert_eq!(ack["stream"], json!("ST_a_1_1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_key_of_a_region_is_nothing_to_the_hubs_of_another() {
    let fleet = Fleet::start(&[("a", 1), ("b", 1)]);
    links_are_up(&fleet).await;
    let system = fleet.connect("b-hub-0", "b", Credential::System).await;
    // Over routes the two hubs of a region answer for each other; over gateways nobody does.
    for (server, answers) in [
        ("b-hub-0", true),
        ("b-hub-1", true),
        ("a-hub-0", false),
        ("a-hub-1", false),
    ] {
        let answer = ping(&system, server, "VARZ").await;
        assert_eq!(answer.is_ok(), answers, "{server}: {answer:?}");
    }
}
