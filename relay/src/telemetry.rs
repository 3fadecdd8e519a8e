//! Tracing output and export.
