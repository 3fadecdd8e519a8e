//! The public HTTP port: WebSocket upgrade and NIP-11.
