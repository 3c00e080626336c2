//! What it is worth that nodes change roles: a workload whose mix of prompts and outputs flips.

use std::{fmt::Write, sync::Arc, time::Duration};

use baton_policy::advice::{AdviceConfig, RolesConfig};
use baton_sim::{
    Report, RolesScenario, simulate,
    workload::{Prompt, Segment, SloConfig, Trace, TraceRequest, WorkloadConfig},
};
use rayon::prelude::*;

use crate::{
    Inputs, Scale,
    search::EvalError,
    system::{System, World},
};

const WORKERS: u32 = 16;
/// Prompt and output tokens, and requests a second: of the one time and of the other.
const MIXES: [(u32, u32, f64); 2] = [(4000, 50, 75.0), (500, 500, 110.0)];
/// How long each lasts, and how often one follows the other.
const PHASE: Duration = Duration::from_secs(60);
const PHASES: u32 = 4;

/// Attainment with each split of the workers, and with the best of them changing roles.
pub(crate) fn section(inputs: &Inputs, scale: Scale) -> Result<String, EvalError> {
    let (ttft, tpot) = (Duration::from_millis(1000), Duration::from_millis(25));
    let slo = SloConfig {
        ttft_ms: Some(ttft.as_secs_f64() * 1e3),
        tpot_ms: Some(tpot.as_secs_f64() * 1e3),
        declared: true,
        ..SloConfig::default()
    };
    let phases = if scale == Scale::Short { 2 } else { PHASES };
    let world = World {
        profile: Arc::clone(&inputs.llama),
        max_context: None,
        slo,
        workload: WorkloadConfig { requests: u64::MAX, ..WorkloadConfig::default() },
        traces: vec![flipping(phases)],
        workers: WORKERS,
        decode_tokens: None,
    };
    let run = |prefill: u32, changing: bool| {
        let mut scenario = world.scenario(System::JOINT, prefill, 0)?;
        let advice = AdviceConfig {
            ttft,
            tpot,
            window: Duration::from_secs(10),
            every: Duration::from_secs(1),
            ..AdviceConfig::default()
        };
        let roles = RolesScenario { switch: RolesConfig::default(), advice };
        scenario.rebalance.enabled = changing;
        scenario.roles = changing.then_some(roles);
        Ok(simulate(&scenario, world.trace(0))?)
    };
    let splits: Vec<u32> = (1..WORKERS / 2).map(|half| 2 * half).collect();
    let fixed: Result<Vec<Report>, EvalError> =
        splits.par_iter().with_max_len(1).map(|&prefill| run(prefill, false)).collect();
    let fixed = fixed?;
    let mut out = String::from(
        "| prefill + decode | roles | attainment, % | TTFT P99, ms | TPOT P99, ms | changes |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    let mut row = |prefill: u32, roles: &str, report: &Report| {
        let p99 = |times: Option<baton_sim::Distribution>| times.map_or(0.0, |times| times.p99);
        let _ = writeln!(
            out,
            "| {prefill} + {} | {roles} | {:.1} | {:.0} | {:.1} | {} |",
            WORKERS - prefill,
            100.0 * report.attainment,
            p99(report.ttft_ms),
            p99(report.tpot_ms),
            report.switched.len(),
        );
    };
    let mut best = (0.0, WORKERS / 2);
    for (&prefill, report) in splits.iter().zip(&fixed) {
        row(prefill, "fixed", report);
        if report.attainment > best.0 {
            best = (report.attainment, prefill);
        }
    }
    row(best.1, "changing", &run(best.1, true)?);
    Ok(out)
}

fn flipping(phases: u32) -> Arc<Trace> {
    let mut requests = Vec::new();
    for phase in 0..phases {
        let (prompt, output_len, rate) = MIXES[phase as usize % 2];
        let count = (PHASE.as_secs_f64() * rate) as u32;
        requests.extend((0..count).map(|index| {
            let after = PHASE * phase + Duration::from_secs_f64(f64::from(index) / rate);
            let content = (u64::from(phase) << 32 | u64::from(index)) << 1;
            let prompt = Prompt::new([Segment { content, tokens: prompt }]);
            TraceRequest { after, prompt, output_len }
        }));
    }
    Arc::new(Trace { requests, ..Trace::default() })
}
