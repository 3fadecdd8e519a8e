//! Client and relay messages of NIP-01 and NIP-42.
