//! Who may publish what: the lists of the configuration and those that administrators keep (NIP-86). Pure; the fleet's lists are asked
//! through a trait. To be denied beats to be allowed.

use std::collections::HashSet;

use nightjar_config::{AdmissionConfig, KindAccess, WriteAccess};

use super::refusal::Refusal;
use crate::event::{Event, PublicKey, is_wrap, kind, parse_hex};
use crate::index::{IndexError, Lists};
use crate::management::lists::{List, Target};
use crate::visibility::Readers;

/// The lists that administrators keep.
pub trait FleetLists {
    /// Whether a target is on a list.
    fn has(&self, list: List, target: &Target) -> Result<bool, IndexError>;
}

impl FleetLists for Lists<'_> {
    fn has(&self, list: List, target: &Target) -> Result<bool, IndexError> {
        Lists::has(self, list, target)
    }
}

/// What the configuration says.
#[derive(Debug, Clone, Default)]
pub struct ListRules {
    write: WriteAccess,
    kinds: KindAccess,
    allow_pubkeys: HashSet<PublicKey>,
    deny_pubkeys: HashSet<PublicKey>,
    allow_kinds: HashSet<u16>,
    deny_kinds: HashSet<u16>,
}

impl ListRules {
    /// The rules that follow from a configuration.
    pub fn new(config: &AdmissionConfig) -> Self {
        let keys = |texts: &[String]| texts.iter().filter_map(|key| parse_hex(key)).collect();
        Self {
            write: config.write,
            kinds: config.kinds,
            allow_pubkeys: keys(&config.allow_pubkeys),
            deny_pubkeys: keys(&config.deny_pubkeys),
            allow_kinds: config.allow_kinds.iter().copied().collect(),
            deny_kinds: config.deny_kinds.iter().copied().collect(),
        }
    }

    /// What the configuration alone refuses: cheap, asked before the signature.
    pub(super) fn check_denied(&self, event: &Event) -> Result<(), Refusal> {
        if self.deny_kinds.contains(&event.kind) {
            return Err(Refusal::DisallowedKind { kind: event.kind });
        }
        if self.deny_pubkeys.contains(&event.pubkey) && !may_always_publish(event) {
            return Err(Refusal::BannedKey);
        }
        Ok(())
    }

    /// Whether an event may be published by a connection on which `readers` authenticated. It depends on the event, on them and on the
    /// lists, never on what is stored.
    pub fn check(
        &self,
        event: &Event,
        readers: &Readers,
        fleet: &impl FleetLists,
    ) -> Result<(), Refusal> {
        self.check_denied(event)?;
        let has = |list, target| {
            fleet.has(list, &target).map_err(|error| {
                tracing::warn!(%error, "the index did not answer");
                Refusal::Failed("the index did not answer")
            })
        };
        let kind = event.kind;
        if has(List::DisallowedKinds, Target::Kind(kind))? {
            return Err(Refusal::DisallowedKind { kind });
        }
        if self.kinds == KindAccess::AllowedKinds
            && !self.allow_kinds.contains(&kind)
            && !has(List::AllowedKinds, Target::Kind(kind))?
        {
            return Err(Refusal::KindNotAllowed { kind });
        }
        if has(List::BannedEvents, Target::Event(event.id))? {
            return Err(Refusal::BannedEvent);
        }
        let author = Target::Pubkey(event.pubkey);
        if !may_always_publish(event) && has(List::BannedPubkeys, author)? {
            return Err(Refusal::BannedKey);
        }
        if self.write == WriteAccess::Everyone || has(List::AllowedEvents, Target::Event(event.id))?
        {
            return Ok(());
        }
        let is_allowed =
            |key: &PublicKey| {
                Ok(self.allow_pubkeys.contains(key)
                    || has(List::AllowedPubkeys, Target::Pubkey(*key))?)
            };
        check_allowed(event, readers, is_allowed)
    }
}

/// Asks for the author; of a gift wrap, whose author is a throw-away key, for whoever sends or receives it.
fn check_allowed(
    event: &Event,
    readers: &Readers,
    is_allowed: impl Fn(&PublicKey) -> Result<bool, Refusal>,
) -> Result<(), Refusal> {
    if !is_wrap(event.kind) {
        return if is_allowed(&event.pubkey)? {
            Ok(())
        } else {
            Err(Refusal::KeyNotAllowed)
        };
    }
    for key in event.recipients().chain(readers.iter().copied()) {
        if is_allowed(&key)? {
            return Ok(());
        }
    }
    Err(if readers.is_empty() {
        Refusal::WrapNeedsAuth
    } else {
        Refusal::WrapNotAllowed
    })
}

/// Whoever is banned may still take back what they published, and the messages they received.
fn may_always_publish(event: &Event) -> bool {
    matches!(event.kind, kind::DELETION | kind::VANISH)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALICE: PublicKey = [0xa1; 32];
    const BOB: PublicKey = [0xb0; 32];
    const CAROL: PublicKey = [0xca; 32];
    const ID: [u8; 32] = [0x11; 32];

    /// What administrators have put on lists.
    #[derive(Default)]
    struct Fleet(Vec<(List, Target)>);

    impl FleetLists for Fleet {
        fn has(&self, list: List, target: &Target) -> Result<bool, IndexError> {
            Ok(self.0.contains(&(list, *target)))
        }
    }

    fn event(kind: u16, author: PublicKey, tags: serde_json::Value) -> Event {
        let event = json!({
            "id": hex::encode(ID), "pubkey": hex::encode(author), "created_at": 1, "kind": kind, "tags": tags,
            "content": "", "sig": "00".repeat(64),
        });
        Event::parse(event.to_string().as_bytes()).expect("an event")
    }

    fn rules(edit: impl FnOnce(&mut AdmissionConfig)) -> ListRules {
        let mut config = AdmissionConfig::default();
        edit(&mut config);
        ListRules::new(&config)
    }

    fn verdict(rules: &ListRules, event: &Event, readers: &[PublicKey], fleet: &Fleet) -> String {
        let readers = readers.iter().copied().collect();
        match rules.check(event, &readers, fleet) {
            Ok(()) => "taken".to_owned(),
            Err(refusal) => refusal.to_string(),
        }
    }

    #[test]
    fn by_default_everything_is_taken_and_bans_are_not() {
        let (rules, note) = (rules(|_| ()), event(1, ALICE, json!([])));
        assert_eq!(verdict(&rules, &note, &[], &Fleet::default()), "taken");
        for (list, target, expected) in [
            (
                List::BannedPubkeys,
                Target::Pubkey(ALICE),
                "blocked: this key is banned here",
            ),
            (
                List::BannedEvents,
                Target::Event(ID),
                "blocked: this event is banned here",
            ),
            (
                List::DisallowedKinds,
                Target::Kind(1),
                "blocked: kind 1 is not taken here",
            ),
        ] {
            let fleet = Fleet(vec![(list, target)]);
            assert_eq!(verdict(&rules, &note, &[], &fleet), expected);
        }
        // What is allowed, or about another key, changes nothing.
        let fleet = Fleet(vec![
            (List::BannedPubkeys, Target::Pubkey(BOB)),
            (List::AllowedPubkeys, Target::Pubkey(BOB)),
            (List::AllowedKinds, Target::Kind(7)),
        ]);
        assert_eq!(verdict(&rules, &note, &[ALICE], &fleet), "taken");
    }

    #[test]
    fn a_banned_key_may_take_back_what_it_published() {
        let fleet = Fleet(vec![(List::BannedPubkeys, Target::Pubkey(ALICE))]);
        let denied = rules(|config| config.deny_pubkeys = vec![hex::encode(ALICE)]);
        for kind in [5, 62] {
            let event = event(kind, ALICE, json!([]));
            assert_eq!(verdict(&rules(|_| ()), &event, &[], &fleet), "taken");
            assert_eq!(verdict(&denied, &event, &[], &fleet), "taken");
        }
    }

    #[test]
    fn only_keys_of_either_allow_list_publish_and_what_is_denied_is_refused_all_the_same() {
        let rules = rules(|config| {
            config.write = WriteAccess::AllowedKeys;
            config.allow_pubkeys = vec![hex::encode(ALICE), hex::encode(CAROL)];
            config.deny_pubkeys = vec![hex::encode(CAROL)];
        });
        let note = |author| event(1, author, json!([]));
        let refused = "restricted: only keys on this relay's allow list may publish here, and this key is not on it";
        assert_eq!(
            verdict(&rules, &note(ALICE), &[], &Fleet::default()),
            "taken"
        );
        assert_eq!(
            verdict(&rules, &note(BOB), &[ALICE], &Fleet::default()),
            refused
        );
        let of_fleet = Fleet(vec![(List::AllowedPubkeys, Target::Pubkey(BOB))]);
        assert_eq!(verdict(&rules, &note(BOB), &[], &of_fleet), "taken");
        let of_event = Fleet(vec![(List::AllowedEvents, Target::Event(ID))]);
        assert_eq!(verdict(&rules, &note(BOB), &[], &of_event), "taken");
        assert_eq!(
            verdict(&rules, &note(CAROL), &[], &of_event),
            "blocked: this key is banned here"
        );
    }

    #[test]
    fn a_gift_wrap_is_taken_from_or_for_an_allowed_key() {
        let rules = rules(|config| {
            config.write = WriteAccess::AllowedKeys;
            config.allow_pubkeys = vec![hex::encode(ALICE)];
        });
        for kind in [1059, 21_059] {
            let to =
                |recipient: PublicKey| event(kind, [9; 32], json!([["p", hex::encode(recipient)]]));
            let fleet = Fleet::default();
            assert_eq!(verdict(&rules, &to(ALICE), &[], &fleet), "taken");
            assert_eq!(verdict(&rules, &to(BOB), &[CAROL, ALICE], &fleet), "taken");
            let stranger = verdict(&rules, &to(BOB), &[], &fleet);
            assert!(stranger.starts_with("auth-required: "), "{stranger}");
            let other = verdict(&rules, &to(BOB), &[CAROL], &fleet);
            assert!(other.starts_with("restricted: "), "{other}");
        }
    }

    #[test]
    fn with_a_list_of_kinds_others_are_refused() {
        let rules = rules(|config| {
            config.kinds = KindAccess::AllowedKinds;
            config.allow_kinds = vec![1, 1059];
            config.deny_kinds = vec![3];
        });
        let of_kind = |kind| event(kind, ALICE, json!([]));
        let fleet = Fleet(vec![
            (List::AllowedKinds, Target::Kind(7)),
            (List::AllowedKinds, Target::Kind(3)),
        ]);
        for (kind, expected) in [
            (1, "taken"),
            (7, "taken"),
            (
                0,
                "blocked: only kinds on this relay's list are taken here, and kind 0 is not on it",
            ),
            (3, "blocked: kind 3 is not taken here"),
        ] {
            assert_eq!(verdict(&rules, &of_kind(kind), &[], &fleet), expected);
        }
    }
}
