//! The benchmark program's parts: load that keeps its schedule, figures of latency, CPU and memory, and what they are measured on.
//!
//! Rules that every mode keeps: events are signed before the clock starts; TCP_NODELAY on every connection; open-loop latency
//! counts from the time an event was due, so that a slow relay cannot slow down the load that measures it; the load generator
//! runs on the same cores as what it measures, and says how much CPU it took itself.

pub mod connection;
pub mod deliver;
pub mod fanout;
pub mod hold;
pub mod idle;
pub mod ingest;
pub mod latency;
pub mod machine;
pub mod options;
pub mod oracle;
pub mod process;
pub mod publish;
pub mod query;
pub mod report;
pub mod schedule;
pub mod target;
