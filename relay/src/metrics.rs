//! Metrics of the relay, all named `nj_*`.
