//! The index: a cache of the log in LMDB, with the log position in the same transaction.
