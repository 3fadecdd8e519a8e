//! The NIP-11 relay information document.
