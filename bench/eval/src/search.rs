//! How much a system can take, with the split of its workers that suits it best.

use std::sync::Arc;

use baton_sim::{
    CapacityConfig, CapacityError, Estimate, Report, Scenario, ScenarioError, plan::ProfileError,
    simulate, simulate_while, workload::Trace,
};

use crate::system::{Shape, System, World};

/// Share of requests that must meet both targets.
const ATTAINMENT: f64 = 0.9;
/// How closely a rate is found while splits are compared, and at last.
const COARSE: f64 = 0.04;
const FINE: f64 = 0.02;
/// A split counts as better from here.
const BETTER: f64 = 1.01;

#[derive(Debug, thiserror::Error)]
pub(crate) enum EvalError {
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    #[error("there is no baseline to compare with")]
    NothingToCompare,
}

/// A system with a split of its workers, and about what it takes, requests a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    pub(crate) system: System,
    pub(crate) prefill: u32,
    pub(crate) rate: f64,
}

/// A system with the split that suits it best at some rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tried {
    pub(crate) system: System,
    pub(crate) prefill: u32,
    pub(crate) attainment: f64,
}

/// A system at its best.
#[derive(Clone, Debug)]
pub(crate) struct Best {
    pub(crate) system: System,
    pub(crate) prefill: u32,
    /// capacity@90, requests a second.
    pub(crate) rate: Estimate,
    pub(crate) by_seed: Vec<f64>,
}

impl Best {
    /// How many times it takes what the other does, seed by seed.
    pub(crate) fn over(&self, other: &Best) -> Estimate {
        let seeds = self.by_seed.iter().zip(&other.by_seed);
        Estimate::of(&seeds.map(|(own, other)| own / other).collect::<Vec<_>>())
    }

    /// As a table has it.
    pub(crate) fn prefill_nodes(&self) -> String {
        match self.system.shape {
            Shape::Split => self.prefill.to_string(),
            Shape::Chunked | Shape::PrefillFirst => "–".to_owned(),
        }
    }
}

impl World {
    /// One run at `rate`.
    pub(crate) fn run(
        &self,
        system: System,
        prefill: u32,
        seed: u64,
        rate: f64,
    ) -> Result<Report, EvalError> {
        let (scenario, trace) = self.at(system, prefill, seed, rate)?;
        Ok(simulate(&scenario, trace)?)
    }

    /// What is run at `rate`.
    pub(crate) fn at(
        &self,
        system: System,
        prefill: u32,
        seed: u64,
        rate: f64,
    ) -> Result<(Scenario, Option<&Arc<Trace>>), EvalError> {
        let mut scenario = self.scenario(system, prefill, seed)?;
        let trace = self.trace(seed);
        scenario.workload.arrivals = scenario.workload.arrivals.at_rate(rate);
        scenario.workload.trace_rate = trace.map(|_| rate);
        Ok((scenario, trace))
    }

    /// capacity@90; 0 if no rate is low enough.
    fn capacity(
        &self,
        system: System,
        prefill: u32,
        seed: u64,
        precision: f64,
        guess: f64,
    ) -> Result<f64, EvalError> {
        let scenario = self.scenario(system, prefill, seed)?;
        let config = CapacityConfig {
            attainment: ATTAINMENT,
            precision,
            seeds: 1,
            first_rate: guess,
            ..CapacityConfig::default()
        };
        match config.search_quickly(&scenario, self.trace(seed)) {
            Ok(capacity) => Ok(capacity.rate.mean),
            Err(CapacityError::OutOfReach { .. }) => Ok(0.0),
            Err(error) => Err(error.into()),
        }
    }

    /// The best split, looked for from `prefill` on, both ways, and about what it takes: on the first
    /// seed.
    pub(crate) fn split(
        &self,
        system: System,
        prefill: u32,
        guess: f64,
    ) -> Result<Split, EvalError> {
        let rate = self.capacity(system, prefill, 0, COARSE, guess)?;
        let mut best = Split { system, prefill, rate };
        if system.shape == Shape::Split {
            for way in self.ways() {
                while let Some(next) = self.next_split(best.prefill, way) {
                    if !self.is_better(system, next, best.rate)? {
                        break;
                    }
                    let rate =
                        self.capacity(system, next, 0, COARSE, best.rate.max(guess / 8.0))?;
                    if rate <= best.rate {
                        break;
                    }
                    best = Split { prefill: next, rate, ..best };
                }
            }
        }
        Ok(best)
    }

    /// The best split at `rate`, looked for from `prefill` on, both ways: on the first seed.
    pub(crate) fn best_split_at(
        &self,
        system: System,
        prefill: u32,
        rate: f64,
    ) -> Result<Tried, EvalError> {
        let attainment =
            |prefill| Ok::<_, EvalError>(self.run(system, prefill, 0, rate)?.attainment);
        let mut best = Tried { system, prefill, attainment: attainment(prefill)? };
        if system.shape == Shape::Split {
            for way in self.ways() {
                while let Some(next) = self.next_split(best.prefill, way) {
                    let attainment = attainment(next)?;
                    if attainment <= best.attainment {
                        break;
                    }
                    best = Tried { prefill: next, attainment, ..best };
                }
            }
        }
        Ok(best)
    }

    /// Prefill workers less or more, as far as one looks at once.
    fn ways(&self) -> [i32; 2] {
        let step = (self.workers / 16).max(1).cast_signed();
        [-step, step]
    }

    /// The next split that leaves a worker for each phase.
    fn next_split(&self, prefill: u32, way: i32) -> Option<u32> {
        let next = prefill.checked_add_signed(way)?;
        (1..self.workers).contains(&next).then_some(next)
    }

    /// What the split takes, on all seeds.
    pub(crate) fn measure(&self, split: Split, seeds: u64) -> Result<Best, EvalError> {
        let Split { system, prefill, rate } = split;
        let guess = rate.max(1e-3);
        let by_seed: Result<Vec<f64>, EvalError> =
            (0..seeds).map(|seed| self.capacity(system, prefill, seed, FINE, guess)).collect();
        let by_seed = by_seed?;
        Ok(Best { system, prefill, rate: Estimate::of(&by_seed), by_seed })
    }

    /// Whether the split takes more than `known`, by one run.
    fn is_better(&self, system: System, prefill: u32, known: f64) -> Result<bool, EvalError> {
        if known == 0.0 {
            return Ok(true);
        }
        let (scenario, trace) = self.at(system, prefill, 0, known * BETTER)?;
        let report = simulate_while(&scenario, trace, ATTAINMENT)?;
        Ok(report.is_some_and(|report| report.attainment >= ATTAINMENT))
    }
}

/// As many windows of the trace as there are seeds, spread evenly over it.
pub(crate) fn windows(trace: &Trace, count: usize, seeds: u64) -> Vec<Arc<Trace>> {
    let last = trace.requests.len().saturating_sub(count);
    let start = |seed: u64| last * seed as usize / (seeds.max(2) - 1) as usize;
    (0..seeds).map(|seed| Arc::new(trace.window(start(seed), count))).collect()
}
