//! The admin port: `/healthz`, `/readyz`, `/metrics`.
