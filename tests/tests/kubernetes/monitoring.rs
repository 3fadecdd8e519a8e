//! A real Prometheus beside a fleet under load: every query of every board gives series, and alerts fire and clear by real faults.
//! The fleet is as it was when the test ends; the operators were gone for some seconds.

mod prometheus;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nightjar_tests::kubernetes::cluster::{Cluster, cluster, list, text, until};
use nightjar_tests::kubernetes::fleet::{Fleet, FleetSpec};
use nightjar_tests::kubernetes::load::Load;
use nightjar_tests::kubernetes::{limits, operator, shared};
use nightjar_tests::load::Run;
use nightjar_tests::report::{measured, skipped};
use serde::Deserialize;
use serde_json::{Value, json};

use prometheus::Prometheus;

/// From a fault to its alert: the time to notice it, a scrape, a pass over the rules and their shortened `for`.
const ALERTED: Duration = Duration::from_secs(90);
/// A board's queries all with series: scrapes of some 30 s must be there, for the rates.
const SHOWN: Duration = Duration::from_secs(90);

/// What alerts name and nothing in this test brings about: the series are there only while a relay's keyring lacks a key epoch, and only
/// with TLS by the relays.
const NOT_HERE: [&str; 2] = [
    "nj_log_unknown_epoch",
    "nj_tls_certificate_expiry_timestamp_seconds",
];

/// The groups of the chart's PrometheusRule, with windows that fit a test.
fn rules(cluster: &Cluster) -> Value {
    let values = json!({"prometheusRule": {
        "enabled": true,
        "force": true,
        "interval": "1s",
        "alerts": {
            "NightjarOperatorDown": {"for": "2s"},
            "NightjarRegionNotServing": {"for": "2s"},
            "NightjarRelayNotReady": {"for": "2s"},
            "NightjarFleetWaiting": {"for": "1s", "seconds": 5},
        },
    }});
    let chart = operator::chart().display().to_string();
    let args = ["template", "nightjar", &chart, "-f", "-"];
    let manifests = cluster
        .try_helm(&args, &values)
        .unwrap_or_else(|error| panic!("helm template: {error}"));
    serde_yaml::Deserializer::from_str(&manifests)
        .map(|document| Value::deserialize(document).expect("a manifest"))
        .find(|object| object["kind"] == "PrometheusRule")
        .map(|mut object| object["spec"].take())
        .expect("a PrometheusRule")
}

/// Every query of every board, with where it is, as Grafana asks for one fleet and all of its regions.
fn queries(fleet: &Fleet) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let folder = operator::chart().join("dashboards");
    for file in std::fs::read_dir(&folder).expect("the boards").flatten() {
        let read = std::fs::read_to_string(file.path()).expect("a board");
        let board: Value = serde_json::from_str(&read).expect("JSON");
        for panel in list(&board["panels"]) {
            for target in list(&panel["targets"]) {
                let query = text(&target["expr"])
                    .replace("$__rate_interval", "30s")
                    .replace("$namespace", &fleet.namespace)
                    .replace("$fleet", &fleet.name)
                    .replace("$region", "a|b|c");
                assert!(!query.contains('$'), "a variable is left in {query}");
                all.push((
                    format!("{}: {}", text(&board["title"]), text(&panel["title"])),
                    query,
                ));
            }
        }
    }
    assert!(all.len() > 30, "only {} queries", all.len());
    all
}

/// Our metrics that an expression names.
fn named(expression: &str) -> BTreeSet<String> {
    expression
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("nj_"))
        .map(ToOwned::to_owned)
        .collect()
}

/// Every query gives a series with a number now; else where it is not so.
async fn all_shown(prometheus: &Prometheus, queries: &[(String, String)]) -> Result<(), String> {
    let mut empty = Vec::new();
    for (at, query) in queries {
        let series = prometheus.query(query).await?;
        if !series.iter().any(|one| text(&one["value"][1]) != "NaN") {
            empty.push(format!("{at}: {} series from {query}", series.len()));
        }
    }
    if empty.is_empty() {
        Ok(())
    } else {
        Err(format!("without a number:\n{}", empty.join("\n")))
    }
}

/// Every metric that a board or an alert names was scraped. After the faults: an operator at rest has written nothing, a fleet at rest
/// waits for nothing.
async fn assert_all_metrics_exist(
    prometheus: &Prometheus,
    queries: &[(String, String)],
    rules: &Value,
) {
    let alerts = list(&rules["groups"][0]["rules"]);
    let mut wanted: BTreeSet<String> = alerts
        .iter()
        .flat_map(|rule| named(&text(&rule["expr"])))
        .collect();
    wanted.extend(queries.iter().flat_map(|(_, query)| named(query)));
    for metric in NOT_HERE {
        assert!(wanted.remove(metric), "no alert names {metric}");
    }
    let known = prometheus.metrics().await.expect("names of metrics");
    wanted.retain(|metric| !known.contains(metric));
    assert!(wanted.is_empty(), "no such series: {wanted:?}");
}

/// Which of `names` fire for the fleet; an alert without a namespace is about the operators.
async fn firing(
    prometheus: &Prometheus,
    fleet: &Fleet,
    names: &[&str],
) -> Result<BTreeSet<String>, String> {
    prometheus.discover(fleet.cluster, fleet);
    let alerts = prometheus.alerts().await?;
    Ok(alerts
        .into_iter()
        .filter(|alert| alert.firing && names.contains(&alert.name.as_str()))
        .filter(|alert| alert.namespace.is_empty() || alert.namespace == fleet.namespace)
        .map(|alert| alert.name)
        .collect())
}

/// Waits until exactly all, or none, of `names` fire; says how long it took.
async fn wait_alerts(prometheus: &Prometheus, fleet: &Fleet, names: &[&str], fire: bool) {
    let began = Instant::now();
    let (what, limit) = if fire {
        ("fires", ALERTED)
    } else {
        ("is clear", limits::HEALED)
    };
    until(&format!("{names:?} {what}"), limit, async || {
        let found = firing(prometheus, fleet, names).await?;
        let done = if fire {
            found.len() == names.len()
        } else {
            found.is_empty()
        };
        done.then_some(())
            .ok_or_else(|| format!("firing: {found:?}"))
    })
    .await;
    measured(&format!(
        "Kubernetes: alert {} {what} after {:.1} s",
        names.join(", "),
        began.elapsed().as_secs_f64()
    ));
}

/// Operators that come back also when the test fails.
struct NoOperators {
    cluster: &'static Cluster,
    replicas: u64,
}

impl NoOperators {
    fn begin(cluster: &'static Cluster) -> NoOperators {
        let deployment = cluster.get(&["deployment", "-n", operator::NAMESPACE, operator::NAME]);
        let replicas = deployment["spec"]["replicas"].as_u64();
        let none = NoOperators {
            cluster,
            replicas: replicas.expect("a number of operators"),
        };
        none.scale(0).expect("operators can be scaled");
        none
    }

    fn scale(&self, replicas: u64) -> Result<String, String> {
        let deployment = format!("deployment/{}", operator::NAME);
        let replicas = format!("--replicas={replicas}");
        let namespace = operator::NAMESPACE;
        self.cluster
            .try_kubectl(&["scale", "-n", namespace, &deployment, &replicas])
    }
}

impl Drop for NoOperators {
    fn drop(&mut self) {
        if let Err(error) = self.scale(self.replicas) {
            eprintln!("no operator runs: {error}");
        }
    }
}

/// Series of a fleet that is gone would alert for ever: its last pass grows old.
async fn a_deleted_fleet_is_told_of_no_more(prometheus: &Prometheus, other: &Fleet) {
    let gone = Fleet::namespace(other.cluster, "monitoring");
    gone.apply(&FleetSpec::new(&["a"], 1));
    let told = format!("{{__name__=~\"nj_.+\", namespace=\"{}\"}}", gone.namespace);
    until("the new fleet is told of", limits::TOLD, async || {
        let series = prometheus.query(&told).await?;
        let pass = "nj_operator_last_success_timestamp_seconds";
        let found = series.iter().any(|one| one["metric"]["__name__"] == pass);
        found.then_some(()).ok_or_else(|| format!("{series:?}"))
    })
    .await;
    gone.delete();
    until(
        "nothing tells of it",
        limits::TOLD,
        async || match prometheus.query(&told).await?.as_slice() {
            [] => Ok(()),
            series => Err(format!("{series:?}")),
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_real_prometheus_shows_the_boards_and_alerts_of_real_faults() {
    let test = "monitoring";
    let Some(cluster) = cluster(test) else {
        return;
    };
    let Some(program) = prometheus::program() else {
        skipped(test, "no `prometheus` on PATH (Debian: prometheus)");
        return;
    };
    let three = shared::alone(cluster).await;
    let fleet = &three.fleet;
    let rules = rules(cluster);
    let prometheus = Prometheus::start(&program, &rules).await;
    prometheus.discover(cluster, fleet);

    let load = Load::start(test, &three.urls()).await;
    let queries = queries(fleet);
    // Subscribers of the load ask once; a person who opens an inbox asks now and then.
    let reader = Run::new("reader of the boards' test");
    let asked = BTreeSet::from(["0".repeat(64)]);
    let began = Instant::now();
    until("every query has series", SHOWN, async || {
        prometheus.discover(cluster, fleet);
        for url in three.urls() {
            reader.served(&url, &asked).await?;
        }
        let down = prometheus.unscraped().await?;
        if !down.is_empty() {
            return Err(format!("not scraped: {down:?}"));
        }
        all_shown(&prometheus, &queries).await
    })
    .await;
    measured(&format!(
        "Kubernetes: {} queries of the boards have series {:.1} s after the first message",
        queries.len(),
        began.elapsed().as_secs_f64()
    ));
    load.finish().await;

    // The only relay of the first region gets an image that is nowhere.
    let stopped = ["NightjarFleetWaiting", "NightjarRegionNotServing"];
    wait_alerts(&prometheus, fleet, &stopped, false).await;
    let mut spec = three.spec.clone();
    spec.relay_tag = "nope".to_owned();
    fleet.apply(&spec);
    wait_alerts(&prometheus, fleet, &stopped, true).await;
    fleet.apply(&three.spec);
    wait_alerts(&prometheus, fleet, &stopped, false).await;
    fleet.wait_calm(limits::HEALED).await;

    // Nobody leads, and a hand stops the NATS servers of a region: its relay says that it is not ready, and nothing heals it.
    let unhealed = ["NightjarOperatorDown", "NightjarRelayNotReady"];
    wait_alerts(&prometheus, fleet, &unhealed, false).await;
    let none = NoOperators::begin(cluster);
    wait_alerts(&prometheus, fleet, &unhealed[..1], true).await;
    let servers = format!("statefulset/{}-a-nats", fleet.name);
    fleet.kubectl(&["scale", &servers, "--replicas=0"]);
    wait_alerts(&prometheus, fleet, &unhealed, true).await;
    drop(none);
    wait_alerts(&prometheus, fleet, &unhealed, false).await;
    fleet.wait_calm(limits::HEALED).await;
    assert_all_metrics_exist(&prometheus, &queries, &rules).await;
    a_deleted_fleet_is_told_of_no_more(&prometheus, fleet).await;
}
