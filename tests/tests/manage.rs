//! Management calls (NIP-86) of clients that we did not write: what is banned in one region is banned in all.

use std::sync::LazyLock;
use std::time::Duration;

use nightjar_tests::event::Person;
use nightjar_tests::fleet::Shared;
use nightjar_tests::interop::{ForeignClient, Library};
use nightjar_tests::socket::Socket;
use nightjar_tests::wait::until;
use nightjar_tests::yaml;
use serde_json::json;

/// How long a change may take from region to region on a busy machine.
const SOON: Duration = Duration::from_secs(60);

static FLEET: Shared = Shared::new();
static ADMIN: LazyLock<Person> = LazyLock::new(Person::new);

async fn check(test: &str, library: Library) {
    let yaml = yaml::managed_fleet(&["a", "b"], 1, &ADMIN.pubkey());
    let fleet = FLEET.get("manage", &yaml).await;
    let spammer = Person::new();
    let (here, there) = (fleet.relay("a"), fleet.relay("b"));
    let Some(mut foreign) = ForeignClient::start_as(Some(&ADMIN), library, &here, test) else {
        return;
    };
    let url = |relay: &str| relay.replace("ws://", "http://");
    let key = json!([spammer.pubkey(), "spam"]);
    let socket = Socket::open(&there).await;
    let note = spammer.note("spam");
    socket.publish_ok(&note).await;

    let banned = foreign.manage(&url(&here), "banpubkey", &key);
    assert_eq!(banned, (200, json!({"result": true})));
    let what = "the ban in the other region";
    until(what, SOON, async || {
        let answer = socket.publish(&spammer.note("more spam")).await;
        match answer {
            Ok((false, reason)) if reason == "blocked: this key is banned here" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let notes = json!({"authors": [spammer.pubkey()]});
    for relay in [&here, &there] {
        let ids = Socket::open(relay).await.ids(notes.clone()).await;
        assert_eq!(ids, Vec::<String>::new(), "{relay}");
    }
    let (status, listed) = foreign.manage(&url(&there), "listbannedpubkeys", &json!([]));
    assert_eq!(status, 200, "{listed}");
    // The other client bans as well, at the same time.
    let expected = json!({"pubkey": spammer.pubkey(), "reason": "spam"});
    let banned = listed["result"].as_array().expect("a list");
    assert!(banned.contains(&expected), "{listed}");
    let (status, refused) = foreign.manage(&url(&there), "blockip", &json!(["192.0.2.1"]));
    assert_eq!(status, 403, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nostr_tools_bans_a_key_in_one_region_and_it_is_banned_in_the_other() {
    check("nostr-tools-manages", Library::NostrTools).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn monstr_bans_a_key_in_one_region_and_it_is_banned_in_the_other() {
    check("monstr-manages", Library::Monstr).await;
}
