//! Budgets of keys: token buckets that all relays of a fleet share, approximately. A relay spends from its own buckets and never asks another
//! one; what keys spent elsewhere is taken off when it is heard of. Pure but for a lock: time is an argument.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nightjar_config::KeyBudget;

use crate::event::PublicKey;

/// Keys remembered at most. A key that is forgotten has its whole burst again; those that spent least go first.
const MOST_KEYS: usize = 100_000;

/// The buckets of one relay. Cheap to clone.
#[derive(Clone)]
pub struct KeyBudgets {
    state: Arc<Mutex<State>>,
}

/// Shows no key.
impl std::fmt::Debug for KeyBudgets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyBudgets({} keys)", self.count())
    }
}

struct State {
    rate: Option<Rate>,
    most: usize,
    buckets: HashMap<PublicKey, Bucket>,
    /// Keys that spent something here since the last [`KeyBudgets::take_spent`].
    unsent: Vec<PublicKey>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Rate {
    per_second: f64,
    burst: f64,
}

#[derive(Debug)]
struct Bucket {
    /// Events left; below 0 if relays spent more together than there was.
    level: f64,
    at: Instant,
    unsent: u32,
}

impl Bucket {
    fn refill(&mut self, rate: Rate, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + seconds * rate.per_second).min(rate.burst);
        self.at = self.at.max(now);
    }
}

impl Rate {
    /// The deepest debt: what eight relays give at once, and a minute. Less would forgive a key what it spends at many relays together; without
    /// a bound, a flood could shut it out for days.
    fn least_level(&self) -> f64 {
        -(8.0 * self.burst + 60.0 * self.per_second)
    }
}

fn rate_of(config: &KeyBudget) -> Option<Rate> {
    (config.events_per_minute > 0).then(|| Rate {
        per_second: f64::from(config.events_per_minute) / 60.0,
        burst: f64::from(config.burst.max(1)),
    })
}

impl KeyBudgets {
    pub(super) fn new(config: &KeyBudget) -> Self {
        Self::bounded(config, MOST_KEYS)
    }

    fn bounded(config: &KeyBudget, most: usize) -> Self {
        let state = State {
            rate: rate_of(config),
            most,
            buckets: HashMap::new(),
            unsent: Vec::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Takes another budget. What was spent stays spent.
    pub(super) fn reconfigure(&self, config: &KeyBudget) {
        let mut state = self.lock();
        state.rate = rate_of(config);
        match state.rate {
            Some(rate) => {
                for bucket in state.buckets.values_mut() {
                    bucket.level = bucket.level.clamp(rate.least_level(), rate.burst);
                }
            }
            None => {
                state.buckets = HashMap::new();
                state.unsent = Vec::new();
            }
        }
    }

    /// Takes one event off the budget of each of these keys, or, if one of them has none left, off nobody's: how long that one has to wait.
    pub(super) fn spend<'a>(
        &self,
        keys: impl Iterator<Item = &'a PublicKey> + Clone,
        now: Instant,
    ) -> Result<(), Duration> {
        let mut state = self.lock();
        let Some(rate) = state.rate else {
            return Ok(());
        };
        let mut lacking = 0.0_f64;
        for key in keys.clone() {
            let level = state.bucket(key, rate, now).level;
            lacking = lacking.max(1.0 - level);
        }
        if lacking > 0.0 {
            let wait = Duration::try_from_secs_f64(lacking / rate.per_second);
            return Err(wait.unwrap_or(Duration::MAX));
        }
        for key in keys {
            let bucket = state.bucket(key, rate, now);
            bucket.level -= 1.0;
            bucket.unsent += 1;
            if bucket.unsent == 1 {
                state.unsent.push(*key);
            }
        }
        Ok(())
    }

    /// What keys spent here since the last call.
    pub fn take_spent(&self) -> Vec<(PublicKey, u32)> {
        let mut state = self.lock();
        let keys = std::mem::take(&mut state.unsent);
        let spent = keys.into_iter().filter_map(|key| {
            let bucket = state.buckets.get_mut(&key)?;
            let events = std::mem::take(&mut bucket.unsent);
            (events > 0).then_some((key, events))
        });
        spent.collect()
    }

    /// Takes off what keys spent elsewhere. A key's debt is bounded.
    pub fn spent_elsewhere(&self, spent: &[(PublicKey, u32)], now: Instant) {
        let mut state = self.lock();
        let Some(rate) = state.rate else {
            return;
        };
        for (key, events) in spent {
            let bucket = state.bucket(key, rate, now);
            bucket.level = (bucket.level - f64::from(*events)).max(rate.least_level());
        }
    }

    /// Forgets keys whose budget is whole again.
    pub(super) fn forget_whole(&self, now: Instant) {
        let mut state = self.lock();
        if let Some(rate) = state.rate {
            state.forget_whole(rate, now);
            state.buckets.shrink_to_fit();
        }
    }

    /// Keys that have spent something.
    pub fn count(&self) -> usize {
        self.lock().buckets.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The bucket of a key as it is now; whole if the key is new.
    fn bucket(&mut self, key: &PublicKey, rate: Rate, now: Instant) -> &mut Bucket {
        if self.buckets.len() >= self.most && !self.buckets.contains_key(key) {
            self.make_room(rate, now);
        }
        let bucket = self.buckets.entry(*key).or_insert(Bucket {
            level: rate.burst,
            at: now,
            unsent: 0,
        });
        bucket.refill(rate, now);
        bucket
    }

    fn forget_whole(&mut self, rate: Rate, now: Instant) {
        self.buckets.retain(|_, bucket| {
            bucket.refill(rate, now);
            bucket.level < rate.burst || bucket.unsent > 0
        });
    }

    /// Forgets whole buckets, and if there are few of these, the sixteenth that spent least: so seldom that it costs little for each event.
    fn make_room(&mut self, rate: Rate, now: Instant) {
        self.forget_whole(rate, now);
        let goal = self.most - (self.most / 16).max(1);
        if self.buckets.len() <= goal {
            return;
        }
        let mut levels: Vec<(f64, PublicKey)> = self
            .buckets
            .iter()
            .map(|(key, bucket)| (bucket.level, *key))
            .collect();
        levels.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        for (_, key) in levels.split_off(goal) {
            self.buckets.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALICE: PublicKey = [0xa1; 32];
    const BOB: PublicKey = [0xb0; 32];

    fn budget(events_per_minute: u32, burst: u32) -> KeyBudget {
        KeyBudget {
            events_per_minute,
            burst,
        }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn spent(budgets: &KeyBudgets, key: PublicKey, now: Instant) -> usize {
        (0..10_000)
            .take_while(|_| budgets.spend([key].iter(), now).is_ok())
            .count()
    }

    #[test]
    fn a_key_has_its_burst_then_its_rate_and_is_told_how_long_to_wait() {
        let (budgets, start) = (KeyBudgets::new(&budget(60, 5)), Instant::now());
        assert_eq!(spent(&budgets, ALICE, start), 5);
        assert_eq!(
            budgets.spend([ALICE].iter(), start),
            Err(Duration::from_secs(1))
        );
        assert_eq!(spent(&budgets, BOB, start), 5, "another key");
        assert_eq!(spent(&budgets, ALICE, after(start, 3)), 3);
        assert_eq!(spent(&budgets, ALICE, after(start, 3_600)), 5);
    }

    #[test]
    fn several_keys_spend_together_or_not_at_all() {
        let (budgets, start) = (KeyBudgets::new(&budget(60, 5)), Instant::now());
        for _ in 0..3 {
            budgets
                .spend([ALICE, BOB].iter(), start)
                .expect("both have some");
        }
        assert_eq!(spent(&budgets, ALICE, start), 2);
        assert!(budgets.spend([BOB, ALICE].iter(), start).is_err());
        assert_eq!(spent(&budgets, BOB, start), 2, "nothing was taken off");
    }

    #[test]
    fn what_was_spent_is_told_once_and_what_was_heard_is_not_told_on() {
        let (budgets, start) = (KeyBudgets::new(&budget(60, 9)), Instant::now());
        for _ in 0..3 {
            budgets.spend([ALICE].iter(), start).expect("within");
        }
        budgets.spent_elsewhere(&[(BOB, 4), (ALICE, 1)], start);
        assert_eq!(budgets.take_spent(), [(ALICE, 3)]);
        assert_eq!(budgets.take_spent(), []);
        assert_eq!(spent(&budgets, ALICE, start), 5);
        assert_eq!(spent(&budgets, BOB, start), 5);
    }

    #[test]
    fn a_debt_is_bounded() {
        let (budgets, start) = (KeyBudgets::new(&budget(60, 5)), Instant::now());
        budgets.spent_elsewhere(&[(ALICE, u32::MAX), (ALICE, u32::MAX)], start);
        assert_eq!(
            budgets.spend([ALICE].iter(), start),
            Err(Duration::from_secs(101))
        );
    }

    #[test]
    fn a_changed_budget_leaves_spent_what_was_spent() {
        let (budgets, start) = (KeyBudgets::new(&budget(60, 5)), Instant::now());
        assert_eq!(spent(&budgets, ALICE, start), 5);
        budgets.reconfigure(&budget(60, 50));
        assert_eq!(spent(&budgets, ALICE, start), 0);
        assert_eq!(spent(&budgets, BOB, start), 50);
        budgets.reconfigure(&budget(0, 5));
        assert_eq!(spent(&budgets, ALICE, start), 10_000, "no budget");
        assert_eq!((budgets.count(), budgets.take_spent()), (0, Vec::new()));
    }

    #[test]
    fn those_that_spent_least_are_forgotten_first() {
        let start = Instant::now();
        let budgets = KeyBudgets::bounded(&budget(60, 100), 32);
        let key = |number: u8| [number; 32];
        assert_eq!(spent(&budgets, key(0), start), 100);
        for number in 1..=200 {
            budgets.spend([key(number)].iter(), start).expect("within");
            assert!(budgets.count() <= 32);
        }
        assert!(budgets.spend([key(0)].iter(), start).is_err());
        // Keys that are forgotten before they were told are left out.
        assert!(budgets.take_spent().len() <= 32);
        budgets.forget_whole(after(start, 3_600));
        assert_eq!(budgets.count(), 0);
    }

    proptest! {
        /// Relays that tell each other each second: together they never give more than a burst each and the rate of one.
        #[test]
        fn relays_share_one_budget_approximately(
            relays in 1_usize..5, per_minute in 1_u32..600, burst in 1_u32..50,
            wanted in proptest::collection::vec((0_usize..5, 0_usize..80), 1..80),
        ) {
            let start = Instant::now();
            let budgets: Vec<KeyBudgets> = (0..relays).map(|_| KeyBudgets::new(&budget(per_minute, burst))).collect();
            let mut taken = 0;
            for (second, (relay, events)) in wanted.iter().enumerate() {
                let now = after(start, second as u64);
                let one = &budgets[relay % relays];
                taken += (0..*events).take_while(|_| one.spend([ALICE].iter(), now).is_ok()).count();
                let told: Vec<_> = budgets.iter().map(KeyBudgets::take_spent).collect();
                for (to, budgets) in budgets.iter().enumerate() {
                    for (_, spent) in told.iter().enumerate().filter(|(from, _)| *from != to) {
                        budgets.spent_elsewhere(spent, now);
                    }
                }
            }
            let seconds = wanted.len() as f64;
            // One relay is asked at a time here, and the others know of it a second later: as if there were one.
            let most = f64::from(burst) + seconds * f64::from(per_minute) / 60.0;
            prop_assert!(taken as f64 <= most + 1e-6, "{taken} of {most}");
        }

        /// The same when all are asked at once: at most a burst each, and then together the rate of one.
        #[test]
        fn a_flood_at_all_relays_is_bounded(relays in 1_usize..5, per_minute in 1_u32..600, burst in 1_u32..50) {
            let start = Instant::now();
            let budgets: Vec<KeyBudgets> = (0..relays).map(|_| KeyBudgets::new(&budget(per_minute, burst))).collect();
            let mut taken = 0;
            let seconds = 120_u64;
            for second in 0..seconds {
                let now = after(start, second);
                taken += budgets.iter().map(|budgets| spent(budgets, ALICE, now)).sum::<usize>();
                let told: Vec<_> = budgets.iter().map(KeyBudgets::take_spent).collect();
                for (to, budgets) in budgets.iter().enumerate() {
                    for (_, spent) in told.iter().enumerate().filter(|(from, _)| *from != to) {
                        budgets.spent_elsewhere(spent, now);
                    }
                }
            }
            let count = relays as f64;
            let per_second = f64::from(per_minute) / 60.0;
            let most = count * f64::from(burst) + seconds as f64 * per_second + count * (per_second + 1.0);
            prop_assert!(taken as f64 <= most, "{taken} of {most}");
        }
    }
}
