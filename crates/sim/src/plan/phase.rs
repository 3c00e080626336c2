//! What one worker of a phase can take alone.

use baton_types::LatencyProfile;
use serde::Serialize;

use super::{Kind, PlanError, Planner};
use crate::{
    capacity::{CapacityConfig, CapacityError},
    cluster::simulate,
    scenario::{Scenario, Topology},
    workload::{Arrivals, Lengths},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    Prefill,
    Decode,
    Both,
}

/// One worker's goodput in its phase, while the other phase costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PhaseGoodput {
    /// Requests a second; 0 if it misses the targets even when idle.
    pub rate: f64,
    /// P90, of an idle worker. None if it completes nothing.
    pub idle_ttft_ms: Option<f64>,
    pub idle_tpot_ms: Option<f64>,
}

/// Requests to an idle worker, each long after the one before.
const IDLE_REQUESTS: u64 = 100;
const IDLE_RATE: f64 = 1.0 / 60.0;
/// How closely rates are searched for, as a share.
pub(super) const PRECISION: f64 = 0.05;

impl Planner {
    pub(super) fn phase(&self, phase: Phase, kind: Kind) -> Result<PhaseGoodput, PlanError> {
        let trace = match phase {
            Phase::Prefill => self.first_tokens.as_ref(),
            Phase::Decode | Phase::Both => self.request.trace.as_ref(),
        };
        let mut scenario = self.alone(phase, kind)?;
        scenario.workload.requests = IDLE_REQUESTS;
        scenario.workload.arrivals = Arrivals::Constant { rate: IDLE_RATE };
        scenario.workload.trace_rate = trace.map(|_| IDLE_RATE);
        let idle = simulate(&scenario, trace)?;
        let found = |rate| PhaseGoodput {
            rate,
            idle_ttft_ms: idle.ttft_ms.map(|times| times.p90),
            idle_tpot_ms: idle.tpot_ms.map(|times| times.p90),
        };
        if idle.attainment < self.request.attainment {
            return Ok(found(0.0));
        }
        let scenario = self.alone(phase, kind)?;
        match self.search(1.0).search(&scenario, trace) {
            Ok(capacity) => Ok(found(capacity.rate.mean)),
            Err(CapacityError::Unbounded { rate }) => Ok(found(rate)),
            Err(CapacityError::OutOfReach { .. }) => Ok(found(0.0)),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn search(&self, first_rate: f64) -> CapacityConfig {
        CapacityConfig {
            attainment: self.request.attainment,
            precision: PRECISION,
            seeds: 1,
            first_rate,
            max_rate: 1e6,
        }
    }

    /// One worker, and nothing else that would take time.
    fn alone(&self, phase: Phase, kind: Kind) -> Result<Scenario, PlanError> {
        let mut scenario = self.scenario(1.0, 1);
        let worker = match phase {
            Phase::Both => self.colocated_worker(kind)?,
            Phase::Prefill | Phase::Decode => self.worker(kind)?,
        };
        let mut free = worker;
        free.profile = LatencyProfile { prefill_us: 1.0, decode_us: 1.0, ..LatencyProfile::FREE };
        free.kv_blocks = free.kv_blocks.saturating_mul(4).min(1 << 20);
        let cluster = &mut scenario.cluster;
        cluster.network.bytes_per_second = 1e15;
        (cluster.prefill, cluster.decode, cluster.colocated) = (worker, worker, worker);
        match phase {
            Phase::Prefill => {
                // An output of one token ends where it began.
                scenario.workload.output = Lengths::Fixed { tokens: 1 };
            }
            Phase::Decode => cluster.prefill = free,
            Phase::Both => cluster.topology = Topology::Colocated { workers: 1 },
        }
        let places = match phase {
            Phase::Prefill => 0.0,
            Phase::Decode | Phase::Both => f64::from(worker.scheduler.max_running),
        };
        scenario.workload.requests = self.requests(places);
        Ok(scenario)
    }
}
