//! The file that the operator writes for each relay and the relay reads. Pure: text in, settings out; nothing here opens a file.
//!
//! Every setting, with unit, range and default, is in `docs/reference/relay-config.md`.

mod admission;
mod check;
mod limits;
mod plugins;
mod relay;
mod senders;
#[cfg(test)]
mod tests;

pub use admission::{AdmissionConfig, KindAccess, ManagementConfig, WriteAccess};
pub use check::check_origin;
/// A network in CIDR notation, as `10.0.0.0/8`.
pub use ipnet::IpNet;
pub use limits::Limits;
pub use plugins::{OnFailure, Plugin, Plugins};
pub use relay::{
    ConfigError, FleetRef, IndexConfig, LogConfig, NatsClient, RegionLog, RelayConfig, RelayInfo,
    TlsFiles, TracingConfig,
};
pub use senders::{AuthRequired, FirstContact, GiftWrapAdmission, KeyBudget, TrustConfig};
