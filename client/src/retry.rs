//! Pauses between attempts, and how many attempts there may be of all calls together. Pure.

use std::time::Duration;

use crate::Retry;

/// Earned by calls, spent by retries.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    left: f64,
    most: f64,
    earned: f64,
}

impl Budget {
    pub(crate) fn new(retry: &Retry) -> Self {
        let most = f64::from(retry.budget);
        Budget { left: most, most, earned: retry.earned.clamp(0.0, 1.0) }
    }

    /// One more call.
    pub(crate) fn earn(&mut self) {
        self.left = (self.left + self.earned).min(self.most);
    }

    /// Whether there is one more retry, which is spent.
    pub(crate) fn spend(&mut self) -> bool {
        let has_one = self.left >= 1.0;
        self.left -= if has_one { 1.0 } else { 0.0 };
        has_one
    }
}

/// How long to wait after so many failures in a row, from 1; `draw` is from 0 to 1. A router's own hint is the
/// least.
pub(crate) fn pause(retry: &Retry, failures: u32, hint: Option<Duration>, draw: f64) -> Duration {
    let doubled = retry.first_pause.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let drawn = doubled.min(retry.longest_pause).mul_f64(draw.clamp(0.0, 1.0));
    hint.map_or(drawn, |hint| hint + drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_up_to_a_bound_and_respect_hints() {
        let retry = Retry { first_pause: 50 * MS, longest_pause: 300 * MS, ..Retry::default() };
        let check = |failures, hint: Option<u32>, draw, expected: u32| {
            let pause = pause(&retry, failures, hint.map(|hint| hint * MS), draw);
            assert_eq!(pause, expected * MS, "{failures} {hint:?} {draw}");
        };
        check(1, None, 1.0, 50);
        check(1, None, 0.5, 25);
        check(3, None, 1.0, 200);
        check(9, None, 1.0, 300);
        check(u32::MAX, None, 1.0, 300);
        check(1, Some(1000), 0.0, 1000);
        check(2, Some(1000), 1.0, 1100);
    }

    #[test]
    fn retries_are_earned() {
        let mut budget = Budget::new(&Retry { budget: 2, earned: 0.5, ..Retry::default() });
        assert_eq!([(); 3].map(|()| budget.spend()), [true, true, false]);
        budget.earn();
        assert!(!budget.spend());
        budget.earn();
        assert!(budget.spend() && !budget.spend());
        (0..100).for_each(|_| budget.earn());
        assert_eq!([(); 3].map(|()| budget.spend()), [true, true, false]);
    }
}
