//! How much a cluster can take: capacity@90, the highest offered rate at which at least 90 % of all
//! requests meet both targets (DistServe's goodput; OSDI'24, §2).
//!
//! Found by bisection, for each of several seeds, which see other requests: their spread says how far
//! the figure is to be trusted.

use std::sync::Arc;

use baton_workload::Estimate;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{simulate, simulate_while},
    scenario::{Scenario, ScenarioError},
    workload::Trace,
};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CapacityConfig {
    /// The share of requests that must meet their targets.
    pub attainment: f64,
    /// The search ends when the rate is known as closely as this share of it.
    pub precision: f64,
    pub seeds: u32,
    /// Where the search begins, requests a second.
    pub first_rate: f64,
    /// Where it gives up: the cluster takes whatever comes.
    pub max_rate: f64,
}

impl Default for CapacityConfig {
    fn default() -> Self {
        CapacityConfig {
            attainment: 0.9,
            precision: 0.02,
            seeds: 3,
            first_rate: 1.0,
            max_rate: 1e6,
        }
    }
}

/// A cluster's capacity, requests a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Capacity {
    pub rate: Estimate,
    pub per_worker: f64,
    pub workers: u32,
    /// Each seed's.
    pub by_seed: Vec<f64>,
    /// Simulations it took.
    pub runs: u32,
    /// Every rate that was tried and its attainment, lowest first.
    pub tried: Vec<(f64, f64)>,
}

#[derive(Debug, thiserror::Error)]
pub enum CapacityError {
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error("{name} is {given}; it must be {must}")]
    Value { name: &'static str, given: f64, must: &'static str },
    #[error(
        "no rate is low enough: at {rate:.3} requests/s {attainment:.1} % of requests meet their \
         targets, {wanted:.1} % were wanted, and {out_of_reach} of {offered} miss them even on an \
         idle worker; loosen the objectives or take a faster profile"
    )]
    OutOfReach { rate: f64, attainment: f64, wanted: f64, out_of_reach: u64, offered: u64 },
    #[error(
        "at {rate} requests/s the cluster still meets its targets: there is nothing to find, or \
         too few requests are simulated to fill it"
    )]
    Unbounded { rate: f64 },
}

impl Capacity {
    /// As one object.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl CapacityConfig {
    fn validate(&self) -> Result<(), CapacityError> {
        let within = |name, given: f64, range: std::ops::RangeInclusive<f64>, must| {
            let inside = range.contains(&given);
            if inside { Ok(()) } else { Err(CapacityError::Value { name, given, must }) }
        };
        within("attainment", self.attainment, 0.01..=1.0, "from 0.01 to 1")?;
        within("precision", self.precision, 1e-4..=1.0, "from 0.0001 to 1")?;
        within("seeds", self.seeds.into(), 1.0..=1000.0, "from 1 to 1000")?;
        within("first_rate", self.first_rate, 1e-3..=1e9, "from 0.001 to 1e9")?;
        within("max_rate", self.max_rate, self.first_rate..=1e12, "at least first_rate")
    }

    /// Searches. A trace's requests come at the rates tried; arrivals drawn keep their shape.
    pub fn search(
        &self,
        scenario: &Scenario,
        trace: Option<&Arc<Trace>>,
    ) -> Result<Capacity, CapacityError> {
        self.search_to(scenario, trace, Thorough::Yes)
    }

    /// As [`search`](Self::search), for whoever asks for no more than the rate: runs end as soon as it
    /// is known that they miss it, and a rate far below the first counts as none.
    pub fn search_quickly(
        &self,
        scenario: &Scenario,
        trace: Option<&Arc<Trace>>,
    ) -> Result<Capacity, CapacityError> {
        self.search_to(scenario, trace, Thorough::No)
    }

    fn search_to(
        &self,
        scenario: &Scenario,
        trace: Option<&Arc<Trace>>,
        thorough: Thorough,
    ) -> Result<Capacity, CapacityError> {
        self.validate()?;
        let mut search = Search { config: self, scenario, trace, thorough, tried: Vec::new() };
        let mut by_seed = Vec::new();
        for seed in 0..self.seeds {
            by_seed.push(search.of_seed(scenario.seed.wrapping_add(seed.into()))?);
        }
        let rate = Estimate::of(&by_seed);
        let workers = scenario.cluster.topology.workers();
        let mut tried = search.tried;
        tried.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(Capacity {
            rate,
            per_worker: rate.mean / f64::from(workers.max(1)),
            workers,
            by_seed,
            runs: tried.len() as u32,
            tried,
        })
    }
}

/// Whether every run goes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thorough {
    Yes,
    No,
}

struct Search<'a> {
    config: &'a CapacityConfig,
    scenario: &'a Scenario,
    trace: Option<&'a Arc<Trace>>,
    thorough: Thorough,
    tried: Vec<(f64, f64)>,
}

/// What a run tells.
#[derive(Clone, Copy, Debug, Default)]
struct Attained {
    share: f64,
    out_of_reach: u64,
    offered: u64,
}

/// A cluster that can't take this share of the first rate counts as hopeless; of a first rate that is a
/// guess of what it takes, this.
const HOPELESS: f64 = 1.0 / 4096.0;
const HOPELESS_OF_GUESS: f64 = 1.0 / 64.0;
/// How far the first step goes, in shares of what the rate is to be known by. Each next one goes twice
/// as far, so that a good guess is worth something and a bad one costs little.
const FIRST_STEP: f64 = 4.0;

impl Search<'_> {
    fn of_seed(&mut self, seed: u64) -> Result<f64, CapacityError> {
        let CapacityConfig { attainment, precision, first_rate, max_rate, .. } = *self.config;
        let mut step = FIRST_STEP * precision;
        let hopeless = match self.thorough {
            Thorough::Yes => HOPELESS,
            Thorough::No => HOPELESS_OF_GUESS,
        };
        let first = self.run(seed, first_rate)?;
        let (mut low, mut high) = (first_rate, first_rate);
        if first.share >= attainment {
            loop {
                if high >= max_rate {
                    return Err(CapacityError::Unbounded { rate: high });
                }
                (low, high) = (high, high * (1.0 + step));
                step *= 2.0;
                if self.run(seed, high)?.share < attainment {
                    break;
                }
            }
        } else {
            loop {
                (low, high) = (low / (1.0 + step), low);
                step *= 2.0;
                let attained = self.run(seed, low)?;
                if attained.share >= attainment {
                    break;
                }
                if low < first_rate * hopeless {
                    return Err(CapacityError::OutOfReach {
                        rate: low,
                        attainment: 100.0 * attained.share,
                        wanted: 100.0 * attainment,
                        out_of_reach: attained.out_of_reach,
                        offered: attained.offered,
                    });
                }
            }
        }
        while high - low > precision * high {
            let middle = f64::midpoint(low, high);
            if self.run(seed, middle)?.share >= attainment {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn run(&mut self, seed: u64, rate: f64) -> Result<Attained, CapacityError> {
        let mut scenario = self.scenario.clone();
        scenario.seed = seed;
        scenario.workload.arrivals = scenario.workload.arrivals.at_rate(rate);
        scenario.workload.trace_rate = self.trace.map(|_| rate);
        let report = match self.thorough {
            Thorough::Yes => Some(simulate(&scenario, self.trace)?),
            Thorough::No => simulate_while(&scenario, self.trace, self.config.attainment)?,
        };
        let attained = report.map_or_else(Attained::default, |report| Attained {
            share: report.attainment,
            out_of_reach: report.out_of_reach,
            offered: report.offered,
        });
        self.tried.push((rate, attained.share));
        Ok(attained)
    }
}
