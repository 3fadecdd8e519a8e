//! NIP-01 filters: parsing and matching.
