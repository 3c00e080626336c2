//! Which devices, how many a worker and how many workers a phase, to serve a workload within its
//! targets for the least money.
//!
//! # How is the plan found?
//!
//! As DistServe does (OSDI'24, §4): the goodput of one worker alone, for each phase and each way to
//! build one, by bisection over simulations; from there how many workers a rate takes. Then, as it does
//! not: each whole cluster that this makes is simulated at the rate, with its transfers, grown
//! until it meets the targets and trimmed while it does.
//!
//! # Who runs the simulations?
//!
//! The caller: [`Planner::plan`] hands out [`Job`]s that don't depend on each other, and takes their
//! results in the same order. On one thread or many, the plan is the same.

mod chart;
mod check;
mod error;
pub mod measure;
mod phase;
mod profile;
mod report;
pub mod roofline;
mod search;

use std::sync::Arc;

use serde::Serialize;

pub use self::{
    check::{Cluster, Measured},
    error::PlanError,
    phase::PhaseGoodput,
    profile::{
        BatchLimits, Device, DeviceProfile, MEMORY_SHARE, ModelShape, Parallelism, ProfileError,
    },
    report::{Configuration, Plan, Pool},
};
use self::{error::first_tokens, phase::Phase};
use crate::{
    scenario::{NetworkConfig, Scenario, Topology, WorkerConfig},
    workload::{Arrivals, SloConfig, Trace, WorkloadConfig},
};

/// What is to be planned.
#[derive(Clone, Debug)]
pub struct PlanRequest {
    /// Of one model on the devices there are to choose from.
    pub profiles: Vec<DeviceProfile>,
    /// Its rate and its number of requests don't matter.
    pub workload: WorkloadConfig,
    /// Instead of drawn lengths.
    pub trace: Option<Arc<Trace>>,
    pub ttft_ms: f64,
    pub tpot_ms: f64,
    /// Share of requests that must meet both.
    pub attainment: f64,
    /// Requests a second.
    pub rate: f64,
    pub seed: u64,
}

/// One way to build a worker: a profile, and one of its parallelisms; both by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Kind {
    pub profile: usize,
    pub parallelism: usize,
}

/// How a cluster is built, but for its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Design {
    Disaggregated { prefill: Kind, decode: Kind },
    Colocated(Kind),
}

/// Simulations to run, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Job(Task);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Task {
    Phase(Phase, Kind),
    /// Grow and trim from here.
    Check(Cluster),
    Capacity(Cluster),
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Done(Found);

#[derive(Clone, Debug, PartialEq)]
enum Found {
    Phase(PhaseGoodput),
    Check(check::Checked),
    /// Requests a second.
    Capacity(f64),
}

/// Runs independent jobs, in any order, and returns what came of each, in theirs.
pub type Runner<'a> = dyn Fn(&Planner, &[Job]) -> Vec<Result<Done, PlanError>> + 'a;

/// A request that makes sense.
#[derive(Debug)]
pub struct Planner {
    request: PlanRequest,
    /// The trace for workers that end with the first token.
    first_tokens: Option<Arc<Trace>>,
}

/// The longest searches there are.
const RATES: std::ops::RangeInclusive<f64> = 1e-3..=1e5;

impl Planner {
    /// Refuses what can't be planned.
    pub fn new(request: PlanRequest) -> Result<Self, PlanError> {
        let first = request.profiles.first().ok_or(PlanError::NoProfiles)?;
        for (index, profile) in request.profiles.iter().enumerate() {
            profile.validate().map_err(|source| {
                let device = profile.device.name.clone();
                PlanError::Profile { number: index + 1, device, source }
            })?;
            if profile.model != first.model {
                let (a_model, b_model) = (first.model.name.clone(), profile.model.name.clone());
                return Err(PlanError::Models { a: 1, a_model, b: index + 1, b_model });
            }
        }
        for (name, given, range, must) in [
            ("rate", request.rate, RATES, "from 0.001 to 100000 requests/s"),
            ("TTFT", request.ttft_ms, 1e-3..=1e7, "from 0.001 to 1e7 ms"),
            ("TPOT", request.tpot_ms, 1e-3..=1e7, "from 0.001 to 1e7 ms"),
            ("attainment", request.attainment, 0.01..=1.0, "from 0.01 to 1"),
        ] {
            if !range.contains(&given) {
                return Err(PlanError::Value { name, given, must });
            }
        }
        let first_tokens = request.trace.as_deref().map(first_tokens).map(Arc::new);
        Ok(Planner { request, first_tokens })
    }

    /// On this thread.
    pub fn run(&self, job: &Job) -> Result<Done, PlanError> {
        let found = match job.0 {
            Task::Phase(phase, kind) => Found::Phase(self.phase(phase, kind)?),
            Task::Check(cluster) => Found::Check(self.check(cluster)?),
            Task::Capacity(cluster) => Found::Capacity(self.capacity(cluster)?),
        };
        Ok(Done(found))
    }

    /// One after the other.
    pub fn run_all(&self, jobs: &[Job]) -> Vec<Result<Done, PlanError>> {
        jobs.iter().map(|job| self.run(job)).collect()
    }

    fn profile(&self, kind: Kind) -> &DeviceProfile {
        &self.request.profiles[kind.profile]
    }

    /// Devices of a worker.
    fn tensor(&self, kind: Kind) -> u32 {
        self.profile(kind).parallelism[kind.parallelism].tensor
    }

    /// Of a worker, per hour.
    fn price(&self, kind: Kind) -> f64 {
        f64::from(self.tensor(kind)) * self.profile(kind).device.price_per_hour
    }

    /// Between workers of a kind.
    fn network(&self, kind: Kind) -> NetworkConfig {
        self.profile(kind).network(self.tensor(kind))
    }

    fn kinds(&self) -> Vec<Kind> {
        let profiles = self.request.profiles.iter().enumerate();
        let of = |(profile, described): (usize, &DeviceProfile)| {
            let count = described.parallelism.len();
            (0..count).map(move |parallelism| Kind { profile, parallelism })
        };
        profiles.flat_map(of).collect()
    }

    fn worker(&self, kind: Kind) -> Result<WorkerConfig, PlanError> {
        let profile = self.profile(kind);
        let impossible = |source| {
            let device = profile.device.name.clone();
            PlanError::Profile { number: kind.profile + 1, device, source }
        };
        let mut worker = profile.worker(kind.parallelism, profile.scheduler).map_err(impossible)?;
        worker.scheduler.prefix_cache = self.shares_prompts();
        Ok(worker)
    }

    fn colocated_worker(&self, kind: Kind) -> Result<WorkerConfig, PlanError> {
        let limits = self.profile(kind).colocated_scheduler;
        let mut worker = self.worker(kind)?;
        worker.scheduler.max_batch_tokens = limits.max_batch_tokens;
        worker.scheduler.chunk_tokens = limits.chunk_tokens;
        worker.scheduler.max_running = limits.max_running;
        Ok(worker)
    }

    /// Hashing prompts that share nothing only costs time.
    fn shares_prompts(&self) -> bool {
        self.request.trace.is_some() || self.request.workload.shared_prefixes > 0
    }

    /// The workload at a rate, and nobody yet to serve it.
    fn scenario(&self, rate: f64, requests: u64) -> Scenario {
        let request = &self.request;
        let mut scenario = Scenario { seed: request.seed, ..Scenario::default() };
        scenario.cluster.model = request.profiles[0].model_config();
        scenario.workload = request.workload.clone();
        scenario.workload.requests = requests;
        scenario.workload.arrivals = match request.workload.arrivals {
            Arrivals::Ramp { .. } | Arrivals::Surge { .. } => Arrivals::Poisson { rate },
            arrivals => arrivals.at_rate(rate),
        };
        scenario.workload.trace_rate = request.trace.as_ref().map(|_| rate);
        scenario.slo = SloConfig {
            ttft_ms: Some(request.ttft_ms),
            tpot_ms: Some(request.tpot_ms),
            // Clients don't say what was planned for.
            declared: false,
            ..SloConfig::default()
        };
        scenario
    }

    /// `cluster` under the workload.
    fn cluster(&self, cluster: &Cluster, rate: f64, requests: u64) -> Result<Scenario, PlanError> {
        let mut scenario = self.scenario(rate, requests);
        match cluster.design {
            Design::Disaggregated { prefill, decode } => {
                let (from, to) = (self.network(prefill), self.network(decode));
                scenario.cluster.network = NetworkConfig {
                    bytes_per_second: from.bytes_per_second.min(to.bytes_per_second),
                    latency_us: from.latency_us.max(to.latency_us),
                    ..from
                };
                scenario.cluster.prefill = self.worker(prefill)?;
                scenario.cluster.decode = self.worker(decode)?;
                let [prefill, decode] = cluster.workers;
                scenario.cluster.topology = Topology::Disaggregated { prefill, decode };
            }
            Design::Colocated(kind) => {
                scenario.cluster.network = self.network(kind);
                scenario.cluster.colocated = self.colocated_worker(kind)?;
                scenario.cluster.topology = Topology::Colocated { workers: cluster.workers[0] };
            }
        }
        Ok(scenario)
    }

    /// Requests that are enough to fill so many places several times over.
    fn requests(&self, places: f64) -> u64 {
        (FILLS * places).clamp(LEAST_REQUESTS, MOST_REQUESTS) as u64
    }
}

/// DistServe simulates at least 300.
const LEAST_REQUESTS: f64 = 300.0;
const MOST_REQUESTS: f64 = 3000.0;
const FILLS: f64 = 4.0;
