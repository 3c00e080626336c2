//! Do arrivals come as they claim to?
//!
//! Three questions, each of which a right stream fails once in a thousand times:
//!
//! - **Is it the rate?** As many have come as the integral of the claimed rate says, up to the last of them.
//! - **Is it as bursty?** The index of dispersion: the variance of the counts in windows in which equally many are
//!   expected, over their mean. It is 1 for a Poisson process whatever its rate does, 0 for a clock, and ten for ten
//!   workers that share a seed. (Cox and Lewis, *The Statistical Analysis of Series of Events*, 1966.)
//! - **Are the gaps those of the distribution?** Each gap's place in the claimed distribution is uniform from 0 to 1;
//!   the Kolmogorov–Smirnov distance says how far all of them are from it. A clock's gaps are all the same instead.
//!
//! Times are counted in arrivals expected by then, so that ramps and surges have a rate of one as well.

mod counts;
mod distribution;
mod fit;
mod verdict;

use std::time::Duration;

pub use self::verdict::{ArrivalVerdict, Band, Figure, Gaps};
use self::{counts::Counts, distribution::band, fit::Fit};
use crate::Arrivals;

/// Watches arrivals, in constant memory.
#[derive(Clone, Debug)]
pub struct ArrivalCheck {
    claim: Arrivals,
    gaps: Watched,
    counts: Counts,
    arrivals: u64,
    last: Duration,
    /// How many were expected by the last.
    expected: f64,
}

#[derive(Clone, Debug)]
enum Watched {
    Fit(Box<Fit>),
    /// The largest difference from a gap of one so far.
    Clock(f64),
    Unclaimed,
}

/// Expected arrivals of a window, at least.
const WINDOW: f64 = 10.0;
/// And at most.
const LONGEST: f64 = 1000.0;
/// A clock's rate is off by as much if its gaps are rounded.
const CLOCK: f64 = 1e-3;

impl ArrivalCheck {
    /// Of arrivals that claim to be these, which must be valid, and begin at time zero.
    ///
    /// Windows are of ten expected arrivals. Those of gamma gaps are longer, by the squared coefficient of variation or
    /// by its inverse, so that a window holds several bursts, or else more than a phase; the longest is of a thousand.
    pub fn new(claim: &Arrivals) -> Self {
        let (window, gaps) = match *claim {
            Arrivals::Poisson { .. } | Arrivals::Ramp { .. } | Arrivals::Surge { .. } => {
                (WINDOW, Watched::Fit(Box::new(Fit::exponential())))
            }
            Arrivals::Gamma { rate, cv } => {
                let window = (WINDOW * spread(cv)).min(LONGEST);
                (window, Watched::Fit(Box::new(Fit::gamma(cv, rate))))
            }
            Arrivals::Constant { .. } => (WINDOW, Watched::Clock(0.0)),
        };
        ArrivalCheck::watching(*claim, window, gaps)
    }

    /// Of arrivals that claim nothing, as a trace's: what they are like is told, and passes. `rate` is about what they
    /// come at, and says how long ten of them take.
    pub fn unclaimed(rate: f64) -> Self {
        ArrivalCheck::watching(Arrivals::Constant { rate }, WINDOW, Watched::Unclaimed)
    }

    fn watching(claim: Arrivals, window: f64, gaps: Watched) -> Self {
        let (counts, last) = (Counts::new(window), Duration::ZERO);
        ArrivalCheck { claim, gaps, counts, arrivals: 0, last, expected: 0.0 }
    }

    /// One more, in order: one that is said to have come before the last counts as having come with it.
    pub fn arrived(&mut self, at: Duration) {
        self.last = self.last.max(at);
        let expected = self.claim.expected_by(self.last);
        let gap = (expected - self.expected).max(0.0);
        match &mut self.gaps {
            Watched::Fit(fit) => fit.add(gap),
            Watched::Clock(largest) => *largest = largest.max((gap - 1.0).abs()),
            Watched::Unclaimed => {}
        }
        self.expected = expected;
        self.counts.arrived(expected);
        self.arrivals += 1;
    }

    /// Of those that have come so far. A few arrivals can't tell much against any claim.
    pub fn verdict(&self) -> ArrivalVerdict {
        ArrivalVerdict {
            arrivals: self.arrivals,
            span_s: self.last.as_secs_f64(),
            rate: self.rate(),
            window: self.counts.window(),
            windows: self.counts.windows(),
            dispersion: self.dispersion(),
            gaps: match &self.gaps {
                Watched::Fit(fit) => fit.verdict().map(|(distance, p)| Gaps::Fit { distance, p }),
                Watched::Clock(largest) => {
                    (self.arrivals > 0).then_some(Gaps::Clock { largest_deviation: *largest })
                }
                Watched::Unclaimed => None,
            },
        }
    }

    fn rate(&self) -> Option<Figure> {
        let span = self.last.as_secs_f64();
        if span == 0.0 {
            return None;
        }
        let (count, expected) = (self.arrivals as f64, self.expected / span);
        let relative = match (&self.gaps, self.claim) {
            (Watched::Unclaimed, _) => None,
            (Watched::Clock(_), _) => {
                let off = CLOCK + 1.0 / count;
                Some((1.0 - off, 1.0 + off))
            }
            // So many gamma-distributed gaps together, as a share of what they are on average.
            (_, Arrivals::Gamma { cv, .. }) => Some(band(2.0 * count / (cv * cv))),
            _ => Some(band(2.0 * count)),
        };
        // Who takes longer for them has the lower rate.
        let of = |(low, high): (f64, f64)| Band {
            expected,
            low: expected / high,
            high: if low > 0.0 { expected / low } else { f64::MAX },
        };
        Some(Figure { seen: count / span, band: relative.map(of) })
    }

    fn dispersion(&self) -> Option<Figure> {
        let seen = self.counts.dispersion()?;
        let windows = self.counts.windows() as f64;
        let band = match (&self.gaps, self.claim) {
            (Watched::Unclaimed, _) => None,
            (Watched::Clock(_), _) => Some(Band { expected: 0.0, low: 0.0, high: 0.05 }),
            (_, Arrivals::Gamma { cv, .. }) => {
                let window = self.counts.window();
                // Counts of few bursts have longer tails than a normal distribution's: so much excess kurtosis if
                // bursts come like a Poisson process and their sizes are geometric.
                let tails = 3.0 * spread(cv) / window;
                let (low, high) = band((windows - 1.0) * 2.0 / (2.0 + tails));
                let expected = distribution::gamma_dispersion(cv, window);
                Some(Band { expected, low: low * expected, high: high * expected })
            }
            _ => {
                let (low, high) = band(windows - 1.0);
                Some(Band { expected: 1.0, low, high })
            }
        };
        Some(Figure { seen, band })
    }
}

/// Windows of gamma gaps are longer than a Poisson process's by this factor.
fn spread(cv: f64) -> f64 {
    (cv * cv).max(1.0 / (cv * cv))
}

#[cfg(test)]
mod tests;
