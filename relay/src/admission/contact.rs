//! First contact: what a gift wrap must come with. Pure. The author of a wrap is a throw-away key, so the connection, the wrap itself or its
//! recipient has to speak for it.

use std::fmt;

use nightjar_config::{FirstContact, GiftWrapAdmission};

use super::refusal::Refusal;
use super::rules::check_work;
use crate::event::{Event, PublicKey, is_wrap, leading_zero_bits};
use crate::visibility::Readers;

/// Which ways are open to gift wraps; by default every wrap is welcome.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ContactRules {
    is_asked: bool,
    auth: bool,
    work: Option<u32>,
    known: bool,
}

/// What the event and the connection alone say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Contact {
    /// Nothing more is asked.
    Welcome,
    /// Welcome if this recipient is known.
    IfKnown(PublicKey),
    /// Not welcome.
    Refused(Refusal),
}

/// What would be enough, as the sender reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// AUTH would.
    auth: bool,
    /// So many leading zero bits would; this wrap has the others.
    work: Option<(u32, u32)>,
    /// A recipient that is known would.
    known: bool,
}

impl ContactRules {
    /// The rules that follow from a configuration.
    pub(super) fn new(config: &GiftWrapAdmission) -> Self {
        let has = |way| config.any_of.contains(&way);
        Self {
            is_asked: !config.any_of.is_empty(),
            auth: has(FirstContact::Auth),
            work: has(FirstContact::ProofOfWork).then_some(config.proof_of_work_difficulty),
            known: has(FirstContact::Known),
        }
    }

    /// Whether a connection on which `readers` authenticated may send this. The id of the event must have been checked, or its zero bits
    /// show nothing.
    pub(super) fn judge(&self, event: &Event, readers: &Readers) -> Contact {
        if !self.is_asked || !is_wrap(event.kind) || (self.auth && !readers.is_empty()) {
            return Contact::Welcome;
        }
        if self
            .work
            .is_some_and(|bits| check_work(event, bits).is_ok())
        {
            return Contact::Welcome;
        }
        match event.recipients().next() {
            Some(recipient) if self.known => Contact::IfKnown(recipient),
            _ => Contact::Refused(self.refusal(event)),
        }
    }

    /// The refusal of a wrap that came in none of the ways. It is the same whatever is known of wrap and recipient.
    pub(super) fn refusal(&self, event: &Event) -> Refusal {
        Refusal::StrangeWrap(Wanted {
            auth: self.auth,
            work: self.work.map(|bits| (bits, leading_zero_bits(&event.id))),
            known: self.known,
        })
    }
}

impl Wanted {
    /// The NIP-01 prefix: the way that a client can take by itself, AUTH before work.
    pub fn prefix(&self) -> &'static str {
        match self {
            Self { auth: true, .. } => "auth-required",
            Self { work: Some(_), .. } => "pow",
            _ => "restricted",
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ways = Vec::new();
        if self.auth {
            ways.push("from clients that have authenticated".to_owned());
        }
        if let Some((required, found)) = self.work {
            ways.push(format!(
                "with proof of work of difficulty {required} (NIP-13; this one shows {found})"
            ));
        }
        if self.known {
            ways.push("for recipients that it knows".to_owned());
        }
        write!(f, "this relay takes gift wraps {}", ways.join(", or "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const RECIPIENT: PublicKey = [0xb0; 32];

    /// An event whose id has this many leading zero bits.
    fn event(kind: u16, bits: u32, committed: Option<u32>) -> Event {
        let mut id = [0_u8; 32];
        if let Some(byte) = id.get_mut(bits as usize / 8) {
            *byte = 0x80 >> (bits % 8);
        }
        let mut tags = vec![json!(["p", hex::encode(RECIPIENT)])];
        tags.extend(committed.map(|target| json!(["nonce", "1", target.to_string()])));
        let event = json!({
            "id": hex::encode(id), "pubkey": "11".repeat(32), "created_at": 1, "kind": kind, "tags": tags,
            "content": "", "sig": "00".repeat(64),
        });
        Event::parse(event.to_string().as_bytes()).expect("an event")
    }

    fn rules(any_of: &[FirstContact]) -> ContactRules {
        ContactRules::new(&GiftWrapAdmission {
            any_of: any_of.to_vec(),
            proof_of_work_difficulty: 16,
        })
    }

    fn somebody() -> Readers {
        [[1; 32]].into_iter().collect()
    }

    #[test]
    fn a_refusal_names_every_way_and_begins_with_the_one_that_a_client_can_take() {
        use FirstContact::{Auth, Known, ProofOfWork};
        for (any_of, text) in [
            (
                &[Known, ProofOfWork, Auth][..],
                "auth-required: this relay takes gift wraps from clients that have authenticated, or with proof of work of \
                 difficulty 16 (NIP-13; this one shows 3), or for recipients that it knows",
            ),
            (
                &[ProofOfWork, Known],
                "pow: this relay takes gift wraps with proof of work of difficulty 16 (NIP-13; this one shows 3), or for \
                 recipients that it knows",
            ),
            (
                &[Known],
                "restricted: this relay takes gift wraps for recipients that it knows",
            ),
        ] {
            let refusal = rules(any_of).refusal(&event(1059, 3, None));
            assert_eq!(refusal.to_string(), text);
        }
    }

    #[test]
    fn work_below_its_own_target_is_no_way() {
        let rules = rules(&[FirstContact::ProofOfWork]);
        let nobody = Readers::anonymous();
        for (bits, committed, is_welcome) in [
            (16, None, true),
            (16, Some(16), true),
            (15, Some(16), false),
            (30, Some(8), false),
        ] {
            let contact = rules.judge(&event(1059, bits, committed), &nobody);
            assert_eq!(
                contact == Contact::Welcome,
                is_welcome,
                "{bits} {committed:?}"
            );
        }
    }

    proptest! {
        /// One way is enough, no way is not, and nothing is asked of other kinds.
        #[test]
        fn one_of_the_ways_is_enough(
            auth: bool, work: bool, known: bool, authenticated: bool, bits in 0_u32..40,
            kind in prop_oneof![Just(1059_u16), Just(21_059), Just(1), Just(10_050)],
        ) {
            use FirstContact::{Auth, Known, ProofOfWork};
            let ways = [(auth, Auth), (work, ProofOfWork), (known, Known)];
            let any_of: Vec<_> = ways.iter().filter(|(is_open, _)| *is_open).map(|(_, way)| *way).collect();
            let readers = if authenticated { somebody() } else { Readers::anonymous() };
            let event = event(kind, bits, None);
            let is_asked = is_wrap(kind) && !any_of.is_empty();
            let welcome = !is_asked || (auth && authenticated) || (work && bits >= 16);
            match rules(&any_of).judge(&event, &readers) {
                Contact::Welcome => prop_assert!(welcome),
                Contact::IfKnown(key) => prop_assert!(!welcome && known && key == RECIPIENT),
                Contact::Refused(_) => prop_assert!(!welcome && !known),
            }
        }
    }
}
