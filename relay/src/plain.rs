//! What a relay has to answer, in the plainest and slowest way: the words of the NIPs, applied to the JSON that clients send.
//! The tests hold the index and live delivery against it, so it shares no code with them: it knows neither `event`, `filter`,
//! `visibility` nor `index`.

pub(crate) mod made_up;
pub(crate) mod rounds;

use std::cmp::Reverse;

use serde_json::Value;

/// An event as NIP-01 describes it. Keys and ids are lowercase hex.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Note {
    pub(crate) id: String,
    pub(crate) pubkey: String,
    pub(crate) created_at: u64,
    pub(crate) kind: u64,
    pub(crate) tags: Vec<Vec<String>>,
}

impl Note {
    /// Takes an event apart that the tests made up.
    pub(crate) fn of(event: &Value) -> Note {
        let text = |field: &str| event[field].as_str().expect("a text").to_owned();
        let number = |field: &str| event[field].as_u64().expect("a number");
        Note {
            id: text("id"),
            pubkey: text("pubkey"),
            created_at: number("created_at"),
            kind: number("kind"),
            tags: serde_json::from_value(event["tags"].clone()).expect("tags"),
        }
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.tags
            .iter()
            .filter(move |tag| tag[0] == name)
            .filter_map(|tag| tag.get(1))
            .map(String::as_str)
    }

    fn names(&self, name: &str, value: &str) -> bool {
        self.values(name).any(|named| named == value)
    }

    /// NIP-59: an event that only its recipients may learn of.
    fn is_wrap(&self) -> bool {
        self.kind == 1059 || self.kind == 21_059
    }

    /// NIP-01: of the events with one address a relay keeps the latest.
    fn address(&self) -> Option<String> {
        let (kind, author) = (self.kind, &self.pubkey);
        match kind {
            0 | 3 | 10_000..=19_999 => Some(format!("{kind}:{author}:")),
            30_000..=39_999 => {
                let d = self.values("d").next().unwrap_or("");
                Some(format!("{kind}:{author}:{d}"))
            }
            _ => None,
        }
    }

    /// NIP-01: "In case of replaceable events with the same timestamp, the event with the lowest id should be retained".
    fn replaces(&self, other: &Note) -> bool {
        self.created_at > other.created_at
            || (self.created_at == other.created_at && self.id < other.id)
    }
}

/// NIP-01: every condition of a filter must hold; of a list, one value is enough. `limit` is no condition.
pub(crate) fn matches(filter: &Value, note: &Note) -> bool {
    let conditions = filter.as_object().expect("a filter is an object");
    conditions.iter().all(|(name, wanted)| match name.as_str() {
        "ids" => lists(wanted, &note.id),
        "authors" => lists(wanted, &note.pubkey),
        "kinds" => values(wanted).any(|kind| kind.as_u64() == Some(note.kind)),
        "since" => wanted
            .as_u64()
            .is_some_and(|since| since <= note.created_at),
        "until" => wanted
            .as_u64()
            .is_some_and(|until| note.created_at <= until),
        "limit" => true,
        tag => {
            let letter = tag.strip_prefix('#').expect("a tag filter");
            note.values(letter).any(|value| lists(wanted, value))
        }
    })
}

fn values(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().expect("a list").iter()
}

fn lists(list: &Value, value: &str) -> bool {
    values(list).any(|listed| listed == value)
}

/// The ids that a REQ is answered with from what is there, in order: the latest first, at the same time the lowest id first.
/// Each filter takes as many as its `limit` says; an event that several take comes once.
pub(crate) fn answer(there: &[&Note], filters: &[Value]) -> Vec<String> {
    let order = |note: &&Note| (Reverse(note.created_at), note.id.clone());
    let mut there = there.to_vec();
    there.sort_by_key(order);
    let mut taken: Vec<&Note> = Vec::new();
    for filter in filters {
        let limit = filter.get("limit").map_or(u64::MAX, |limit| {
            limit.as_u64().expect("a limit is a number")
        });
        let matching = there.iter().filter(|note| matches(filter, note));
        taken.extend(matching.take(usize::try_from(limit).unwrap_or(usize::MAX)));
    }
    taken.sort_by_key(order);
    taken.dedup_by_key(|note| &note.id);
    taken.into_iter().map(|note| note.id.clone()).collect()
}

/// Whether those who authenticated with these keys may learn of an event. NIP-59: a wrap is its recipient's. Ours: a request to
/// vanish, and a deletion that may be about a wrap, are their author's.
pub(crate) fn may_read(note: &Note, readers: &[String]) -> bool {
    if note.is_wrap() {
        return readers.iter().any(|reader| note.names("p", reader));
    }
    let is_theirs = note.kind == 62 || (note.kind == 5 && may_be_about_a_wrap(note));
    !is_theirs || readers.contains(&note.pubkey)
}

/// It names an event, and no kind of what it names, or a kind of private messages.
fn may_be_about_a_wrap(deletion: &Note) -> bool {
    let kinds: Vec<&str> = deletion.values("k").collect();
    if kinds.is_empty() {
        return deletion.tags.iter().any(|tag| tag[0] == "e");
    }
    let private = ["13", "14", "15", "1059", "21059"];
    kinds.iter().any(|kind| private.contains(kind))
}

/// Whether a relay that was given `all`, in whatever order, shows `note` at this time.
pub(crate) fn stands(note: &Note, all: &[Note], now_s: u64) -> bool {
    !(is_ephemeral(note)
        || is_expired(note, now_s)
        || is_superseded(note, all)
        || is_deleted(note, all)
        || has_vanished(note, all))
}

/// NIP-01.
fn is_ephemeral(note: &Note) -> bool {
    (20_000..30_000).contains(&note.kind)
}

/// NIP-40.
fn is_expired(note: &Note, now_s: u64) -> bool {
    let mut times = note
        .values("expiration")
        .filter_map(|time| time.parse().ok());
    times.any(|time: u64| time <= now_s)
}

/// Also by a version that was deleted or has expired: a deletion does not bring back what came before.
fn is_superseded(note: &Note, all: &[Note]) -> bool {
    note.address().is_some_and(|address| {
        all.iter()
            .any(|other| other.address().as_ref() == Some(&address) && other.replaces(note))
    })
}

/// NIP-09, and NIP-59 for the recipient of a wrap. A deletion outlives itself: it may have expired, been deleted, be older than what it
/// names by id.
fn is_deleted(note: &Note, all: &[Note]) -> bool {
    let may_delete = |deletion: &&Note| {
        deletion.pubkey == note.pubkey || (note.kind == 1059 && note.names("p", &deletion.pubkey))
    };
    let by_id =
        |deletion: &Note| note.kind != 5 && note.kind != 62 && deletion.names("e", &note.id);
    let by_address = |deletion: &Note| {
        deletion.pubkey == note.pubkey
            && note.created_at <= deletion.created_at
            && note
                .address()
                .is_some_and(|address| deletion.names("a", &address))
    };
    all.iter()
        .filter(|other| other.kind == 5)
        .filter(may_delete)
        .any(|deletion| by_id(deletion) || by_address(deletion))
}

/// NIP-62: all of its author up to its time, and wraps to it; but not requests to vanish.
fn has_vanished(note: &Note, all: &[Note]) -> bool {
    note.kind != 62
        && all.iter().any(|request| {
            let concerns = request.pubkey == note.pubkey
                || (note.kind == 1059 && note.names("p", &request.pubkey));
            request.kind == 62 && concerns && note.created_at <= request.created_at
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn note(kind: u64, created_at: u64, tags: Value) -> Note {
        Note::of(&json!({
            "id": "02", "pubkey": "aa", "created_at": created_at, "kind": kind, "tags": tags,
        }))
    }

    /// The comparison is worth as much as what it compares with.
    #[test]
    fn the_words_of_the_nips_on_one_event() {
        let subject = note(1, 7, json!([["t", "x"], ["p", "bb"]]));
        for (filter, expected) in [
            (json!({}), true),
            (
                json!({"ids": ["01", "02"], "authors": ["aa"], "kinds": [1]}),
                true,
            ),
            (json!({"ids": []}), false),
            (json!({"since": 7, "until": 7, "limit": 0}), true),
            (json!({"since": 8}), false),
            (json!({"#t": ["x"], "#p": ["cc"]}), false),
            (json!({"#T": ["x"]}), false),
        ] {
            assert_eq!(matches(&filter, &subject), expected, "{filter}");
        }
        let (bob, nobody) = (["bb".to_owned()], []);
        assert!(may_read(&subject, &nobody));
        let wrap = note(1059, 7, json!([["p", "bb"]]));
        assert!(may_read(&wrap, &bob) && !may_read(&wrap, &nobody));
        let deletion = |tags| note(5, 0, tags);
        assert!(may_read(
            &deletion(json!([["e", "02"], ["k", "1"]])),
            &nobody
        ));
        assert!(!may_read(&deletion(json!([["e", "02"]])), &bob));
        assert!(!stands(&subject, &[deletion(json!([["e", "02"]]))], 9));
        let expiring = note(1, 7, json!([["expiration", "9"]]));
        assert!(stands(&expiring, &[], 8) && !stands(&expiring, &[], 9));
        let (old, new) = (note(30_000, 7, json!([])), note(30_000, 8, json!([["d"]])));
        assert!(
            !stands(&old, &[old.clone(), new.clone()], 9) && stands(&new, &[old, new.clone()], 9)
        );
    }

    #[test]
    fn each_filter_has_its_own_limit_and_an_event_comes_once() {
        let at = |id: &str, created_at| Note {
            id: id.to_owned(),
            ..note(1, created_at, json!([]))
        };
        let (a, b, c) = (at("0a", 5), at("0b", 5), at("0c", 9));
        let there = [&b, &c, &a];
        let ask = |filters: &[Value]| answer(&there, filters);
        assert_eq!(ask(&[json!({})]), ["0c", "0a", "0b"]);
        assert_eq!(
            ask(&[json!({"limit": 2}), json!({"ids": ["0a"]})]),
            ["0c", "0a"]
        );
        assert_eq!(
            ask(&[json!({"limit": 0}), json!({"until": 5, "limit": 1})]),
            ["0a"]
        );
    }
}
