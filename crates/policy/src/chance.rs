//! How far predictions can be believed.

use std::time::Duration;

/// The chance that a time predicted as `predicted` seconds comes out at `limit` at most, when the
/// logarithm of actual/predicted is spread by `spread` around 0.
///
/// The normal distribution's integral is taken as a logistic curve, which is nowhere 0.01 off
/// (Bowling et al., *A logistic approximation to the cumulative normal distribution*, 2009).
pub(crate) fn chance(predicted: f64, limit: f64, spread: f64) -> f64 {
    if limit <= 0.0 {
        return 0.0;
    }
    if predicted <= 0.0 {
        return 1.0;
    }
    1.0 / (1.0 + ((predicted / limit).ln() * 1.702 / spread).exp())
}

/// How predictions of one kind came out: the mean and spread of ln(actual/predicted), of the latest
/// few dozen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    mean: f64,
    variance: f64,
}

/// What the latest outcome counts for.
const WEIGHT: f64 = 0.05;
/// One outcome counts as no worse than this: e² times too long or too short.
const MOST: f64 = 2.0;
/// A few good guesses are no proof, and a few bad ones no reason to stop guessing.
const SPREAD: [f64; 2] = [0.02, 1.0];

impl Default for Calibration {
    fn default() -> Self {
        Calibration { mean: 0.0, variance: 0.04 }
    }
}

impl Calibration {
    /// Learns from one outcome.
    pub fn observe(&mut self, predicted: Duration, actual: Duration) {
        self.observe_ratio(actual.as_secs_f64() / predicted.as_secs_f64(), 1.0);
    }

    /// Learns from actual/predicted of one outcome that counts for `share` of a whole one.
    pub fn observe_ratio(&mut self, ratio: f64, share: f64) {
        if !(ratio > 0.0 && ratio.is_finite()) {
            return;
        }
        let error = ratio.ln().clamp(-MOST, MOST) - self.mean;
        let weight = WEIGHT * share;
        self.mean += weight * error;
        self.variance = (1.0 - weight) * (self.variance + weight * error * error);
    }

    /// A prediction made right by how the others came out.
    pub fn corrected(&self, predicted: f64) -> f64 {
        predicted * self.mean.clamp(-0.7, 0.7).exp()
    }

    /// Standard deviation of ln(actual/predicted).
    pub fn spread(&self) -> f64 {
        self.variance.sqrt().clamp(SPREAD[0], SPREAD[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_are_those_of_the_log_normal_distribution() {
        for (predicted, limit, spread, expected) in [
            (1.0, 1.0, 0.2, 0.5),
            // One spread below and above the limit.
            (1.0, 0.2_f64.exp(), 0.2, 0.841),
            (0.2_f64.exp(), 1.0, 0.2, 0.159),
            (1.0, 10.0, 0.2, 1.0),
            (10.0, 1.0, 0.2, 0.0),
            (1.0, 0.0, 0.2, 0.0),
            (0.0, 1.0, 0.2, 1.0),
        ] {
            let chance = chance(predicted, limit, spread);
            assert!((chance - expected).abs() < 0.011, "{predicted} {limit}: {chance}");
        }
    }

    #[test]
    fn outcomes_correct_predictions_and_tell_their_spread() {
        let mut calibration = Calibration::default();
        for at in 0..400 {
            // Half as long again, give or take 20 %.
            let factor = if at % 2 == 0 { 1.5 * 1.2 } else { 1.5 / 1.2 };
            calibration.observe(Duration::from_secs(1), Duration::from_secs_f64(factor));
        }
        let corrected = calibration.corrected(2.0);
        assert!((corrected - 3.0).abs() < 0.1, "{corrected}");
        assert!((calibration.spread() - 0.182).abs() < 0.02, "{}", calibration.spread());
        let before = calibration;
        calibration.observe(Duration::ZERO, Duration::from_secs(1));
        assert_eq!(calibration, before, "nothing was predicted");
        calibration.observe(Duration::from_millis(1), Duration::from_secs(3600));
        assert!(calibration.spread() < 0.6, "one outcome alone doesn't say much");
    }
}
