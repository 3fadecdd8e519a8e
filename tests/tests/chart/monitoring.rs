//! Alert rules, their runbooks, and the dashboards: whether they fit together, and whether each alert fires and clears.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use nightjar_tests::programs::root;
use nightjar_tests::report::skipped;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::helm::{chart, helm, kind, names_in, objects, read, rendered, text, tool};

/// What every runbook has, in this order.
const SECTIONS: [&str; 5] = [
    "## Meaning",
    "## Impact",
    "## Diagnosis",
    "## Mitigation",
    "## How it is tested",
];
/// Labels that a scrape adds, and that of a histogram's buckets.
const SCRAPED: [&str; 5] = ["namespace", "fleet", "region", "pod", "le"];
const RULES_ON: [&str; 2] = [
    "--set",
    "prometheusRule.enabled=true,prometheusRule.force=true",
];

fn alerts() -> Vec<String> {
    names_in(&chart().join("alerts"), ".yaml")
}

fn alert(name: &str) -> Value {
    let file = read(&chart().join("alerts").join(format!("{name}.yaml")));
    serde_yaml::from_str(&file).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn dashboards() -> Vec<(String, Value)> {
    names_in(&chart().join("dashboards"), ".json")
        .into_iter()
        .map(|name| {
            let file = read(&chart().join("dashboards").join(format!("{name}.json")));
            let board =
                serde_json::from_str(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, board)
        })
        .collect()
}

fn panels(board: &Value) -> &Vec<Value> {
    board["panels"].as_array().expect("panels")
}

fn queries(panel: &Value) -> Vec<&str> {
    let targets = panel["targets"].as_array().expect("targets");
    targets
        .iter()
        .map(|target| target["expr"].as_str().expect("a query"))
        .collect()
}

/// The groups of the PrometheusRule that the chart renders.
fn rules(program: &std::ffi::OsString, set: &str, more: &[&str]) -> Value {
    objects(&rendered(program, set, more))
        .into_iter()
        .find(|object| kind(object) == "PrometheusRule")
        .map(|mut object| object["spec"].take())
        .expect("a PrometheusRule")
}

fn promtool(program: &std::ffi::OsString, dir: &Path, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).current_dir(dir).output();
    output.expect("promtool starts")
}

fn assert_said_yes(output: &Output) {
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
fn every_alert_fires_and_clears() {
    let test = "alert rules";
    let (Some(helm), Some(program)) =
        (tool("NIGHTJAR_HELM", test), tool("NIGHTJAR_PROMTOOL", test))
    else {
        return;
    };
    let dir = TempDir::new().expect("a folder");
    let rules = serde_yaml::to_string(&rules(&helm, "minimal", &RULES_ON)).expect("YAML");
    std::fs::write(dir.path().join("rules.yaml"), rules).expect("a file");
    assert_said_yes(&promtool(
        &program,
        dir.path(),
        &["check", "rules", "rules.yaml"],
    ));

    let tests = chart().join("alerts/tests");
    assert_eq!(
        names_in(&tests, ".yaml"),
        alerts(),
        "one test for each alert"
    );
    for name in alerts() {
        let file = format!("{name}.yaml");
        let test = read(&tests.join(&file));
        let expected: Value = serde_yaml::from_str(&test).expect("YAML");
        let samples: Vec<bool> = expected["tests"][0]["promql_expr_test"]
            .as_array()
            .expect("checks")
            .iter()
            .map(|check| check["exp_samples"] != json!([]))
            .collect();
        assert!(
            samples.first() == Some(&false)
                && samples.contains(&true)
                && samples.last() == Some(&false),
            "{name}: its test must show it silent, firing, and silent again"
        );
        std::fs::write(dir.path().join(&file), test).expect("a file");
        assert_said_yes(&promtool(&program, dir.path(), &["test", "rules", &file]));
    }
}

#[test]
fn values_reach_the_alerts() {
    let Some(program) = tool("NIGHTJAR_HELM", "settings of alerts") else {
        return;
    };
    let rules = rules(&program, "everything", &[]);
    let rules = rules["groups"][0]["rules"].as_array().expect("rules");
    let mut names = alerts();
    names.retain(|name| name != "NightjarReconnectStorm");
    let rendered: Vec<&str> = rules
        .iter()
        .filter_map(|rule| rule["alert"].as_str())
        .collect();
    assert_eq!(rendered, names, "all but the excluded one");
    for rule in rules {
        let name = rule["alert"].as_str().expect("a name");
        assert_eq!(rule["labels"]["team"], "messaging", "{name}");
        let runbook = format!("https://runbooks.example.org/nightjar/{name}.md");
        assert_eq!(rule["annotations"]["runbook_url"], runbook);
        if name == "NightjarRegionUnreachable" {
            assert_eq!(rule["for"], "10s");
        }
    }

    let chart = chart().display().to_string();
    let wrong = [
        "template",
        "nightjar",
        &chart,
        RULES_ON[0],
        RULES_ON[1],
        "--set",
        "prometheusRule.excludeRules={NightjarNoSuch}",
    ];
    let output = helm(&program, &wrong);
    assert!(
        text(&output.stderr).contains("NightjarNoSuch, which is no alert"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn every_alert_has_what_a_person_needs_at_night() {
    let runbooks = root().join("docs/runbooks");
    let index = read(&runbooks.join("README.md"));
    let values: Value = serde_yaml::from_str(&read(&chart().join("values.yaml"))).expect("YAML");
    let settings = &values["prometheusRule"]["alerts"];
    let linked: String = dashboards()
        .iter()
        .map(|(_, board)| board.to_string())
        .collect();
    for name in alerts() {
        let alert = alert(&name);
        assert_eq!(alert["alert"], name.as_str());
        for annotation in ["summary", "description"] {
            let said = alert["annotations"][annotation]
                .as_str()
                .unwrap_or_default();
            assert!(said.len() > 20, "{name} has no {annotation}");
        }
        let severity = settings[&name]["severity"].as_str().unwrap_or_default();
        assert!(
            ["page", "ticket"].contains(&severity),
            "{name}: severity `{severity}`"
        );

        let page = read(&runbooks.join(format!("{name}.md")));
        assert!(
            page.starts_with(&format!("# {name}\n")),
            "{name}: title of the page"
        );
        let mut rest = page.as_str();
        for section in SECTIONS {
            let (_, after) = rest
                .split_once(&format!("\n{section}\n"))
                .unwrap_or_else(|| {
                    panic!("docs/runbooks/{name}.md lacks `{section}`, or it is out of order")
                });
            rest = after;
            let body = after.split("\n## ").next().unwrap_or_default().trim();
            assert!(body.len() > 20, "{name}: `{section}` says nothing");
        }
        let row = format!("| [{name}]({name}.md) | {severity} |");
        assert!(
            index.contains(&row),
            "docs/runbooks/README.md lacks `{row}`"
        );
        assert!(
            linked.contains(&format!("/{name}.md")),
            "no panel of any board links to the runbook of {name}"
        );
    }
    let mut pages = names_in(&runbooks, ".md");
    pages.retain(|page| page != "README");
    assert_eq!(pages, alerts(), "a runbook of no alert");
    let set: Vec<&String> = settings.as_object().expect("settings").keys().collect();
    assert_eq!(set.len(), alerts().len(), "settings of no alert: {set:?}");
}

#[test]
fn every_panel_says_what_it_shows() {
    let known: BTreeSet<String> = alerts().into_iter().collect();
    for (name, board) in dashboards() {
        assert_eq!(board["uid"], format!("nightjar-{name}"));
        assert!(board["tags"].to_string().contains("nightjar"), "{name}");
        let variables: Vec<&str> = board["templating"]["list"]
            .as_array()
            .expect("variables")
            .iter()
            .filter_map(|variable| variable["name"].as_str())
            .collect();
        assert_eq!(
            variables,
            ["datasource", "namespace", "fleet", "region", "runbooks"],
            "{name}"
        );
        assert!(
            (8..=12).contains(&panels(&board).len()),
            "{name}: {} panels",
            panels(&board).len()
        );
        let mut ids = BTreeSet::new();
        for panel in panels(&board) {
            let title = panel["title"].as_str().expect("a title");
            let at = format!("{name}, {title}");
            assert!(
                ids.insert(panel["id"].to_string()),
                "{at}: its id is another's too"
            );
            assert!(
                panel["description"]
                    .as_str()
                    .is_some_and(|said| said.len() > 20),
                "{at}: description"
            );
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{at}: unit"
            );
            assert!(!queries(panel).is_empty(), "{at}: queries");
            for source in [panel]
                .into_iter()
                .chain(panel["targets"].as_array().expect("targets"))
            {
                assert_eq!(
                    source["datasource"]["uid"], "${datasource}",
                    "{at}: fixed data source"
                );
            }
            for link in panel["links"].as_array().into_iter().flatten() {
                let url = link["url"].as_str().expect("a URL");
                let alert = url
                    .strip_prefix("${runbooks}/")
                    .and_then(|page| page.strip_suffix(".md"));
                assert!(
                    alert.is_some_and(|alert| known.contains(alert)),
                    "{at}: {url} is no runbook"
                );
            }
        }
    }
}

/// Metrics and their labels, from the tables of the reference.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    for page in ["metrics-operator", "metrics-relay"] {
        let path = root().join(format!("docs/reference/{page}.md"));
        let Ok(page) = std::fs::read_to_string(&path) else {
            continue;
        };
        for line in page.lines() {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, labels, _] = cells.as_slice() else {
                continue;
            };
            let name = name.trim_matches('`');
            if !name.starts_with("nj_") {
                continue;
            }
            // Names of labels stand between backticks, with their values behind them.
            let labels: BTreeSet<String> = labels
                .split('`')
                .skip(1)
                .step_by(2)
                .map(ToOwned::to_owned)
                .collect();
            let endings: &[&str] = match *kind {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            for ending in endings {
                known.insert(format!("{name}{ending}"), labels.clone());
            }
        }
    }
    known
}

/// The metrics that a query names, each with the labels that it is selected by.
fn selected(query: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find("nj_") {
        let inside = rest[..at].chars().next_back().is_some_and(is_name);
        let end = rest[at..]
            .find(|c| !is_name(c))
            .map_or(rest.len(), |end| at + end);
        let name = rest[at..end].to_owned();
        rest = &rest[end..];
        let matchers = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'))
            .map_or("", |(inner, _)| inner);
        let labels = matchers
            .split(", ")
            .filter_map(|matcher| {
                matcher
                    .find(['=', '!'])
                    .map(|end| matcher[..end].trim().to_owned())
            })
            .collect();
        if !inside {
            found.push((name, labels));
        }
    }
    found
}

/// Every query of alerts and boards, each with where it is.
fn all_queries() -> Vec<(String, String)> {
    let mut queries_of_all: Vec<(String, String)> = alerts()
        .iter()
        .map(|name| {
            (
                name.clone(),
                alert(name)["expr"]
                    .as_str()
                    .expect("an expression")
                    .to_owned(),
            )
        })
        .collect();
    for (name, board) in dashboards() {
        for panel in panels(&board) {
            for query in queries(panel) {
                queries_of_all.push((
                    format!("board {name}, {}", panel["title"]),
                    query.to_owned(),
                ));
            }
        }
    }
    queries_of_all
}

#[test]
fn every_metric_of_every_query_exists() {
    let known = documented();
    let relay_page = root().join("docs/reference/metrics-relay.md").is_file();
    if !relay_page {
        skipped(
            "metrics of relays in queries",
            "docs/reference/metrics-relay.md is not there",
        );
    }
    let mut unknown = BTreeSet::new();
    for (at, query) in all_queries() {
        let metrics = selected(&query);
        assert!(!metrics.is_empty(), "{at}: {query} names no metric of ours");
        for (metric, labels) in metrics {
            match known.get(&metric) {
                Some(has) => unknown.extend(
                    labels
                        .iter()
                        .filter(|label| !has.contains(*label) && !SCRAPED.contains(&label.as_str()))
                        .map(|label| format!("{at}: {metric} has no label {label}")),
                ),
                None if relay_page => {
                    unknown.insert(format!("{at}: {metric} is in no table of docs/reference"));
                }
                None => {}
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn every_query_of_the_boards_is_valid() {
    let Some(program) = tool("NIGHTJAR_PROMTOOL", "queries of the boards") else {
        return;
    };
    let mut recorded = Vec::new();
    for (name, board) in dashboards() {
        for panel in panels(&board) {
            for query in queries(panel) {
                // What Grafana puts in.
                let query = query
                    .replace("$__rate_interval", "1m")
                    .replace("$namespace", ".*")
                    .replace("$fleet", ".*")
                    .replace("$region", ".*");
                assert!(!query.contains('$'), "{name}: {query}");
                recorded.push(
                    json!({"record": format!("board:query{}", recorded.len()), "expr": query}),
                );
            }
        }
    }
    let dir = TempDir::new().expect("a folder");
    let rules = json!({"groups": [{"name": "boards", "rules": recorded}]}).to_string();
    std::fs::write(dir.path().join("rules.yaml"), rules).expect("a file");
    assert_said_yes(&promtool(
        &program,
        dir.path(),
        &["check", "rules", "rules.yaml"],
    ));
}

#[test]
fn boards_in_the_cluster_are_those_of_the_folder() {
    let Some(program) = tool("NIGHTJAR_HELM", "boards in the cluster") else {
        return;
    };
    let base = "https://runbooks.example.org/nightjar";
    let mut seen = 0;
    for object in objects(&rendered(&program, "everything", &[])) {
        if kind(&object) != "ConfigMap" {
            continue;
        }
        assert_eq!(object["metadata"]["labels"]["grafana_dashboard"], "1");
        assert_eq!(object["metadata"]["namespace"], "monitoring");
        for (file, board) in object["data"].as_object().expect("data") {
            let board: Value = serde_json::from_str(board.as_str().expect("text")).expect("JSON");
            let (_, mut original) = dashboards()
                .into_iter()
                .find(|(name, _)| *file == format!("nightjar-{name}.json"))
                .expect("a board of that name");
            original["templating"]["list"][4]["query"] = json!(base);
            assert_eq!(board, original, "{file}");
            seen += 1;
        }
    }
    assert_eq!(seen, dashboards().len());
}

#[test]
fn the_scrape_configuration_of_the_docs_is_valid() {
    let Some(program) = tool("NIGHTJAR_PROMTOOL", "scrape configuration of the docs") else {
        return;
    };
    let page = read(&root().join("docs/how-to/monitoring.md"));
    let configuration = page
        .split("```yaml\n")
        .filter_map(|block| block.split_once("```").map(|(block, _)| block))
        .find(|block| block.contains("scrape_configs:"))
        .expect("a scrape configuration")
        // Debian builds Prometheus without discovery through Kubernetes; all the rest is checked.
        .replace("kubernetes_sd_configs: [{role: pod}]", "static_configs: []");
    let dir = TempDir::new().expect("a folder");
    std::fs::write(dir.path().join("prometheus.yaml"), configuration).expect("a file");
    std::fs::write(dir.path().join("nightjar-rules.yaml"), "groups: []\n").expect("a file");
    assert_said_yes(&promtool(
        &program,
        dir.path(),
        &["check", "config", "prometheus.yaml"],
    ));
}
