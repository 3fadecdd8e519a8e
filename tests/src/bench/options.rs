//! The command line of the benchmark program.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Measures a Nightjar fleet, and a peer relay beside it, on this machine.
///
/// Built in release mode and started by `cargo xtask bench`. Every run is its own fleet in a folder that is removed by the next
/// run. Figures of different machines, or of different runs, do not compare.
#[derive(Debug, Parser)]
#[command(name = "nightjar-bench", version)]
pub struct Options {
    /// What to measure.
    #[command(subcommand)]
    pub mode: Mode,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Mode {
    /// From the time a gift wrap is due to its arrival at subscribers of the same and of other regions, at a steady rate.
    Deliver {
        /// Gift wraps a second, all into region a.
        #[arg(long, default_value_t = 100.0)]
        rate: f64,
        /// How long, in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// What every mode takes.
        #[command(flatten)]
        common: Common,
    },
    /// Events a second with OK, and the time to OK: saturated (each connection waits for OK), then at a steady rate.
    Ingest {
        /// Connections of one run; each number is a run.
        #[arg(long, value_delimiter = ',', default_value = "8,64")]
        connections: Vec<usize>,
        /// How long each part takes at most, in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// Events that are signed for each part, at most.
        #[arg(long, default_value_t = 40_000)]
        events: usize,
        /// Steady rate, as a share of the saturated one.
        #[arg(long, default_value_t = 0.5)]
        share: f64,
        /// What every mode takes.
        #[command(flatten)]
        common: Common,
    },
    /// REQs of 100 stored events: saturated (each connection waits for EOSE), then at a steady rate.
    Query {
        /// Connections.
        #[arg(long, default_value_t = 8)]
        connections: usize,
        /// Authors with 100 events each.
        #[arg(long, default_value_t = 100)]
        authors: usize,
        /// How long each part takes, in seconds.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
        /// Steady rate, as a share of the saturated one.
        #[arg(long, default_value_t = 0.5)]
        share: f64,
        /// What every mode takes.
        #[command(flatten)]
        common: Common,
    },
    /// One event to many live subscribers of one relay: all of them want it, then one.
    Fanout {
        /// Connections with a subscription each.
        #[arg(long, default_value_t = 10_000)]
        subscribers: usize,
        /// Events, one after the other.
        #[arg(long, default_value_t = 20)]
        events: usize,
        /// What every mode takes.
        #[command(flatten)]
        common: Common,
    },
    /// Whether the time of an answer tells a stranger that a hidden event exists. Run it alone on the machine.
    Oracle {
        /// Hidden events, each asked for beside an id of nothing.
        #[arg(long, default_value_t = 10_000)]
        pairs: usize,
        /// How often.
        #[arg(long, default_value_t = 3)]
        runs: usize,
        /// What every mode takes.
        #[command(flatten)]
        common: Common,
    },
    /// Memory of an idle relay, and of idle connections.
    Idle {
        /// Connections that are opened, 1,000 at a time, on one relay.
        #[arg(long, default_value_t = 5_000)]
        connections: usize,
        /// Then so many on a fleet of six relays, held by processes of their own. 0: not at all.
        #[arg(long, default_value_t = 0)]
        fleet_connections: usize,
        /// What every mode takes.
        #[command(flatten)]
        common: Common,
    },
    /// Holds idle connections until its standard input ends. Started by `idle`.
    #[command(hide = true)]
    Hold {
        /// The relay.
        #[arg(long)]
        url: String,
        /// How many.
        #[arg(long)]
        connections: usize,
        /// Last part of the loopback address they come from.
        #[arg(long)]
        source: u8,
        /// What every mode takes.
        #[command(flatten)]
        common: Common,
    },
}

/// What every mode takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Fleets to measure, all if left out. Names as in the output, as `one-region-r1`.
    #[arg(long, value_delimiter = ',')]
    pub fleets: Option<Vec<String>>,
    /// Measure this relay too, in the same run (`ws://127.0.0.1:PORT`). Started by --peer-command, or already there.
    #[arg(long, value_name = "URL")]
    pub peer_url: Option<String>,
    /// Starts the peer: a shell command; {dir} is an empty folder for its data.
    #[arg(long, value_name = "COMMAND", requires = "peer_url")]
    pub peer_command: Option<String>,
    /// What to call the peer.
    #[arg(long, value_name = "NAME", default_value = "peer")]
    pub peer_name: String,
    /// Also write everything as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// JSON instead of tables on stdout.
    #[arg(long)]
    pub json: bool,
}

impl Mode {
    /// What every mode takes.
    #[must_use]
    pub fn common(&self) -> &Common {
        match self {
            Self::Deliver { common, .. }
            | Self::Ingest { common, .. }
            | Self::Query { common, .. }
            | Self::Fanout { common, .. }
            | Self::Hold { common, .. }
            | Self::Oracle { common, .. }
            | Self::Idle { common, .. } => common,
        }
    }

    /// The mode's name, as typed.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Deliver { .. } => "deliver",
            Self::Ingest { .. } => "ingest",
            Self::Query { .. } => "query",
            Self::Fanout { .. } => "fanout",
            Self::Idle { .. } => "idle",
            Self::Hold { .. } => "hold",
            Self::Oracle { .. } => "oracle",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }
}
