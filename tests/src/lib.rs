//! What the tests that cross crates share: a fleet of real processes, clients that share no code with ours, load, reports.
//!
//! One fleet for each file of `tests/`: it is some 15 processes. `cargo xtask test` builds the programs first, finds
//! nats-server, and runs the files one after another. Everything listens on loopback, but for the tests on Kubernetes.

pub mod bench;
pub mod cli;
pub mod event;
pub mod fleet;
pub mod interop;
pub mod kubernetes;
pub mod load;
pub mod mirror;
pub mod nats;
pub mod programs;
pub mod report;
pub mod socket;
pub mod tls;
pub mod wait;
pub mod wire;
pub mod yaml;
