//! The read door: one function decides who may read an event.
