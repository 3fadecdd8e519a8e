//! Who reads much does not hold up who reads little.

use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use super::harness::Relay;
use crate::session::Lane;
use crate::session::turns::{BURST, ReadTurns};
use crate::socket::Timings;

/// A slice that takes a thread until it is released.
fn hold(relay: &Relay, turns: &ReadTurns, lane: Lane) -> (mpsc::Sender<()>, JoinHandle<()>) {
    let (release, held) = mpsc::channel();
    let (services, turns) = (relay.services.clone(), turns.clone());
    let slice = async move {
        let read = move || held.recv().is_err();
        assert!(turns.run(&services, lane, read).await.expect("read"));
    };
    (release, tokio::spawn(slice))
}

/// The same, once it has the thread.
async fn hold_a_thread(relay: &Relay, turns: &ReadTurns) -> (mpsc::Sender<()>, JoinHandle<()>) {
    let free = relay.services.reads.free();
    let held = hold(relay, turns, Lane::First);
    relay
        .until("a thread is taken", |services| {
            services.reads.free() == free - 1
        })
        .await;
    held
}

/// A REQ of another connection is answered.
async fn serve_another(relay: &Relay) {
    let mut client = relay.client().await;
    client.read("s", &[json!({})]).await.expect("EOSE");
}

#[tokio::test]
async fn a_small_read_does_not_wait_for_big_ones() {
    let relay = Relay::start().await;
    let threads = relay.services.reads.free();
    // Many more big reads than threads, each of a connection of its own, all past their first slice.
    let big: Vec<_> = (0..threads * 3)
        .map(|_| hold(&relay, &ReadTurns::new(), Lane::Further))
        .collect();
    relay
        .until("big reads have all they can get", |services| {
            services.reads.free() == 1
        })
        .await;
    let mut client = relay.client().await;
    client
        .read("small", &[json!({"kinds": [1]})])
        .await
        .expect("EOSE");
    assert_eq!(client.count("c", &[json!({})]).await, Ok(0));
    for (release, task) in big {
        drop(release);
        task.await.expect("a slice");
    }
}

#[tokio::test]
async fn a_connection_reads_with_one_thread() {
    let relay = Relay::start().await;
    let threads = relay.services.reads.free();
    let turns = ReadTurns::new();
    let (release, task) = hold_a_thread(&relay, &turns).await;
    let (other_release, other) = hold(&relay, &turns, Lane::First);
    // Others are served meanwhile.
    serve_another(&relay).await;
    assert_eq!(relay.services.reads.free(), threads - 1);
    drop(release);
    task.await.expect("a slice");
    drop(other_release);
    other.await.expect("the next slice");
}

#[tokio::test]
async fn who_gave_up_a_read_still_pays_for_its_slice() {
    let relay = Relay::start().await;
    let turns = ReadTurns::new();
    let (release, task) = hold_a_thread(&relay, &turns).await;
    task.abort();
    let (next_release, next) = hold(&relay, &turns, Lane::First);
    drop(next_release);
    // Whoever comes later has been served, and the slice of the same connection has not begun.
    serve_another(&relay).await;
    assert!(!next.is_finished());
    drop(release);
    next.await.expect("the next slice");
}

#[tokio::test]
async fn who_has_read_for_long_enough_waits_and_is_not_refused() {
    let relay = Relay::start_with(
        |config| config.limits.read_percent_per_connection = 100,
        Timings::default(),
    )
    .await;
    let turns = ReadTurns::new();
    turns.take(BURST + Duration::from_millis(50));
    let answer = turns
        .run(&relay.services, Lane::First, || "an answer")
        .await;
    assert_eq!(answer.ok(), Some("an answer"));
    assert_eq!(relay.services.metrics.reads_paced.get(), 1);
    let fresh = ReadTurns::new();
    let answer = fresh.run(&relay.services, Lane::First, || "another").await;
    assert_eq!(answer.ok(), Some("another"));
    assert_eq!(
        relay.services.metrics.reads_paced.get(),
        1,
        "others do not wait"
    );
}
