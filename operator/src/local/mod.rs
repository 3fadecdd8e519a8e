//! Places a fleet plan on this machine as child processes.
