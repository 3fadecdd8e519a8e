//! The Helm chart as users get it: objects, values, alerts, runbooks, dashboards. Needs no cluster.
//!
//! Each tool comes in an environment variable that `cargo xtask test` sets; a test whose tool is missing says so.

mod helm;
mod manifests;
mod monitoring;
