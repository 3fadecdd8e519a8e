//! Reading more stored events than a relay gives at once, by moving `until` back. Pure: pages in, next `until` out.

use std::collections::HashSet;

use nostr::event::EventId;
use nostr::types::Timestamp;

/// Walks back through a relay's stored events page by page.
///
/// NIP-01 answers newest first and cuts at a limit that the relay chooses, so the next page starts at the oldest time seen,
/// inclusive: several events may share that second.
#[derive(Debug, Default)]
pub struct Pager {
    until: Option<Timestamp>,
    known: HashSet<EventId>,
    page_len: usize,
    page_new: usize,
    oldest: Option<Timestamp>,
}

impl Pager {
    /// Notes an event of the current page; true when no page had it before.
    pub fn note(&mut self, id: EventId, created_at: Timestamp) -> bool {
        self.page_len += 1;
        let new = self.known.insert(id);
        self.page_new += usize::from(new);
        if self.oldest.is_none_or(|oldest| created_at < oldest) {
            self.oldest = Some(created_at);
        }
        new
    }

    /// Ends the page: the `until` of the next one, or `None` when everything was read.
    pub fn next_until(&mut self) -> Option<Timestamp> {
        let oldest = self.oldest.take();
        let nothing = self.page_len == 0;
        let stuck = self.page_new == 0;
        (self.page_len, self.page_new) = (0, 0);
        let oldest = oldest.filter(|_| !nothing)?;
        let next = if stuck && self.until.is_some_and(|until| oldest >= until) {
            // A whole page of one second that we knew: go below it.
            oldest.as_secs().checked_sub(1).map(Timestamp::from_secs)?
        } else {
            oldest
        };
        self.until = Some(next);
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u32) -> EventId {
        let mut bytes = [0u8; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        EventId::from_byte_array(bytes)
    }

    /// A relay that gives the `limit` newest events at or before `until`.
    fn page(events: &[(u32, u64)], until: Option<Timestamp>, limit: usize) -> Vec<(u32, u64)> {
        let mut found: Vec<_> = events
            .iter()
            .copied()
            .filter(|(_, at)| until.is_none_or(|until| *at <= until.as_secs()))
            .collect();
        found.sort_by_key(|(n, at)| (std::cmp::Reverse(*at), *n));
        found.truncate(limit);
        found
    }

    proptest! {
        #[test]
        fn every_event_is_read_once_when_no_second_holds_more_than_a_page(
            times in proptest::collection::vec(1_000u64..1_040, 0..120), limit in 8usize..20,
        ) {
            let mut per_second = std::collections::HashMap::new();
            let events: Vec<(u32, u64)> = times.into_iter().filter(|at| {
                let count = per_second.entry(*at).or_insert(0usize);
                *count += 1;
                *count < limit
            }).enumerate().map(|(n, at)| (n as u32, at)).collect();
            let mut pager = Pager::default();
            let mut read = Vec::new();
            let mut until = None;
            let mut rounds = 0;
            loop {
                for (n, at) in page(&events, until, limit) {
                    if pager.note(id(n), Timestamp::from_secs(at)) {
                        read.push(n);
                    }
                }
                until = pager.next_until();
                rounds += 1;
                prop_assert!(rounds < 500);
                if until.is_none() {
                    break;
                }
            }
            read.sort_unstable();
            prop_assert_eq!(read, (0..events.len() as u32).collect::<Vec<_>>());
        }
    }
}
