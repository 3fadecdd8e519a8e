//! The tables and what is in them. Every table that a query reads and that can reach a private event begins its key with
//! the reader (`private_*`); `owners` and `private_authors` serve deletions only and are never read by a query.

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, RoTxn, RwTxn, WithoutTls};

use super::IndexError;

pub(super) type Table = Database<'static, Bytes, Bytes>;

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// All tables. A "place" is age and id, see `keys`.
        #[derive(Debug, Clone, Copy)]
        pub(super) struct Tables {
            $($(#[$doc])* pub(super) $name: Table,)*
        }

        const NAMES: &[&str] = &[$(stringify!($name)),*];

        impl Tables {
            /// Opens all tables, making those that are not there.
            pub(super) fn create(env: &Env<WithoutTls>) -> Result<Tables, heed::Error> {
                let txn = env.write_txn()?;
                let tables = env.create_databases_and_commit(txn, |opener, txn| {
                    let tables = [$(opener.create_database::<Bytes, Bytes>(txn, Some(stringify!($name)))?),*];
                    Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(tables))
                })?;
                let [$($name),*] = tables.unwrap_commit();
                Ok(Tables { $($name),* })
            }

            /// Every table, for figures.
            pub(super) fn all(&self) -> Vec<Table> {
                vec![$(self.$name),*]
            }
        }
    };
}

/// How many tables there are.
pub(super) fn count() -> u32 {
    u32::try_from(NAMES.len()).unwrap_or(u32::MAX)
}

tables! {
    /// id -> record. Public events only.
    events,
    /// place.
    by_time,
    /// kind | place.
    by_kind,
    /// author | place.
    by_author,
    /// author | kind | place.
    by_author_kind,
    /// letter | value | place.
    by_tag,
    /// reader | id -> record.
    private_events,
    /// reader | place.
    private_by_time,
    /// reader | kind | place.
    private_by_kind,
    /// id -> readers of a private event.
    owners,
    /// author | place of private events.
    private_authors,
    /// id | stream number | seq -> NATS timestamp in ms.
    placements,
    /// stream number | seq | id. Public events only.
    arrivals,
    /// reader | stream number | seq | id.
    private_arrivals,
    /// id -> latest NATS timestamp in ms; messages only.
    log_times,
    /// latest NATS timestamp in ms | id; messages only.
    retention,
    /// NIP-40 time in s | id.
    expirations,
    /// coordinate -> created_at | id of the greatest ever applied.
    floors,
    /// coordinate -> time up to which a kind 5 deleted it.
    deleted_coordinates,
    /// author -> time up to which a kind 62 deleted everything.
    vanished,
    /// target | deleter.
    tombstones,
    /// stream number | seq -> coordinate: entries below the floor.
    superseded,
    /// list | key, id or kind -> stamp of the last change, whether it is on, why.
    lists,
    /// stream name -> number.
    streams,
    /// stream name -> position of the pull consumer.
    position,
}

impl Tables {
    /// Bytes of pages that hold rows now; pages freed by erasing are not counted.
    pub(super) fn used_bytes(&self, txn: &RoTxn<'_>) -> Result<u64, IndexError> {
        let mut bytes = 0;
        for table in self.all() {
            let stat = table.stat(txn)?;
            let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
            bytes += pages as u64 * u64::from(stat.page_size);
        }
        Ok(bytes)
    }
}

/// Keys below `prefix`, copied, at most `max`. (Rows are copied before anything is deleted: a cursor does not survive.)
pub(super) fn keys_under(
    table: Table,
    txn: &RoTxn<'_>,
    prefix: &[u8],
    max: usize,
) -> Result<Vec<Vec<u8>>, IndexError> {
    let mut keys = Vec::new();
    for row in table.prefix_iter(txn, prefix)?.take(max) {
        keys.push(row?.0.to_vec());
    }
    Ok(keys)
}

/// Writes a row without a value.
pub(super) fn put_key(table: Table, txn: &mut RwTxn<'_>, key: &[u8]) -> Result<(), IndexError> {
    Ok(table.put(txn, key, &[])?)
}
