//! Clients that we did not write exchange NIP-17 messages with the CLI, in both directions, each connected to another region; they count,
//! reconcile and delete what is theirs. And schemas that we did not write hold for what a relay says.

mod schemata;

use std::time::Duration;

use nightjar_tests::cli::Home;
use nightjar_tests::fleet::{Fleet, Shared};
use nightjar_tests::interop::{ForeignClient, Library};
use nightjar_tests::socket::Socket;
use nightjar_tests::wait::until;
use nightjar_tests::yaml;
use serde_json::json;

static FLEET: Shared = Shared::new();

async fn fleet() -> &'static Fleet {
    FLEET
        .get("interop", &yaml::fleet(&["a", "b", "c"], 1))
        .await
}

/// The CLI's person lives in region a, the foreign client in another region.
async fn check(test: &str, library: Library, region: &str) {
    let fleet = fleet().await;
    let Some(mut foreign) = ForeignClient::start(library, &fleet.relay(region), test) else {
        return;
    };
    let home = Home::new(fleet.dir(), test);
    let alice = home.make_key("alice", &fleet.relay("a"));

    home.send(
        "alice",
        &foreign.pubkey,
        &fleet.relay("a"),
        "to the foreign client: żółw 🐢",
    );
    assert_eq!(
        foreign.received(),
        (alice.clone(), "to the foreign client: żółw 🐢".to_owned())
    );

    foreign.send(&alice, "to the CLI: ćma 🦋\nsecond line");
    let (from, text) = until(
        &format!("{test}: the message in the CLI's inbox"),
        Duration::from_secs(60),
        async || {
            let inbox = home.inbox("alice");
            let found = inbox.into_iter().find(|(from, _)| *from == foreign.pubkey);
            found.ok_or_else(|| "no message yet".to_owned())
        },
    )
    .await;
    assert_eq!(
        (from, text.as_str()),
        (foreign.pubkey.clone(), "to the CLI: ćma 🦋\nsecond line")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nostr_tools_and_the_cli_exchange_messages() {
    check("nostr-tools", Library::NostrTools, "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn monstr_and_the_cli_exchange_messages() {
    check("monstr", Library::Monstr, "c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nostr_tools_counts_and_reconciles_its_wraps() {
    let test = "nostr-tools-sync";
    let fleet = fleet().await;
    let Some(mut foreign) = ForeignClient::start(Library::NostrTools, &fleet.relay("b"), test)
    else {
        return;
    };
    let home = Home::new(fleet.dir(), test);
    home.make_key("alice", &fleet.relay("a"));
    let mut wraps = Vec::new();
    for number in 0..3 {
        let text = format!("number {number}");
        home.send("alice", &foreign.pubkey, &fleet.relay("b"), &text);
        wraps.push(foreign.received_wrap());
    }
    let mine = json!({"kinds": [1059], "#p": [foreign.pubkey]});
    assert_eq!(foreign.count(std::slice::from_ref(&mine)), json!(3));
    assert_eq!(
        foreign.count(&[mine.clone(), json!({"kinds": [1059]})]),
        json!(3),
        "each once, and nobody else's"
    );

    let unknown = json!(["ab".repeat(32), wraps[0][1]]);
    let known = [wraps[0].clone(), unknown.clone(), wraps[2].clone()];
    let missing = foreign.sync(&mine, &known).expect("an answer");
    assert_eq!(missing["have"], json!([unknown[0]]));
    assert_eq!(missing["need"], json!([wraps[1][0]]));
    let missing = foreign.sync(&mine, &wraps).expect("an answer");
    assert_eq!(
        (&missing["have"], &missing["need"]),
        (&json!([]), &json!([]))
    );
}

/// The recipient of a wrap deletes it, and a note of its own; what others hold against it stays.
async fn check_deletion(test: &str, library: Library, region: &str) {
    let fleet = fleet().await;
    let Some(mut foreign) = ForeignClient::start(library, &fleet.relay(region), test) else {
        return;
    };
    let home = Home::new(fleet.dir(), test);
    home.make_key("alice", &fleet.relay("a"));
    let mut wraps = Vec::new();
    for text in ["to be deleted", "to be kept"] {
        home.send("alice", &foreign.pubkey, &fleet.relay(region), text);
        wraps.push(foreign.received_wrap()[0].clone());
    }
    let (note, other) = (
        foreign.note("mine, to be deleted"),
        foreign.note("mine, to be kept"),
    );
    foreign.delete(wraps[0].as_str().expect("an id"), 1059);
    foreign.delete(&note, 1);
    let mine = json!({"kinds": [1059], "#p": [foreign.pubkey]});
    assert_eq!(foreign.read(&mine), json!([wraps[1]]));
    assert_eq!(
        foreign.read(&json!({"ids": [wraps[0]]})),
        json!([]),
        "also by its id"
    );
    let notes = json!({"kinds": [1], "authors": [foreign.pubkey]});
    assert_eq!(foreign.read(&notes), json!([other]));

    // Neither came from another region again, nor is it there.
    let elsewhere = Socket::open(&fleet.relay("a")).await;
    let what = format!("{test}: the deletion in region a");
    until(&what, Duration::from_secs(60), async || {
        let ids = elsewhere.ids(notes.clone()).await;
        if ids == [other.clone()] {
            Ok(())
        } else {
            Err(format!("{ids:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nostr_tools_deletes_its_notes_and_the_wraps_it_received() {
    check_deletion("nostr-tools-delete", Library::NostrTools, "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn monstr_deletes_its_notes_and_the_wraps_it_received() {
    check_deletion("monstr-delete", Library::Monstr, "c").await;
}
