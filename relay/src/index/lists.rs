//! The fleet's lists in the index: one register for each entry, and what a ban hides. See `management::lists` for their order.
//!
//! A ban erases nothing: what it hides is stored all the same, also when it comes later, and is there again once the ban is lifted.

use heed::{RoTxn, RwTxn, WithoutTls};

use super::tables::Tables;
use super::{Applied, IndexError, keys};
use crate::event::{Audience, EventId, PublicKey};
use crate::management::lists::{Change, List, Stamp, Target};

const TABLE: &str = "lists";

/// One entry of a list: whether it is on, who said so last, and why.
struct Register {
    is_on: bool,
    stamp: Stamp,
    reason: Option<String>,
}

impl Register {
    /// `created_at u64 | id 32 | on u8 | reason`, the reason empty if there is none.
    fn encode(&self) -> Vec<u8> {
        let mut row = keys::due(self.stamp.created_at, &self.stamp.id).to_vec();
        row.push(u8::from(self.is_on));
        row.extend_from_slice(self.reason.as_deref().unwrap_or_default().as_bytes());
        row
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let (created_at, rest) = row.split_first_chunk::<8>()?;
        let (id, rest) = rest.split_first_chunk::<32>()?;
        let (is_on, reason) = rest.split_first()?;
        let reason = std::str::from_utf8(reason).ok()?;
        Some(Self {
            is_on: *is_on != 0,
            stamp: Stamp {
                created_at: u64::from_be_bytes(*created_at),
                id: *id,
            },
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
        })
    }

    fn read(
        tables: &Tables,
        txn: &RoTxn<'_>,
        list: List,
        target: &Target,
    ) -> Result<Option<Self>, IndexError> {
        let row = tables.lists.get(txn, &key(list, target))?;
        row.map(|row| Self::decode(row).ok_or(IndexError::Damaged { table: TABLE }))
            .transpose()
    }
}

/// The first byte of a list's keys. Stored: a number is never used again for another list.
fn number(list: List) -> u8 {
    match list {
        List::BannedPubkeys => 1,
        List::AllowedPubkeys => 2,
        List::BannedEvents => 3,
        List::AllowedEvents => 4,
        List::AllowedKinds => 5,
        List::DisallowedKinds => 6,
    }
}

fn key(list: List, target: &Target) -> Vec<u8> {
    let mut key = vec![number(list)];
    match target {
        Target::Pubkey(id) | Target::Event(id) => key.extend_from_slice(id),
        Target::Kind(kind) => key.extend_from_slice(&kind.to_be_bytes()),
    }
    key
}

fn target_of(list: List, key: &[u8]) -> Option<Target> {
    let (_, rest) = key.split_first()?;
    Some(match list {
        List::BannedPubkeys | List::AllowedPubkeys => Target::Pubkey(rest.try_into().ok()?),
        List::BannedEvents | List::AllowedEvents => Target::Event(rest.try_into().ok()?),
        List::AllowedKinds | List::DisallowedKinds => {
            Target::Kind(u16::from_be_bytes(rest.try_into().ok()?))
        }
    })
}

/// Applies a change: each of its registers keeps the greater stamp. Answers for the first, which is what the call is about.
pub(super) fn apply(
    tables: &Tables,
    txn: &mut RwTxn<'_>,
    change: &Change,
    stamp: Stamp,
) -> Result<Applied, IndexError> {
    let mut verdict = None;
    for (list, is_on) in change.moves {
        let old = Register::read(tables, txn, *list, &change.target)?;
        let applied = match old {
            Some(old) if old.stamp == stamp => Applied::Duplicate,
            Some(old) if old.stamp.beats(&stamp) => Applied::Superseded,
            _ => Applied::New,
        };
        if applied == Applied::New {
            let register = Register {
                is_on: *is_on,
                stamp,
                reason: change.reason.clone(),
            };
            tables
                .lists
                .put(txn, &key(*list, &change.target), &register.encode())?;
        }
        verdict.get_or_insert(applied);
    }
    Ok(verdict.unwrap_or(Applied::Duplicate))
}

/// Whether anything was ever banned: if not, nothing else needs to be asked.
pub(super) fn has_bans(tables: &Tables, txn: &RoTxn<'_>) -> Result<bool, IndexError> {
    for list in [List::BannedPubkeys, List::BannedEvents] {
        if tables
            .lists
            .prefix_iter(txn, &[number(list)])?
            .next()
            .transpose()?
            .is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a ban hides an event: of its id, or of its author. What its author alone may read stays with its author.
pub(super) fn hides(
    tables: &Tables,
    txn: &RoTxn<'_>,
    id: &EventId,
    author: &PublicKey,
    audience: &Audience,
) -> Result<bool, IndexError> {
    let is_on = |list, target| {
        Register::read(tables, txn, list, &target)
            .map(|register| register.is_some_and(|register| register.is_on))
    };
    if is_on(List::BannedEvents, Target::Event(*id))? {
        return Ok(true);
    }
    let is_own = matches!(audience, Audience::Only(readers) if readers.as_slice() == [*author]);
    Ok(!is_own && is_on(List::BannedPubkeys, Target::Pubkey(*author))?)
}

/// The lists as they are at one moment.
pub struct Lists<'i> {
    pub(super) tables: &'i Tables,
    pub(super) txn: RoTxn<'i, WithoutTls>,
}

impl std::fmt::Debug for Lists<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lists").finish_non_exhaustive()
    }
}

/// What is on a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// A key, an event or a kind.
    pub target: Target,
    /// Why, in the administrator's words.
    pub reason: Option<String>,
}

impl Lists<'_> {
    /// Whether a target is on a list.
    pub fn has(&self, list: List, target: &Target) -> Result<bool, IndexError> {
        let register = Register::read(self.tables, &self.txn, list, target)?;
        Ok(register.is_some_and(|register| register.is_on))
    }

    /// The stamp of the call that decided last whether a target is on a list; `None` if none ever did.
    pub fn stamp(&self, list: List, target: &Target) -> Result<Option<Stamp>, IndexError> {
        let register = Register::read(self.tables, &self.txn, list, target)?;
        Ok(register.map(|register| register.stamp))
    }

    /// Everything on a list, in the order of its bytes.
    pub fn entries(&self, list: List) -> Result<Vec<Listed>, IndexError> {
        let damaged = || IndexError::Damaged { table: TABLE };
        let mut entries = Vec::new();
        for row in self.tables.lists.prefix_iter(&self.txn, &[number(list)])? {
            let (key, row) = row?;
            let register = Register::decode(row).ok_or_else(damaged)?;
            if register.is_on {
                entries.push(Listed {
                    target: target_of(list, key).ok_or_else(damaged)?,
                    reason: register.reason,
                });
            }
        }
        Ok(entries)
    }
}
