//! The file that the operator writes for each relay and the relay reads. Pure: text in, settings out; nothing here opens a file.
//!
//! Every setting, with unit, range and default, is in `docs/reference/relay-config.md`.

mod admission;
mod check;
mod limits;
mod relay;
mod senders;
#[cfg(test)]
mod tests;

pub use admission::AdmissionConfig;
pub use limits::Limits;
pub use relay::{
    ConfigError, FleetRef, IndexConfig, LogConfig, NatsClient, RegionLog, RelayConfig, RelayInfo,
    TracingConfig,
};
pub use senders::{AuthRequired, FirstContact, GiftWrapAdmission, KeyBudget, TrustConfig};
