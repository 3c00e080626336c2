//! What a run amounts to, for people and for programs.

mod build;
pub mod gate;
pub mod html;
mod table;

use std::collections::BTreeMap;

use baton_workload::ArrivalVerdict;
use serde::{Deserialize, Serialize};

pub use self::{
    build::{about_client, about_target, saturation},
    table::table,
};
use crate::{
    measure::{Bucket, Distribution, Estimate},
    run::Verdict,
};

/// Whoever reads one checks this first.
pub const FORMAT: &str = "baton-load/1";

/// Everything that was measured. Times are milliseconds, rates are of a second, shares are from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub format: String,
    /// Seconds since 1970.
    pub began_at: u64,
    /// As it was called, without secrets.
    pub command: Vec<String>,
    pub workload: WorkloadReport,
    /// Absent where users wait for each other.
    pub arrivals: Option<ArrivalVerdict>,
    pub client: ClientReport,
    pub targets: Vec<TargetReport>,
    /// By target, if a capacity was looked for.
    #[serde(default)]
    pub capacity: Vec<CapacityReport>,
    pub chaos: Option<ChaosReport>,
    /// What was to be reached.
    #[serde(default)]
    pub checks: Vec<CheckReport>,
    /// It was stopped before its end.
    pub interrupted: bool,
}

/// What was offered. Two runs can be compared if these are equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadReport {
    pub arrivals: String,
    pub input: String,
    pub output: String,
    pub shared: Option<String>,
    pub turns: Option<String>,
    pub source: Option<String>,
    pub api: String,
    pub seed: u64,
    /// Requests that were due in this time count.
    pub from_s: f64,
    pub to_s: f64,
    pub classes: Vec<ClassObjectives>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassObjectives {
    pub name: Option<String>,
    pub share: f64,
    pub ttft_ms: Option<f64>,
    pub tpot_ms: Option<f64>,
    pub e2e_ms: Option<f64>,
}

/// How the load test itself was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientReport {
    pub threads: usize,
    /// Of the busiest thread's time.
    pub cpu: f64,
    /// By which requests were sent late, which counts as theirs.
    pub late_ms: Option<Distribution>,
    /// Until a thread heard of something.
    pub lag_ms: Option<Distribution>,
    pub most_in_flight: usize,
    /// The most that was resident at a time, where the system tells (Linux).
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
    pub unfinished: u64,
    /// Why its figures may be its own and not the target's.
    pub saturated: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetReport {
    pub name: String,
    pub protocol: String,
    pub model: String,
    pub offered: u64,
    pub completed: u64,
    pub refused: BTreeMap<String, u64>,
    pub failed: BTreeMap<String, u64>,
    /// What was said the first time, by reason.
    #[serde(default)]
    pub examples: BTreeMap<String, String>,
    pub not_sent: u64,
    pub resumed: u64,
    /// Due outside of what counts.
    pub outside: u64,
    pub offered_rate: f64,
    /// Of all that were offered, those that were answered wholly and in time.
    pub attainment: Estimate,
    pub ttft_attainment: f64,
    pub tpot_attainment: f64,
    pub e2e_attainment: f64,
    /// Requests a second that met their objectives.
    pub goodput: Estimate,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub output_tokens_per_s: f64,
    pub latencies: Latencies,
    /// If there is more than one.
    pub classes: Vec<ClassReport>,
    /// If the server tells.
    pub parts: Option<PartsReport>,
    pub slowest: Vec<SlowReport>,
    pub timeline: Vec<SliceReport>,
    pub lengths: LengthsReport,
}

/// By what is timed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    pub ttft: Option<LatencyReport>,
    pub tpot: Option<LatencyReport>,
    pub itl: Option<LatencyReport>,
    pub e2e: Option<LatencyReport>,
    pub longest_gap: Option<LatencyReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyReport {
    #[serde(flatten)]
    pub of: Distribution,
    /// 95 % confidence intervals by quantile, as far as they are known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub intervals: BTreeMap<String, (f64, f64)>,
    /// For drawing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<Bucket>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassReport {
    pub name: String,
    pub offered: u64,
    pub completed: u64,
    pub attainment: f64,
    pub goodput: f64,
    pub latencies: Latencies,
}

/// Where the time went, as the server tells it, of requests that were answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartsReport {
    /// Parts of the time to first token, in order.
    pub ttft: Vec<PartReport>,
    /// What came between the first token and the second.
    pub second_token: Vec<PartReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartReport {
    pub name: String,
    #[serde(flatten)]
    pub of: Distribution,
}

/// One of the slowest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlowReport {
    /// As `baton explain` takes it.
    pub request_id: Option<String>,
    pub number: u64,
    pub turn: u32,
    pub due_s: f64,
    pub ttft_ms: f64,
    pub tpot_ms: Option<f64>,
    pub e2e_ms: Option<f64>,
    pub prompt_tokens: Option<u32>,
    pub output_tokens: u32,
    /// Parts of its time to first token, in order; none if the server doesn't tell.
    pub parts: Vec<(String, f64)>,
}

/// What was due in a part of the run, and what happened in that time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SliceReport {
    pub at_s: f64,
    pub width_s: f64,
    pub offered: u64,
    pub met: u64,
    pub completed: u64,
    pub refused: u64,
    pub failed: u64,
    pub ttft_p50_ms: Option<f64>,
    pub ttft_p99_ms: Option<f64>,
    pub tpot_p50_ms: Option<f64>,
    pub tpot_p99_ms: Option<f64>,
    pub tokens_per_s: f64,
    /// At its end.
    pub in_flight: u64,
    /// Whether its requests count.
    pub counts: bool,
}

/// Whether requests were as long as they were to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LengthsReport {
    /// Prompts that were to have a certain number of tokens, and whose tokens the server counted,
    pub prompts: u64,
    pub exact: u64,
    /// and by how many the worst was off.
    pub worst: u32,
    /// Outputs that ended early.
    pub short: u64,
}

/// The highest rate at which enough requests meet their objectives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapacityReport {
    pub target: String,
    pub wanted: f64,
    /// The highest rate that was shown to be enough, and the lowest that was shown not to be; either may not have been found.
    pub low: Option<f64>,
    pub high: Option<f64>,
    /// In words, with its confidence.
    pub statement: String,
    /// Every rate that was tried, lowest first.
    pub curve: Vec<RateReport>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateReport {
    pub rate: f64,
    /// Of each run at it.
    pub attainments: Vec<f64>,
    pub attainment: Estimate,
    pub goodput: f64,
    pub ttft_p50_ms: Option<f64>,
    pub ttft_p99_ms: Option<f64>,
    pub tpot_p50_ms: Option<f64>,
    pub tpot_p99_ms: Option<f64>,
    pub output_tokens_per_s: f64,
    /// The load test itself may have been what was slow in one of them.
    #[serde(default)]
    pub client_limited: bool,
}

impl CapacityReport {
    /// Which rates say less of the target than of the load test.
    pub(crate) fn doubt(&self) -> Option<String> {
        let limited = self.curve.iter().filter(|at| at.client_limited);
        let rates: Vec<String> = limited.map(|at| format!("{:.3}", at.rate)).collect();
        (!rates.is_empty()).then(|| {
            format!(
                "the load test itself may have been the bottleneck at {} requests/s: the target may take more; give \
                 --threads more cores",
                rates.join(", ")
            )
        })
    }
}

/// What faults did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChaosReport {
    pub faults: Vec<FaultReport>,
    /// By target's name.
    pub tokens: BTreeMap<String, Verdict>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultReport {
    pub at_s: f64,
    pub command: String,
    /// Its exit status; absent if it couldn't be started or was ended.
    pub status: Option<i32>,
    /// What it said on standard error, or why it couldn't be started.
    pub said: String,
}

/// Something that was to be reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// In the words it was asked for.
    pub wanted: String,
    pub found: String,
    pub passed: bool,
}

impl Latencies {
    pub fn of(&self, latency: crate::slo::Latency) -> Option<&LatencyReport> {
        use crate::slo::Latency;
        match latency {
            Latency::Ttft => self.ttft.as_ref(),
            Latency::Tpot => self.tpot.as_ref(),
            Latency::Itl => self.itl.as_ref(),
            Latency::E2e => self.e2e.as_ref(),
        }
    }
}

impl Report {
    /// As one object.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Whether all that was to be reached was.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
}
