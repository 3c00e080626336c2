/// Until there are more errors than are remembered, the n-th counts for this many n-ths: the first
/// ones are those of a seed that was soon corrected.
const HASTE: f64 = 3.0;
/// Steps further off than so many spreads tell of something else than steps.
const OUTLIER_SPREADS: f64 = 4.0;
/// What takes always the same is allowed a little, too.
const LEAST_SPREAD: f64 = 0.01;

/// How far off predictions are: the root mean square of the logarithm of actual/predicted, old ones
/// forgotten. About the prediction, not about a mean: a bias counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    variance: f64,
    observed: u64,
}

impl Spread {
    pub(super) fn expected(spread: f64) -> Self {
        Spread { variance: spread * spread, observed: 0 }
    }

    /// Takes the logarithm of an actual/predicted, as one of the latest `memory`. Says how much it
    /// is to be believed, from 0 to 1: less the more it is an outlier (Huber's weight). Outliers
    /// widen the spread by no more than the limit, so a single one changes little, and what was the
    /// first of many is soon none.
    pub(super) fn observe(&mut self, error: f64, memory: f64) -> f64 {
        let limit = OUTLIER_SPREADS * self.get().max(LEAST_SPREAD);
        let clipped = error.clamp(-limit, limit);
        // The first one counts half.
        let share = (HASTE / (self.observed as f64 + 2.0 * HASTE)).max(1.0 / memory);
        self.variance += share * (clipped * clipped - self.variance);
        self.observed = self.observed.saturating_add(1);
        if clipped == error { 1.0 } else { limit / error.abs() }
    }

    pub(super) fn get(&self) -> f64 {
        self.variance.sqrt()
    }

    pub(super) fn variance(&self) -> f64 {
        self.variance
    }

    pub(super) fn observed(&self) -> u64 {
        self.observed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: f64 = 100.0;

    /// After many errors of 0.05.
    fn settled() -> Spread {
        let mut spread = Spread::expected(0.5);
        for n in 0..2000 {
            spread.observe(if n % 2 == 0 { 0.05 } else { -0.05 }, MEMORY);
        }
        spread
    }

    #[test]
    fn the_expectation_is_outweighed() {
        assert!((settled().get() - 0.05).abs() < 1e-3, "{:?}", settled());
    }

    #[test]
    fn a_wrong_seed_is_soon_forgiven() {
        let mut spread = Spread::expected(0.5);
        for n in 0..30 {
            spread.observe(if n < 3 { 3.0 } else { 0.05 }, MEMORY);
        }
        assert!(spread.get() < 0.3, "{spread:?}");
    }

    #[test]
    fn one_outlier_changes_little_and_many_are_none() {
        let mut spread = settled();
        let weight = spread.observe(4.6, MEMORY);
        assert!(weight < 0.05, "{weight}");
        assert!(spread.get() < 0.06, "{spread:?}");
        let weights: Vec<f64> = (0..60).map(|_| spread.observe(0.7, MEMORY)).collect();
        assert!(weights[0] < 0.5 && weights[59] == 1.0, "{weights:?}");
    }
}
