//! DistServe's chat (OSDI'24, §6.2): OPT-13B on A100s, prompts and outputs as long as ShareGPT's, the
//! first token in 0.25 s and each of the others in 0.1 s.

use std::{fmt::Write, sync::Arc};

use baton_policy::Policy;
use baton_sim::workload::{Lengths, SloConfig, WorkloadConfig};
use rayon::prelude::*;

use crate::{
    Inputs, Scale,
    search::{Best, EvalError},
    system::{Shape, System, World},
    traces::rate,
};

/// GPUs of one cluster.
const WORKERS: [u32; 2] = [4, 16];

const SYSTEMS: [System; 6] = [
    System::JOINT,
    System { policy: Policy::LeastOutstanding, shape: Shape::Split },
    System { policy: Policy::LeastOutstanding, shape: Shape::Chunked },
    System { policy: Policy::Joint, shape: Shape::Chunked },
    System { policy: Policy::LeastOutstanding, shape: Shape::PrefillFirst },
    System { policy: Policy::Joint, shape: Shape::PrefillFirst },
];

fn world(inputs: &Inputs, workers: u32, scale: Scale) -> World {
    World {
        profile: Arc::clone(&inputs.opt),
        max_context: None,
        slo: SloConfig::default(),
        workload: WorkloadConfig {
            requests: u64::from(workers) * if scale == Scale::Short { 200 } else { 500 },
            prompt: Lengths::Lognormal { mean: 755.0, cv: 1.0, max: 1536 },
            output: Lengths::Lognormal { mean: 200.0, cv: 1.0, max: 512 },
            ..WorkloadConfig::default()
        },
        traces: Vec::new(),
        workers,
        decode_tokens: None,
    }
}

pub(crate) fn section(inputs: &Inputs, scale: Scale) -> Result<String, EvalError> {
    let jobs: Vec<(u32, System)> =
        WORKERS.iter().flat_map(|&workers| SYSTEMS.map(|system| (workers, system))).collect();
    let bests: Result<Vec<Best>, EvalError> = jobs
        .par_iter()
        .with_max_len(1)
        .map(|&(workers, system)| {
            let world = world(inputs, workers, scale);
            let split = world.split(system, workers / 2, 2.0 * f64::from(workers))?;
            world.measure(split, scale.seeds())
        })
        .collect();
    let mut out = String::from(
        "| GPUs | system | prefill GPUs | capacity@90, req/s | per GPU | disaggregated joint over \
         it |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    let bests = bests?;
    for (jobs, bests) in jobs.chunks(SYSTEMS.len()).zip(bests.chunks(SYSTEMS.len())) {
        for (&(workers, system), best) in jobs.iter().zip(bests) {
            let prefill = best.prefill_nodes();
            let mean = best.rate.mean;
            let _ = writeln!(
                out,
                "| {workers} | {} | {prefill} | {} | {:.2} | {:.2} |",
                system.name(),
                rate(&best.rate),
                mean / f64::from(workers),
                bests[0].rate.mean / mean,
            );
        }
    }
    Ok(out)
}
