use super::profile::ProfileError;
use crate::{
    capacity::CapacityError,
    scenario::ScenarioError,
    workload::{Trace, TraceRequest},
};

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("there is no profile; give at least one")]
    NoProfiles,
    #[error("profile {number} ({device}): {source}")]
    Profile { number: usize, device: String, source: ProfileError },
    #[error(
        "profiles {a} ({a_model}) and {b} ({b_model}) describe different models, or the same with \
         another shape, weights or context; a plan is for one model"
    )]
    Models { a: usize, a_model: String, b: usize, b_model: String },
    #[error("{name} is {given}; it must be {must}")]
    Value { name: &'static str, given: f64, must: &'static str },
    #[error(
        "nothing meets TTFT {ttft_ms:.1} ms and TPOT {tpot_ms:.1} ms for {wanted:.0} % of requests, even \
         idle: an idle cluster's P90 is at best TTFT {nearest_ttft_ms:.1} ms and TPOT \
         {nearest_tpot_ms:.1} ms; ask for no less than that, or give a faster profile"
    )]
    Infeasible {
        ttft_ms: f64,
        tpot_ms: f64,
        wanted: f64,
        nearest_ttft_ms: f64,
        nearest_tpot_ms: f64,
    },
    #[error(
        "an idle cluster completes none of the requests: they don't fit into the model's context of \
         {max_context} tokens or into a worker's KV pool"
    )]
    NothingFits { max_context: u32 },
    #[error(
        "no configuration that was tried meets the targets at {rate} requests/s: the best ({best}) \
         meets them for {attainment:.1} % of requests, with P90 of TTFT {ttft_ms:.1} ms and TPOT \
         {tpot_ms:.1} ms; {wanted:.0} % were wanted"
    )]
    NotMet { rate: f64, best: String, attainment: f64, wanted: f64, ttft_ms: f64, tpot_ms: f64 },
    #[error(
        "{rate} requests/s would take {workers:.0} workers; plans have at most {most}: plan for a \
         share of the rate and multiply"
    )]
    TooMany { rate: f64, workers: f64, most: u32 },
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error(transparent)]
    Capacity(#[from] CapacityError),
}

/// The same trace, but that each request ends with its first token.
pub(super) fn first_tokens(trace: &Trace) -> Trace {
    let requests = trace.requests.iter();
    let first = |request: &TraceRequest| TraceRequest { output_len: 1, ..request.clone() };
    Trace { requests: requests.map(first).collect(), ..*trace }
}
