//! Sessions over real sockets: a public port on port 0, a real index in a temporary folder. Only the log is left out: the
//! publisher of these tests applies straight to the index, as the log's publisher does after its acknowledgement.

mod auth_required;
mod bad_input;
mod calls;
mod contact;
mod count;
mod cursor;
mod doors;
mod fairness;
mod front;
mod harness;
mod key_budget;
mod lifecycle;
mod limits;
mod management;
mod management_refusals;
mod plugin_disclosure;
mod plugin_examples;
mod plugin_faults;
mod plugin_program;
mod plugin_reads;
mod plugin_writes;
mod private_reads;
mod publish;
mod reconciliation;
mod reload;
mod subscriptions;
mod tls;
mod trust;
mod work;
