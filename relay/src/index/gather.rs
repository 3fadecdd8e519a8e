//! What filters may match between two positions, gathered from their own index rows and put into the order of arrival: selective filters
//! do not pay for what arrived for others.

use heed::RoTxn;

use super::IndexError;
use super::placement::{self, Slot};
use super::plan::{choices, plan_in};
use super::scan::Space;
use super::tables::Tables;
use crate::event::EventId;
use crate::filter::Filter;

/// Most steps for one page. They are taken in one read transaction, and at most 42 bytes are kept for each.
const MAX_STEPS: usize = 4_096;
/// To walk so many arrivals costs no more than to make a plan.
const FEW_ARRIVALS: usize = 128;

/// A row that is only counted takes this part of a step, and so does a scan that a plan may choose.
const SMALL_STEPS: usize = 16;

/// How many steps may be taken to save a walk over so many arrivals.
pub(super) type Budget = fn(usize) -> usize;

/// No more than the walk would take, and none if that is short.
pub(super) fn budget(arrivals: usize) -> usize {
    if arrivals <= FEW_ARRIVALS {
        0
    } else {
        arrivals.min(MAX_STEPS)
    }
}

/// The steps of one page.
pub(super) struct Steps {
    budget: Budget,
    left: usize,
}

impl Steps {
    pub(super) fn within(budget: Budget) -> Steps {
        let left = budget(usize::MAX);
        Steps { budget, left }
    }

    /// How many arrivals are worth counting.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// The steps to save a walk over so many arrivals, which were counted.
    pub(super) fn grant(&mut self, arrivals: usize) -> Grant<'_> {
        self.left = self.left.saturating_sub(arrivals / SMALL_STEPS);
        let most = (self.budget)(arrivals).min(self.left);
        Grant {
            most,
            left: &mut self.left,
        }
    }
}

/// Steps for one space.
pub(super) struct Grant<'a> {
    most: usize,
    left: &'a mut usize,
}

impl Grant<'_> {
    /// Takes some, if there are so many.
    fn take(&mut self, count: usize) -> bool {
        let is_granted = count <= self.most;
        let taken = count.min(self.most);
        self.most -= taken;
        *self.left -= taken;
        is_granted
    }
}

/// Position and id of every event in `space` that one of the filters may match, for each of its positions in `slots` (first and last),
/// in order; others may be among them. `None` if the steps are not enough: a scan is one, what it finds two, as its positions are looked
/// up, and each further position one.
pub(super) fn gather(
    space: Space,
    filters: &[&Filter],
    slots: &[(Slot, Slot)],
    tables: &Tables,
    txn: &RoTxn<'_>,
    mut steps: Grant<'_>,
) -> Result<Option<Vec<(Slot, EventId)>>, IndexError> {
    let Some(ids) = gather_ids(space, filters, tables, txn, &mut steps)? else {
        return Ok(None);
    };
    let mut rows = Vec::with_capacity(ids.len());
    for id in ids {
        let placed = placement::slots(tables, txn, &id)?;
        if !steps.take(placed.len().saturating_sub(1)) {
            return Ok(None);
        }
        let in_reach = placed.into_iter().filter(|slot| {
            let mut reach = slots.iter();
            reach.any(|(first, last)| first <= slot && slot <= last)
        });
        rows.extend(in_reach.map(|slot| (slot, id)));
    }
    rows.sort_unstable();
    Ok(Some(rows))
}

/// Every id once.
fn gather_ids(
    space: Space,
    filters: &[&Filter],
    tables: &Tables,
    txn: &RoTxn<'_>,
    steps: &mut Grant<'_>,
) -> Result<Option<Vec<EventId>>, IndexError> {
    let mut ids = Vec::new();
    for filter in filters {
        let may_match = match space {
            Space::Public => filter.may_match_public(),
            Space::Private(_) => filter.may_match_private(),
        };
        if !may_match {
            continue;
        }
        let price = match (&filter.ids, space) {
            (Some(ids), _) => ids.len(), // the scan looks all of them up at once
            (None, Space::Public) => 1 + choices(filter) / SMALL_STEPS,
            (None, Space::Private(_)) => 1,
        };
        if !steps.take(price) {
            return Ok(None);
        }
        for mut scan in plan_in(space, 0, filter, tables, txn)? {
            if !steps.take(1) {
                return Ok(None);
            }
            while let Some(place) = scan.peek(tables, txn)? {
                if !steps.take(2) {
                    return Ok(None);
                }
                ids.push(place.id);
                scan.step();
            }
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(Some(ids))
}
