//! Applying entries: what each does to floors, tombstones and stored events. See `rules` for why order does not matter.

use std::ops::Bound;

use heed::RwTxn;
use nightjar_envelope::Class;

use super::arrival;
use super::keys::{self, Place};
use super::placement::{self, Slot};
use super::record::Subject;
use super::rules::{Clock, Floor, deleters, judge, time_of};
use super::tables::{Table, Tables, put_key};
use super::{Advance, Applied, IndexError, LogEntry, LogTime, Logged, lists, store};
use crate::event::{Event, EventId, PublicKey, kind};

/// One write transaction.
pub(super) struct Writer<'t> {
    pub(super) tables: &'t Tables,
    pub(super) txn: RwTxn<'t>,
    pub(super) clock: Clock,
}

impl Writer<'_> {
    /// Applies one entry.
    pub(super) fn apply(&mut self, entry: &LogEntry) -> Result<Applied, IndexError> {
        let event = match &entry.content {
            Logged::Event(event) => &**event,
            Logged::Change(signed) => {
                return lists::apply(self.tables, &mut self.txn, &signed.change, signed.stamp);
            }
        };
        if event.class() == Class::Ephemeral {
            return Ok(Applied::Expired);
        }
        let subject = Subject::of(event);
        let slot = placement::slot_of(self.tables, &mut self.txn, entry.at.as_ref())?;

        if store::is_stored(self.tables, &self.txn, &subject.id)? {
            self.place(&subject, &slot, entry.log_time)?;
            arrival::add(self.tables, &mut self.txn, &subject, &slot)?;
            return Ok(Applied::Duplicate);
        }
        self.apply_effects(event)?;
        let is_floor = self.raise_floor(&subject, &slot)?;
        let log_time_ms = (event.class() == Class::Messages).then_some(entry.log_time.millis());
        let verdict = judge(self.tables, &self.txn, &subject, log_time_ms, &self.clock)?;
        if verdict == Applied::New {
            store::insert(self.tables, &mut self.txn, event, &subject)?;
        } else if verdict == Applied::Deleted {
            self.bury_wrap(&subject)?;
        }
        if verdict == Applied::New || is_floor {
            self.place(&subject, &slot, entry.log_time)?;
        }
        if verdict == Applied::New {
            arrival::add(self.tables, &mut self.txn, &subject, &slot)?;
            if super::is_banned(self.tables, &self.txn, &subject)? {
                return Ok(Applied::Banned);
            }
        }
        Ok(verdict)
    }

    fn place(
        &mut self,
        subject: &Subject,
        slot: &Slot,
        log_time: LogTime,
    ) -> Result<(), IndexError> {
        placement::add(self.tables, &mut self.txn, &subject.id, slot, log_time)?;
        if crate::event::class_of(subject.kind) == Class::Messages {
            placement::refresh_log_time(self.tables, &mut self.txn, &subject.id)?;
        }
        Ok(())
    }

    /// What kinds 5 and 62 do to other events. Does not depend on whether they are visible themselves.
    fn apply_effects(&mut self, event: &Event) -> Result<(), IndexError> {
        match event.kind {
            kind::DELETION => self.apply_deletion(event),
            kind::VANISH => self.apply_vanish(event.pubkey, event.created_at),
            _ => Ok(()),
        }
    }

    fn apply_deletion(&mut self, event: &Event) -> Result<(), IndexError> {
        for target in event.deleted_ids() {
            put_key(
                self.tables.tombstones,
                &mut self.txn,
                &keys::pair(&target, &event.pubkey),
            )?;
            let record = store::find(self.tables, &self.txn, &target)?;
            let subject = record.map(|record| record.subject(target)).transpose()?;
            if subject.is_some_and(|subject| deleters(&subject).contains(&event.pubkey)) {
                store::erase(self.tables, &mut self.txn, &target)?;
            }
        }
        for coordinate in event.deleted_coordinates() {
            let key = keys::coordinate(&coordinate);
            raise_time(
                self.tables.deleted_coordinates,
                &mut self.txn,
                &key,
                event.created_at,
                "deleted_coordinates",
            )?;
            let floor = Floor::read(self.tables, &self.txn, &key)?;
            if let Some(floor) = floor.filter(|floor| floor.created_at <= event.created_at) {
                store::erase(self.tables, &mut self.txn, &floor.id)?;
            }
        }
        Ok(())
    }

    fn apply_vanish(&mut self, author: PublicKey, until: u64) -> Result<(), IndexError> {
        raise_time(
            self.tables.vanished,
            &mut self.txn,
            &author,
            until,
            "vanished",
        )?;
        let mut ids = self.ids_until(self.tables.by_author, &author, until)?;
        ids.extend(self.ids_until(self.tables.private_authors, &author, until)?);
        ids.extend(self.ids_until(self.tables.private_by_time, &author, until)?);
        for id in ids {
            let record = store::find(self.tables, &self.txn, &id)?;
            let Some(subject) = record.map(|record| record.subject(id)).transpose()? else {
                continue;
            };
            if subject.kind != kind::VANISH {
                self.bury_wrap(&subject)?;
                store::erase(self.tables, &mut self.txn, &id)?;
            }
        }
        Ok(())
    }

    /// Notes that a hidden gift wrap was known. Hides nothing that was not hidden for good.
    fn bury_wrap(&mut self, subject: &Subject) -> Result<(), IndexError> {
        if subject.kind == kind::GIFT_WRAP {
            for reader in subject.readers() {
                let key = keys::pair(&subject.id, reader);
                put_key(self.tables.tombstones, &mut self.txn, &key)?;
            }
        }
        Ok(())
    }

    /// Ids in `table` under `prefix` that are not newer than `until`.
    fn ids_until(
        &self,
        table: Table,
        prefix: &PublicKey,
        until: u64,
    ) -> Result<Vec<EventId>, IndexError> {
        let first = Place::newest(Some(until)).under(prefix);
        let last = Place::oldest(None).under(prefix);
        let range = (
            Bound::Included(first.as_slice()),
            Bound::Included(last.as_slice()),
        );
        let mut ids = Vec::new();
        for row in table.range(&self.txn, &range)? {
            ids.extend(Place::from_key(row?.0).map(|place| place.id));
        }
        Ok(ids)
    }

    /// Compares an event with the floor of its coordinate. Answers whether it is the floor now; what is below goes to the
    /// sweeper.
    fn raise_floor(&mut self, subject: &Subject, slot: &Slot) -> Result<bool, IndexError> {
        let Some(coordinate) = &subject.coordinate else {
            return Ok(false);
        };
        let fresh = Floor {
            created_at: subject.created_at,
            id: subject.id,
        };
        match Floor::read(self.tables, &self.txn, coordinate)? {
            Some(floor) if floor == fresh => Ok(true),
            Some(floor) if floor.beats(subject.created_at, &subject.id) => {
                placement::add_superseded(self.tables, &mut self.txn, slot, coordinate)?;
                Ok(false)
            }
            old => {
                self.tables
                    .floors
                    .put(&mut self.txn, coordinate, &fresh.encode())?;
                if let Some(old) = old {
                    let slots = placement::slots(self.tables, &self.txn, &old.id)?;
                    store::erase(self.tables, &mut self.txn, &old.id)?;
                    placement::forget(self.tables, &mut self.txn, &old.id)?;
                    for slot in &slots {
                        placement::add_superseded(self.tables, &mut self.txn, slot, coordinate)?;
                    }
                }
                Ok(true)
            }
        }
    }

    /// Moves the position of a stream; never back.
    pub(super) fn advance(&mut self, advance: &Advance) -> Result<(), IndexError> {
        let name = advance.stream.to_string();
        raise_time(
            self.tables.position,
            &mut self.txn,
            name.as_bytes(),
            advance.seq,
            "position",
        )
    }
}

/// Keeps the greatest number under a key.
fn raise_time(
    table: Table,
    txn: &mut RwTxn<'_>,
    key: &[u8],
    value: u64,
    name: &'static str,
) -> Result<(), IndexError> {
    if time_of(table.get(txn, key)?, name)?.is_none_or(|old| old < value) {
        table.put(txn, key, &value.to_be_bytes())?;
    }
    Ok(())
}
