//! The regression: coefficients of a linear form, learned from one observation after the other.
//!
//! # What is minimised?
//!
//! `Σ wᵢ·((actual - predicted)/max(actual, predicted))²`, older observations counting exponentially
//! less. The relative error (DistServe, OSDI'24, fits it too) lets short steps count as much as long
//! ones; dividing by the longer of both keeps a single one's say within bounds, however wrong the
//! prediction or the observation. `wᵢ` is given, for outliers.
//!
//! # What becomes of what isn't observed any more?
//!
//! Plain forgetting would forget the slope of whatever stands still, and then believe the first
//! noise (wind-up). Here each coefficient has an inertia, in units of its present size (a
//! Levenberg–Marquardt step): at first what the seed is trusted with, later [`INERTIA`]. The matrix
//! that is solved therefore lies between that and `memory` observations' information, for ever; it
//! is a sum of squares, never a difference, and so is positive definite whatever was observed.
//! Coefficients that an observation isn't about aren't forgotten by it.

use super::solve::{Matrix, N, Vector, solve};

/// What each coefficient weighs in the long run, in observations that are about nothing else: less
/// follows faster, more holds on to what present observations say little of.
const INERTIA: f64 = 0.3;
/// How far off an observation may well be, as the seed is weighed against some.
const OBSERVATION_SPREAD: f64 = 0.1;
/// The least share of an observation that each coefficient is taken to be, lest zero stays zero.
const LEAST_SHARE: f64 = 0.02;
/// Information as small is none: on its way to zero it would become a number that is slow to compute
/// with.
const FORGOTTEN: f64 = 1e-100;
/// No coefficient is larger.
pub(super) const MOST: f64 = 1e9;

#[derive(Clone, Debug)]
pub(super) struct Regression {
    /// Observations after which one counts 1/e.
    memory: f64,
    /// Each from zero to [`MOST`].
    coefficients: Vector,
    /// Σ of the rows' outer products, forgotten.
    information: Matrix,
    /// What each coefficient weighs, in observations that are about nothing else.
    inertia: Vector,
    /// Mean squares of the rows' entries.
    typical: Vector,
}

impl Regression {
    /// Nonsense in the seed (negative, not a number) is zero.
    pub(super) fn new(seed: Vector, seed_spread: f64, memory: f64) -> Self {
        Regression {
            memory,
            coefficients: seed.map(|c| if c.is_nan() { 0.0 } else { c.clamp(0.0, MOST) }),
            information: [[0.0; N]; N],
            inertia: [(OBSERVATION_SPREAD / seed_spread).powi(2); N],
            typical: [0.0; N],
        }
    }

    pub(super) fn coefficients(&self) -> &Vector {
        &self.coefficients
    }

    /// Σ coefficients·terms.
    pub(super) fn predict(&self, terms: &Vector) -> f64 {
        self.coefficients.iter().zip(terms).map(|(coefficient, term)| coefficient * term).sum()
    }

    /// Learns that these terms, none of them negative, gave `actual`. `weight` is from 0 to 1.
    pub(super) fn observe(&mut self, terms: &Vector, actual: f64, weight: f64) {
        let predicted = self.predict(terms);
        let scale = actual.max(predicted);
        let row = terms.map(|term| term / scale);
        self.remember(&row, weight);
        let scales = self.scales();
        let system: Matrix = std::array::from_fn(|i| {
            std::array::from_fn(|j| {
                let inertia = if i == j { self.inertia[i] } else { 0.0 };
                self.information[i][j] * scales[i] * scales[j] + inertia
            })
        });
        let pull = weight * (actual - predicted) / scale;
        let pull: Vector = std::array::from_fn(|at| pull * row[at] * scales[at]);
        self.follow(&system, &pull, &scales);
    }

    /// Forgets a little of what the row is about, and adds it.
    fn remember(&mut self, row: &Vector, weight: f64) {
        let share = weight / self.memory;
        // Roots, so that the whole stays positive definite.
        let keep = row.map(|entry| if entry > 0.0 { (1.0 - share).sqrt() } else { 1.0 });
        for i in 0..N {
            for j in 0..N {
                let kept = self.information[i][j] * keep[i] * keep[j];
                let kept = if kept < FORGOTTEN { 0.0 } else { kept };
                self.information[i][j] = kept + weight * row[i] * row[j];
            }
            if row[i] == 0.0 {
                continue;
            }
            self.inertia[i] += share * (INERTIA - self.inertia[i]);
            let square = row[i] * row[i];
            if self.typical[i] == 0.0 {
                self.typical[i] = square;
            } else {
                self.typical[i] += (square - self.typical[i]) / self.memory;
            }
        }
    }

    /// What is a lot for each coefficient: its own size, or a small share of an observation.
    fn scales(&self) -> Vector {
        std::array::from_fn(|at| match self.typical[at] {
            0.0 => self.coefficients[at],
            typical => self.coefficients[at].hypot(LEAST_SHARE / typical.sqrt()),
        })
    }

    /// Moves the coefficients where the pull takes them. Those that would leave their bounds stop
    /// there, and the others make up for it.
    fn follow(&mut self, system: &Matrix, pull: &Vector, scales: &Vector) {
        let mut pinned = scales.map(|scale| (scale == 0.0).then_some(0.0));
        // Each round but the last pins one at least.
        for _ in 0..=N {
            let Some(change) = solve(system, pull, &pinned) else { return };
            let next: Vector =
                std::array::from_fn(|at| self.coefficients[at] + change[at] * scales[at]);
            let mut is_within = true;
            for (at, coefficient) in next.iter().enumerate() {
                if pinned[at].is_none() && !(0.0..=MOST).contains(coefficient) {
                    let bound = if *coefficient > MOST { MOST } else { 0.0 };
                    pinned[at] = Some((bound - self.coefficients[at]) / scales[at]);
                    is_within = false;
                }
            }
            if is_within {
                self.coefficients = next.map(|coefficient| coefficient.clamp(0.0, MOST));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_once_together_is_forgotten_without_a_rest() {
        let mut regression = Regression::new([1.0; N], 0.5, 128.0);
        regression.observe(&[1.0; N], 6.0, 1.0);
        assert!(regression.information[0][3] > 0.0);
        for _ in 0..100_000 {
            regression.observe(&[1.0, 2.0, 3.0, 0.0, 0.0, 0.0], 6.0, 1.0);
        }
        assert_eq!(regression.information[0][3], 0.0);
        assert!(regression.information[3][3] > 0.0, "nothing was about it");
    }

    #[test]
    fn coefficients_stop_at_zero_and_the_others_make_up_for_it() {
        let mut regression = Regression::new([1.0; N], 10.0, 128.0);
        for n in 0..2000 {
            let term = f64::from(n % 10);
            // As if the first were -5.
            let actual = 20.0 * term - 5.0;
            if actual > 0.0 {
                regression.observe(&[1.0, term, 0.0, 0.0, 0.0, 0.0], actual, 1.0);
            }
        }
        let [first, second, ..] = *regression.coefficients();
        assert_eq!(first, 0.0);
        assert!((18.0..20.0).contains(&second), "{second}");
        assert_eq!(regression.coefficients()[2..], [1.0; 4]);
    }
}
