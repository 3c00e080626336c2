//! A whole cluster at the rate that is planned for.

use std::collections::BTreeMap;

use super::{Design, PlanError, Planner};
use crate::{Report, capacity::CapacityError, cluster::simulate};

/// A design and its size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cluster {
    pub design: Design,
    /// Prefill's, then decode's; of a colocated one all, then none.
    pub workers: [u32; 2],
}

/// A cluster at the rate: means over the seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub attainment: f64,
    pub ttft_attainment: f64,
    pub tpot_attainment: f64,
    /// P90. None if nothing was completed.
    pub ttft_ms: Option<f64>,
    /// None too if all outputs are of one token.
    pub tpot_ms: Option<f64>,
}

/// The smallest cluster that was found to meet the targets, or the last that didn't.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Checked {
    pub(super) cluster: Cluster,
    pub(super) measured: Measured,
    pub(super) meets: bool,
}

/// The most workers a plan has.
pub(super) const MAX_WORKERS: u32 = 512;
/// How often a cluster that misses its targets grows, by at least one worker and this share.
const GROWTHS: u32 = 10;
const GROWTH_SHARE: u32 = 8;
/// Other requests, the same for every cluster.
const SEEDS: u64 = 2;
/// How long requests come, in seconds and in times to first token.
const LEAST_SECONDS: f64 = 30.0;
const LEAST_TTFTS: f64 = 10.0;

impl Planner {
    /// Grows the cluster until it meets the targets, or trims it while it does.
    pub(super) fn check(&self, start: Cluster) -> Result<Checked, PlanError> {
        let mut known = BTreeMap::new();
        let mut measure = |workers: [u32; 2]| -> Result<Measured, PlanError> {
            if let Some(measured) = known.get(&workers) {
                return Ok(*measured);
            }
            let measured = self.measure(&Cluster { workers, ..start })?;
            known.insert(workers, measured);
            Ok(measured)
        };
        let meets = |measured: &Measured| measured.attainment >= self.request.attainment;
        let mut workers = start.workers;
        let mut measured = measure(workers)?;
        for _ in 0..GROWTHS {
            let pool = match start.design {
                Design::Colocated(_) => 0,
                Design::Disaggregated { .. } => {
                    usize::from(measured.tpot_attainment < measured.ttft_attainment)
                }
            };
            let grown = workers[pool] + (workers[pool] / GROWTH_SHARE).max(1);
            if meets(&measured) || grown + workers[1 - pool] > MAX_WORKERS {
                break;
            }
            workers[pool] = grown;
            measured = measure(workers)?;
        }
        if meets(&measured) {
            for pool in self.dearest_first(start.design) {
                while workers[pool] > 1 {
                    let mut fewer = workers;
                    fewer[pool] -= 1;
                    let trimmed = measure(fewer)?;
                    if !meets(&trimmed) {
                        break;
                    }
                    (workers, measured) = (fewer, trimmed);
                }
            }
        }
        let cluster = Cluster { workers, ..start };
        Ok(Checked { cluster, meets: meets(&measured), measured })
    }

    /// The highest rate the cluster meets its targets at, requests a second.
    pub(super) fn capacity(&self, cluster: Cluster) -> Result<f64, PlanError> {
        let rate = self.request.rate;
        let scenario = self.cluster(&cluster, rate, self.offered())?;
        match self.search(rate).search_quickly(&scenario, self.request.trace.as_ref()) {
            Ok(capacity) => Ok(capacity.rate.mean),
            Err(CapacityError::Unbounded { rate }) => Ok(rate),
            Err(CapacityError::OutOfReach { .. }) => Ok(0.0),
            Err(error) => Err(error.into()),
        }
    }

    /// The cluster at the rate, as it is.
    pub fn measure(&self, cluster: &Cluster) -> Result<Measured, PlanError> {
        let mut reports = Vec::new();
        for seed in 0..SEEDS {
            let mut scenario = self.cluster(cluster, self.request.rate, self.offered())?;
            scenario.seed = self.request.seed.wrapping_add(seed);
            reports.push(simulate(&scenario, self.request.trace.as_ref())?);
        }
        let mean = |value: &dyn Fn(&Report) -> Option<f64>| {
            let values: Option<Vec<f64>> = reports.iter().map(value).collect();
            values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
        };
        let share = |value: &dyn Fn(&Report) -> f64| mean(&|report| Some(value(report)));
        Ok(Measured {
            attainment: share(&|report| report.attainment).unwrap_or(0.0),
            ttft_attainment: share(&|report| report.ttft_attainment).unwrap_or(0.0),
            tpot_attainment: share(&|report| report.tpot_attainment).unwrap_or(0.0),
            ttft_ms: mean(&|report| report.ttft_ms.map(|times| times.p90)),
            tpot_ms: mean(&|report| report.tpot_ms.map(|times| times.p90)),
        })
    }

    fn offered(&self) -> u64 {
        let seconds = LEAST_SECONDS.max(LEAST_TTFTS * self.request.ttft_ms / 1e3);
        self.requests((self.request.rate * seconds / super::FILLS).max(super::LEAST_REQUESTS / 2.0))
    }

    fn dearest_first(&self, design: Design) -> [usize; 2] {
        match design {
            Design::Disaggregated { prefill, decode }
                if self.price(prefill) < self.price(decode) =>
            {
                [1, 0]
            }
            _ => [0, 1],
        }
    }
}
