//! The web of trust at admission: a set of keys in memory. Who computes it is in `crate::trust`; nothing here asks the index.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use nightjar_config::TrustConfig;

use super::refusal::Refusal;
use crate::event::{Event, PublicKey, is_wrap, kind, parse_hex};
use crate::visibility::Readers;

/// The keys that are trusted, sorted.
#[derive(Default, PartialEq, Eq)]
pub struct Trusted(Box<[PublicKey]>);

/// Shows how many keys there are, not which.
impl std::fmt::Debug for Trusted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trusted({} keys)", self.0.len())
    }
}

impl FromIterator<PublicKey> for Trusted {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        let mut keys: Vec<PublicKey> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        Self(keys.into_boxed_slice())
    }
}

impl Trusted {
    /// How many keys.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    fn contains(&self, key: &PublicKey) -> bool {
        self.0.binary_search(key).is_ok()
    }
}

/// Where a web begins, how far it goes, and the set as it was computed last for exactly this.
pub struct TrustGate {
    /// Sorted, each once.
    roots: Vec<PublicKey>,
    depth: u8,
    refresh: Duration,
    trusted: Arc<ArcSwapOption<Trusted>>,
}

/// Shows no key.
impl std::fmt::Debug for TrustGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustGate")
            .field("roots", &self.roots.len())
            .field("depth", &self.depth)
            .field("trusted", &self.trusted.load())
            .finish_non_exhaustive()
    }
}

impl TrustGate {
    /// The gate of a configuration; none if everyone is trusted. A set that was computed for the gate before goes on being used only if it
    /// answers the same question: with other roots or another depth the gate is shut until it has been computed anew.
    pub(super) fn new(config: &TrustConfig, before: Option<&Self>) -> Option<Arc<Self>> {
        let mut roots: Vec<PublicKey> = config
            .roots
            .iter()
            .filter_map(|root| parse_hex(root))
            .collect();
        roots.sort_unstable();
        roots.dedup();
        if roots.is_empty() {
            return None;
        }
        let trusted = before
            .filter(|gate| gate.roots == roots && gate.depth == config.depth)
            .map(|gate| gate.trusted.clone());
        Some(Arc::new(Self {
            roots,
            depth: config.depth,
            refresh: Duration::from_secs(config.refresh_seconds),
            trusted: trusted.unwrap_or_default(),
        }))
    }

    /// Where the web begins.
    pub fn roots(&self) -> &[PublicKey] {
        &self.roots
    }

    /// How many steps it goes from there.
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// How often the set is to be computed.
    pub fn refresh(&self) -> Duration {
        self.refresh
    }

    /// Takes the set that was computed for this gate.
    pub fn set(&self, trusted: Trusted) {
        self.trusted.store(Some(Arc::new(trusted)));
    }

    /// Whether an event may be published by a connection on which `readers` authenticated. It needs no signature: that a key is trusted, its
    /// owner's public events show to anyone who sends them here.
    pub(super) fn check(&self, event: &Event, readers: &Readers) -> Result<(), Refusal> {
        // Whoever is trusted no longer may still take back what they published, and a recipient the messages for them.
        if matches!(event.kind, kind::DELETION | kind::VANISH) {
            return Ok(());
        }
        let trusted = self.trusted.load();
        let Some(trusted) = trusted.as_ref() else {
            return Err(Refusal::Failed("the web of trust is still being read"));
        };
        if !is_wrap(event.kind) {
            return if trusted.contains(&event.pubkey) {
                Ok(())
            } else {
                Err(Refusal::Untrusted)
            };
        }
        if readers.is_empty() {
            Err(Refusal::UntrustedStranger)
        } else if readers.iter().any(|key| trusted.contains(key)) {
            Ok(())
        } else {
            Err(Refusal::UntrustedSender)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ALICE: PublicKey = [0xa1; 32];
    const BOB: PublicKey = [0xb0; 32];

    fn config(roots: &[PublicKey]) -> TrustConfig {
        TrustConfig {
            roots: roots.iter().map(hex::encode).collect(),
            ..TrustConfig::default()
        }
    }

    fn event(kind: u16, author: PublicKey) -> Event {
        let event = json!({
            "id": "00".repeat(32), "pubkey": hex::encode(author), "created_at": 1, "kind": kind,
            "tags": [["p", hex::encode(BOB)], ["relay", "ALL_RELAYS"]], "content": "", "sig": "00".repeat(64),
        });
        Event::parse(event.to_string().as_bytes()).expect("an event")
    }

    #[test]
    fn a_set_outlives_only_changes_that_leave_its_question_as_it_was() {
        let gate = TrustGate::new(&config(&[ALICE, BOB]), None).expect("a gate");
        gate.set([ALICE].into_iter().collect());
        let nobody = Readers::anonymous();
        let is_shut = |config: &TrustConfig| {
            let next = TrustGate::new(config, Some(&gate)).expect("a gate");
            matches!(
                next.check(&event(1, ALICE), &nobody),
                Err(Refusal::Failed(_))
            )
        };
        let slower = TrustConfig {
            refresh_seconds: 600,
            ..config(&[BOB, ALICE, BOB])
        };
        assert!(!is_shut(&slower));
        assert!(is_shut(&config(&[ALICE])));
        let deeper = TrustConfig {
            depth: 2,
            ..config(&[ALICE, BOB])
        };
        assert!(is_shut(&deeper));
        assert!(TrustGate::new(&config(&[]), Some(&gate)).is_none());
    }

    #[test]
    fn what_is_said_of_a_wrap_depends_on_who_authenticated() {
        let gate = TrustGate::new(&config(&[ALICE]), None).expect("a gate");
        gate.set([ALICE].into_iter().collect());
        let says = |readers: &[PublicKey]| {
            let readers = readers.iter().copied().collect();
            match gate.check(&event(1059, [9; 32]), &readers) {
                Ok(()) => "taken".to_owned(),
                Err(refusal) => refusal.to_string(),
            }
        };
        assert!(says(&[]).starts_with("auth-required: "), "{}", says(&[]));
        assert!(says(&[BOB]).starts_with("restricted: "), "{}", says(&[BOB]));
        assert_eq!(says(&[BOB, ALICE]), "taken");
    }

    proptest! {
        /// Against a plain set: authors of events, senders of wraps, and nothing asked of who takes something back.
        #[test]
        fn those_in_the_set_are_taken_and_nobody_else(
            keys in proptest::collection::btree_set(any::<[u8; 1]>().prop_map(|[byte]| [byte; 32]), 0..40),
            author: u8, readers in proptest::collection::btree_set(any::<u8>(), 0..4),
            kind in prop_oneof![Just(0_u16), Just(1), Just(5), Just(62), Just(1059), Just(21_059)],
        ) {
            let gate = TrustGate::new(&config(&[ALICE]), None).expect("a gate");
            let keys: BTreeSet<PublicKey> = keys;
            gate.set(keys.iter().copied().collect());
            let readers: Readers = readers.into_iter().map(|byte| [byte; 32]).collect();
            let expected = match kind {
                5 | 62 => true,
                kind if is_wrap(kind) => readers.iter().any(|key| keys.contains(key)),
                _ => keys.contains(&[author; 32]),
            };
            prop_assert_eq!(gate.check(&event(kind, [author; 32]), &readers).is_ok(), expected);
        }
    }
}
