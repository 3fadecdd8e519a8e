//! The reference page of the metrics, made from what a relay shows. `nightjar-relay --metrics-docs` prints it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use super::Metrics;
use super::state::{KeyFigures, ReadinessMetrics};
use crate::http::{CertificateMetrics, TlsMetrics};
use crate::index::IndexStats;
use crate::index_metrics::IndexFigures;
use crate::log::{LogMetrics, Readiness};
use crate::plugin::PluginMetrics;

const TOP: &str = "\
# Metrics of a relay

`/metrics` on the relay's `admin` port, OpenMetrics text. This page is made from the code by `cargo xtask generate`.

Every series is there from the start, at zero, so that a rate over it is right from the first minute; what belongs to a stream or
a region comes and goes with it. Labels hold the words listed here, names of streams and regions, and numbers of key epochs: never a key, an id
or an address. Times are in seconds, sizes in bytes. A histogram has the series `_bucket` (with the label `le`), `_sum` and `_count`.

| Name | Type | Labels | Meaning |
| --- | --- | --- | --- |
";

/// Labels whose values come from the configuration, and what they are.
const OPEN_LABELS: [(&str, &str); 4] = [
    ("stream", "name of a stream"),
    ("from", "name of a region"),
    ("epoch", "number of a key epoch"),
    ("version", "version"),
];

/// One metric as the text shows it.
#[derive(Debug, Default)]
struct Row {
    kind: String,
    help: String,
    /// The labels as they came, and their values; these come in another order each time.
    labels: Vec<(String, BTreeSet<String>)>,
}

/// The page, in Markdown.
///
/// # Errors
/// When the metrics cannot be written as text.
pub fn reference_markdown() -> Result<String, fmt::Error> {
    let metrics = Metrics::new();
    metrics.register(|registry| {
        registry.register_collector(Box::new(ReadinessMetrics(Readiness::default())));
        registry.register_collector(Box::new(KeyFigures::default()));
        registry.register_collector(Box::new(IndexFigures(IndexStats::default())));
        LogMetrics::register(registry).show_all();
        CertificateMetrics::register(registry);
        TlsMetrics::register(registry);
        PluginMetrics::register(registry);
    });
    let mut page = TOP.to_owned();
    for (name, row) in rows(&metrics.encode()?) {
        let labels: Vec<String> = row.labels.iter().map(describe).collect();
        let labels = labels.join("; ");
        writeln!(
            page,
            "| `{name}` | {} | {labels} | {} |",
            row.kind, row.help
        )?;
    }
    Ok(page)
}

fn describe((label, values): &(String, BTreeSet<String>)) -> String {
    match OPEN_LABELS.iter().find(|(open, _)| open == label) {
        Some((_, what)) => format!("`{label}`: {what}"),
        None => {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            format!("`{label}`: {}", values.join(", "))
        }
    }
}

/// The metrics by the name their series have; histograms by the name without its endings.
fn rows(text: &str) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let (mut name, mut row) = (String::new(), Row::default());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (of, help) = help.split_once(' ').unwrap_or((help, ""));
            (name, row) = (of.to_owned(), Row::default());
            row.help = help.trim_end_matches('.').to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            row.kind = kind.rsplit(' ').next().unwrap_or_default().to_owned();
        } else if !line.starts_with('#') {
            let series = line.split([' ', '{']).next().unwrap_or_default();
            let shown = if row.kind == "histogram" {
                &name
            } else {
                series
            };
            let known = rows.entry(shown.to_owned()).or_insert_with(|| Row {
                kind: row.kind.clone(),
                help: row.help.clone(),
                labels: Vec::new(),
            });
            note_labels(known, line);
        }
    }
    rows
}

/// Values are words, names and numbers, so that nothing in them needs to be told from the text's own signs.
fn note_labels(row: &mut Row, line: &str) {
    let Some((_, labels)) = line.split_once('{') else {
        return;
    };
    let (labels, _) = labels.split_once('}').unwrap_or((labels, ""));
    for label in labels.split(',') {
        let Some((name, value)) = label.split_once('=') else {
            continue;
        };
        if name == "le" {
            continue;
        }
        let value = value.trim_matches('"').to_owned();
        match row.labels.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => drop(values.insert(value)),
            None => row.labels.push((name.to_owned(), BTreeSet::from([value]))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_sort_of_metric_with_its_labels() {
        let page = reference_markdown().expect("a page");
        assert_eq!(page, reference_markdown().expect("the same page"));
        for line in [
            "| `nj_ws_connections` | gauge |  | Open WebSocket connections |",
            "| `nj_reads_refused_total` | counter | `door`: arrival, count, live, neg, req, stored | ",
            "| `nj_build_info` | info | `version`: version | ",
            "| `nj_admission_stage_seconds` | histogram | `stage`: publish, queue, verify | ",
            "| `nj_log_unknown_epoch` | gauge | `stream`: name of a stream; `epoch`: number of a key epoch | ",
            "| `nj_delivery_seconds` | histogram | `from`: name of a region | ",
            "| `nj_index_used_bytes` | gauge | ",
            "| `nj_ready` | gauge | ",
            "| `nj_plugin_failures_total` | counter | `plugin`: read, write; `reason`: down, exit, full, nonsense, timeout | ",
        ] {
            assert!(
                page.lines().any(|found| found.starts_with(line)),
                "{line}\n{page}"
            );
        }
        assert!(
            page.lines()
                .filter(|line| line.contains("` | "))
                .all(|line| line.starts_with("| `nj_"))
        );
    }
}
