//! The requests that took longest to their first token: as many as are shown, whatever comes.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use crate::outcome::Outcome;

/// How many are kept.
pub(super) const KEPT: usize = 20;

#[derive(Clone, Debug, Default)]
pub struct Slowest(BinaryHeap<Reverse<Slow>>);

#[derive(Clone, Debug)]
struct Slow {
    took: Duration,
    outcome: Outcome,
}

impl PartialEq for Slow {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Slow {}

impl PartialOrd for Slow {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slow {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |slow: &Slow| (slow.took, Reverse((slow.outcome.number, slow.outcome.turn)));
        key(self).cmp(&key(other))
    }
}

impl Slowest {
    pub fn hear(&mut self, outcome: &Outcome) {
        let Some(took) = outcome.ttft() else { return };
        let is_slow = self.0.len() < KEPT || self.0.peek().is_some_and(|least| took > least.0.took);
        if is_slow {
            self.0.push(Reverse(Slow { took, outcome: outcome.clone() }));
        }
        if self.0.len() > KEPT {
            self.0.pop();
        }
    }

    pub fn add(&mut self, other: Slowest) {
        other.0.into_iter().for_each(|Reverse(slow)| self.hear(&slow.outcome));
    }

    /// The slowest first.
    pub fn sorted(&self) -> Vec<&Outcome> {
        let mut all: Vec<&Slow> = self.0.iter().map(|Reverse(slow)| slow).collect();
        all.sort_by(|a, b| b.cmp(a));
        all.into_iter().map(|slow| &slow.outcome).collect()
    }
}
