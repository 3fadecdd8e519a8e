//! The stored form of an event: a header that answers most questions, then its JSON. Pure.
//!
//! `kind u16 | created_at u64 | pubkey 32 | expiration u64 (all ones: none) | tags start u32 | tags end u32 |
//! readers u16 (all ones: public) | readers x 32 | JSON`, numbers big-endian.

use crate::event::{Audience, Event, EventId, PublicKey};

use super::IndexError;

const NO_EXPIRATION: u64 = u64::MAX;
const PUBLIC: u16 = u16::MAX;

/// A stored event, borrowed from the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: u16,
    pub(super) created_at: u64,
    pub(super) pubkey: PublicKey,
    pub(super) expiration: Option<u64>,
    pub(super) audience: Audience,
    pub(super) json: &'a [u8],
    tags: &'a [u8],
}

/// Encodes an event.
pub(super) fn encode(event: &Event) -> Vec<u8> {
    let json = event.json();
    let tags = event.tags_range();
    let mut bytes = Vec::with_capacity(128 + json.len());
    bytes.extend_from_slice(&event.kind.to_be_bytes());
    bytes.extend_from_slice(&event.created_at.to_be_bytes());
    bytes.extend_from_slice(&event.pubkey);
    bytes.extend_from_slice(&event.expiration().unwrap_or(NO_EXPIRATION).to_be_bytes());
    for end in [tags.start, tags.end] {
        bytes.extend_from_slice(&u32::try_from(end).unwrap_or(u32::MAX).to_be_bytes());
    }
    match event.audience() {
        Audience::Public => bytes.extend_from_slice(&PUBLIC.to_be_bytes()),
        Audience::Only(readers) => {
            let count = u16::try_from(readers.len())
                .unwrap_or(PUBLIC - 1)
                .min(PUBLIC - 1);
            bytes.extend_from_slice(&count.to_be_bytes());
            readers
                .iter()
                .take(usize::from(count))
                .for_each(|reader| bytes.extend_from_slice(reader));
        }
    }
    bytes.extend_from_slice(json);
    bytes
}

impl<'a> Record<'a> {
    /// Decodes a row of `table`.
    pub(super) fn decode(bytes: &'a [u8], table: &'static str) -> Result<Record<'a>, IndexError> {
        Record::read(bytes).ok_or(IndexError::Damaged { table })
    }

    fn read(mut bytes: &'a [u8]) -> Option<Record<'a>> {
        let kind = u16::from_be_bytes(take(&mut bytes)?);
        let created_at = u64::from_be_bytes(take(&mut bytes)?);
        let pubkey = take::<32>(&mut bytes)?;
        let expiration = u64::from_be_bytes(take(&mut bytes)?);
        let tags_start = u32::from_be_bytes(take(&mut bytes)?) as usize;
        let tags_end = u32::from_be_bytes(take(&mut bytes)?) as usize;
        let audience = match u16::from_be_bytes(take(&mut bytes)?) {
            PUBLIC => Audience::Public,
            count => Audience::Only(
                (0..count)
                    .map(|_| take::<32>(&mut bytes))
                    .collect::<Option<_>>()?,
            ),
        };
        let tags = bytes.get(tags_start..tags_end)?;
        let expiration = (expiration != NO_EXPIRATION).then_some(expiration);
        Some(Record {
            kind,
            created_at,
            pubkey,
            expiration,
            audience,
            json: bytes,
            tags,
        })
    }

    /// The tags, parsed.
    pub(super) fn tags(&self) -> Result<Vec<Vec<String>>, IndexError> {
        serde_json::from_slice(self.tags).map_err(|_| IndexError::Damaged { table: "events" })
    }

    /// What the index rows of this event are made from.
    pub(super) fn subject(&self, id: EventId) -> Result<Subject, IndexError> {
        let tags = self.tags()?;
        Ok(Subject::new(
            id,
            self.kind,
            self.pubkey,
            self.created_at,
            self.expiration,
            self.audience.clone(),
            &tags,
        ))
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

/// Everything about an event that rows and rules depend on, apart from its JSON.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) id: EventId,
    pub(super) kind: u16,
    pub(super) pubkey: PublicKey,
    pub(super) created_at: u64,
    pub(super) expiration: Option<u64>,
    pub(super) audience: Audience,
    /// Key of the coordinate, for replaceable and addressable kinds.
    pub(super) coordinate: Option<Vec<u8>>,
    /// Distinct single-letter tags with a value.
    pub(super) letters: Vec<(u8, String)>,
}

impl Subject {
    pub(super) fn of(event: &Event) -> Subject {
        let (id, expiration) = (event.id, event.expiration());
        Subject::new(
            id,
            event.kind,
            event.pubkey,
            event.created_at,
            expiration,
            event.audience(),
            &event.tags,
        )
    }

    fn new(
        id: EventId,
        kind: u16,
        pubkey: PublicKey,
        created_at: u64,
        expiration: Option<u64>,
        audience: Audience,
        tags: &[Vec<String>],
    ) -> Subject {
        let d = tags
            .iter()
            .find(|tag| tag.len() > 1 && tag[0] == "d")
            .map_or("", |tag| tag[1].as_str());
        let coordinate = crate::event::Coordinate::of(kind, pubkey, d);
        let mut letters: Vec<(u8, String)> = tags
            .iter()
            .filter_map(|tag| match (tag.first()?.as_bytes(), tag.get(1)) {
                ([letter], Some(value)) if letter.is_ascii_alphabetic() => {
                    Some((*letter, value.clone()))
                }
                _ => None,
            })
            .collect();
        letters.sort_unstable();
        letters.dedup();
        let coordinate = coordinate.as_ref().map(super::keys::coordinate);
        Subject {
            id,
            kind,
            pubkey,
            created_at,
            expiration,
            audience,
            coordinate,
            letters,
        }
    }

    /// The readers of a private event; empty for a public one.
    pub(super) fn readers(&self) -> &[PublicKey] {
        match &self.audience {
            Audience::Public => &[],
            Audience::Only(readers) => readers,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_rows_never_panic(bytes: Vec<u8>) {
            if let Some(record) = Record::read(&bytes) {
                let _ = record.tags();
            }
        }
    }
}
