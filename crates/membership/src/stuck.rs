//! When a step that doesn't end is one that never will.

use std::time::Duration;

/// How long a step may be under way before its node counts as dead: it may speak, and even take requests, and yet
/// computes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepPatience {
    /// Every step has so long,
    pub least: Duration,
    /// and so many times what such steps take on this node,
    pub factor: u32,
    /// or so long where that isn't known yet: a first step may load kernels, or record a graph.
    pub unlearned: Duration,
}

impl StepPatience {
    /// For a step that is predicted to take so long, if it can be predicted.
    pub fn limit(&self, predicted: Option<Duration>) -> Duration {
        let longest = match predicted {
            Some(step) => step.saturating_mul(self.factor),
            None => self.unlearned,
        };
        self.least.max(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_a_step_is_to_be_the_longer_it_may_take() {
        let [ten, second, minute] = [10, 1_000, 60_000].map(Duration::from_millis);
        let patience = StepPatience { least: second, factor: 8, unlearned: minute };
        assert_eq!(patience.limit(Some(ten)), second);
        assert_eq!(patience.limit(Some(second)), 8 * second);
        assert_eq!(patience.limit(None), minute);
    }
}
