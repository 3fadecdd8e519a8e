//! The operator: one `RelayCluster` becomes a plan, and the plan becomes running NATS servers, hubs and relays.
//!
//! `crd` and `validate` say what may be asked for, `plan` says exactly what it means (pure: no clock, no socket, no file),
//! `streams`, `pki` and `local` make it so. Only those three do I/O, and `keys`, which backs up what `pki` keeps.

pub mod cluster;
pub mod crd;
pub mod keys;
pub mod local;
pub mod pki;
pub mod plan;
pub mod streams;
pub mod validate;
