//! How long things took: HDR histograms, whose memory doesn't grow with what they count.

use std::time::Duration;

use hdrhistogram::Histogram as Hdr;
use serde::{Deserialize, Serialize};

use crate::slo::Quantile;

/// Durations, each known to a part in a hundred (fine: in a thousand), from a microsecond on.
#[derive(Clone, Debug)]
pub struct Histogram(Hdr<u64>);

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

/// How many were at most so long, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    pub ms: f64,
    pub count: u64,
}

impl Histogram {
    /// For totals: three figures.
    pub fn fine() -> Self {
        Histogram::with_figures(3)
    }

    /// For each of many short times: two figures.
    pub fn coarse() -> Self {
        Histogram::with_figures(2)
    }

    fn with_figures(figures: u8) -> Self {
        Histogram(Hdr::new(figures).expect("so many figures are within what the library has"))
    }

    pub fn record(&mut self, took: Duration) {
        self.0.record(micros(took)).expect("it grows as it must");
    }

    /// All of the other's, too.
    pub fn add(&mut self, other: &Histogram) {
        self.0.add(&other.0).expect("it grows as it must");
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// In milliseconds; none of nothing.
    pub fn value(&self, quantile: Quantile) -> Option<f64> {
        let at = |share| self.0.value_at_quantile(share) as f64 / 1e3;
        (self.count() > 0).then(|| match quantile {
            Quantile::Mean => self.0.mean() / 1e3,
            Quantile::P50 => at(0.5),
            Quantile::P90 => at(0.9),
            Quantile::P95 => at(0.95),
            Quantile::P99 => at(0.99),
            Quantile::Max => self.0.max() as f64 / 1e3,
        })
    }

    pub fn distribution(&self) -> Option<Distribution> {
        Some(Distribution {
            count: self.count(),
            mean: self.value(Quantile::Mean)?,
            p50: self.value(Quantile::P50)?,
            p90: self.value(Quantile::P90)?,
            p95: self.value(Quantile::P95)?,
            p99: self.value(Quantile::P99)?,
            max: self.value(Quantile::Max)?,
        })
    }

    /// For drawing: those that aren't empty, each with its own count.
    pub fn buckets(&self) -> Vec<Bucket> {
        let recorded = self.0.iter_recorded();
        recorded
            .map(|step| Bucket {
                ms: step.value_iterated_to() as f64 / 1e3,
                count: step.count_since_last_iteration(),
            })
            .collect()
    }
}

impl Distribution {
    pub fn value(&self, quantile: Quantile) -> f64 {
        match quantile {
            Quantile::Mean => self.mean,
            Quantile::P50 => self.p50,
            Quantile::P90 => self.p90,
            Quantile::P95 => self.p95,
            Quantile::P99 => self.p99,
            Quantile::Max => self.max,
        }
    }
}

fn micros(took: Duration) -> u64 {
    /// Eleven days.
    const LONGEST: u128 = 1_000_000_000_000;
    took.as_micros().clamp(1, LONGEST) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_as_fine_as_promised() {
        let (mut fine, mut coarse) = (Histogram::fine(), Histogram::coarse());
        for us in 1..=100_000_u64 {
            fine.record(Duration::from_micros(us));
            coarse.record(Duration::from_micros(us));
        }
        for (histogram, share) in [(&fine, 0.001), (&coarse, 0.01)] {
            for (quantile, exact) in
                [(Quantile::P50, 50.0), (Quantile::P99, 99.0), (Quantile::Max, 100.0)]
            {
                let off = histogram.value(quantile).unwrap() / exact - 1.0;
                assert!(off.abs() <= share, "{quantile:?} is {off} off");
            }
        }
        assert_eq!(fine.buckets().iter().map(|bucket| bucket.count).sum::<u64>(), 100_000);
    }

    #[test]
    fn nothing_has_no_quantiles() {
        assert_eq!(Histogram::fine().distribution(), None);
    }
}
