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
    search::{Best, EvalError, Split, windows},
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

/// A cell's figures.
#[derive(Clone, Debug)]
pub(crate) struct Compared {
    pub(crate) cell: Cell,
    pub(crate) joint: Best,
    /// Of those that were compared the best.
    pub(crate) baseline: Best,
    /// All that were compared, on the first seed, best first.
    pub(crate) baselines: Vec<Split>,
}

/// Of a cell's baselines, so many of the best on the first seed are measured on all.
const MEASURED: usize = 2;

pub(crate) fn compare(
    cells: &[(Cell, Vec<System>)],
    seeds: u64,
) -> Result<Vec<Compared>, EvalError> {
    let jobs = cells.iter().flat_map(|(cell, baselines)| {
        let systems = [System::JOINT].into_iter().chain(baselines.iter().copied());
        systems.map(move |system| (cell, system))
    });
    let jobs: Vec<(&Cell, System)> = jobs.collect();
    let splits: Result<Vec<Split>, EvalError> = jobs
        .par_iter()
        .with_max_len(1)
        .map(|(cell, system)| {
            cell.world.split(*system, cell.prefill, cell.guess).inspect(tell(cell))
        })
        .collect();
    let mut splits = splits?.into_iter();
    let mut of_cells = Vec::new();
    for (_, baselines) in cells {
        let joint = splits.next();
        let mut baselines: Vec<Split> = splits.by_ref().take(baselines.len()).collect();
        baselines.sort_by(|a, b| b.rate.total_cmp(&a.rate));
        of_cells.push((joint, baselines));
    }
    let measured: Result<Vec<Option<Compared>>, EvalError> = cells
        .par_iter()
        .zip(of_cells)
        .with_max_len(1)
        .map(|((cell, _), (joint, baselines))| {
            let measure = |split: &Split| cell.world.measure(*split, seeds);
            let best =
                baselines.iter().take(MEASURED).map(measure).collect::<Result<Vec<_>, _>>()?;
            let best = best.into_iter().max_by(|a, b| a.rate.mean.total_cmp(&b.rate.mean));
            let Some((joint, baseline)) = joint.zip(best) else { return Ok(None) };
            let joint = measure(&joint)?;
            Ok(Some(Compared { cell: cell.clone(), joint, baseline, baselines }))
        })
        .collect();
    Ok(measured?.into_iter().flatten().collect())
}

/// Says how far the evaluation is.
fn tell(cell: &Cell) -> impl Fn(&Split) {
    let (workers, what) = (cell.world.workers, format!("{}, {}", cell.trace, cell.slo()));
    move |split| {
        let Split { system, prefill, rate } = split;
        eprintln!("{what}, {prefill} of {workers} prefill, {}: {rate:.2}/s", system.name());
    }
}

pub(crate) fn table(compared: &[Compared]) -> String {
    let mut out = String::from(
        "| workers | trace | TTFT ms/token / TPOT ms | joint, req/s | prefill nodes | best baseline | \
         req/s | prefill nodes | ratio |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for one in compared {
        let Compared { cell, joint, baseline, .. } = one;
        let prefill = baseline.prefill_nodes();
        let over = joint.over(baseline);
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {prefill} | {} |",
            cell.world.workers,
            cell.trace,
            cell.slo(),
            rate(&joint.rate),
            joint.prefill,
            baseline.system.name(),
            rate(&baseline.rate),
            figure(&over, 2),
        );
    }
    out
}

/// The distribution of the cells' ratios.
pub(crate) fn summary(compared: &[Compared]) -> String {
    let ratio = |one: &Compared| one.joint.over(&one.baseline).mean;
    let mut ratios: Vec<f64> = compared.iter().map(ratio).collect();
    ratios.sort_by(f64::total_cmp);
    let (Some(worst), Some(best)) = (ratios.first(), ratios.last()) else { return String::new() };
    let median = f64::midpoint(ratios[(ratios.len() - 1) / 2], ratios[ratios.len() / 2]);
    format!("\nOf {} cells: median {median:.2}, worst {worst:.2}, best {best:.2}.\n", ratios.len())
}

/// Requests a second.
pub(crate) fn rate(rate: &Estimate) -> String {
    figure(rate, 1)
}

/// A mean and its confidence interval, if there is one.
pub(crate) fn figure(of: &Estimate, digits: usize) -> String {
    if of.half_width.is_finite() {
        format!("{:.digits$} ± {:.digits$}", of.mean, of.half_width)
    } else {
        format!("{:.digits$}", of.mean)
    }
}

/// Every baseline in every cell, as a share of the joint policy on the first seed.
pub(crate) fn all_baselines(compared: &[Compared]) -> String {
    let mut shares: Vec<(String, Vec<f64>)> = Vec::new();
    for one in compared.iter().filter(|one| one.cell.world.workers == 16) {
        let Some(joint) = one.joint.by_seed.first() else { continue };
        for baseline in &one.baselines {
            let (name, share) = (baseline.system.name(), baseline.rate / joint);
            match shares.iter_mut().find(|(known, _)| *known == name) {
                Some((_, shares)) => shares.push(share),
                None => shares.push((name, vec![share])),
            }
        }
    }
    let mut out = String::from(
        "\n| on 16 workers, of the joint policy's capacity | lowest | median | \
                                highest |\n| --- | --- | --- | --- |\n",
    );
    for (name, mut shares) in shares {
        shares.sort_by(f64::total_cmp);
        let middle = f64::midpoint(shares[(shares.len() - 1) / 2], shares[shares.len() / 2]);
        let (lowest, highest) = (shares[0], shares[shares.len() - 1]);
        let _ = writeln!(out, "| {name} | {lowest:.2} | {middle:.2} | {highest:.2} |");
    }
    out
}
