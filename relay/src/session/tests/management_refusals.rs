//! Management calls that are refused (NIP-86, NIP-98): each mistake has its status and its sentence, and leaves no trace.

use base64::Engine as _;
use nightjar_config::WriteAccess;
use nostr::key::Keys;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::calls::{
    Answer, Call, URL, auth, body_of, call, call_at, header_of, http, managed_by, managed_with,
    signed,
};
use super::harness::{Relay, event};
use crate::http_auth::BASE64;
use crate::session::unix_seconds;

#[tokio::test]
async fn an_authorization_is_used_once_and_a_change_stands_against_earlier_ones() {
    let admin = Keys::generate();
    let relay = managed_by(&admin).await;
    let key = Keys::generate().public_key().to_hex();
    let ban = Call::signed_at(&admin, "banpubkey", &json!([key]), 0);
    assert_eq!(ban.send(&relay).await.status, 200);
    ban.send(&relay)
        .await
        .refused(401, "auth-required: this authorization was used already");
    call_at(&relay, &admin, "unbanpubkey", json!([key]), 2).await;
    ban.send(&relay).await.refused(
        409,
        "invalid: a change of the same entry that was signed at the same second or later",
    );
    Call::signed_at(&admin, "banpubkey", &json!([key]), 1)
        .send(&relay)
        .await
        .refused(409, "invalid: a change of the same entry");
    assert_eq!(
        call(&relay, &admin, "listbannedpubkeys", json!([])).await,
        json!([])
    );
    assert_eq!(
        relay.publisher.published(),
        2,
        "what was refused is not in the log"
    );
    // A question may be asked again.
    let ask = Call::signed_by(&admin, "listbannedpubkeys", &json!([]));
    for _ in 0..2 {
        assert_eq!(ask.send(&relay).await.status, 200);
    }
}

/// The body of the calls below, and the tags that authorize it.
fn asked() -> (String, String) {
    let body = body_of("supportedmethods", &json!([]));
    let payload = hex::encode(Sha256::digest(&body));
    (body, payload)
}

fn right(payload: &str) -> [(&str, &str); 3] {
    [("u", URL), ("method", "POST"), ("payload", payload)]
}

async fn send(relay: &Relay, authorization: Option<String>, body: &str) -> Answer {
    let call = Call {
        authorization,
        ..Call::unsigned(body.to_owned())
    };
    call.send(relay).await
}

#[tokio::test]
async fn each_wrong_header_has_its_sentence() {
    let (admin, stranger) = (Keys::generate(), Keys::generate());
    let relay = managed_by(&admin).await;
    let (body, payload) = asked();
    let mut event = json!(signed(&admin, &right(&payload), 0));
    let encoded = |event: &Value| format!("Nostr {}", BASE64.encode(event.to_string()));
    event["sig"] = "00".repeat(64).into();
    let forged = encoded(&event);
    event["created_at"] = (unix_seconds() - 1).into();
    let changed = encoded(&event);
    let long = format!("Nostr {}", "A".repeat(17_000));
    for (value, expected) in [
        (
            "Basic abc",
            "auth-required: the Authorization header must have the scheme Nostr",
        ),
        (
            "Nostr ???",
            "auth-required: what follows \"Nostr \" must be",
        ),
        (
            &long,
            "auth-required: the Authorization header has 17006 bytes",
        ),
        (&encoded(&json!({})), "invalid: the event has no field"),
        (&forged, "invalid: the signature does not verify"),
        (&changed, "invalid: id does not match"),
    ] {
        let answer = send(&relay, Some(value.to_owned()), &body).await;
        answer.refused(401, expected);
    }
    let answer = send(&relay, None, &body).await;
    answer.refused(401, "auth-required: send the header \"Authorization: Nostr");
    let by_stranger = header_of(&signed(&stranger, &right(&payload), 0));
    let answer = send(&relay, Some(by_stranger), &body).await;
    answer.refused(403, "restricted: this key is no administrator");
    assert_eq!(relay.publisher.published(), 0);
}

#[tokio::test]
async fn an_event_that_is_not_about_this_request_is_refused_with_what_it_should_say() {
    let admin = Keys::generate();
    let relay = managed_by(&admin).await;
    let (body, payload) = asked();
    let right = right(&payload);
    let with = |name: &'static str, value: Option<&'static str>| {
        let others = right.into_iter().filter(|tag| tag.0 != name);
        let tags: Vec<_> = others.chain(value.map(|value| (name, value))).collect();
        signed(&admin, &tags, 0)
    };
    for (event, expected) in [
        (signed(&admin, &right, -90), "created_at is "),
        (signed(&admin, &right, 90), "created_at is "),
        (
            with("u", None),
            "the event needs exactly one u tag, it has 0",
        ),
        (
            with("u", Some("http://other.test:4001/")),
            "the u tag must be \"http://relay.test:4001/\"",
        ),
        (
            with("method", Some("GET")),
            "the method tag must be \"POST\"",
        ),
        (
            with("payload", None),
            "the event needs exactly one payload tag, it has 0",
        ),
        (
            with("payload", Some("00")),
            "the payload tag must be the SHA-256",
        ),
    ] {
        let answer = send(&relay, Some(header_of(&event)), &body).await;
        answer.refused(401, &format!("auth-required: {expected}"));
    }
    let elsewhere = Call {
        path: "/?x=1",
        authorization: Some(header_of(&signed(&admin, &right, 0))),
        ..Call::unsigned(body.clone())
    };
    elsewhere.send(&relay).await.refused(
        401,
        "auth-required: the u tag must be \"http://relay.test:4001/?x=1\"",
    );
    let answer = send(&relay, Some(header_of(&signed(&admin, &right, 0))), &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn each_wrong_body_has_its_sentence() {
    let admin = Keys::generate();
    let relay = managed_by(&admin).await;
    let with_body = |body: &str| Call {
        authorization: Some(header_of(&auth(&admin, body, 0))),
        ..Call::unsigned(body.to_owned())
    };
    for (body, status, expected) in [
        ("", 400, "invalid: the body must be {\"method\""),
        ("{}", 400, "invalid: the body must be {\"method\""),
        (
            "{\"method\": \"banpubkey\", \"params\": [\"npub1\"]}",
            400,
            "invalid: parameter 1 of banpubkey must be a public key",
        ),
        (
            "{\"method\": \"stopthepress\", \"params\": []}",
            400,
            "invalid: there is no method \"stopthepress\"",
        ),
        (
            "{\"method\": \"changerelayname\", \"params\": [\"x\"]}",
            403,
            "restricted: changerelayname is not for this relay",
        ),
        (
            "{\"method\": \"blockip\", \"params\": [\"192.0.2.1\"]}",
            403,
            "restricted: blockip is not for this relay",
        ),
    ] {
        with_body(body).send(&relay).await.refused(status, expected);
    }
    let long = with_body(&"x".repeat(17_000));
    long.send(&relay)
        .await
        .refused(413, "invalid: the body is longer than 16384 bytes");
    let other = Call {
        content_type: "application/json",
        ..with_body("{}")
    };
    other
        .send(&relay)
        .await
        .refused(415, "invalid: a management call has the header");
    let text = relay.services.metrics.encode().expect("text");
    for line in [
        "nj_management_calls_total{method=\"banpubkey\",outcome=\"invalid\"} 1",
        "nj_management_calls_total{method=\"none\",outcome=\"restricted\"} 2",
        "nj_management_calls_total{method=\"banpubkey\",outcome=\"ok\"} 0",
    ] {
        assert!(text.contains(line), "{line}");
    }
}

#[tokio::test]
async fn many_calls_of_one_address_are_limited() {
    let admin = Keys::generate();
    let relay = managed_with(&admin, |config| {
        config.limits.events_per_second_per_address = 0.001;
        config.limits.events_burst_per_address = 2;
    })
    .await;
    for _ in 0..2 {
        let call = Call::unsigned(body_of("supportedmethods", &json!([])));
        call.send(&relay).await.refused(401, "auth-required: ");
    }
    let call = Call::signed_by(&admin, "supportedmethods", &json!([]));
    call.send(&relay)
        .await
        .refused(429, "rate-limited: too many");
}

#[tokio::test]
async fn a_relay_that_is_going_away_sends_callers_to_another() {
    let admin = Keys::generate();
    let relay = managed_by(&admin).await;
    relay.services.drain.cancel();
    let call = Call::signed_by(&admin, "listbannedevents", &json!([]));
    let expected = "error: this relay is going away, call another";
    call.send(&relay).await.refused(503, expected);
}

#[tokio::test]
async fn a_relay_that_rebuilds_its_index_answers_no_call() {
    let admin = Keys::generate();
    let relay = managed_with(&admin, |config| {
        config.admission.write = WriteAccess::AllowedKeys;
        config.admission.deny_kinds = vec![7];
    })
    .await;
    relay.services.readiness.set(
        "rebuild",
        crate::log::Waiting::Rebuilding {
            stream: "ST_a_1_0".to_owned(),
            applied: 1,
            head: 9,
        },
    );
    let id = "ab".repeat(32);
    for (method, params) in [("listbannedevents", json!([])), ("banevent", json!([id]))] {
        let call = Call::signed_by(&admin, method, &params);
        let expected = "error: this relay rebuilds its index";
        call.send(&relay).await.refused(503, expected);
    }
    // Who is allowed may not have been read yet; what is denied stays so.
    let mut client = relay.client().await;
    let answer = client.publish(&event(&admin, 1, "hello", &[])).await;
    assert_eq!(
        answer[3],
        "error: this relay rebuilds its lists, send it again"
    );
    let answer = client.publish(&event(&admin, 7, "+", &[])).await;
    assert_eq!(answer[3], "blocked: kind 7 is not taken here");
    assert_eq!(relay.publisher.published(), 0);
}

/// Whoever shares a proxy with an administrator cannot use up the administrator's calls.
#[tokio::test]
async fn calls_behind_a_trusted_proxy_count_for_the_client_that_it_names() {
    let relay = managed_with(&Keys::generate(), |config| {
        config.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
        config.limits.events_burst_per_address = 1;
        config.limits.events_per_second_per_address = 0.001;
    })
    .await;
    let status_from = async |client: &str| {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let answer = http(&relay, &request).await;
        answer.split(' ').nth(1).expect("a status").to_owned()
    };
    assert_eq!(status_from("192.0.2.1").await, "415", "no call, but heard");
    assert_eq!(status_from("192.0.2.1").await, "429");
    assert_eq!(status_from("192.0.2.2").await, "415");
}
