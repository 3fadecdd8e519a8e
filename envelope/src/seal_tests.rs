//! Tests of sealing and opening: the C2SP vectors of the cipher, our golden vectors, and what must be refused.

use proptest::prelude::*;
use serde::Deserialize;
use xaes_256_gcm::Xaes256Gcm;
use xaes_256_gcm::aead::{Aead, KeyInit, Payload};

use super::*;
use crate::keyring::{BucketLabel, KeyringError};
use crate::name::Class;
use crate::route::BUCKETS;
use crate::size::{MAX_ENVELOPE_BYTES, envelope_len};

const EVENT: &[u8] = br#"{"id":"00","kind":1059,"content":"hello"}"#;

fn keyring(json: &str) -> Result<Keyring, KeyringError> {
    Keyring::parse(json.as_bytes())
}

/// Epoch 1 active, epoch 2 destroyed, epoch 3 active and sealing.
fn three_epochs() -> Keyring {
    keyring(
        r#"{"seal": 3, "open": [
            {"epoch": 1, "key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "state": "active"},
            {"epoch": 2, "state": "destroyed"},
            {"epoch": 3, "key": "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=", "state": "active"}
        ]}"#,
    )
    .unwrap()
}

fn fleet() -> FleetId {
    FleetId::from_bytes([0xf1; 16])
}

fn route() -> Route {
    Route::home("a".parse().unwrap(), 1, Class::Messages, 9)
}

fn body(json: &[u8]) -> Body<'_> {
    Body {
        admitted_ms: 1_700_000_000_000,
        trace: None,
        kind: BodyKind::Event,
        json,
    }
}

fn trace() -> TraceContext {
    TraceContext {
        trace_id: [0xaa; 16],
        span_id: [0xbb; 8],
        flags: 1,
    }
}

/// An envelope whose plaintext the test chooses, as only a holder of the key could make it.
fn sealed_plaintext(plaintext: &[u8]) -> Vec<u8> {
    let nonce = [5; NONCE_BYTES];
    let mut envelope = vec![VERSION, 0, 0, 0, 3];
    envelope.extend(nonce);
    let class = size::class_of(HEADER_BYTES + plaintext.len() + size::TAG_BYTES).unwrap();
    let aad = associated_data(&envelope, &fleet(), &route(), class);
    let payload = Payload {
        msg: plaintext,
        aad: &aad,
    };
    envelope.extend(
        three_epochs()
            .sealing_cipher()
            .encrypt((&nonce).into(), payload)
            .unwrap(),
    );
    envelope
}

/// <https://github.com/C2SP/C2SP/blob/main/XAES-256-GCM.md>, "Test vectors".
#[test]
fn the_cipher_gives_the_c2sp_vectors() {
    for (key, aad, expected) in [
        (
            [1; 32],
            &b""[..],
            "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
        ),
        (
            [3; 32],
            &b"c2sp.org/XAES-256-GCM"[..],
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ] {
        let payload = Payload {
            msg: b"XAES-256-GCM",
            aad,
        };
        let sealed = Xaes256Gcm::new((&key).into())
            .encrypt(b"ABCDEFGHIJKLMNOPQRSTUVWX".into(), payload)
            .unwrap();
        assert_eq!(hex::encode(sealed), expected);
    }
}

/// One golden vector: everything that goes in, and what came out of the first version.
#[derive(Deserialize)]
struct Vector {
    name: String,
    keyring: serde_json::Value,
    fleet: FleetId,
    subject: String,
    nonce: String,
    admitted_ms: u64,
    trace: Option<String>,
    event: String,
    pubkey: String,
    event_id: String,
    mailbox_bucket: u8,
    author_bucket: u8,
    msg_id: String,
    envelope: String,
}

impl Vector {
    fn trace(&self) -> Option<TraceContext> {
        let bytes = hex::decode(self.trace.as_ref()?).unwrap();
        Some(TraceContext {
            trace_id: bytes[..16].try_into().unwrap(),
            span_id: bytes[16..24].try_into().unwrap(),
            flags: bytes[24],
        })
    }
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

#[test]
fn golden_vectors_seal_and_open_as_in_the_first_version() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../tests/vectors/envelope-v1.json")).unwrap();
    assert!(vectors.len() >= 4);
    for vector in &vectors {
        let keyring = keyring(&vector.keyring.to_string()).unwrap();
        let route = Route::from_subject(&vector.subject).unwrap();
        let body = Body {
            admitted_ms: vector.admitted_ms,
            trace: vector.trace(),
            kind: BodyKind::Event,
            json: vector.event.as_bytes(),
        };
        let sealed =
            seal_with_nonce(&keyring, &vector.fleet, &route, &body, array(&vector.nonce)).unwrap();
        assert_eq!(hex::encode(&sealed), vector.envelope, "{}", vector.name);
        let opened = open(&keyring, &vector.fleet, &route, &sealed).unwrap();
        assert_eq!(
            (opened.admitted_ms, opened.trace, opened.json.as_slice()),
            (body.admitted_ms, body.trace, body.json)
        );
        let pubkey = array(&vector.pubkey);
        assert_eq!(
            keyring.bucket(BucketLabel::Mailbox, &pubkey),
            vector.mailbox_bucket,
            "{}",
            vector.name
        );
        assert_eq!(
            keyring.bucket(BucketLabel::Author, &pubkey),
            vector.author_bucket,
            "{}",
            vector.name
        );
        assert_eq!(
            keyring.msg_id(&array(&vector.event_id)),
            vector.msg_id,
            "{}",
            vector.name
        );
    }
}

#[test]
fn an_envelope_opens_with_what_was_sealed() {
    for trace in [None, Some(trace())] {
        let sealed = seal(
            &three_epochs(),
            &fleet(),
            &route(),
            &Body {
                trace,
                ..body(EVENT)
            },
        )
        .unwrap();
        assert_eq!(sealed.len(), 512);
        let opened = open(&three_epochs(), &fleet(), &route(), &sealed).unwrap();
        assert_eq!(
            opened,
            OpenedBody {
                epoch: KeyEpoch(3),
                admitted_ms: 1_700_000_000_000,
                trace,
                kind: BodyKind::Event,
                json: EVENT.to_vec()
            }
        );
    }
}

#[test]
fn no_plaintext_shows_and_no_nonce_repeats() {
    let (a, b) = (
        seal(&three_epochs(), &fleet(), &route(), &body(EVENT)).unwrap(),
        seal(&three_epochs(), &fleet(), &route(), &body(EVENT)).unwrap(),
    );
    assert_ne!(a[5..29], b[5..29]);
    assert!(!a.windows(5).any(|window| window == b"hello"));
}

#[test]
fn the_largest_event_fits_with_and_without_a_trace_and_one_byte_more_does_not() {
    let largest = vec![b'x'; MAX_EVENT_BYTES + 1];
    for trace in [None, Some(trace())] {
        let fitting = Body {
            trace,
            ..body(&largest[1..])
        };
        let sealed = seal(&three_epochs(), &fleet(), &route(), &fitting).unwrap();
        assert_eq!(sealed.len(), MAX_ENVELOPE_BYTES);
        assert_eq!(
            open(&three_epochs(), &fleet(), &route(), &sealed)
                .unwrap()
                .json
                .len(),
            MAX_EVENT_BYTES
        );
        let error = seal(
            &three_epochs(),
            &fleet(),
            &route(),
            &Body {
                trace,
                ..body(&largest)
            },
        )
        .unwrap_err();
        assert_eq!(
            error,
            SealError::TooLarge {
                limit: MAX_EVENT_BYTES,
                len: MAX_EVENT_BYTES + 1
            }
        );
    }
}

#[test]
fn every_part_of_fleet_and_route_is_bound() {
    let sealed = seal(&three_epochs(), &fleet(), &route(), &body(EVENT)).unwrap();
    let damaged = Err(OpenError::Damaged(DamageReason::Tag));
    assert_eq!(
        open(
            &three_epochs(),
            &FleetId::from_bytes([0; 16]),
            &route(),
            &sealed
        ),
        damaged
    );
    let others = [
        Route {
            region: "b".parse().unwrap(),
            ..route()
        },
        Route {
            generation: 2,
            ..route()
        },
        Route {
            class: Class::State,
            ..route()
        },
        Route {
            shard: 2,
            ..route()
        },
        Route {
            bucket: 10,
            ..route()
        },
    ];
    for other in others {
        assert_eq!(
            open(&three_epochs(), &fleet(), &other, &sealed),
            damaged,
            "{other:?}"
        );
    }
}

#[test]
fn unknown_and_destroyed_epochs_and_later_versions_are_told_apart() {
    let sealed = seal(&three_epochs(), &fleet(), &route(), &body(EVENT)).unwrap();
    let with_epoch = |epoch: u8| [&[VERSION, 0, 0, 0, epoch], &sealed[5..]].concat();
    let opened = |envelope: &[u8]| open(&three_epochs(), &fleet(), &route(), envelope);
    assert_eq!(
        opened(&with_epoch(9)),
        Err(OpenError::UnknownEpoch(KeyEpoch(9)))
    );
    assert_eq!(
        opened(&with_epoch(2)),
        Err(OpenError::DestroyedEpoch(KeyEpoch(2)))
    );
    assert_eq!(
        opened(&with_epoch(1)),
        Err(OpenError::Damaged(DamageReason::Tag))
    );
    assert_eq!(opened(&[2, 0, 0]), Err(OpenError::UnsupportedVersion(2)));
    assert_eq!(opened(&[]), Err(OpenError::Damaged(DamageReason::Size)));
    assert_eq!(
        opened(&sealed[..511]),
        Err(OpenError::Damaged(DamageReason::Size))
    );
    assert_eq!(
        opened(&[sealed.as_slice(), &[0; 512]].concat()),
        Err(OpenError::Damaged(DamageReason::Tag))
    );
}

#[test]
fn an_older_epoch_opens_after_rotation() {
    let before = keyring(r#"{"seal": 1, "open": [{"epoch": 1, "key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "state": "active"}]}"#).unwrap();
    let sealed = seal(&before, &fleet(), &route(), &body(EVENT)).unwrap();
    assert_eq!(
        open(&three_epochs(), &fleet(), &route(), &sealed)
            .unwrap()
            .epoch,
        KeyEpoch(1)
    );
}

#[test]
fn a_plaintext_of_another_layout_is_refused_by_reason() {
    let plaintext = |flags: u8, event_len: u32, last: u8| {
        let mut bytes = vec![flags, 0, 0, 0, 0, 0, 0, 0, 1];
        bytes.extend(event_len.to_be_bytes());
        bytes.resize(512 - HEADER_BYTES - size::TAG_BYTES, 0);
        *bytes.last_mut().unwrap() = last;
        bytes
    };
    let opened = |plaintext: &[u8]| {
        open(
            &three_epochs(),
            &fleet(),
            &route(),
            &sealed_plaintext(plaintext),
        )
    };
    assert_eq!(opened(&plaintext(0, 4, 0)).unwrap().json, [0; 4]);
    let call = opened(&plaintext(2, 4, 0)).unwrap();
    assert_eq!((call.kind, call.json), (BodyKind::Management, vec![0; 4]));
    assert_eq!(
        opened(&plaintext(4, 4, 0)),
        Err(OpenError::Damaged(DamageReason::Flags))
    );
    assert_eq!(
        opened(&plaintext(0, 4, 7)),
        Err(OpenError::Damaged(DamageReason::Padding))
    );
    assert_eq!(
        opened(&plaintext(0, 455, 0)),
        Err(OpenError::Damaged(DamageReason::Length))
    );
    assert_eq!(
        opened(&plaintext(0, u32::MAX, 0)),
        Err(OpenError::Damaged(DamageReason::Length))
    );
}

#[test]
fn debug_shows_no_event() {
    let sealed = seal(&three_epochs(), &fleet(), &route(), &body(EVENT)).unwrap();
    let opened = open(&three_epochs(), &fleet(), &route(), &sealed).unwrap();
    for shown in [format!("{opened:?}"), format!("{:?}", body(EVENT))] {
        assert!(
            !shown.contains("hello") && !shown.contains("104, 101"),
            "{shown}"
        );
    }
}

proptest! {
    #[test]
    fn every_event_opens_as_it_was_sealed_in_an_envelope_of_a_size_class(
        event in proptest::collection::vec(any::<u8>(), 0..5_000), admitted_ms: u64, traced: bool, bucket in 0..BUCKETS,
        kind in prop_oneof![Just(BodyKind::Event), Just(BodyKind::Management)],
    ) {
        let route = Route::home("a".parse().unwrap(), 1, Class::State, bucket);
        let body = Body { admitted_ms, trace: traced.then(trace), kind, json: &event };
        let sealed = seal(&three_epochs(), &fleet(), &route, &body).unwrap();
        prop_assert!((0..11).any(|class| envelope_len(class) == sealed.len()));
        let opened = open(&three_epochs(), &fleet(), &route, &sealed).unwrap();
        prop_assert_eq!((opened.admitted_ms, opened.trace, opened.kind, opened.json), (admitted_ms, body.trace, kind, event));
    }

    #[test]
    fn any_bytes_are_refused_in_peace(mut bytes in proptest::collection::vec(any::<u8>(), 0..1_100), cut: bool) {
        if cut {
            // Let most cases get past version, size and epoch.
            bytes.resize(512, 0);
            bytes[..5].copy_from_slice(&[VERSION, 0, 0, 0, 3]);
        }
        prop_assert!(open(&three_epochs(), &fleet(), &route(), &bytes).is_err());
    }

    #[test]
    fn any_change_of_an_envelope_is_noticed(at in 0..512_usize, flip in 1..=255_u8) {
        let mut sealed = seal(&three_epochs(), &fleet(), &route(), &body(EVENT)).unwrap();
        sealed[at] ^= flip;
        prop_assert!(open(&three_epochs(), &fleet(), &route(), &sealed).is_err());
    }

    #[test]
    fn any_plaintext_of_a_key_holder_is_parsed_or_refused(mut plaintext in proptest::collection::vec(any::<u8>(), 0..467), zeros: bool) {
        if zeros {
            plaintext.first_mut().into_iter().for_each(|flags| *flags &= 3);
        }
        plaintext.resize(512 - HEADER_BYTES - size::TAG_BYTES, 0);
        let _ = open(&three_epochs(), &fleet(), &route(), &sealed_plaintext(&plaintext));
    }
}
