//! Rounds of a comparison, each made of one number, so that a failure can be run again alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// `cargo xtask test --long` compares this many times as much.
const LONG: u64 = 50;

/// Runs `check` with the seeds 0, 1, 2 ..., `rounds` of them or a multiple, and fails with the seed of a difference. `check` answers
/// how many pairs it has compared: at least 20,000 in all, of a long run 1,000,000.
pub(crate) fn compare(rounds: u64, check: impl Fn(u64) -> Result<u64, String> + Sync) {
    let one = std::env::var("NIGHTJAR_SEED").ok();
    if let Some(seed) = one.and_then(|seed| seed.parse().ok()) {
        check(seed).unwrap_or_else(|difference| panic!("{difference}"));
    } else if std::env::var_os("NIGHTJAR_LONG").is_some() {
        run(rounds * LONG, 1_000_000, check);
    } else {
        run(rounds, 20_000, check);
    }
}

/// On all cores.
fn run(rounds: u64, least_pairs: u64, check: impl Fn(u64) -> Result<u64, String> + Sync) {
    let (next, pairs) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Option<String>> = Mutex::new(None);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= rounds || failed.lock().expect("no panic").is_some() {
                return;
            }
            match check(seed) {
                Ok(compared) => {
                    pairs.fetch_add(compared, Ordering::Relaxed);
                }
                Err(difference) => {
                    let text = format!("NIGHTJAR_SEED={seed} shows it again: {difference}");
                    failed.lock().expect("no panic").get_or_insert(text);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    if let Some(difference) = failed.into_inner().expect("no panic") {
        panic!("{difference}");
    }
    let pairs = pairs.into_inner();
    assert!(
        pairs >= least_pairs,
        "only {pairs} pairs were compared, of at least {least_pairs}"
    );
}

/// The fewest of `items` with which `fails` still holds, as far as leaving out one after the other finds them.
pub(crate) fn fewest<T: Clone>(items: &[T], fails: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut left = items.to_vec();
    let mut at = left.len();
    while at > 0 {
        at -= 1;
        let mut fewer = left.clone();
        fewer.remove(at);
        if fails(&fewer) {
            left = fewer;
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_to_a_failure_is_left_out() {
        let fails = |items: &[u8]| items.contains(&3) && items.contains(&5);
        assert_eq!(fewest(&[1, 2, 3, 4, 5, 6], fails), [3, 5]);
    }

    #[test]
    #[should_panic(expected = "NIGHTJAR_SEED=2 shows it again: two")]
    fn a_difference_is_named_with_its_seed() {
        run(3, 0, |seed| {
            if seed == 2 {
                Err("two".to_owned())
            } else {
                Ok(1)
            }
        });
    }

    #[test]
    #[should_panic(expected = "only 30 pairs were compared")]
    fn a_comparison_of_too_little_fails() {
        run(3, 31, |_| Ok(10));
    }
}
