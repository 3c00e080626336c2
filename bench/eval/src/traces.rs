//! Both traces on Llama-3-8B and H100s: the joint policy beside every baseline, each with the split
//! that suits it best.

use std::{fmt::Write, sync::Arc};

use baton_policy::Policy;
use baton_sim::{
    Estimate,
    workload::{OverContext, SloConfig, Trace, WorkloadConfig},
};
use rayon::prelude::*;

use crate::{
    Inputs,
    search::{Best, EvalError, windows},
    system::{Shape, System, World},
};

/// The grid, fixed before anything was measured: TTFT is 50 ms and so much a token of the prompt (an
/// idle worker takes about 0.03 ms), TPOT is what it is (an idle worker takes 9 ms).
const TTFT_PER_TOKEN_US: [f64; 3] = [100.0, 200.0, 400.0];
const TTFT_MS: f64 = 50.0;
const TPOT_MS: [f64; 3] = [15.0, 25.0, 50.0];
/// Llama 3.1 8B is the same model with a context of 128 Ki tokens; whatever is longer is left out.
const MAX_CONTEXT: u32 = 128 << 10;

/// One trace under one pair of targets.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) trace: &'static str,
    pub(crate) world: World,
    /// Where the search for the split and for the rate begins.
    pub(crate) prefill: u32,
    pub(crate) guess: f64,
}

impl Cell {
    pub(crate) fn slo(&self) -> String {
        let SloConfig { ttft_per_prompt_token_us, tpot_ms, .. } = self.world.slo;
        format!("{:.1} / {:.0}", ttft_per_prompt_token_us / 1e3, tpot_ms.unwrap_or_default())
    }
}

/// Every baseline there is.
pub(crate) fn baselines() -> Vec<System> {
    let split = Policy::ALL.into_iter().filter(|policy| *policy != Policy::Joint);
    let split = split.map(|policy| System { policy, shape: Shape::Split });
    let colocated = [Shape::Chunked, Shape::PrefillFirst];
    let colocated = colocated.map(|shape| System { policy: Policy::LeastOutstanding, shape });
    split.chain(colocated).collect()
}

pub(crate) fn cells(inputs: &Inputs, workers: u32, seeds: u64) -> Vec<Cell> {
    let of = |name, trace: &Arc<Trace>, count: usize, share: f64, per_worker: f64| {
        let windows = windows(trace, count * workers as usize / 16, seeds);
        let mut cells = Vec::new();
        for per_token in TTFT_PER_TOKEN_US {
            for tpot in TPOT_MS {
                let world = World {
                    profile: Arc::clone(&inputs.llama),
                    max_context: Some(MAX_CONTEXT),
                    slo: SloConfig {
                        ttft_ms: Some(TTFT_MS),
                        ttft_per_prompt_token_us: per_token,
                        tpot_ms: Some(tpot),
                        declared: true,
                    },
                    workload: WorkloadConfig {
                        requests: u64::MAX,
                        over_context: OverContext::Skip,
                        ..WorkloadConfig::default()
                    },
                    traces: windows.clone(),
                    workers,
                };
                let prefill = (share * f64::from(workers)).round() as u32;
                let guess = per_worker * f64::from(workers);
                cells.push(Cell { trace: name, world, prefill, guess });
            }
        }
        cells
    };
    let mut cells = of("Azure conversation", &inputs.azure, 3000, 0.5, 9.0);
    cells.extend(of("Mooncake", &inputs.mooncake, 1500, 0.75, 0.9));
    cells
}

/// A cell's figures, the joint policy's first.
#[derive(Clone, Debug)]
pub(crate) struct Compared {
    pub(crate) cell: Cell,
    pub(crate) joint: Best,
    /// Best first.
    pub(crate) baselines: Vec<Best>,
}

impl Compared {
    pub(crate) fn ratio(&self) -> f64 {
        self.joint.rate.mean / self.baselines[0].rate.mean
    }
}

pub(crate) fn compare(
    cells: &[(Cell, Vec<System>)],
    seeds: u64,
) -> Result<Vec<Compared>, EvalError> {
    let jobs: Vec<(&Cell, System)> = cells
        .iter()
        .flat_map(|(cell, baselines)| {
            let systems = [System::JOINT].into_iter().chain(baselines.iter().copied());
            systems.map(move |system| (cell, system))
        })
        .collect();
    let bests: Result<Vec<Best>, EvalError> = jobs
        .par_iter()
        .with_max_len(1)
        .map(|(cell, system)| {
            let best = cell.world.best(*system, cell.prefill, cell.guess, seeds)?;
            let (workers, prefill) = (cell.world.workers, best.prefill_nodes());
            let (trace, slo, name) = (cell.trace, cell.slo(), system.name());
            let rate = rate(&best.rate);
            eprintln!("{trace}, {slo}: {name}, {prefill} of {workers} prefill: {rate}");
            Ok(best)
        })
        .collect();
    let mut bests = bests?.into_iter();
    let mut compared = Vec::new();
    for (cell, baselines) in cells {
        let Some(joint) = bests.next() else { break };
        let mut baselines: Vec<Best> = bests.by_ref().take(baselines.len()).collect();
        baselines.sort_by(|a, b| b.rate.mean.total_cmp(&a.rate.mean));
        compared.push(Compared { cell: cell.clone(), joint, baselines });
    }
    Ok(compared)
}

pub(crate) fn table(compared: &[Compared]) -> String {
    let mut out = String::from(
        "| workers | trace | TTFT ms/token / TPOT ms | joint, req/s | prefill nodes | best baseline | \
         req/s | prefill nodes | ratio |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for one in compared {
        let Compared { cell, joint, baselines } = one;
        let best = &baselines[0];
        let prefill = best.prefill_nodes();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {prefill} | {:.2} |",
            cell.world.workers,
            cell.trace,
            cell.slo(),
            rate(&joint.rate),
            joint.prefill,
            best.system.name(),
            rate(&best.rate),
            one.ratio(),
        );
    }
    out
}

/// The distribution of the cells' ratios.
pub(crate) fn summary(compared: &[Compared]) -> String {
    let mut ratios: Vec<f64> = compared.iter().map(Compared::ratio).collect();
    ratios.sort_by(f64::total_cmp);
    let (Some(worst), Some(best)) = (ratios.first(), ratios.last()) else { return String::new() };
    let median = f64::midpoint(ratios[(ratios.len() - 1) / 2], ratios[ratios.len() / 2]);
    format!("\nOf {} cells: median {median:.2}, worst {worst:.2}, best {best:.2}.\n", ratios.len())
}

/// A mean and its confidence interval, if there is one.
pub(crate) fn rate(rate: &Estimate) -> String {
    if rate.half_width.is_finite() {
        format!("{:.1} ± {:.1}", rate.mean, rate.half_width)
    } else {
        format!("{:.1}", rate.mean)
    }
}
