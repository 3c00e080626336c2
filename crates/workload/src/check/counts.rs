/// Counts of arrivals in windows of equally many expected ones.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    window: f64,
    /// How many windows are over, what came in them, and the sum of its squares.
    over: u64,
    sum: u64,
    squares: u128,
    /// In the one that isn't.
    count: u64,
}

/// The first window begins here: a clock's arrivals are on no window's edge then, and can't fall to either side.
const BEGIN: f64 = 0.5;

impl Counts {
    pub(super) fn new(window: f64) -> Self {
        Counts { window, over: 0, sum: 0, squares: 0, count: 0 }
    }

    /// One came when `expected` were expected to have.
    pub(super) fn arrived(&mut self, expected: f64) {
        if expected < BEGIN {
            return;
        }
        let index = ((expected - BEGIN) / self.window) as u64;
        if index > self.over {
            self.sum += self.count;
            self.squares += u128::from(self.count).pow(2);
            (self.over, self.count) = (index, 0);
        }
        self.count += 1;
    }

    pub(super) fn window(&self) -> f64 {
        self.window
    }

    pub(super) fn windows(&self) -> u64 {
        self.over
    }

    /// Variance over mean.
    pub(super) fn dispersion(&self) -> Option<f64> {
        if self.over < 2 || self.sum == 0 {
            return None;
        }
        let (windows, sum) = (self.over as f64, self.sum as f64);
        let mean = sum / windows;
        let variance = (self.squares as f64 - sum * mean).max(0.0) / (windows - 1.0);
        Some(variance / mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_windows_count() {
        let mut counts = Counts::new(10.0);
        for expected in [0.1, 1.0, 2.0, 10.4, 10.6, 41.0] {
            counts.arrived(expected);
        }
        // 3, 1, 0 and 0; the window of 41 isn't over.
        assert_eq!(counts.windows(), 4);
        assert!((counts.dispersion().unwrap() - 2.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_is_said_of_one_window() {
        let mut counts = Counts::new(10.0);
        assert_eq!(counts.dispersion(), None);
        counts.arrived(12.0);
        assert_eq!((counts.windows(), counts.dispersion()), (1, None));
    }
}
