//! Proof of work (NIP-13): what is refused for too little of it, what is taken, and that it is asked for only where configured.

use std::sync::Arc;

use nightjar_config::RelayConfig;
use nostr::event::Event as NostrEvent;
use nostr::key::Keys;
use serde_json::{Value, json};

use super::harness::{Relay, event};
use crate::event::leading_zero_bits;
use crate::nip11::Document;
use crate::socket::Timings;

/// Enough to tell work from luck, and done in some hundred tries.
const REQUIRED: u32 = 7;

async fn asking_for_work() -> Relay {
    Relay::start_with(
        |config| config.limits.min_pow_difficulty = REQUIRED,
        Timings::default(),
    )
    .await
}

/// An event whose number of zero bits `fits`, with a nonce tag that commits to `target`, if that is given.
fn mined(
    kind: u16,
    tags: &[&[&str]],
    target: Option<u32>,
    fits: impl Fn(u32) -> bool,
) -> NostrEvent {
    let keys = Keys::generate();
    let target = target.map(|bits| bits.to_string());
    (0..100_000_u32)
        .map(|nonce| {
            let nonce = nonce.to_string();
            let mut tag = vec!["nonce", &nonce];
            tag.extend(target.as_deref());
            let tags = [tags, &[&tag]].concat();
            event(&keys, kind, "worked for", &tags)
        })
        .find(|event| fits(bits_of(event)))
        .expect("an id with so many zero bits")
}

fn bits_of(event: &NostrEvent) -> u32 {
    leading_zero_bits(&event.id.to_bytes())
}

fn enough(bits: u32) -> bool {
    bits >= REQUIRED
}

#[tokio::test]
async fn too_little_work_is_refused_with_both_numbers_and_does_not_reach_the_log() {
    let relay = asking_for_work().await;
    let to = Keys::generate().public_key().to_hex();
    let mut client = relay.client().await;
    for kind in [1, 1059, 21_059] {
        let idle = mined(kind, &[&["p", &to]], None, |bits| !enough(bits));
        let found = bits_of(&idle);
        assert_eq!(
            client.publish(&idle).await,
            json!([
                "OK",
                idle.id.to_hex(),
                false,
                format!("pow: difficulty {REQUIRED} is required, this event has {found}")
            ])
        );
    }
    assert_eq!(relay.publisher.published(), 0);
    let text = relay.services.metrics.encode().expect("text");
    assert!(
        text.contains("nj_events_in_total{result=\"pow\"} 3"),
        "{text}"
    );
}

#[tokio::test]
async fn enough_work_is_taken_with_or_without_a_target() {
    let relay = asking_for_work().await;
    let to = Keys::generate().public_key().to_hex();
    let mut client = relay.client().await;
    for kind in [1, 1059, 21_059] {
        for target in [None, Some(REQUIRED), Some(REQUIRED + 1)] {
            let worked = mined(kind, &[&["p", &to]], target, enough);
            let answer = client.publish(&worked).await;
            assert_eq!(answer[2], true, "kind {kind}, target {target:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn luck_beyond_a_lower_target_is_refused() {
    let relay = asking_for_work().await;
    let lucky = mined(1, &[], Some(REQUIRED - 1), enough);
    let answer = relay.client().await.publish(&lucky).await;
    assert_eq!(answer[2], false);
    assert_eq!(
        answer[3],
        "pow: difficulty 7 is required, the nonce tag of this event commits to 6; mine it with a nonce tag that names 7 or \
         more"
    );
    assert_eq!(relay.publisher.published(), 0);
}

#[tokio::test]
async fn an_id_is_checked_before_its_work_and_a_signature_after_it() {
    let relay = asking_for_work().await;
    let mut client = relay.client().await;
    let changed = |event: &NostrEvent, field: &str, value: String| {
        let mut changed = serde_json::to_value(event).expect("JSON");
        changed[field] = Value::String(value);
        changed
    };
    let idle = mined(1, &[], None, |bits| !enough(bits));
    let worked = mined(1, &[], None, enough);
    for (event, refusal) in [
        (
            changed(&idle, "id", "0".repeat(64)),
            "invalid: id does not match",
        ),
        (
            changed(&idle, "sig", "0".repeat(128)),
            "pow: difficulty 7 is required",
        ),
        (
            changed(&worked, "sig", "0".repeat(128)),
            "invalid: the signature does not verify",
        ),
    ] {
        client.send(json!(["EVENT", event])).await;
        let answer = client.receive().await;
        assert_eq!(answer[2], false);
        let text = answer[3].as_str().expect("a reason");
        assert!(text.starts_with(refusal), "{text}");
    }
}

#[tokio::test]
async fn work_is_asked_for_from_the_moment_it_is_configured_and_never_of_auth() {
    let relay = Relay::start().await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    let idle = || mined(1, &[], None, |bits| !enough(bits));
    assert_eq!(client.publish(&idle()).await[2], true);

    let mut config = RelayConfig::clone(&relay.services.config.load());
    config.limits.min_pow_difficulty = REQUIRED;
    relay.services.admission.reconfigure(Arc::new(config));
    assert_eq!(client.publish(&idle()).await[2], false);
    assert_eq!(client.authenticate(&keys).await[2], true);
    assert_eq!(
        client.publish(&idle()).await[2],
        false,
        "AUTH does not spare work"
    );
}

#[tokio::test]
async fn the_information_document_names_work_only_if_it_is_asked_for() {
    let relay = Relay::start().await;
    let mut config = RelayConfig::clone(&relay.services.config.load());
    let document =
        |config: &RelayConfig| serde_json::to_value(Document::new(config)).expect("JSON");
    let without = document(&config);
    assert_eq!(without["limitation"].get("min_pow_difficulty"), None);
    assert_eq!(
        without["supported_nips"],
        json!([1, 9, 11, 17, 40, 42, 45, 59, 62, 67, 70, 77])
    );
    config.limits.min_pow_difficulty = 20;
    let with = document(&config);
    assert_eq!(with["limitation"]["min_pow_difficulty"], 20);
    assert_eq!(
        with["supported_nips"],
        json!([1, 9, 11, 13, 17, 40, 42, 45, 59, 62, 67, 70, 77])
    );
}
