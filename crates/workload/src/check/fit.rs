use super::distribution::{gamma_below, kolmogorov};

const BINS: usize = 1000;
/// Half the resolution of times, in seconds.
const ROUNDED: f64 = 0.5e-9;

/// How well gaps, in expected arrivals, follow a distribution of mean one.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    claim: Claim,
    gaps: u64,
    /// The gaps by their place in the claimed distribution.
    bins: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
enum Claim {
    Exponential,
    /// A time is known to so much, in expected arrivals.
    Gamma {
        shape: f64,
        rounded: f64,
    },
}

impl Fit {
    pub(super) fn exponential() -> Self {
        Fit::of(Claim::Exponential)
    }

    pub(super) fn gamma(cv: f64, rate: f64) -> Self {
        Fit::of(Claim::Gamma { shape: 1.0 / (cv * cv), rounded: ROUNDED * rate })
    }

    fn of(claim: Claim) -> Self {
        Fit { claim, gaps: 0, bins: vec![0.0; BINS] }
    }

    pub(super) fn add(&mut self, gap: f64) {
        self.gaps += 1;
        match self.claim {
            Claim::Exponential => self.spread(-(-gap).exp_m1(), -(-gap).exp_m1()),
            // A tenth of a bursty stream's gaps may be below a nanosecond: each is somewhere in what rounding leaves.
            Claim::Gamma { shape, rounded } => {
                let below = |gap: f64| gamma_below(shape, shape * gap);
                self.spread(below(gap - rounded), below(gap + rounded));
            }
        }
    }

    /// Adds one gap that is equally likely everywhere between two places.
    fn spread(&mut self, low: f64, high: f64) {
        let (low, high) = (low * BINS as f64, high * BINS as f64);
        let bin = |at: f64| (at as usize).min(BINS - 1);
        let (first, last) = (bin(low), bin(high));
        if first == last {
            self.bins[first] += 1.0;
            return;
        }
        let density = 1.0 / (high - low);
        for at in first..=last {
            let (begin, end) = (low.max(at as f64), high.min((at + 1) as f64));
            self.bins[at] += (end - begin) * density;
        }
    }

    /// Distance and p-value. The distance is that at the edges of the bins, so never more than the exact one.
    pub(super) fn verdict(&self) -> Option<(f64, f64)> {
        if self.gaps == 0 {
            return None;
        }
        let gaps = self.gaps as f64;
        let (mut below, mut distance) = (0.0, 0.0_f64);
        for (at, count) in (1..).zip(&self.bins) {
            below += count;
            distance = distance.max((below / gaps - f64::from(at) / BINS as f64).abs());
        }
        Some((distance, kolmogorov(distance, gaps)))
    }
}
