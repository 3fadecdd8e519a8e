//! Reload of the configuration on SIGHUP or file change.
