//! What the tests on a real Kubernetes share: the cluster through `kubectl`, the operator, fleets, load, and times.
//!
//! Every object made here is labelled `nightjar.dev/test`; namespaces of fleets go when their fleet is dropped. One fleet of three
//! regions is shared by the tests that leave it as they found it.

pub mod cluster;
pub mod faulty_api;
pub mod fleet;
pub mod limits;
pub mod load;
pub mod operator;
pub mod shared;

pub mod turn;
pub mod watch;

pub use cluster::Cluster;
pub use fleet::{Fleet, FleetSpec};
