//! What one worker of a phase can take alone.

use baton_types::LatencyProfile;
use serde::Serialize;

use super::{Kind, PlanError, Planner};
use crate::{
    capacity::{CapacityConfig, CapacityError},
    cluster::simulate,
    outcome::Outcome,
    report::Report,
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

/// Of a worker's time, of the target, and of the two phases' rates.
const PREFILL_BUSY: f64 = 0.6;
const DECODE_NEAR: f64 = 0.9;
const BOTH: f64 = 0.5;

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
        let guess = self.guess(phase, &scenario, &idle);
        match self.search(guess).search_quickly(&scenario, trace) {
            Ok(capacity) => Ok(found(capacity.rate.mean)),
            Err(CapacityError::Unbounded { rate }) => Ok(found(rate)),
            Err(CapacityError::OutOfReach { .. }) => Ok(found(0.0)),
            Err(error) => Err(error.into()),
        }
    }

    /// Requests a second that one worker takes, about: a prefill worker that is busy most of the time,
    /// a decode worker whose steps take nearly the target, and one that does both half of what is left
    /// of its time.
    fn guess(&self, phase: Phase, scenario: &Scenario, idle: &Report) -> f64 {
        let (prompt, output) = mean_lengths(idle);
        let worker = &match phase {
            Phase::Prefill => scenario.cluster.prefill,
            Phase::Decode => scenario.cluster.decode,
            Phase::Both => scenario.cluster.colocated,
        };
        let LatencyProfile { decode_us, decode_sequence_us, decode_context_us, .. } =
            worker.profile;
        let prefill = PREFILL_BUSY * 1e3 / idle.ttft_ms.map_or(1e3, |times| times.mean.max(1e-3));
        let tpot_us = DECODE_NEAR * 1e3 * self.request.tpot_ms;
        let each = decode_sequence_us + decode_context_us * (prompt + output / 2.0);
        let batch = (tpot_us - decode_us) / each.max(1e-6);
        let batch = batch.clamp(1.0, worker.scheduler.max_running.into());
        let decode = batch / (tpot_us / 1e6 * output.max(1.0));
        let guess = match phase {
            Phase::Prefill => prefill,
            Phase::Decode => decode,
            Phase::Both => BOTH / (1.0 / prefill + 1.0 / decode),
        };
        guess.clamp(1e-2, 1e5)
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

/// Tokens of prompts and of outputs.
fn mean_lengths(report: &Report) -> (f64, f64) {
    let count = (report.outcomes.len() as f64).max(1.0);
    let sum = |of: fn(&Outcome) -> u32| {
        report.outcomes.iter().map(|outcome| f64::from(of(outcome))).sum::<f64>() / count
    };
    (sum(|outcome| outcome.prompt_tokens), sum(|outcome| outcome.output_tokens))
}
