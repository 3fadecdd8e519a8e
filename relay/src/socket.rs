//! The WebSocket: frames in, bytes out.
