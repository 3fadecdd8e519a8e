//! The operator on a real Kubernetes: what a platform team was promised, one test each. Skipped, with the reason, without a cluster.

mod first_use;
