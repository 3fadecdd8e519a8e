//! The keys of a fleet: certificate authorities, nkeys, and custody of the keyring.
