//! The operator on a real Kubernetes: what a platform team was promised, one test each. Skipped, with the reason, without a cluster.

mod api_server;
mod at_rest;
mod data;
mod drain;
mod edits;
mod faults;
mod first_use;
mod front;
mod growth;
mod monitoring;
mod operators;
mod plugins;
mod rollout;
mod rules;
