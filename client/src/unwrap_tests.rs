//! Each layer altered in turn: each is refused with its own reason.

use nostr::event::{
    Event, EventBuilder, EventId, FinalizeEvent, FinalizeUnsignedEvent, Kind, Tag, UnsignedEvent,
};
use nostr::key::Keys;
use nostr::nips::nip44::{self, Version};
use nostr::types::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::wrap::Rumor;

struct People {
    alice: Identity,
    bob: Identity,
    eve: Identity,
}

fn people() -> People {
    People {
        alice: Identity::generate(),
        bob: Identity::generate(),
        eve: Identity::generate(),
    }
}

fn rumor_of(author: &Identity, reader: &Identity) -> UnsignedEvent {
    EventBuilder::new(Kind::PrivateDirectMessage, "hi")
        .tag(Tag::public_key(reader.public_key()))
        .custom_created_at(Timestamp::from_secs(1_700_000_000))
        .finalize_unsigned(author.public_key())
}

fn encrypt(from: &Keys, to: &Identity, text: &str) -> String {
    nip44::encrypt(
        from.secret_key(),
        &to.public_key(),
        text,
        Version::default(),
    )
    .unwrap()
}

fn seal_of(sealer: &Identity, reader: &Identity, rumor_json: &str) -> Event {
    EventBuilder::new(Kind::Seal, encrypt(sealer.keys(), reader, rumor_json))
        .finalize(sealer.keys())
        .unwrap()
}

fn wrap_kind(kind: u16, reader: &Identity, seal_json: &str) -> Event {
    let once = Keys::generate();
    EventBuilder::new(kind.into(), encrypt(&once, reader, seal_json))
        .tag(Tag::public_key(reader.public_key()))
        .finalize(&once)
        .unwrap()
}

fn wrap_of(reader: &Identity, seal_json: &str) -> Event {
    wrap_kind(WRAP, reader, seal_json)
}

fn wrapped_rumor(sealer: &Identity, reader: &Identity, rumor_json: &str) -> Event {
    wrap_of(reader, &seal_of(sealer, reader, rumor_json).as_json())
}

#[test]
fn message_is_read_by_recipient_and_sender_with_one_id() {
    let People { alice, bob, .. } = people();
    let rumor = Rumor::text(&alice, &[bob.public_key()], "hello", 1_700_000_000_437).unwrap();
    let for_bob = unwrap(&bob, &rumor.wrap_for(&alice, &bob.public_key()).unwrap()).unwrap();
    let for_alice = unwrap(
        &alice,
        &rumor.wrap_for(&alice, &alice.public_key()).unwrap(),
    )
    .unwrap();
    assert_eq!((for_bob.from, for_bob.id), (for_alice.from, for_alice.id));
    assert_eq!(
        (for_bob.id, for_bob.content.as_str()),
        (rumor.id(), "hello")
    );
    assert_eq!((for_bob.written_ms, for_bob.kind), (1_700_000_000_437, 14));
    assert_eq!(for_bob.to, [bob.public_key()]);
}

#[test]
fn both_wrap_kinds_are_read_and_others_refused() {
    let People { alice, bob, .. } = people();
    let seal = seal_of(&alice, &bob, &rumor_of(&alice, &bob).as_json()).as_json();
    assert!(
        !unwrap(&bob, &wrap_kind(WRAP, &bob, &seal))
            .unwrap()
            .ephemeral
    );
    assert!(
        unwrap(&bob, &wrap_kind(EPHEMERAL_WRAP, &bob, &seal))
            .unwrap()
            .ephemeral
    );
    assert_eq!(
        unwrap(&bob, &wrap_kind(1060, &bob, &seal)).unwrap_err(),
        UnwrapError::NotAWrap(1060)
    );
}

#[test]
fn altered_wrap_is_refused() {
    let People { alice, bob, eve } = people();
    let wrap = wrapped_rumor(&alice, &bob, &rumor_of(&alice, &bob).as_json());
    assert_eq!(unwrap(&eve, &wrap).unwrap_err(), UnwrapError::NotForUs);

    let mut later = wrap.clone();
    later.created_at = Timestamp::from_secs(later.created_at.as_secs() + 1);
    assert_eq!(unwrap(&bob, &later).unwrap_err(), UnwrapError::WrapId);

    let mut signed_by_another = wrap;
    signed_by_another.sig = eve.sign(EventBuilder::new(Kind::TextNote, "")).unwrap().sig;
    assert_eq!(
        unwrap(&bob, &signed_by_another).unwrap_err(),
        UnwrapError::WrapSignature
    );

    let garbage = EventBuilder::new(Kind::GiftWrap, "AAAA").tag(Tag::public_key(bob.public_key()));
    assert_eq!(
        unwrap(&bob, &eve.sign(garbage).unwrap()).unwrap_err(),
        UnwrapError::WrapUndecipherable
    );
}

#[test]
fn altered_seal_is_refused() {
    let People { alice, bob, eve } = people();
    let rumor = rumor_of(&alice, &bob).as_json();
    let seal = seal_of(&alice, &bob, &rumor);
    let reason = |seal_json: &str| unwrap(&bob, &wrap_of(&bob, seal_json)).unwrap_err();

    assert_eq!(reason("{}"), UnwrapError::SealMalformed);
    assert_eq!(reason(&rumor), UnwrapError::SealMalformed);

    let content = encrypt(alice.keys(), &bob, &rumor);
    let note = alice
        .sign(EventBuilder::new(Kind::TextNote, content.clone()))
        .unwrap();
    assert_eq!(reason(&note.as_json()), UnwrapError::SealKind(1));

    let tagged = EventBuilder::new(Kind::Seal, content).tag(Tag::public_key(bob.public_key()));
    assert_eq!(
        reason(&alice.sign(tagged).unwrap().as_json()),
        UnwrapError::SealTags
    );

    let mut another_content = seal.clone();
    another_content.content = encrypt(eve.keys(), &bob, &rumor);
    assert_eq!(reason(&another_content.as_json()), UnwrapError::SealId);

    let mut signed_by_another = seal;
    signed_by_another.sig = eve.sign(EventBuilder::new(Kind::TextNote, "")).unwrap().sig;
    assert_eq!(
        reason(&signed_by_another.as_json()),
        UnwrapError::SealSignature
    );

    let sealed_for_eve = seal_of(&alice, &eve, &rumor);
    assert_eq!(
        reason(&sealed_for_eve.as_json()),
        UnwrapError::SealUndecipherable
    );
}

#[test]
fn altered_message_is_refused() {
    let People { alice, bob, eve } = people();
    let reason = |rumor: &str| unwrap(&bob, &wrapped_rumor(&alice, &bob, rumor)).unwrap_err();
    assert_eq!(reason("[]"), UnwrapError::RumorMalformed);
    assert_eq!(
        reason(&rumor_of(&eve, &bob).as_json()),
        UnwrapError::Impersonation
    );
    let mut claimed = rumor_of(&alice, &bob);
    claimed.id = Some(EventId::from_byte_array([0; 32]));
    assert_eq!(reason(&claimed.as_json()), UnwrapError::RumorId);
}

#[test]
fn message_without_a_claimed_id_gets_the_computed_one() {
    let People { alice, bob, .. } = people();
    let rumor = rumor_of(&alice, &bob);
    assert_eq!(rumor.id, None);
    let message = unwrap(&bob, &wrapped_rumor(&alice, &bob, &rumor.as_json())).unwrap();
    assert_eq!(message.id, rumor.compute_id());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_altered_byte_of_a_wrap_gets_through(at in any::<prop::sample::Index>(), flip in 1u8..=255) {
        let People { alice, bob, .. } = people();
        let rumor = Rumor::text(&alice, &[bob.public_key()], "hello", 0).unwrap();
        let wrap = rumor.wrap_for(&alice, &bob.public_key()).unwrap();
        let mut bytes = wrap.as_json().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(altered) = Event::from_json(&bytes) {
            // The same event in other bytes (an upper-case digit, say) is still the same event.
            prop_assert!(altered == wrap || unwrap(&bob, &altered).is_err());
        }
    }

    #[test]
    fn any_text_inside_any_layer_is_refused_without_panic(text in "\\PC{1,60}") {
        let People { alice, bob, .. } = people();
        prop_assert!(unwrap(&bob, &wrap_of(&bob, &text)).is_err());
        prop_assert!(unwrap(&bob, &wrapped_rumor(&alice, &bob, &text)).is_err());
    }
}
