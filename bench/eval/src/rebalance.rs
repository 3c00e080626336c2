//! What it is worth to move running requests: the same clusters with and without.

use std::fmt::Write;

use baton_policy::Policy;
use baton_sim::{Distribution, Outcome, Report, Scenario, simulate};
use rayon::prelude::*;

use crate::{
    Inputs, Scale,
    search::{EvalError, Split},
    system::{Shape, System},
    traces::{self, Cell},
};

/// The middle of each trace's grid, and a decode node's pool, in tokens, that holds little more than its longest
/// request: where memory is scarce.
const CELLS: [(usize, u32); 2] = [(4, 24 << 10), (13, 160 << 10)];
/// Who dispatches, and how much is offered: in capacities of the joint policy.
const DISPATCH: [(Policy, f64); 5] = [
    (Policy::Joint, 0.75),
    (Policy::Joint, 1.0),
    (Policy::LeastOutstanding, 0.6),
    (Policy::LeastOutstanding, 1.0),
    (Policy::Freeness, 0.6),
];
/// Workers.
pub(crate) const SMALL: u32 = 16;
const LARGE: u32 = 64;
/// Of requests, those of the higher class.
const HIGH: f64 = 0.1;

/// A cell, the split that suits the joint policy, and its capacity there.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) cell: Cell,
    pub(crate) joint: Split,
}

impl Place {
    pub(crate) fn name(&self) -> String {
        let Cell { trace, world, .. } = &self.cell;
        let pool = world.decode_tokens.map(|tokens| format!(", {} Ki pools", tokens >> 10));
        format!("{trace}, {}{}", self.cell.slo(), pool.unwrap_or_default())
    }

    /// On every seed.
    pub(crate) fn run(
        &self,
        (policy, load): (Policy, f64),
        scale: Scale,
        change: impl Fn(&mut Scenario) + Sync,
    ) -> Result<Vec<Report>, EvalError> {
        let system = System { policy, shape: Shape::Split };
        let Split { prefill, rate, .. } = self.joint;
        let seeds: Vec<u64> = (0..scale.seeds()).collect();
        let run = |seed| {
            let (mut scenario, trace) = self.cell.world.at(system, prefill, seed, load * rate)?;
            change(&mut scenario);
            Ok(simulate(&scenario, trace)?)
        };
        seeds.into_par_iter().map(run).collect()
    }
}

/// What a decode node's pool holds is the last of each.
fn kinds() -> impl Iterator<Item = (usize, Option<u32>)> {
    CELLS.iter().flat_map(|(at, pool)| [(*at, None), (*at, Some(*pool))])
}

fn cell(cells: &[Cell], (at, decode_tokens): (usize, Option<u32>)) -> Cell {
    let mut cell = cells[at].clone();
    cell.world.decode_tokens = decode_tokens;
    cell
}

/// All on [`SMALL`] workers.
pub(crate) fn places(inputs: &Inputs, scale: Scale) -> Result<Vec<Place>, EvalError> {
    let cells = traces::cells(inputs, SMALL, scale.seeds());
    kinds()
        .collect::<Vec<_>>()
        .into_par_iter()
        .with_max_len(1)
        .map(|kind| {
            let cell = cell(&cells, kind);
            let joint = cell.world.split(System::JOINT, cell.prefill, cell.guess)?;
            Ok(Place { cell, joint })
        })
        .collect()
}

/// With P99 of times, preemptions and moves; then what higher classes have of it.
pub(crate) fn section(inputs: &Inputs, scale: Scale) -> Result<String, EvalError> {
    let mut places = places(inputs, scale)?;
    if scale == Scale::Full {
        // The same split and the same load, so many times as large.
        let times = LARGE / SMALL;
        let large = traces::cells(inputs, LARGE, scale.seeds());
        for (index, kind) in kinds().enumerate() {
            let Split { system, prefill, rate } = places[index].joint;
            let joint = Split { system, prefill: prefill * times, rate: rate * f64::from(times) };
            places.push(Place { cell: cell(&large, kind), joint });
        }
    }
    let mut out = String::from(
        "| workers | trace | dispatch, load | moving | attainment, % | TTFT P99, ms | TPOT P99, ms | \
         longest gap P99, ms | preemptions | fragmented, % | moves |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for place in &places {
        moving(place, scale, &mut out)?;
    }
    out += "\n| workers | trace | dispatch, load | moving | TPOT of the higher class, mean and P99, ms | \
            of the others | moves |\n| --- | --- | --- | --- | --- | --- | --- |\n";
    for place in places.iter().filter(|place| place.cell.world.workers == SMALL) {
        priority(place, scale, &mut out)?;
    }
    Ok(out)
}

fn moving(place: &Place, scale: Scale, out: &mut String) -> Result<(), EvalError> {
    for (policy, load) in DISPATCH {
        for moving in [false, true] {
            let on = |scenario: &mut Scenario| scenario.rebalance.enabled = moving;
            let reports = place.run((policy, load), scale, on)?;
            let mean = |of: &dyn Fn(&Report) -> f64| mean(reports.iter().map(of));
            let p99 = |times: Option<Distribution>| times.map_or(0.0, |times| times.p99);
            let preempted =
                |report: &Report| report.roles.iter().map(|role| role.preemptions as f64).sum();
            let row = format!(
                "| {} | {} | {}, {load} × | {} | {:.1} | {:.0} | {:.1} | {:.0} | {:.0} | {:.1} | {:.0} |",
                place.cell.world.workers,
                place.name(),
                System { policy, shape: Shape::Split }.policy_name(),
                if moving { "on" } else { "off" },
                mean(&|report| 100.0 * report.attainment),
                mean(&|report| p99(report.ttft_ms)),
                mean(&|report| p99(report.tpot_ms)),
                mean(&|report| p99(report.longest_gap_ms)),
                mean(&preempted),
                mean(&|report| 100.0 * report.fragmented),
                mean(&moves),
            );
            eprintln!("{row}");
            let _ = writeln!(out, "{row}");
        }
    }
    Ok(())
}

/// One request of ten is of a higher class, and nobody names an objective.
fn priority(place: &Place, scale: Scale, out: &mut String) -> Result<(), EvalError> {
    for (policy, load) in [(Policy::Joint, 0.75), (Policy::LeastOutstanding, 0.6)] {
        for moving in [false, true] {
            let on = |scenario: &mut Scenario| {
                scenario.rebalance.enabled = moving;
                scenario.workload.high_share = HIGH;
                scenario.slo.declared = false;
            };
            let reports = place.run((policy, load), scale, on)?;
            let tpot = |high: bool| {
                let of = |outcome: &&Outcome| (outcome.priority > 0) == high;
                let all = reports.iter().flat_map(|report| &report.outcomes).filter(of);
                let times = all.filter_map(|outcome| outcome.tpot);
                let times = Distribution::of(times.map(|time| time.as_secs_f64() * 1e3));
                times.map_or_else(String::new, |t| format!("{:.2}, {:.2}", t.mean, t.p99))
            };
            let row = format!(
                "| {} | {} | {}, {load} × | {} | {} | {} | {:.0} |",
                place.cell.world.workers,
                place.name(),
                System { policy, shape: Shape::Split }.policy_name(),
                if moving { "on" } else { "off" },
                tpot(true),
                tpot(false),
                mean(reports.iter().map(moves)),
            );
            eprintln!("{row}");
            let _ = writeln!(out, "{row}");
        }
    }
    Ok(())
}

fn moves(report: &Report) -> f64 {
    report.moves.as_ref().map_or(0.0, |moves| moves.count() as f64)
}

pub(crate) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}
