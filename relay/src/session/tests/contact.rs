//! `admission.gift_wraps`: one of the ways is enough for a wrap, other kinds are not asked, and nobody learns by a wrap what no REQ tells.

use nightjar_config::{AuthRequired, FirstContact};
use nostr::event::Event as NostrEvent;
use nostr::key::Keys;
use serde_json::json;

use super::harness::{Relay, event, event_at, verdict, wrap};
use crate::event::leading_zero_bits;
use crate::log::readiness::Waiting;
use crate::nip11::Document;
use crate::socket::Timings;

/// Enough to tell work from luck, and done in some hundred tries.
const DIFFICULTY: u32 = 7;
const UNKNOWN: &str = "restricted: this relay takes gift wraps for recipients that it knows";

async fn relay_with(any_of: &[FirstContact]) -> Relay {
    Relay::start_with(
        |config| {
            config.admission.gift_wraps.any_of = any_of.to_vec();
            config.admission.gift_wraps.proof_of_work_difficulty = DIFFICULTY;
        },
        Timings::default(),
    )
    .await
}

fn wrap_with(kind: u16, recipient: &Keys, has_worked: bool) -> NostrEvent {
    std::iter::repeat_with(|| wrap(kind, recipient))
        .take(100_000)
        .find(|wrap| (leading_zero_bits(&wrap.id.to_bytes()) >= DIFFICULTY) == has_worked)
        .expect("an id of that sort")
}

#[tokio::test]
async fn auth_is_a_way_and_a_client_is_told() {
    let relay = relay_with(&[FirstContact::Auth, FirstContact::ProofOfWork]).await;
    let recipient = Keys::generate();
    let mut client = relay.client().await;
    for kind in [1059, 21_059] {
        let idle = wrap_with(kind, &recipient, false);
        let answer = client.publish(&idle).await;
        let (taken, text) = verdict(&answer);
        assert!(!taken && text.starts_with("auth-required: "), "{text}");
        assert!(text.contains("difficulty 7"), "{text}");
    }
    assert_eq!(relay.publisher.published(), 0);
    let note = event(&Keys::generate(), 1, "no wrap", &[]);
    assert_eq!(verdict(&client.publish(&note).await), (true, ""));

    client.authenticate(&Keys::generate()).await;
    for kind in [1059, 21_059] {
        let idle = wrap_with(kind, &recipient, false);
        assert_eq!(verdict(&client.publish(&idle).await), (true, ""));
    }
}

#[tokio::test]
async fn work_is_a_way_without_auth() {
    let relay = relay_with(&[FirstContact::ProofOfWork]).await;
    let recipient = Keys::generate();
    let mut client = relay.client().await;
    for kind in [1059, 21_059] {
        let answer = client.publish(&wrap_with(kind, &recipient, false)).await;
        let (taken, text) = verdict(&answer);
        assert!(!taken && text.starts_with("pow: "), "{text}");
        let worked = wrap_with(kind, &recipient, true);
        assert_eq!(verdict(&client.publish(&worked).await), (true, ""));
    }
    // A made-up id of zeros shows no work.
    let mut forged = serde_json::to_value(wrap_with(1059, &recipient, false)).expect("JSON");
    forged["id"] = json!("0".repeat(64));
    client.send(json!(["EVENT", forged])).await;
    let answer = client.receive().await;
    let (taken, text) = verdict(&answer);
    assert!(!taken && text.starts_with("invalid: id "), "{text}");
    let config = relay.services.config.load();
    let document = serde_json::to_value(Document::new(&config)).expect("JSON");
    assert!(
        document["supported_nips"]
            .as_array()
            .expect("a list")
            .contains(&json!(13))
    );
    assert_eq!(document["limitation"].get("min_pow_difficulty"), None);
}

/// A wrap is taken exactly where a stranger's REQ for the recipient's profile or list of relays finds something.
#[tokio::test]
async fn a_recipient_is_known_exactly_if_a_stranger_s_req_finds_it() {
    let relay = relay_with(&[FirstContact::Known]).await;
    let mut client = relay.client().await;
    let soon = (crate::session::unix_seconds() + 1).to_string();
    type Published = fn(&Keys, &str) -> Vec<NostrEvent>;
    let cases: [(&str, Published, bool); 7] = [
        ("nothing", |_, _| Vec::new(), false),
        (
            "relays for messages",
            |keys, _| vec![event(keys, 10_050, "", &[&["relay", "wss://relay.test"]])],
            true,
        ),
        ("a profile", |keys, _| vec![event(keys, 0, "{}", &[])], true),
        (
            "only a note",
            |keys, _| vec![event(keys, 1, "", &[])],
            false,
        ),
        (
            "a profile that was deleted",
            |keys, _| {
                let coordinate = format!("0:{}:", keys.public_key().to_hex());
                let tags: &[&[&str]] = &[&["a", &coordinate], &["k", "0"]];
                vec![event_at(keys, 0, "{}", &[], -9), event(keys, 5, "", tags)]
            },
            false,
        ),
        (
            "a request to vanish",
            |keys, _| {
                vec![
                    event_at(keys, 0, "{}", &[], -9),
                    event(keys, 62, "", &[&["relay", "ALL_RELAYS"]]),
                ]
            },
            false,
        ),
        (
            "relays that expired",
            |keys, soon| vec![event(keys, 10_050, "", &[&["expiration", soon]])],
            false,
        ),
    ];
    let mut people: Vec<(&str, Keys, bool)> = Vec::new();
    for (what, published, is_known) in cases {
        let keys = Keys::generate();
        for event in published(&keys, &soon) {
            let answer = client.publish(&event).await;
            assert!(verdict(&answer).0, "{what}: {answer}");
        }
        people.push((what, keys, is_known));
    }
    let soon: u64 = soon.parse().expect("a time");
    relay
        .until("expired", |_| crate::session::unix_seconds() > soon)
        .await;
    for (what, keys, is_known) in people {
        let filter = json!({"authors": [keys.public_key().to_hex()], "kinds": [0, 10_050]});
        let found = client.read("r", &[filter]).await.expect("an answer");
        assert_eq!(!found.is_empty(), is_known, "{what}");
        client.send(json!(["CLOSE", "r"])).await;
        for kind in [1059, 21_059] {
            let answer = client.publish(&wrap(kind, &keys)).await;
            let expected = if is_known {
                (true, "")
            } else {
                (false, UNKNOWN)
            };
            assert_eq!(verdict(&answer), expected, "{what}");
        }
    }
}

#[tokio::test]
async fn only_a_genuine_wrap_learns_whether_its_recipient_is_known() {
    let relay = relay_with(&[FirstContact::Known]).await;
    let known = Keys::generate();
    relay.publish(&[&event(&known, 0, "{}", &[])]).await;
    let mut client = relay.client().await;
    for recipient in [known, Keys::generate()] {
        let mut forged = serde_json::to_value(wrap(1059, &recipient)).expect("JSON");
        forged["sig"] = json!("0".repeat(128));
        client.send(json!(["EVENT", forged])).await;
        let answer = client.receive().await;
        assert_eq!(
            verdict(&answer),
            (false, "invalid: the signature does not verify")
        );
    }
}

#[tokio::test]
async fn half_an_index_does_not_say_that_somebody_is_unknown() {
    let relay = relay_with(&[FirstContact::Known]).await;
    let mut client = relay.client().await;
    let recipient = Keys::generate();
    let rebuilding = Waiting::Rebuilding {
        stream: "EV_a_1_0".to_owned(),
        applied: 1,
        head: 2,
    };
    relay.services.readiness.set("index", rebuilding);
    let answer = client.publish(&wrap(1059, &recipient)).await;
    assert_eq!(
        verdict(&answer),
        (false, "error: the index is being rebuilt, send it again")
    );
    relay.services.readiness.clear("index");
    let answer = client.publish(&wrap(1059, &recipient)).await;
    assert_eq!(verdict(&answer), (false, UNKNOWN));
}

#[tokio::test]
async fn what_is_known_of_a_wrap_is_not_told_to_who_may_not_send_it() {
    let relay = Relay::start().await;
    let recipient = Keys::generate();
    let sent = wrap(1059, &recipient);
    relay.publish(&[&sent]).await;
    relay.reconfigure(|config| {
        config.admission.gift_wraps.any_of = vec![FirstContact::Auth];
    });
    let mut client = relay.client().await;
    let answers = [
        client.publish(&sent).await,
        client.publish(&wrap(1059, &recipient)).await,
    ];
    assert_eq!(verdict(&answers[0]), verdict(&answers[1]));
    assert!(!verdict(&answers[0]).0);
}

/// Every configuration that follows asks for AUTH in its own way, so no moment may let a stranger's wrap pass.
#[tokio::test]
async fn no_change_of_the_configuration_opens_the_gate() {
    let relay = relay_with(&[FirstContact::Auth]).await;
    let recipient = Keys::generate();
    let mut client = relay.client().await;
    let wraps: Vec<NostrEvent> = (0..150).map(|_| wrap(1059, &recipient)).collect();
    for wrap in &wraps {
        client.send(json!(["EVENT", wrap])).await;
    }
    let answers = async {
        for _ in &wraps {
            let answer = client.receive().await;
            assert!(!verdict(&answer).0, "{answer}");
        }
    };
    let changes = async {
        for turn in 0_u32.. {
            relay.reconfigure(|config| {
                let admission = &mut config.admission;
                *admission = nightjar_config::AdmissionConfig::default();
                match turn % 3 {
                    0 => admission.auth_required = AuthRequired::Writes,
                    1 => admission.gift_wraps.any_of = vec![FirstContact::Auth],
                    _ => admission.trust.roots = vec!["11".repeat(32)],
                }
            });
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = answers => {}
        () = changes => unreachable!("changes go on until all are answered"),
    }
    assert_eq!(relay.publisher.published(), 0);
}
