use std::{ops::RangeInclusive, time::Duration};

use baton_types::{LatencyProfile, Mixing, StepReport, StepShape};
use serde::{Deserialize, Serialize};

use super::{
    filter::Filter,
    step::{Kind, Step},
};

/// The other form must explain steps so much better to be taken, as a share of the squared error,
const TAKEN_BELOW: f64 = 0.7;
/// after this many mixed steps.
const MIXED_STEPS: u64 = 16;

/// How a node's latency profile is learned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FitConfig {
    /// How far off the seed may be: the standard deviation of the logarithm of actual/predicted
    /// step times. 0.7 is a factor of two, 0.02 a profile measured on this very machine. The less,
    /// the more reports it takes to change it.
    pub seed_spread: f64,
    /// Reports after which one counts 1/e. Fewer follow changes sooner, more see through noise.
    pub memory_steps: u32,
}

impl FitConfig {
    /// Of `seed_spread`.
    pub const SEED_SPREADS: RangeInclusive<f64> = 0.001..=10.0;
    /// Of `memory_steps`.
    pub const MEMORIES: RangeInclusive<u32> = 10..=100_000;
}

impl Default for FitConfig {
    fn default() -> Self {
        FitConfig { seed_spread: 0.5, memory_steps: 128 }
    }
}

/// How far off the prediction of *one* step is: standard deviations of ln(actual/predicted), about
/// the prediction itself. A step takes less than `predicted·exp(z·spread)` with probability Φ(z).
///
/// Each step was predicted before it was learned from. Before any was seen this is what the seed is
/// trusted with. Outliers (a process that was stopped) count only within limits; a step that
/// prefills and decodes counts for both. The time of several steps varies less, if their errors have
/// nothing to do with each other: taken as it is, this is the cautious figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitError {
    pub prefill: f64,
    pub decode: f64,
}

/// One node's latency profile, learned from the steps it reports. O(1) in time and memory.
///
/// # How far is it from the truth?
///
/// [`error`](Self::error) says how far it was from the latest reports. What no report was about
/// stays as the seed had it.
///
/// # What do mixed steps cost?
///
/// Once a node has had one, both forms of [`Mixing`] are fitted beside each other, and the one
/// counts that explains all steps better; clearly better, if it didn't before.
#[derive(Clone, Debug)]
pub struct LatencyFit {
    filter: Filter,
    /// Fitted to the same steps with the other form, once steps have mixed.
    rival: Option<Filter>,
    reports: u64,
}

/// Reports of a kind of steps from which on its prediction is one.
const LEARNED_STEPS: u64 = 10;

impl Default for LatencyFit {
    fn default() -> Self {
        LatencyFit::new(LatencyProfile::default(), FitConfig::default())
    }
}

impl LatencyFit {
    /// What is nonsense in the seed (negative, not a number) is zero; what is out of
    /// [`FitConfig::SEED_SPREADS`] or [`FitConfig::MEMORIES`] is their nearest.
    pub fn new(seed: LatencyProfile, config: FitConfig) -> Self {
        let (spreads, memories) = (FitConfig::SEED_SPREADS, FitConfig::MEMORIES);
        let config = FitConfig {
            // Not clamp: what isn't a number is the least.
            seed_spread: config.seed_spread.max(*spreads.start()).min(*spreads.end()),
            memory_steps: config.memory_steps.clamp(*memories.start(), *memories.end()),
        };
        LatencyFit { filter: Filter::new(&seed, &config), rival: None, reports: 0 }
    }

    /// Learns from a step. Reports that can't be true change nothing.
    pub fn observe(&mut self, report: &StepReport) {
        let Some(step) = Step::of(report) else { return };
        self.reports = self.reports.saturating_add(1);
        if step.kind == Kind::Mixed && self.rival.is_none() {
            let other = match self.filter.mixing() {
                Mixing::Sum => Mixing::Max,
                Mixing::Max => Mixing::Sum,
            };
            self.rival = Some(self.filter.with_mixing(other));
        }
        self.filter.observe(&step);
        let Some(rival) = &mut self.rival else { return };
        rival.observe(&step);
        if rival.spread(Kind::Mixed).observed() >= MIXED_STEPS
            && rival.badness() < TAKEN_BELOW * self.filter.badness()
        {
            std::mem::swap(&mut self.filter, rival);
        }
    }

    /// What steps cost, as far as is known: finite and never negative.
    pub fn profile(&self) -> LatencyProfile {
        self.filter.profile()
    }

    /// How far off predictions of steps are.
    pub fn error(&self) -> FitError {
        let spread = |kind| self.filter.spread(kind).get();
        FitError { prefill: spread(Kind::Prefill), decode: spread(Kind::Decode) }
    }

    /// What a step of this shape takes, if enough of its kind have been reported to say so.
    pub fn learned(&self, shape: &StepShape) -> Option<Duration> {
        let enough = |kind| self.filter.spread(kind).observed() >= LEARNED_STEPS;
        let is_learned = match Kind::of(shape)? {
            Kind::Mixed => enough(Kind::Mixed) || enough(Kind::Prefill) && enough(Kind::Decode),
            kind => enough(kind),
        };
        is_learned.then(|| self.profile().step(shape))
    }

    /// Reports it has learned from.
    pub fn reports(&self) -> u64 {
        self.reports
    }
}
