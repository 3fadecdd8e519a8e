//! Which scans answer a filter: the most selective index, and only keyspaces its readers own.

use heed::RoTxn;

use super::IndexError;
use super::keys;
use super::scan::{Scan, Space};
use super::tables::Tables;
use crate::event::{PRIVATE_KINDS, PublicKey};
use crate::filter::Filter;
use crate::visibility::Readers;

/// More scans than this in one plan cost more than a wider index.
const MAX_SCANS: usize = 4_096;
/// Rows counted per candidate plan when several are possible.
const SAMPLE_ROWS: usize = 128;

/// All scans of one filter over the public tables and those of its readers.
pub(super) fn plan(
    index: usize,
    filter: &Filter,
    readers: &Readers,
    tables: &Tables,
    txn: &RoTxn<'_>,
) -> Result<Vec<Scan>, IndexError> {
    let mut scans = plan_in(Space::Public, index, filter, tables, txn)?;
    for reader in readers.iter() {
        let space = Space::Private(*reader);
        scans.extend(plan_in(space, index, filter, tables, txn)?);
    }
    Ok(scans)
}

/// All scans of one filter over one space.
pub(super) fn plan_in(
    space: Space,
    index: usize,
    filter: &Filter,
    tables: &Tables,
    txn: &RoTxn<'_>,
) -> Result<Vec<Scan>, IndexError> {
    if filter.matches_nothing() {
        return Ok(Vec::new());
    }
    match space {
        Space::Public => plan_public(index, filter, tables, txn),
        Space::Private(reader) => Ok(plan_private(index, filter, &reader, tables)),
    }
}

/// About how many scans of the public tables a plan chooses from: what it takes to make one.
pub(super) fn choices(filter: &Filter) -> usize {
    let pairs = match (&filter.authors, &filter.kinds) {
        (Some(authors), Some(kinds)) => authors.len() * kinds.len(),
        _ => 0,
    };
    filter.value_count() + if pairs <= MAX_SCANS { pairs } else { 0 }
}

fn plan_public(
    index: usize,
    filter: &Filter,
    tables: &Tables,
    txn: &RoTxn<'_>,
) -> Result<Vec<Scan>, IndexError> {
    let has_tags = !filter.tags.is_empty();
    if let Some(ids) = &filter.ids {
        return Ok(vec![Scan::of_ids(
            index,
            Space::Public,
            ids.clone(),
            has_tags,
        )]);
    }
    let over = |table, prefix: &[u8], check_tags| {
        Scan::over(
            index,
            Space::Public,
            table,
            prefix,
            filter.since,
            filter.until,
            check_tags,
        )
    };
    let mut candidates: Vec<Vec<Scan>> = Vec::new();
    match (&filter.authors, &filter.kinds) {
        (Some(authors), Some(kinds)) if authors.len() * kinds.len() <= MAX_SCANS => {
            let pairs = authors
                .iter()
                .flat_map(|author| kinds.iter().map(|kind| keys::author_kind(author, *kind)));
            candidates.push(
                pairs
                    .map(|prefix| over(tables.by_author_kind, &prefix, has_tags))
                    .collect(),
            );
        }
        (Some(authors), _) if authors.len() <= MAX_SCANS => {
            candidates.push(
                authors
                    .iter()
                    .map(|author| over(tables.by_author, author, has_tags))
                    .collect(),
            );
        }
        _ => {}
    }
    for (letter, values) in filter
        .tags
        .iter()
        .filter(|(_, values)| values.len() <= MAX_SCANS)
    {
        let check_others = filter.tags.len() > 1;
        let prefixes = values.iter().map(|value| keys::tag(*letter, value));
        candidates.push(
            prefixes
                .map(|prefix| over(tables.by_tag, &prefix, check_others))
                .collect(),
        );
    }
    match &filter.kinds {
        // With authors at hand, (author, kind) is never wider than kind alone.
        Some(kinds)
            if (filter.authors.is_none() || candidates.is_empty()) && kinds.len() <= MAX_SCANS =>
        {
            let prefixes = kinds.iter().map(|kind| kind.to_be_bytes());
            candidates.push(
                prefixes
                    .map(|prefix| over(tables.by_kind, &prefix, has_tags))
                    .collect(),
            );
        }
        _ => {}
    }
    if candidates.is_empty() {
        candidates.push(vec![over(tables.by_time, &[], has_tags)]);
    }
    cheapest(candidates, txn)
}

/// Private keyspaces are small: by kind or by time is enough, the filter does the rest.
fn plan_private(index: usize, filter: &Filter, reader: &PublicKey, tables: &Tables) -> Vec<Scan> {
    let space = Space::Private(*reader);
    let has_tags = !filter.tags.is_empty();
    if let Some(ids) = &filter.ids {
        return vec![Scan::of_ids(index, space, ids.clone(), has_tags)];
    }
    let over = |table, prefix: &[u8]| {
        Scan::over(
            index,
            space,
            table,
            prefix,
            filter.since,
            filter.until,
            has_tags,
        )
    };
    match &filter.kinds {
        Some(kinds) => PRIVATE_KINDS
            .iter()
            .filter(|kind| kinds.contains(kind))
            .map(|kind| {
                over(
                    tables.private_by_kind,
                    &keys::private(reader, &kind.to_be_bytes()),
                )
            })
            .collect(),
        None => vec![over(tables.private_by_time, reader)],
    }
}

/// The candidate with the fewest rows, counted up to a bound; the first one among equals.
fn cheapest(mut candidates: Vec<Vec<Scan>>, txn: &RoTxn<'_>) -> Result<Vec<Scan>, IndexError> {
    let mut best = (usize::MAX, 0);
    if candidates.len() > 1 {
        for (index, scans) in candidates.iter().enumerate() {
            let mut rows = 0;
            for scan in scans.iter().take(SAMPLE_ROWS) {
                rows += scan.count(txn, SAMPLE_ROWS - rows)?;
                if rows >= SAMPLE_ROWS {
                    break;
                }
            }
            best = best.min((rows, index));
        }
    }
    Ok(candidates.swap_remove(best.1))
}
