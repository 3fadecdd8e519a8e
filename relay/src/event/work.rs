//! Proof of work (NIP-13): what an id shows, and what its event says that it aimed at. Says nothing of how much is enough.

use super::{Event, EventId};

/// The tag that a miner varies; its third element is the difficulty aimed at.
const NONCE_TAG: &str = "nonce";

/// Leading zero bits of an id, 0 to 256. They show work only once the id is known to be the event's hash.
pub fn leading_zero_bits(id: &EventId) -> u32 {
    let zero_bytes = id.iter().take_while(|byte| **byte == 0).count();
    let rest = id.get(zero_bytes).map_or(0, |byte| byte.leading_zeros());
    // At most 32 bytes, so nothing is cut off.
    8 * zero_bytes as u32 + rest
}

impl Event {
    /// The difficulty that the event's nonce tags commit to, the least if they name several; `None` if none names a number.
    /// A number too large for 32 bits counts as the largest.
    pub fn committed_difficulty(&self) -> Option<u32> {
        self.tags
            .iter()
            .filter(|tag| tag[0] == NONCE_TAG)
            .filter_map(|tag| tag.get(2))
            .filter(|target| !target.is_empty() && target.bytes().all(|b| b.is_ascii_digit()))
            .map(|target| target.parse().unwrap_or(u32::MAX))
            .min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> EventId {
        super::super::parse_hex(text).expect("an id")
    }

    /// Bit by bit, as one counts by hand.
    fn counted(id: &EventId) -> u32 {
        let bits = id
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
        bits.take_while(|bit| *bit == 0).map(|_| 1).sum()
    }

    fn with_tags(tags: &serde_json::Value) -> Event {
        let json = serde_json::json!({
            "id": "00".repeat(32), "pubkey": "00".repeat(32), "created_at": 0, "kind": 1, "tags": tags,
            "content": "", "sig": "00".repeat(64),
        });
        Event::parse(json.to_string().as_bytes()).expect("an event")
    }

    #[test]
    fn the_examples_of_the_nip_have_its_difficulties() {
        for (text, bits) in [
            (
                "000000000e9d97a1ab09fc381030b346cdd7a142ad57e6df0b46dc9bef6c7e2d",
                36,
            ),
            (
                "000006d8c378af1779d2feebc7603a125d99eca0ccf1085959b307f64e5dd358",
                21,
            ),
            (&format!("002f{}", "f".repeat(60)), 10),
            (&"f".repeat(64), 0),
            (&format!("7{}", "f".repeat(63)), 1),
            (&format!("{}1", "0".repeat(63)), 255),
            (&"0".repeat(64), 256),
        ] {
            assert_eq!(leading_zero_bits(&id(text)), bits, "{text}");
        }
    }

    #[test]
    fn the_mined_example_of_the_nip_is_genuine_and_commits_to_20() {
        let json = serde_json::json!({
            "id": "000006d8c378af1779d2feebc7603a125d99eca0ccf1085959b307f64e5dd358",
            "pubkey": "a48380f4cfcc1ad5378294fcac36439770f9c878dd880ffa94bb74ea54a6f243",
            "created_at": 1_651_794_653, "kind": 1, "tags": [["nonce", "776797", "20"]],
            "content": "It's just me mining my own business",
            "sig": "284622fc0a3f4f1303455d5175f7ba962a3300d136085b9566801bc2e0699de0c7e31e44c81fb40ad9049173742e904713c3594a1da0fc5d2382a25c11aba977",
        });
        let event = Event::parse(json.to_string().as_bytes()).expect("an event");
        assert_eq!(event.verify_id(), Ok(()));
        assert_eq!(event.committed_difficulty(), Some(20));
    }

    #[test]
    fn the_least_number_in_a_nonce_tag_is_what_it_commits_to() {
        for (tags, committed) in [
            (serde_json::json!([]), None),
            (serde_json::json!([["nonce"], ["nonce", "1"]]), None),
            (
                serde_json::json!([
                    ["nonce", "1", ""],
                    ["nonce", "1", "-4"],
                    ["nonce", "1", "+4"]
                ]),
                None,
            ),
            (
                serde_json::json!([["nonce", "1", "much"], ["t", "1", "3"]]),
                None,
            ),
            (serde_json::json!([["nonce", "1", "0"]]), Some(0)),
            (
                serde_json::json!([["nonce", "1", "30"], ["nonce", "2", "8", "x"]]),
                Some(8),
            ),
            (
                serde_json::json!([["nonce", "1", "9".repeat(40)]]),
                Some(u32::MAX),
            ),
        ] {
            assert_eq!(with_tags(&tags).committed_difficulty(), committed, "{tags}");
        }
    }

    proptest! {
        #[test]
        fn leading_zero_bits_are_those_counted_one_by_one(zeros in 0..=32_usize, mut id: EventId) {
            id[..zeros].fill(0);
            prop_assert_eq!(leading_zero_bits(&id), counted(&id));
        }
    }
}
