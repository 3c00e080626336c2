//! How far figures are to be trusted: a bootstrap over blocks of time.
//!
//! Requests that are near each other wait in the same queue, so that drawing them one by one would promise too much.
//! Blocks of neighbours are drawn instead (Künsch, *The Jackknife and the Bootstrap for General Stationary
//! Observations*, 1989), without overlap, and each figure is computed anew from each draw.

use baton_workload::random::{Draws, Purpose, draws, unit};
use serde::{Deserialize, Serialize};

use super::{histogram::Histogram, slices::Slice};
use crate::slo::{Latency, Quantile};

const DRAWS: usize = 1000;
/// Blocks to draw from.
pub(crate) const BLOCKS: usize = 40;
/// With fewer nothing is said.
const FEWEST: usize = 5;

/// A figure, and where it lies with a confidence of 95 %, if there was enough to say so.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub value: f64,
    pub interval: Option<(f64, f64)>,
}

/// 95 % intervals of everything that is computed from blocks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Intervals {
    pub attainment: Option<(f64, f64)>,
    latencies: Vec<(Latency, Quantile, (f64, f64))>,
}

impl Estimate {
    /// Times a factor.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        let interval = self.interval.map(|(low, high)| (low * factor, high * factor));
        Estimate { value: self.value * factor, interval }
    }
}

impl Intervals {
    /// Of blocks in order; none of too few.
    pub(crate) fn of(blocks: &[Slice], seed: u64) -> Self {
        if blocks.len() < FEWEST {
            return Intervals::default();
        }
        let mut rng = draws(seed, Purpose::Bootstrap);
        let picks: Vec<Vec<usize>> = (0..DRAWS).map(|_| pick(&mut rng, blocks.len())).collect();
        let attainment = picks.iter().filter_map(|picked| {
            let (met, offered) = picked.iter().fold((0, 0), |(met, offered), &block| {
                (met + blocks[block].met, offered + blocks[block].offered)
            });
            (offered > 0).then(|| met as f64 / offered as f64)
        });
        let attainment = interval(attainment.collect());
        let mut latencies = Vec::new();
        for (latency, of) in [
            (Latency::Ttft, (|slice| &slice.ttft) as fn(&Slice) -> &Histogram),
            (Latency::Tpot, |slice| &slice.tpot),
            (Latency::E2e, |slice| &slice.e2e),
        ] {
            let counts = Counts::of(blocks.iter().map(of));
            for (quantile, interval) in counts.intervals(&picks) {
                latencies.push((latency, quantile, interval));
            }
        }
        Intervals { attainment, latencies }
    }

    pub(crate) fn latency(&self, latency: Latency, quantile: Quantile) -> Option<(f64, f64)> {
        let mut all = self.latencies.iter();
        all.find(|(of, at, _)| (*of, *at) == (latency, quantile)).map(|(_, _, interval)| *interval)
    }
}

/// Which blocks make up one draw.
fn pick(rng: &mut Draws, blocks: usize) -> Vec<usize> {
    (0..blocks).map(|_| (unit(rng) * blocks as f64) as usize).collect()
}

/// How often each value is in each block.
struct Counts {
    values: Vec<f64>,
    /// By block: places in `values`, and counts.
    blocks: Vec<Vec<(usize, u64)>>,
}

impl Counts {
    fn of<'a>(blocks: impl Iterator<Item = &'a Histogram>) -> Self {
        let blocks: Vec<_> = blocks.map(Histogram::buckets).collect();
        let mut values: Vec<f64> = blocks.iter().flatten().map(|bucket| bucket.ms).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let place = |ms: f64| values.partition_point(|value| *value < ms);
        let blocks = blocks
            .iter()
            .map(|block| block.iter().map(|bucket| (place(bucket.ms), bucket.count)).collect())
            .collect();
        Counts { values, blocks }
    }

    fn intervals(&self, picks: &[Vec<usize>]) -> Vec<(Quantile, (f64, f64))> {
        const AT: [(Quantile, f64); 4] = [
            (Quantile::P50, 0.5),
            (Quantile::P90, 0.9),
            (Quantile::P95, 0.95),
            (Quantile::P99, 0.99),
        ];
        let mut drawn = vec![Vec::with_capacity(picks.len()); AT.len() + 1];
        let mut counts = vec![0_u64; self.values.len()];
        for picked in picks {
            counts.fill(0);
            for (place, count) in picked.iter().flat_map(|block| &self.blocks[*block]) {
                counts[*place] += count;
            }
            let total: u64 = counts.iter().sum();
            if total == 0 {
                continue;
            }
            let (mut seen, mut next, mut sum) = (0, 0, 0.0);
            for (value, count) in self.values.iter().zip(&counts) {
                seen += count;
                sum += value * *count as f64;
                while next < AT.len() && seen as f64 >= AT[next].1 * total as f64 {
                    drawn[next].push(*value);
                    next += 1;
                }
            }
            drawn[AT.len()].push(sum / total as f64);
        }
        let quantiles = AT.iter().map(|(quantile, _)| *quantile).chain([Quantile::Mean]);
        quantiles
            .zip(drawn)
            .filter_map(|(quantile, drawn)| Some((quantile, interval(drawn)?)))
            .collect()
    }
}

/// The middle 95 % of what was drawn.
fn interval(mut drawn: Vec<f64>) -> Option<(f64, f64)> {
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| drawn.get((share * drawn.len() as f64) as usize).copied();
    at(0.025).zip(at(0.975))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Blocks of independent requests, each late with this probability.
    fn blocks(rng: &mut Draws, late: f64) -> Vec<Slice> {
        let block = |rng: &mut Draws| {
            let mut block = Slice::default();
            for _ in 0..50 {
                let is_late = unit(rng) < late;
                block.offered += 1;
                block.met += u64::from(!is_late);
                block.ttft.record(Duration::from_micros(1000 + (unit(rng) * 1e6) as u64));
            }
            block
        };
        (0..40).map(|_| block(rng)).collect()
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        let mut rng = draws(7, Purpose::Arrivals);
        let (mut of_attainment, mut of_median) = (0, 0);
        const TRIES: usize = 200;
        for seed in 0..TRIES as u64 {
            let intervals = Intervals::of(&blocks(&mut rng, 0.1), seed);
            let (low, high) = intervals.attainment.unwrap();
            of_attainment += usize::from(low <= 0.9 && 0.9 <= high);
            let (low, high) = intervals.latency(Latency::Ttft, Quantile::P50).unwrap();
            of_median += usize::from(low <= 501.0 && 501.0 <= high);
        }
        // 95 % of 200 is 190; fewer than 178 or so would come once in ten thousand times.
        assert!(of_attainment >= 178, "{of_attainment} of {TRIES}");
        assert!(of_median >= 178, "{of_median} of {TRIES}");
    }

    #[test]
    fn of_little_nothing_is_said() {
        let mut rng = draws(7, Purpose::Arrivals);
        assert_eq!(Intervals::of(&blocks(&mut rng, 0.1)[..FEWEST - 1], 0), Intervals::default());
        assert_eq!(Intervals::of(&vec![Slice::default(); 10], 0).attainment, None);
    }
}
