//! The operator on Kubernetes: dereference, validate, plan, build, apply, status. Only `dereference`, `secrets`, `apply`, `status` and
//! what watches NATS do I/O; the rest is pure.

mod addresses;
mod apply;
pub mod build;
mod controller;
mod deletion;
mod dereference;
mod differs;
mod disks;
mod error;
mod events;
mod health;
mod images;
mod lease;
mod leaving;
mod locked_out;
mod material;
mod metrics;
mod metrics_table;
pub mod names;
mod pass;
mod pods;
mod record;
mod region_watch;
mod relay_tls;
mod restarts;
mod rollout;
mod run;
mod secrets;
mod sightings;
mod status;
mod stream_waits;

pub use addresses::ClusterAddresses;
pub use lease::LeaseTerms;
pub use metrics_table::{TABLE as METRICS, reference_markdown as metrics_markdown};
pub use names::Names;
pub use restarts::{Group, restarts};
pub use run::{RunError, RunOptions, run};
