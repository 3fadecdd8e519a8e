//! Two thousand clients at a time that ask for anything, send nonsense, read or do not read, and leave in the middle of a word: nothing
//! of them stays. A process of its own: open files, tasks and memory are counted for all of it.

mod client;
mod relay;

use std::time::Duration;

use peak_alloc::PeakAlloc;
use relay::{Left, Relay};
use rustix::process::{Resource, getrlimit};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const CONNECTIONS: usize = 2_000;
/// Bytes that may be in use more than before, after so many clients: less than a tenth of a kilobyte for each. Some is kept on purpose, such as the ids of
/// the latest events.
const GROWTH: usize = 192 * 1024;
const SOON: Duration = Duration::from_secs(20);

#[test]
fn two_thousand_clients_that_leave_without_a_word_leave_nothing_behind() {
    let long = std::env::var_os("NIGHTJAR_LONG").is_some();
    let rounds = if long { 20 } else { 3 };
    let relay = Relay::start();
    let clients = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    // Each connection is two open files, both of this process.
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(
        files > 2 * CONNECTIONS as u64 + 200,
        "{files} open files are too few for this test: raise the hard limit (ulimit -Hn)"
    );
    let idle = relay.idle();
    assert_eq!(idle.gauges, Left::NO_GAUGES);
    let mut memory = Vec::new();
    for round in 0..rounds {
        let most = clients.block_on(client::storm(relay.address(), CONNECTIONS, round));
        assert_eq!(most, CONNECTIONS, "all were connected at the same time");
        let left = relay.until(&idle, SOON);
        assert_eq!(left, idle, "after round {round}");
        memory.push(MEMORY.current_usage());
    }
    clients.shutdown_timeout(SOON);
    // The first round pays for what is kept for the next.
    let grown = memory[rounds as usize - 1].saturating_sub(memory[1.min(rounds as usize - 2)]);
    assert!(grown < GROWTH, "{memory:?}");
    assert!(relay.stored() > 0, "events were published meanwhile");
    assert_eq!(relay.stop(), 0, "tasks after the relay has ended");
}
