//! Tests of the index through its interface, and what they share.

mod arrivals;
mod commute;
mod converge;
mod differential;
mod folder;
mod gather;
mod keyspaces;
mod lists;
mod log;
mod rules;

use std::sync::Arc;
use std::time::Duration;

use nightjar_envelope::StreamName;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::event::{EventId, PublicKey};

pub(super) const NOW: u64 = 1_800_000_000;
pub(super) const DAY: u64 = 86_400;
pub(super) const ALICE: PublicKey = [0xa1; 32];
pub(super) const BOB: PublicKey = [0xb0; 32];
pub(super) const CAROL: PublicKey = [0xca; 32];

/// An index in a folder of its own.
pub(super) struct Bed {
    pub(super) index: Index,
    dir: TempDir,
}

impl Bed {
    pub(super) fn new() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let (index, opened) = Index::open(&options(&dir)).unwrap();
        assert_eq!(opened, OpenedAs::Fresh(FreshReason::New));
        Bed { index, dir }
    }

    pub(super) fn apply(&self, entry: &LogEntry) -> Applied {
        self.apply_at(entry, NOW)
    }

    pub(super) fn apply_at(&self, entry: &LogEntry, now_s: u64) -> Applied {
        self.index
            .apply(std::slice::from_ref(entry), &[], now_s)
            .unwrap()[0]
    }

    /// As the pull consumer does: with the position.
    pub(super) fn follow(&self, entry: &LogEntry) -> Applied {
        let (stream, seq) = entry.at.clone().unwrap();
        self.index
            .apply(std::slice::from_ref(entry), &[Advance { stream, seq }], NOW)
            .unwrap()[0]
    }

    pub(super) fn ids(&self, filter: Value, readers: &[PublicKey]) -> Vec<EventId> {
        self.ids_at(&[filter], readers, NOW)
    }

    pub(super) fn ids_at(
        &self,
        filters: &[Value],
        readers: &[PublicKey],
        now_s: u64,
    ) -> Vec<EventId> {
        let filters: Vec<Filter> = filters.iter().map(filter).collect();
        let mut query = self
            .index
            .query(&filters, &readers.iter().copied().collect(), now_s)
            .unwrap();
        drain(&mut query, &BatchLimits::default())
    }
}

pub(super) fn options(dir: &TempDir) -> IndexOptions {
    IndexOptions {
        dir: dir.path().join("index"),
        max_bytes: 64 << 20,
        message_retention: Duration::from_secs(90 * DAY),
        fleet: "f1".to_owned(),
    }
}

pub(super) fn filter(value: &Value) -> Filter {
    Filter::from_json(value.to_string().as_bytes()).unwrap()
}

pub(super) fn drain(query: &mut Query, limits: &BatchLimits) -> Vec<EventId> {
    let mut ids = Vec::new();
    loop {
        let batch = query.next_batch(limits).unwrap();
        ids.extend(batch.events.iter().map(|found| found.id));
        if batch.done {
            return ids;
        }
    }
}

pub(super) fn id(number: u64) -> EventId {
    let mut id = [0; 32];
    id[24..].copy_from_slice(&number.to_be_bytes());
    id
}

/// An event with a chosen id: the index leaves checking ids and signatures to its callers.
pub(super) fn event(
    number: u64,
    author: PublicKey,
    created_at: u64,
    kind: u16,
    tags: Value,
) -> Event {
    let event = json!({
        "id": hex::encode(id(number)), "pubkey": hex::encode(author), "created_at": created_at, "kind": kind,
        "tags": tags, "content": format!("content {number}"), "sig": "03".repeat(64),
    });
    Event::parse(event.to_string().as_bytes()).unwrap()
}

pub(super) fn wrap(number: u64, recipient: PublicKey, created_at: u64) -> Event {
    event(
        number,
        [0x99; 32],
        created_at,
        1059,
        json!([["p", hex::encode(recipient)]]),
    )
}

pub(super) fn stream(name: &str) -> StreamName {
    name.parse().unwrap()
}

/// An entry of the stream that the event's class belongs to.
pub(super) fn entry(event: &Event, seq: u64) -> LogEntry {
    let name = if event.class() == Class::State {
        "ST_a_1_0"
    } else {
        "EV_a_1_0"
    };
    LogEntry {
        content: Arc::new(event.clone()).into(),
        at: Some((stream(name), seq)),
        log_time: LogTime::Provisional(NOW * 1000),
    }
}

pub(super) fn hex_id(number: u64) -> String {
    hex::encode(id(number))
}
