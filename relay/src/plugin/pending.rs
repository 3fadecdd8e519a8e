//! The questions that a program has not answered yet, by id and by the time until which they may take. Pure: the clock is an
//! argument.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

/// Ids of questions that were given up are known for a while, so that a late answer is no nonsense.
const LATE_IDS: usize = 1_024;

/// What is open with one program. Several questions may have one id (an event that two clients publish at once): an answer is
/// for the oldest.
#[derive(Debug)]
pub(super) struct Pending<T> {
    waiting: HashMap<u64, (String, Instant, T)>,
    by_id: HashMap<String, VecDeque<u64>>,
    by_deadline: BTreeSet<(Instant, u64)>,
    late: VecDeque<String>,
    serial: u64,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
            by_id: HashMap::new(),
            by_deadline: BTreeSet::new(),
            late: VecDeque::new(),
            serial: 0,
        }
    }
}

impl<T> Pending<T> {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn add(&mut self, id: String, deadline: Instant, question: T) {
        self.serial += 1;
        self.by_id
            .entry(id.clone())
            .or_default()
            .push_back(self.serial);
        self.by_deadline.insert((deadline, self.serial));
        self.waiting.insert(self.serial, (id, deadline, question));
    }

    /// The oldest question of this id.
    pub(super) fn take(&mut self, id: &str) -> Option<T> {
        let serial = *self.by_id.get(id)?.front()?;
        self.remove(serial).map(|(_, question)| question)
    }

    /// When the next question is to be given up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Takes out what should have been answered by now.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<T> {
        let mut expired = Vec::new();
        while let Some((deadline, serial)) = self.by_deadline.first().copied() {
            if deadline > now {
                break;
            }
            let Some((id, question)) = self.remove(serial) else {
                break;
            };
            if self.late.len() >= LATE_IDS {
                self.late.pop_front();
            }
            self.late.push_back(id);
            expired.push(question);
        }
        expired
    }

    /// Whether a question of this id was given up not long ago. Asked once for each answer.
    pub(super) fn was_late(&mut self, id: &str) -> bool {
        let found = self.late.iter().position(|late| late == id);
        found.and_then(|at| self.late.remove(at)).is_some()
    }

    /// Takes out everything.
    pub(super) fn drain(&mut self) -> Vec<T> {
        self.by_id.clear();
        self.by_deadline.clear();
        self.late.clear();
        self.waiting
            .drain()
            .map(|(_, (_, _, question))| question)
            .collect()
    }

    fn remove(&mut self, serial: u64) -> Option<(String, T)> {
        let (id, deadline, question) = self.waiting.remove(&serial)?;
        self.by_deadline.remove(&(deadline, serial));
        if let Some(serials) = self.by_id.get_mut(&id) {
            serials.retain(|other| *other != serial);
            if serials.is_empty() {
                self.by_id.remove(&id);
            }
        }
        Some((id, question))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn an_answer_is_for_the_oldest_question_of_its_id() {
        let start = Instant::now();
        let mut pending = Pending::default();
        pending.add("a".to_owned(), after(start, 10), 1);
        pending.add("b".to_owned(), after(start, 5), 2);
        pending.add("a".to_owned(), after(start, 20), 3);
        assert_eq!(pending.next_deadline(), Some(after(start, 5)));
        assert_eq!(
            (pending.take("a"), pending.take("a"), pending.take("a")),
            (Some(1), Some(3), None)
        );
        assert_eq!(pending.take("c"), None);
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.drain(), [2]);
        assert_eq!(pending.next_deadline(), None);
    }

    #[test]
    fn what_is_given_up_is_known_as_late_once() {
        let start = Instant::now();
        let mut pending = Pending::default();
        pending.add("a".to_owned(), after(start, 10), 1);
        pending.add("b".to_owned(), after(start, 20), 2);
        assert_eq!(pending.expire(after(start, 9)), [0; 0]);
        assert_eq!(pending.expire(after(start, 10)), [1]);
        assert_eq!(pending.take("a"), None);
        assert!(pending.was_late("a") && !pending.was_late("a") && !pending.was_late("b"));
        assert_eq!(pending.take("b"), Some(2));
    }

    proptest! {
        /// Against a plain list: whatever is done, everything comes out once, and nothing else.
        #[test]
        fn everything_comes_out_once(steps in proptest::collection::vec((0..4_u8, 0..5_u8, 0..50_u64), 0..200)) {
            let start = Instant::now();
            let mut pending = Pending::default();
            let mut plain: Vec<(String, Instant, usize)> = Vec::new();
            for (number, (step, id, at)) in steps.into_iter().enumerate() {
                let (id, at) = (id.to_string(), after(start, at));
                match step {
                    0 | 1 => {
                        pending.add(id.clone(), at, number);
                        plain.push((id, at, number));
                    }
                    2 => {
                        let found = plain.iter().position(|(of, _, _)| *of == id);
                        let expected = found.map(|place| plain.remove(place).2);
                        prop_assert_eq!(pending.take(&id), expected);
                    }
                    _ => {
                        let mut expected: Vec<usize> = plain.iter().filter(|(_, deadline, _)| *deadline <= at).map(|(_, _, n)| *n).collect();
                        plain.retain(|(_, deadline, _)| *deadline > at);
                        let mut expired = pending.expire(at);
                        expected.sort_unstable();
                        expired.sort_unstable();
                        prop_assert_eq!(expired, expected);
                    }
                }
                prop_assert_eq!(pending.len(), plain.len());
                prop_assert_eq!(pending.next_deadline(), plain.iter().map(|(_, deadline, _)| *deadline).min());
                prop_assert!(pending.by_id.values().all(|serials| !serials.is_empty()));
            }
        }
    }
}
