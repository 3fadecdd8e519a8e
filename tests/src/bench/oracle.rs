//! `oracle`: whether the time of an answer tells a stranger that a hidden event exists. Ids of stored gift wraps and ids of nothing are
//! asked for in turn, in random order, on one connection.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;

use super::connection::{Heard, Receiver, Sender, open};
use super::latency::Latencies;
use super::options::Common;
use super::publish::{Frame, saturate};
use super::report::Row;
use super::target::{ONE_REGION_R1, Target, wanted};
use crate::event::{Person, wrap_for};

/// Pairs that are asked for before the clock starts.
const WARM_UP: usize = 500;

/// How to measure.
pub struct Oracle {
    /// Hidden events, each asked for once, each beside an id of nothing.
    pub pairs: usize,
    /// How often, with other events.
    pub runs: usize,
}

/// Measures a one-region fleet. (A peer that shows its events has nothing to hide by time.)
pub async fn run(oracle: &Oracle, common: &Common) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if wanted(common, ONE_REGION_R1) {
        let target = Target::fleet(ONE_REGION_R1).await;
        for number in 1..=oracle.runs {
            rows.extend(oracle.measure(&target, number).await?);
        }
    }
    Ok(rows)
}

impl Oracle {
    async fn measure(&self, target: &Target, number: usize) -> Result<Vec<Row>> {
        let url = &target.relays.first().context("the target has no relay")?.1;
        let recipient = Person::new().pubkey();
        let content = "x".repeat(600);
        let wraps: Vec<_> = (0..self.pairs + WARM_UP)
            .map(|_| wrap_for(1059, &recipient, &content))
            .collect();
        let frames: Vec<Frame> = wraps.iter().cloned().map(Into::into).collect();
        let stored = saturate(
            std::slice::from_ref(url),
            16,
            frames,
            Duration::from_secs(600),
        )
        .await?;
        ensure!(
            stored.latencies.len() == wraps.len(),
            "not all wraps were stored"
        );
        let (mut sender, mut receiver) = open(url, Some(&Person::new())).await?;
        let (mut hidden, mut absent) = (Vec::new(), Vec::new());
        for (at, wrap) in wraps.iter().enumerate() {
            let nothing = hex::encode(rand::rng().random::<[u8; 32]>());
            let hidden_first: bool = rand::rng().random();
            let mut pair = [(true, wrap.id.as_str()), (false, nothing.as_str())];
            if !hidden_first {
                pair.reverse();
            }
            for (is_hidden, id) in pair {
                let took = ask(&mut sender, &mut receiver, id).await?;
                if at >= WARM_UP {
                    let times = if is_hidden { &mut hidden } else { &mut absent };
                    times.push(took);
                }
            }
        }
        let p = mann_whitney(&hidden, &absent);
        let difference = median(&mut hidden.clone()) - median(&mut absent.clone());
        let row = |what: &str, times: &[Duration]| {
            let mut latencies = Latencies::default();
            times.iter().for_each(|time| latencies.add(*time));
            Row {
                target: target.name.clone(),
                durability: target.durability.to_owned(),
                what: what.to_owned(),
                load: format!("run {number}, {} pairs", self.pairs),
                latency: latencies.summary(),
                ..Row::default()
            }
        };
        let difference = Row {
            load: format!(
                "run {number}: medians differ by {:.2} µs, Mann-Whitney p {p:.4}",
                difference * 1e6
            ),
            ..row("hidden and absent", &[])
        };
        Ok(vec![
            row("hidden id to EOSE", &hidden),
            row("absent id to EOSE", &absent),
            difference,
        ])
    }
}

async fn ask(sender: &mut Sender, receiver: &mut Receiver, id: &str) -> Result<Duration> {
    let req = format!(r#"["REQ","s",{{"ids":["{id}"]}}]"#);
    let began = Instant::now();
    sender.send(&req).await?;
    let heard = receiver.next().await?;
    let took = began.elapsed();
    ensure!(
        heard == Heard::Eose("s".to_owned()),
        "a stranger was answered {heard:?}"
    );
    Ok(took)
}

/// In seconds.
fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    let middle = times.len() / 2;
    times.get(middle).map_or(0.0, Duration::as_secs_f64)
}

/// The two-sided p value of the Mann-Whitney U test, by its normal approximation with correction for ties.
fn mann_whitney(one: &[Duration], other: &[Duration]) -> f64 {
    let mut all: Vec<(Duration, bool)> = one.iter().map(|time| (*time, true)).collect();
    all.extend(other.iter().map(|time| (*time, false)));
    all.sort_unstable();
    let (mut rank_sum, mut ties, mut before) = (0.0, 0.0, 0.0);
    for group in all.chunk_by(|(one, _), (other, _)| one == other) {
        let size = group.len() as f64;
        let rank = before + (size + 1.0) / 2.0;
        rank_sum += rank * group.iter().filter(|(_, is_one)| *is_one).count() as f64;
        ties += size.powi(3) - size;
        before += size;
    }
    let (n, m) = (one.len() as f64, other.len() as f64);
    let total = n + m;
    let u = rank_sum - n * (n + 1.0) / 2.0;
    let variance = n * m / 12.0 * ((total + 1.0) - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = (u - n * m / 2.0).abs() / variance.sqrt();
    complementary_error(z / std::f64::consts::SQRT_2)
}

/// erfc for arguments of 0 and more, to 1.2e-7 (Numerical Recipes' rational Chebyshev fit).
fn complementary_error(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.5 * x);
    const COEFFICIENTS: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let polynomial = COEFFICIENTS
        .iter()
        .rev()
        .fold(0.0, |sum, coefficient| sum * t + coefficient);
    t * (-x * x + polynomial).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_micros).collect()
    }

    #[test]
    fn the_error_function_has_known_values() {
        for (x, expected) in [(0.0, 1.0), (1.0, 0.157_299_2), (2.0, 0.004_677_7)] {
            let difference: f64 = complementary_error(x) - expected;
            assert!(difference.abs() < 1e-6, "{x}");
        }
    }

    #[test]
    fn samples_of_one_kind_are_not_told_apart_and_shifted_ones_are() {
        let (even, odd) = (micros((0..2_000).step_by(2)), micros((1..2_000).step_by(2)));
        assert!(mann_whitney(&even, &odd) > 0.9);
        assert!((mann_whitney(&even, &even) - 1.0).abs() < 1e-6);
        let shifted = micros((400..2_400).step_by(2));
        assert!(mann_whitney(&even, &shifted) < 1e-6);
    }
}
