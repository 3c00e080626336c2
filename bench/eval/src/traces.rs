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
    search::{Best, EvalError, Split, Tried, windows},
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
                    decode_tokens: None,
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
    /// The one that takes the most.
    pub(crate) baseline: Best,
    /// All of them at [`TRIED_AT`], best first.
    pub(crate) tried: Vec<Tried>,
}

/// What baselines are tried with first, as a share of the joint policy's capacity.
const TRIED_AT: f64 = 0.75;
/// How many of the best there are searched for how much they take,
const SEARCHED: usize = 3;
/// and which of those are measured on all seeds: those that take at least this share of the best.
const CLOSE: f64 = 0.98;

pub(crate) fn compare(
    cells: &[(Cell, Vec<System>)],
    seeds: u64,
) -> Result<Vec<Compared>, EvalError> {
    cells
        .par_iter()
        .with_max_len(1)
        .map(|(cell, baselines)| cell.compare(baselines, seeds))
        .collect()
}

impl Cell {
    fn compare(&self, baselines: &[System], seeds: u64) -> Result<Compared, EvalError> {
        let world = &self.world;
        let joint = world.split(System::JOINT, self.prefill, self.guess)?;
        self.tell(&joint);
        let rate = TRIED_AT * joint.rate;
        let tried: Result<Vec<Tried>, EvalError> = baselines
            .par_iter()
            .with_max_len(1)
            .map(|system| world.best_split_at(*system, joint.prefill, rate))
            .collect();
        let mut tried = tried?;
        tried.sort_by(|a, b| b.attainment.total_cmp(&a.attainment));
        let searched: Result<Vec<Split>, EvalError> = tried
            .par_iter()
            .take(SEARCHED)
            .with_max_len(1)
            .map(|one| world.split(one.system, one.prefill, rate))
            .collect();
        let searched = searched?;
        searched.iter().for_each(|split| self.tell(split));
        let most = searched.iter().map(|split| split.rate).fold(0.0, f64::max);
        let close = searched.iter().filter(|split| split.rate >= CLOSE * most);
        let measured: Result<Vec<Best>, EvalError> =
            [&joint].into_iter().chain(close).map(|split| world.measure(*split, seeds)).collect();
        let mut measured = measured?.into_iter();
        let joint = measured.next().ok_or(EvalError::NothingToCompare)?;
        let baseline = measured.max_by(|a, b| a.rate.mean.total_cmp(&b.rate.mean));
        let baseline = baseline.ok_or(EvalError::NothingToCompare)?;
        Ok(Compared { cell: self.clone(), joint, baseline, tried })
    }

    /// Says how far the evaluation is.
    fn tell(&self, split: &Split) {
        let Split { system, prefill, rate } = split;
        eprintln!(
            "{}, {}, {prefill} of {} prefill, {}: {rate:.2}/s",
            self.trace,
            self.slo(),
            self.world.workers,
            system.name()
        );
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
    let best = if best.is_finite() { format!("{best:.2}") } else { "∞".to_owned() };
    format!("\nOf {} cells: median {median:.2}, worst {worst:.2}, best {best}.\n", ratios.len())
}

/// Requests a second.
pub(crate) fn rate(rate: &Estimate) -> String {
    figure(rate, 1)
}

/// A mean and its confidence interval, if there is one.
pub(crate) fn figure(of: &Estimate, digits: usize) -> String {
    if of.mean.is_infinite() {
        // The other takes nothing on some seed.
        "∞".to_owned()
    } else if of.half_width.is_finite() {
        format!("{:.digits$} ± {:.digits$}", of.mean, of.half_width)
    } else {
        format!("{:.digits$}", of.mean)
    }
}

/// Every baseline in every cell, with what the joint policy meets the targets of nearly all with.
pub(crate) fn all_baselines(compared: &[Compared]) -> String {
    let mut attained: Vec<(String, Vec<f64>)> = Vec::new();
    for one in compared.iter().flat_map(|one| &one.tried) {
        let name = one.system.name();
        match attained.iter_mut().find(|(known, _)| *known == name) {
            Some((_, of)) => of.push(one.attainment),
            None => attained.push((name, vec![one.attainment])),
        }
    }
    let mut out = String::from(
        "\n| attainment at three quarters of the joint policy's capacity, % | lowest | median | \
         highest |\n| --- | --- | --- | --- |\n",
    );
    for (name, mut of) in attained {
        of.sort_by(f64::total_cmp);
        let middle = f64::midpoint(of[(of.len() - 1) / 2], of[of.len() / 2]);
        let [lowest, middle, highest] =
            [of[0], middle, of[of.len() - 1]].map(|share| 100.0 * share);
        let _ = writeln!(out, "| {name} | {lowest:.0} | {middle:.0} | {highest:.0} |");
    }
    out
}
