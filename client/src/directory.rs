//! Where a person wants private messages: kind 10050 (NIP-17). Pure; who asks the relays is [`crate::client`].

use nostr::event::{Event, EventBuilder, IntoEventBuilder, Kind};
use nostr::filter::Filter;
use nostr::key::PublicKey;
use nostr::nips::nip17::{self, InboxRelayList};
use nostr::types::RelayUrl;

/// Relays of one list that are used; NIP-17 suggests one to three.
pub const MAX_RELAYS: usize = 10;

/// The filter for the newest replaceable event of `kind` by `author`.
pub fn latest(author: PublicKey, kind: Kind) -> Filter {
    Filter::new().author(author).kind(kind).limit(1)
}

/// The newest valid event of `kind` by `author` among what relays sent; of two with one time the lower id wins (NIP-01).
/// Relays are not trusted: each candidate's id and signature are checked.
pub fn newest(
    candidates: impl IntoIterator<Item = Event>,
    author: &PublicKey,
    kind: Kind,
) -> Option<Event> {
    candidates
        .into_iter()
        .filter(|event| event.kind == kind && event.pubkey == *author && event.verify().is_ok())
        .min_by(|a, b| b.created_at.cmp(&a.created_at).then(a.id.cmp(&b.id)))
}

/// The relays of a kind 10050 event in its order, without repeats and unreadable URLs, at most [`MAX_RELAYS`].
pub fn inbox_relays(list: &Event) -> Vec<RelayUrl> {
    let mut relays: Vec<RelayUrl> = Vec::new();
    for url in nip17::extract_relay_list(list) {
        if !relays.contains(&url) && relays.len() < MAX_RELAYS {
            relays.push(url);
        }
    }
    relays
}

/// A kind 10050 event that names `relays`.
pub fn inbox_list(relays: &[RelayUrl]) -> EventBuilder {
    InboxRelayList::new(relays.iter().cloned()).into_event_builder()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use nostr::types::Timestamp;

    fn list(by: &Identity, at: u64, urls: &[&str]) -> Event {
        let urls: Vec<_> = urls
            .iter()
            .map(|url| RelayUrl::parse(url).unwrap())
            .collect();
        by.sign(inbox_list(&urls).custom_created_at(Timestamp::from_secs(at)))
            .unwrap()
    }

    #[test]
    fn newest_valid_list_of_the_right_author_wins() {
        let (bob, eve) = (Identity::generate(), Identity::generate());
        let old = list(&bob, 10, &["ws://127.0.0.1:1"]);
        let new = list(&bob, 20, &["ws://127.0.0.1:2"]);
        let mut forged = list(&bob, 30, &["ws://127.0.0.1:3"]);
        forged.created_at = Timestamp::from_secs(40);
        let others = list(&eve, 50, &["ws://127.0.0.1:4"]);
        let found = newest(
            [old, new.clone(), forged, others],
            &bob.public_key(),
            Kind::InboxRelays,
        );
        assert_eq!(found, Some(new));
    }

    #[test]
    fn list_is_read_without_repeats_and_bounded() {
        let bob = Identity::generate();
        let many: Vec<String> = (1..30)
            .map(|port| format!("ws://127.0.0.1:{port}"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(inbox_relays(&list(&bob, 1, &many)).len(), MAX_RELAYS);
        assert_eq!(
            inbox_relays(&list(&bob, 1, &["ws://127.0.0.1:1", "ws://127.0.0.1:1"])).len(),
            1
        );
    }
}
