use std::{collections::VecDeque, time::Duration};

use baton_types::Time;

use super::AdviceConfig;

/// A recommendation that rises at once and falls slowly.
///
/// **Invariants.** `covers`: it is never less than what is needed, but in the cool-down after a change.
/// `no-flap`: it falls only when less has been enough, with the threshold, at every look for
/// `down_after`, and nothing changed for as long; so within that time it falls once at most.
#[derive(Clone, Debug)]
pub struct Hysteresis {
    recommended: u32,
    changed: Option<Time>,
    since: Time,
    /// What was needed with the threshold, in the last `down_after`: falling, so the first is the most.
    needed: VecDeque<(Time, u32)>,
}

impl Hysteresis {
    /// Begins with what there is.
    pub fn new(nodes: u32, now: Time) -> Self {
        Hysteresis { recommended: nodes.max(1), changed: None, since: now, needed: VecDeque::new() }
    }

    /// `needed` nodes are now; `with_threshold` would be for a load larger by the threshold.
    pub fn look(
        &mut self,
        config: &AdviceConfig,
        now: Time,
        needed: u32,
        with_threshold: u32,
    ) -> u32 {
        let with_threshold = with_threshold.max(needed);
        while self.needed.back().is_some_and(|&(_, before)| before <= with_threshold) {
            self.needed.pop_back();
        }
        self.needed.push_back((now, with_threshold));
        let is_old = |at: Time| now.since(at) > config.down_after;
        while self.needed.front().is_some_and(|&(at, _)| is_old(at)) {
            self.needed.pop_front();
        }
        let most = self.needed.front().map_or(with_threshold, |&(_, most)| most);
        let is_quiet = |time: Duration| self.changed.is_none_or(|at| now.since(at) >= time);
        let may_fall = is_quiet(config.down_after) && now.since(self.since) >= config.down_after;
        let next = match self.recommended {
            recommended if needed > recommended && is_quiet(config.up_after) => needed,
            recommended if most < recommended && may_fall => most,
            recommended => recommended,
        };
        if next != self.recommended {
            (self.recommended, self.changed) = (next, Some(now));
        }
        next
    }

    pub fn recommended(&self) -> u32 {
        self.recommended
    }

    /// How long it has been as it is.
    pub(super) fn unchanged(&self, now: Time) -> Duration {
        now.since(self.changed.unwrap_or(self.since))
    }
}
