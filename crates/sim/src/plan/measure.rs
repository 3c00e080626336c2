//! What a live cluster's steps and transfers say of a profile.

use std::time::Duration;

pub use baton_policy::Link;
use baton_policy::{FitConfig, LatencyFit};
use baton_types::{LatencyProfile, Role, StepReport, StepShape};
use baton_workload::random::mix;

use super::profile::LEAST_STEP_US;
use crate::Distribution;

/// Steps of a phase that its costs are fitted to, at least.
pub const LEAST_STEPS: usize = 50;
/// One in so many isn't learned from, but predicted.
const HELD_OUT: usize = 5;
/// How often all steps are learned from. The fit forgets nothing meanwhile; but what it learned first
/// it learned with coefficients that were far off.
const PASSES: usize = 8;
/// Transfers that a link is fitted to, at least.
const LEAST_TRANSFERS: usize = 4;
/// Of a transfer's time, what was left when the prompt was done, at least: how long one took that was
/// hidden nobody knows.
const EXPOSED_SHARE: f64 = 0.2;

/// What steps cost, and how well that predicts them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepFit {
    pub costs: LatencyProfile,
    pub prefill: PhaseFit,
    pub decode: PhaseFit,
    /// Steps that did both. If there were none, what they cost is assumed.
    pub mixed: usize,
}

/// How well those steps are predicted that are of one phase alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhaseFit {
    /// Steps that were learned from,
    pub learned: usize,
    /// and others, which weren't: |predicted/actual − 1| of half of them is at most the median.
    pub held_out: usize,
    pub median_error: f64,
    pub p90_error: f64,
    /// The smallest step and the largest, in tokens (prefill) or sequences (decode).
    pub sizes: (u32, u32),
}

/// Why there is no fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    #[error("{steps} {phase} steps were seen, and a fit takes {LEAST_STEPS}; measure for longer")]
    TooFew { phase: Role, steps: usize },
}

/// A hand-over as it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    pub bytes: u64,
    /// How long the prompt took, whose pages but the last ones lay in the cache,
    pub prefill: Duration,
    /// and how long pages still came when it was done.
    pub exposed: Duration,
}

/// What transfers say of the link between two nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LinkFit {
    Measured {
        link: Link,
        transfers: usize,
    },
    /// They hid behind their prompts: all that is known is that the link isn't slower.
    AtLeast {
        bytes_per_second: f64,
    },
    /// There were none.
    Unknown,
}

/// Fits the step formulas: the least squares of the relative errors, as a router learns them, but
/// nothing is forgotten. A step that prefills or decodes costs 1 µs at least, as profiles want it.
pub fn fit_steps(reports: &[StepReport]) -> Result<StepFit, MeasureError> {
    enough(reports)?;
    let (held_out, learned) = deal(reports);
    let config = FitConfig {
        seed_spread: *FitConfig::SEED_SPREADS.end(),
        memory_steps: *FitConfig::MEMORIES.end(),
    };
    let mut fit = LatencyFit::new(LatencyProfile::default(), config);
    for _ in 0..PASSES {
        learned.iter().for_each(|report| fit.observe(report));
    }
    let mut costs = fit.profile();
    for fixed in [&mut costs.prefill_us, &mut costs.decode_us] {
        *fixed = fixed.max(LEAST_STEP_US);
    }
    let of = |phase| PhaseFit::of(phase, &costs, &learned, &held_out);
    let (Some(prefill), Some(decode)) = (of(Role::Prefill), of(Role::Decode)) else {
        unreachable!("both phases have {LEAST_STEPS} steps, and every {HELD_OUT}th is held out")
    };
    let is_mixed = |shape: &StepShape| shape.prefill_tokens > 0 && shape.decode_batch > 0;
    let mixed = reports.iter().filter(|report| is_mixed(&report.shape)).count();
    Ok(StepFit { costs, prefill, decode, mixed })
}

/// Whether a fit can be made of them.
pub fn are_enough(reports: &[StepReport]) -> bool {
    enough(reports).is_ok()
}

fn enough(reports: &[StepReport]) -> Result<(), MeasureError> {
    for phase in [Role::Prefill, Role::Decode] {
        let steps = reports.iter().filter(|report| phase_of(&report.shape) == Some(phase)).count();
        if steps < LEAST_STEPS {
            return Err(MeasureError::TooFew { phase, steps });
        }
    }
    Ok(())
}

/// Those that are held out, and the others: of each phase the same share, and in an order that has
/// nothing to do with the one they came in.
fn deal(reports: &[StepReport]) -> (Vec<StepReport>, Vec<StepReport>) {
    let mut shuffled: Vec<(usize, &StepReport)> = reports.iter().enumerate().collect();
    shuffled.sort_by_key(|(index, _)| mix(*index as u64));
    let (mut held_out, mut learned) = (Vec::new(), Vec::new());
    let mut seen = [0; 3];
    for (_, report) in shuffled {
        let seen = match phase_of(&report.shape) {
            Some(Role::Prefill) => &mut seen[0],
            Some(Role::Decode) => &mut seen[1],
            None => &mut seen[2],
        };
        *seen += 1;
        let pile = if *seen % HELD_OUT == 0 { &mut held_out } else { &mut learned };
        pile.push(*report);
    }
    (held_out, learned)
}

/// The only one that a step has something of.
fn phase_of(shape: &StepShape) -> Option<Role> {
    match (shape.prefill_tokens > 0, shape.decode_batch > 0) {
        (true, false) => Some(Role::Prefill),
        (false, true) => Some(Role::Decode),
        _ => None,
    }
}

impl PhaseFit {
    /// None if no step was held out.
    fn of(
        phase: Role,
        costs: &LatencyProfile,
        learned: &[StepReport],
        held_out: &[StepReport],
    ) -> Option<Self> {
        let is_of = |report: &&StepReport| phase_of(&report.shape) == Some(phase);
        let errors = held_out.iter().filter(is_of).map(|StepReport { shape, duration }| {
            (costs.step(shape).as_secs_f64() / duration.as_secs_f64() - 1.0).abs()
        });
        let errors = Distribution::of(errors)?;
        let sizes = learned.iter().filter(is_of).map(|report| match phase {
            Role::Prefill => report.shape.prefill_tokens,
            Role::Decode => report.shape.decode_batch,
        });
        Some(PhaseFit {
            learned: learned.iter().filter(is_of).count(),
            held_out: held_out.iter().filter(is_of).count(),
            median_error: errors.p50,
            p90_error: errors.p90,
            sizes: sizes
                .fold((u32::MAX, 0), |(least, most), size| (least.min(size), most.max(size))),
        })
    }
}

/// Fits a line through the transfers that their prompts didn't hide: bytes over time, and what none at
/// all would take. The median of the slopes between any two (Theil and Sen), so that a few that were
/// held up don't count.
pub fn fit_link(transfers: &[Transfer]) -> LinkFit {
    let whole = |transfer: &Transfer| (transfer.prefill + transfer.exposed).as_secs_f64();
    let seen: Vec<(f64, f64)> = transfers
        .iter()
        .filter(|transfer| transfer.exposed.as_secs_f64() > EXPOSED_SHARE * whole(transfer))
        .map(|transfer| (transfer.bytes as f64, whole(transfer)))
        .collect();
    let pairs = seen.iter().enumerate().flat_map(|(at, a)| seen[..at].iter().map(move |b| (a, b)));
    let slopes = pairs
        .filter(|((a_bytes, _), (b_bytes, _))| a_bytes != b_bytes)
        .map(|((a_bytes, a), (b_bytes, b))| (a - b) / (a_bytes - b_bytes));
    let slope = Distribution::of(slopes).map(|slopes| slopes.p50).filter(|slope| *slope > 0.0);
    if let Some(slope) = slope.filter(|_| seen.len() >= LEAST_TRANSFERS) {
        let rest = Distribution::of(seen.iter().map(|(bytes, whole)| whole - slope * bytes));
        let rtt_us = rest.map_or(0.0, |rest| (rest.p50 * 1e6).max(0.0));
        let link = Link { rtt_us, bytes_per_second: 1.0 / slope };
        return LinkFit::Measured { link, transfers: seen.len() };
    }
    let speeds = transfers.iter().map(|transfer| transfer.bytes as f64 / whole(transfer));
    match Distribution::of(speeds.filter(|speed| *speed > 0.0 && speed.is_finite())) {
        Some(speeds) => LinkFit::AtLeast { bytes_per_second: speeds.max },
        None => LinkFit::Unknown,
    }
}
