//! Sessions over real sockets: a public port on port 0, a real index in a temporary folder. Only the log is left out: the
//! publisher of these tests applies straight to the index, as the log's publisher does after its acknowledgement.

mod bad_input;
mod count;
mod doors;
mod harness;
mod lifecycle;
mod limits;
mod private_reads;
mod publish;
mod reconciliation;
mod reload;
mod subscriptions;
mod work;
