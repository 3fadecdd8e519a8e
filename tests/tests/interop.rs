//! Clients that we did not write exchange NIP-17 messages with the CLI, in both directions, each connected to another region.

use std::time::Duration;

use nightjar_tests::cli::Home;
use nightjar_tests::fleet::{Fleet, Shared};
use nightjar_tests::interop::{ForeignClient, Library};
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
    let missing = foreign.sync(&mine, &known);
    assert_eq!(missing["have"], json!([unknown[0]]));
    assert_eq!(missing["need"], json!([wraps[1][0]]));
    let missing = foreign.sync(&mine, &wraps);
    assert_eq!(
        (&missing["have"], &missing["need"]),
        (&json!([]), &json!([]))
    );
}
