//! How many workers a policy needs for the P99 of times that another has: what placing and moving save.

use std::fmt::Write;

use baton_policy::Policy;
use baton_sim::{Distribution, Report, Scenario};
use rayon::prelude::*;

use crate::{
    Inputs, Scale,
    rebalance::{self, Place},
    search::EvalError,
    system::{Shape, System},
};

/// Of the joint policy's capacity on [`rebalance::SMALL`] workers.
const LOAD: f64 = 0.75;
/// No fewer and no more are tried.
const LEAST: u32 = 8;
const MOST: u32 = 32;
/// A seed whose times are longer than wanted by more than this says for all that they are too long.
const FAR: f64 = 1.5;
const POLICIES: [Policy; 3] = [Policy::Joint, Policy::Freeness, Policy::LeastOutstanding];

/// P99 of the time to the first token and of that to each of the others, ms, and the share of requests whose targets
/// are met: without it a policy would do best that refuses most. Means of seeds.
#[derive(Clone, Copy, Debug)]
struct Tail {
    ttft: f64,
    tpot: f64,
    attainment: f64,
}

impl Tail {
    fn of(reports: &[Report]) -> Tail {
        let p99 = |times: Option<Distribution>| times.map_or(f64::INFINITY, |times| times.p99);
        let mean = |of: &dyn Fn(&Report) -> f64| rebalance::mean(reports.iter().map(of));
        Tail {
            ttft: mean(&|report| p99(report.ttft_ms)),
            tpot: mean(&|report| p99(report.tpot_ms)),
            attainment: mean(&|report| report.attainment),
        }
    }

    fn within(self, other: Tail) -> bool {
        self.ttft <= other.ttft && self.tpot <= other.tpot && self.attainment >= other.attainment
    }

    fn far_from(self, other: Tail) -> bool {
        let missed = |tail: Tail| 1.0 - tail.attainment;
        self.ttft > FAR * other.ttft
            || self.tpot > FAR * other.tpot
            || missed(self) > missed(other) + (FAR - 1.0) / 10.0
    }
}

/// Enough workers, with the split that makes them enough.
#[derive(Clone, Copy, Debug)]
struct Enough {
    workers: u32,
    prefill: u32,
    tail: Tail,
}

pub(crate) fn section(inputs: &Inputs, scale: Scale) -> Result<String, EvalError> {
    let mut out = String::from(
        "| trace | dispatch | moving | workers | of them prefill | attainment, % | TTFT P99, ms | TPOT P99, ms |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for place in rebalance::places(inputs, scale)? {
        let Anchor { tail: target, prefill } = anchor(&place, scale)?;
        let row = |name: &str, moving: bool, enough: Option<Enough>| {
            let moving = if moving { "on" } else { "off" };
            let found = enough.map_or_else(
                || format!("more than {MOST} | – | – | – | –"),
                |Enough { workers, prefill, tail }| {
                    let Tail { ttft, tpot, attainment } = tail;
                    let attainment = 100.0 * attainment;
                    format!("{workers} | {prefill} | {attainment:.1} | {ttft:.0} | {tpot:.1}")
                },
            );
            format!("| {} | {name} | {moving} | {found} |", place.name())
        };
        let own = Enough { workers: rebalance::SMALL, prefill, tail: target };
        let mut rows = vec![row("joint, the target", false, Some(own))];
        let all = POLICIES.into_iter().flat_map(|policy| [(policy, false), (policy, true)]);
        for (policy, moving) in all {
            let enough = needed(&place, policy, moving, target, scale)?;
            rows.push(row(&System { policy, shape: Shape::Split }.policy_name(), moving, enough));
        }
        for row in rows {
            eprintln!("{row}");
            let _ = writeln!(out, "{row}");
        }
    }
    Ok(out)
}

/// What is to be reached: the joint policy without moves.
struct Anchor {
    tail: Tail,
    prefill: u32,
}

fn anchor(place: &Place, scale: Scale) -> Result<Anchor, EvalError> {
    let off = |scenario: &mut Scenario| scenario.rebalance.enabled = false;
    let tail = Tail::of(&place.run((Policy::Joint, LOAD), scale, off)?);
    Ok(Anchor { tail, prefill: place.joint.prefill })
}

/// The fewest, by halving: more workers are taken not to be slower.
fn needed(
    place: &Place,
    policy: Policy,
    moving: bool,
    target: Tail,
    scale: Scale,
) -> Result<Option<Enough>, EvalError> {
    let (mut least, mut most) = (LEAST, MOST + 1);
    let mut found = None;
    while least < most {
        let workers = u32::midpoint(least, most);
        match enough(place, workers, policy, moving, target, scale)? {
            Some(enough) => {
                found = Some(enough);
                most = workers;
            }
            None => least = workers + 1,
        }
    }
    Ok(found)
}

/// With whatever split of five around the share of prefill nodes that suits the joint policy best.
fn enough(
    place: &Place,
    workers: u32,
    policy: Policy,
    moving: bool,
    target: Tail,
    scale: Scale,
) -> Result<Option<Enough>, EvalError> {
    let share = f64::from(place.joint.prefill) / f64::from(rebalance::SMALL);
    let middle = (share * f64::from(workers)).round() as u32;
    let step = (workers / 16).max(1);
    let splits =
        [-2, -1, 0, 1, 2].map(|way| middle.saturating_add_signed(way * step.cast_signed()));
    let splits = splits.map(|prefill| prefill.clamp(1, workers - 1));
    let found: Result<Vec<Option<Enough>>, EvalError> = splits
        .into_par_iter()
        .with_max_len(1)
        .map(|prefill| {
            let mut place = place.clone();
            place.cell.world.workers = workers;
            place.joint.prefill = prefill;
            let on = |scenario: &mut Scenario| scenario.rebalance.enabled = moving;
            let first = Tail::of(&place.run((policy, LOAD), Scale::Short, on)?);
            if first.far_from(target) {
                return Ok(None);
            }
            let tail = Tail::of(&place.run((policy, LOAD), scale, on)?);
            Ok(tail.within(target).then_some(Enough { workers, prefill, tail }))
        })
        .collect();
    Ok(found?.into_iter().flatten().next())
}
