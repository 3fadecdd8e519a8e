//! Events, filters and readers that are made up: few people, times and words, so that they meet; one seed makes the same again.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::{Value, json};

/// The present of what is made up, in Unix seconds.
pub(crate) const NOW: u64 = 1_800_000_000;
/// When some of the events that stood at [`NOW`] have expired.
pub(crate) const LATER: u64 = NOW + 60;

/// Public keys, in lowercase hex: those who read, and one who writes only.
pub(crate) const PEOPLE: [&str; 4] = [
    "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1",
    "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0",
    "cacacacacacacacacacacacacacacacacacacacacacacacacacacacacacacaca",
    "9999999999999999999999999999999999999999999999999999999999999999",
];

/// Some twice: they are what the rules are about. The last two are never stored.
const KINDS: [u16; 18] = [
    0, 1, 1, 1, 3, 5, 5, 5, 7, 62, 1059, 1059, 1059, 10_050, 30_000, 30_078, 20_001, 21_059,
];
/// Kinds that replace each other.
const ADDRESSES: [(u16, &[&str]); 5] = [
    (0, &[""]),
    (3, &[""]),
    (10_050, &[""]),
    (30_000, &["", "a", "b"]),
    (30_078, &["", "a", "b"]),
];
const LETTERS: [&str; 5] = ["t", "T", "d", "x", "alt"];
/// How many different times there are.
const TIMES: u64 = 12;

/// Makes things up.
pub(crate) struct MadeUp {
    random: StdRng,
    /// Ids of the events there are or will be.
    ids: Vec<String>,
    words: Vec<String>,
}

impl MadeUp {
    /// The same for the same seed. There will be `events` events.
    pub(crate) fn new(seed: u64, events: usize) -> MadeUp {
        let mut random = StdRng::seed_from_u64(seed);
        let ids = (0..events).map(|_| hex_id(&mut random)).collect();
        // The index keeps a hash of a long value: two that begin alike must stay two.
        let long = "long ".repeat(20);
        let words = [
            "a",
            "b",
            "",
            "ż🐢",
            &format!("{long}1"),
            &format!("{long}2"),
        ];
        MadeUp {
            random,
            ids,
            words: words.map(str::to_owned).to_vec(),
        }
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    /// True once in so many times.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of some things.
    pub(crate) fn one_of<T: Clone>(&mut self, things: &[T]) -> T {
        things.choose(&mut self.random).expect("not empty").clone()
    }

    fn some_of<T: Clone>(&mut self, things: &[T], most: usize) -> Vec<T> {
        (0..self.below(most + 1))
            .map(|_| self.one_of(things))
            .collect()
    }

    /// All events, in the order in which they come.
    pub(crate) fn events(&mut self) -> Vec<Value> {
        (0..self.ids.len())
            .map(|number| self.event(number))
            .collect()
    }

    fn event(&mut self, number: usize) -> Value {
        let kind = self.one_of(&KINDS);
        // What vanishes early hides little, so that enough is left to find.
        let latest = if kind == 62 { TIMES / 4 } else { TIMES };
        let author = self.one_of(&PEOPLE);
        let tags = self.tags(kind, author);
        json!({
            "id": self.ids[number], "pubkey": author, "created_at": self.random.random_range(0..latest),
            "kind": kind, "tags": tags, "content": format!("number {number}"), "sig": "03".repeat(64),
        })
    }

    fn tags(&mut self, kind: u16, author: &str) -> Vec<Vec<String>> {
        let mut tags = Vec::new();
        for _ in 0..self.below(4) {
            let mut tag = vec![self.one_of(&LETTERS).to_owned()];
            if !self.once_in(8) {
                tag.push(self.one_of(&self.words.clone()));
            }
            tags.push(tag);
        }
        match kind {
            5 => tags.extend(self.targets(author)),
            1059 | 21_059 => tags.push(pair("p", self.one_of(&PEOPLE))),
            1 | 7 => {
                let people = self.some_of(&PEOPLE, 2);
                tags.extend(people.into_iter().map(|key| pair("p", key)));
            }
            _ => {}
        }
        if self.once_in(8) {
            let time = NOW + self.one_of(&[0, 30, 90]) - 5;
            tags.push(pair("expiration", &time.to_string()));
        }
        tags
    }

    /// What a deletion names: anybody's events, and addresses of its author for the most part.
    fn targets(&mut self, author: &str) -> Vec<Vec<String>> {
        let ids = self.some_of(&self.ids.clone(), 4);
        let mut tags: Vec<_> = ids.iter().map(|id| pair("e", id)).collect();
        if self.once_in(2) {
            let (kind, ds) = self.one_of(&ADDRESSES);
            let owner = self.one_of(&[author, author, PEOPLE[0]]);
            let address = format!("{kind}:{owner}:{}", self.one_of(ds));
            tags.push(pair("a", &address));
        }
        let kinds = self.some_of(&["1", "1059", "14", "30000"], 2);
        tags.extend(kinds.into_iter().map(|kind| pair("k", kind)));
        tags
    }

    /// One filter.
    pub(crate) fn filter(&mut self) -> Value {
        let mut filter = json!({});
        if self.once_in(10) {
            let mut ids = self.some_of(&self.ids.clone(), 6);
            ids.push(hex_id(&mut self.random));
            filter["ids"] = json!(ids);
        }
        if self.once_in(3) {
            filter["authors"] = json!(self.some_of(&PEOPLE, 3));
        }
        if self.once_in(3) {
            filter["kinds"] = json!(self.some_of(&KINDS, 4));
        }
        for letter in ["#t", "#T", "#d", "#x"] {
            if self.once_in(8) {
                filter[letter] = json!(self.some_of(&self.words.clone(), 3));
            }
        }
        if self.once_in(6) {
            filter["#p"] = json!(self.some_of(&PEOPLE, 2));
        }
        if self.once_in(12) {
            filter["#e"] = json!(self.some_of(&self.ids.clone(), 4));
        }
        for edge in ["since", "until"] {
            if self.once_in(4) {
                filter[edge] = json!(self.below(TIMES as usize));
            }
        }
        if self.once_in(40) {
            filter["until"] = json!(u64::MAX);
        }
        if self.once_in(3) {
            filter["limit"] = json!(self.one_of(&[0, 1, 2, 3, 5, 8, 20, 500]));
        }
        filter
    }

    /// One to three filters of a question.
    pub(crate) fn filters(&mut self) -> Vec<Value> {
        (0..=self.below(3)).map(|_| self.filter()).collect()
    }

    /// Keys that authenticated on one connection: none to three.
    pub(crate) fn readers(&mut self) -> Vec<String> {
        let mut readers: Vec<String> = PEOPLE.map(str::to_owned).to_vec();
        readers.truncate(3);
        readers.retain(|_| self.once_in(2));
        readers
    }

    /// The numbers below `count` in some order.
    pub(crate) fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            order.swap(at, self.below(at + 1));
        }
        order
    }
}

fn pair(name: &str, value: &str) -> Vec<String> {
    vec![name.to_owned(), value.to_owned()]
}

fn hex_id(random: &mut StdRng) -> String {
    let mut id = [0; 32];
    random.fill_bytes(&mut id);
    hex::encode(id)
}
