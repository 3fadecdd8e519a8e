//! What a run found, as JSON and as tables.

use std::fmt::Write as _;

use serde::Serialize;

use super::latency::Summary;
use super::machine::Machine;
use super::process::Usage;

/// All figures of one run of the program.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `deliver`, `ingest`, `query`, `fanout`, `oracle` or `idle`.
    pub mode: &'static str,
    /// Unix time at which it began, in seconds.
    pub began: u64,
    /// Where.
    pub machine: Machine,
    /// The figures.
    pub rows: Vec<Row>,
}

/// One figure with everything it was measured under.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    /// The fleet or peer.
    pub target: String,
    /// What its OK means.
    pub durability: String,
    /// What was measured.
    pub what: String,
    /// The load.
    pub load: String,
    /// How many a second were answered or delivered.
    pub per_second: Option<f64>,
    /// How long each took.
    pub latency: Option<Summary>,
    /// How many never came.
    pub missing: Option<usize>,
    /// Memory of the relay, in MiB, where that is what was measured.
    pub memory_mib: Option<f64>,
    /// What the processes used meanwhile.
    pub usage: Vec<Usage>,
}

const HEADINGS: [&str; 10] = [
    "target", "what", "load", "per s", "p50 ms", "p95 ms", "p99 ms", "max ms", "missing", "MiB",
];

impl Report {
    /// The figures, then CPU and memory of each process of each row.
    #[must_use]
    pub fn tables(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "nightjar-bench {} at commit {}\n{} cores ({}), {} MiB, Linux {}, {}\n",
            self.mode,
            machine.commit,
            machine.cores,
            machine.cpu,
            machine.memory_mib,
            machine.kernel,
            machine.nats_server
        );
        if let Some(disk) = machine.fdatasync {
            writeln!(
                text,
                "4 KiB and fdatasync: p50 {} ms, p99 {} ms",
                disk.p50_ms, disk.p99_ms
            )
            .ok();
        }
        text.push('\n');
        let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
        rows.extend(self.rows.iter().map(Row::cells));
        text.push_str(&table(&rows));
        for row in self.rows.iter().filter(|row| !row.usage.is_empty()) {
            writeln!(text, "\n{}: {}, {}", row.target, row.what, row.load).ok();
            let mut rows = vec![
                ["process", "cores", "resident MiB", "anonymous MiB"]
                    .map(str::to_owned)
                    .to_vec(),
            ];
            rows.extend(row.usage.iter().map(|usage| {
                vec![
                    usage.name.clone(),
                    format!("{:.3}", usage.cores),
                    usage.resident_mib.to_string(),
                    usage.anonymous_mib.to_string(),
                ]
            }));
            text.push_str(&table(&rows));
        }
        text
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let number = |value: Option<f64>, decimals: usize| {
            value.map_or_else(String::new, |value| format!("{value:.decimals$}"))
        };
        let latency = |pick: fn(&Summary) -> f64| number(self.latency.as_ref().map(pick), 2);
        vec![
            self.target.clone(),
            self.what.clone(),
            self.load.clone(),
            number(self.per_second, 0),
            latency(|summary| summary.p50_ms),
            latency(|summary| summary.p95_ms),
            latency(|summary| summary.p99_ms),
            latency(|summary| summary.max_ms),
            self.missing
                .map_or_else(String::new, |missing| missing.to_string()),
            number(self.memory_mib, 1),
        ]
    }
}

/// Columns as wide as their widest cell; the first three are text, the others numbers.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let text_columns = if columns > 4 { 3 } else { 1 };
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(at, (cell, width))| {
                if at < text_columns {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            })
            .collect();
        writeln!(text, "{}", line.join("  ").trim_end()).ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["process", "cores", "a", "b"], ["x", "0.5", "1", "22"]]
            .map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            table(&rows),
            "process  cores  a   b\nx          0.5  1  22\n"
        );
    }

    #[test]
    fn a_row_without_a_figure_leaves_its_cell_empty() {
        let row = Row {
            target: "t".to_owned(),
            memory_mib: Some(12.34),
            ..Row::default()
        };
        let cells = row.cells();
        assert_eq!(cells.len(), HEADINGS.len());
        assert_eq!((cells[3].as_str(), cells[9].as_str()), ("", "12.3"));
    }
}
