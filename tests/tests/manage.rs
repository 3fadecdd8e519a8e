//! Management calls (NIP-86) of a client that we did not write: what is banned in one region is banned in all.

use std::time::Duration;

use nightjar_tests::event::Person;
use nightjar_tests::fleet::Fleet;
use nightjar_tests::interop::{ForeignClient, Library};
use nightjar_tests::socket::Socket;
use nightjar_tests::wait::until;
use nightjar_tests::yaml;
use serde_json::json;

/// How long a change may take from region to region on a busy machine.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn nostr_tools_bans_a_key_in_one_region_and_it_is_banned_in_the_other() {
    let test = "nostr-tools-manages";
    let (admin, spammer) = (Person::new(), Person::new());
    let yaml = yaml::managed_fleet(&["a", "b"], 1, &admin.pubkey());
    let fleet = Fleet::start("manage", &yaml).await;
    let (here, there) = (fleet.relay("a"), fleet.relay("b"));
    let Some(mut foreign) = ForeignClient::start_as(Some(&admin), Library::NostrTools, &here, test)
    else {
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
    let expected = json!([{"pubkey": spammer.pubkey(), "reason": "spam"}]);
    assert_eq!(listed["result"], expected);
    let (status, refused) = foreign.manage(&url(&there), "blockip", &json!(["192.0.2.1"]));
    assert_eq!(status, 403, "{refused}");
}
