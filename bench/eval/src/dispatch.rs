//! Llumnix's dispatch comparison (OSDI'24, §6.3): instances that do both phases, bursts of requests with
//! long-tailed lengths, and how long the slowest wait for their first token.

use std::{fmt::Write, sync::Arc};

use baton_policy::Policy;
use baton_sim::{
    Estimate,
    workload::{Arrivals, Lengths, SloConfig, WorkloadConfig},
};
use rayon::prelude::*;

use crate::{
    Inputs, Scale,
    search::EvalError,
    system::{Shape, System, World},
    traces::rate,
};

const WORKERS: u32 = 16;
/// Of the gaps between requests.
const BURSTS: f64 = 4.0;
const POLICIES: [Policy; 4] =
    [Policy::RoundRobin, Policy::LeastOutstanding, Policy::Freeness, Policy::Joint];
/// Requests a second: light, and about as many as round robin can take.
const RATES: [f64; 3] = [20.0, 30.0, 40.0];

/// Nobody names targets, so nobody is refused.
fn world(inputs: &Inputs, scale: Scale) -> World {
    World {
        profile: Arc::clone(&inputs.llama),
        max_context: None,
        slo: SloConfig { declared: false, ..SloConfig::default() },
        workload: WorkloadConfig {
            requests: if scale == Scale::Short { 2000 } else { 8000 },
            arrivals: Arrivals::Gamma { rate: 1.0, cv: BURSTS },
            prompt: Lengths::Lognormal { mean: 512.0, cv: 2.0, max: 6000 },
            output: Lengths::Lognormal { mean: 256.0, cv: 2.0, max: 2000 },
            ..WorkloadConfig::default()
        },
        traces: Vec::new(),
        workers: WORKERS,
        decode_tokens: None,
    }
}

pub(crate) fn section(inputs: &Inputs, scale: Scale) -> Result<String, EvalError> {
    let world = world(inputs, scale);
    let mut out = String::from(
        "| req/s | policy | TTFT P50, ms | TTFT P99, ms | round robin's P99 over it |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for offered in RATES {
        let of = |policy: &Policy| {
            let system = System { policy: *policy, shape: Shape::Chunked };
            let runs: Result<Vec<[f64; 2]>, EvalError> = (0..scale.seeds())
                .map(|seed| {
                    let ttft = world.run(system, 0, seed, offered)?.ttft_ms;
                    Ok(ttft.map_or([f64::NAN; 2], |ttft| [ttft.p50, ttft.p99]))
                })
                .collect();
            let runs = runs?;
            let of = |at: usize| Estimate::of(&runs.iter().map(|run| run[at]).collect::<Vec<_>>());
            Ok((system, of(0), of(1)))
        };
        let figures: Result<Vec<(System, Estimate, Estimate)>, EvalError> =
            POLICIES.par_iter().map(of).collect();
        let figures = figures?;
        for (system, p50, p99) in &figures {
            let _ = writeln!(
                out,
                "| {offered:.0} | {} | {} | {} | {:.2} |",
                system.policy_name(),
                rate(p50),
                rate(p99),
                figures[0].2.mean / p99.mean
            );
        }
    }
    Ok(out)
}
