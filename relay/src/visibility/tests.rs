//! Tests of the read door.
