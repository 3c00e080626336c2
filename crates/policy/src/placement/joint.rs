//! Prefill node, decode node and path, chosen together.

use std::cmp::Ordering;

use rand_core::RngCore;

use super::{
    candidate::Candidate,
    sides::{DecodeSide, NEAR_ATTAINMENT, PrefillSide, Question, is_near},
};
use crate::{Alternative, Placement, PolicyConfig, Reasons, Won};

/// What may be paired: nodes with room, of one group.
#[derive(Debug, Default)]
pub(super) struct Pool<'a> {
    pub(super) prefill: Vec<PrefillSide<'a>>,
    pub(super) decode: Vec<DecodeSide<'a>>,
}

impl<'a> Pool<'a> {
    /// Leaves the `most` best of each side: whoever isn't among those of its own side hardly is in
    /// the best pair, for all that ties the sides together is the way of the pages.
    pub(super) fn shorten(&mut self, question: &Question<'_>, most: usize) {
        keep_least(&mut self.prefill, most, |side| (-rounded(side.chance - side.loss), side.ttft));
        keep_least(&mut self.decode, most, |side| {
            let layout = side.node.group.layout;
            let missing = u64::from(question.request.tokens - side.cached);
            let bytes = missing * layout.block_bytes() as u64 / u64::from(layout.block_tokens);
            let transfer = bytes as f64 / side.node.link.bytes_per_second;
            let more = question.more_tokens();
            let tpot = side.step + transfer / more.max(1.0);
            let value = question.tpot_chance(side.node, tpot) - side.loss;
            (-rounded(value), transfer + more * (side.step + side.harm()))
        });
    }

    /// Every pair, and every decode node alone if `local`.
    pub(super) fn candidates(
        &self,
        question: &Question<'a>,
        local: impl Fn(&DecodeSide<'_>) -> bool,
        out: &mut Vec<Candidate<'a>>,
    ) {
        for &decode in &self.decode {
            for &prefill in &self.prefill {
                out.push(Candidate::disaggregated(question, prefill, decode));
            }
            if local(&decode) {
                out.push(Candidate::local(question, decode));
            }
        }
    }
}

/// The candidates that meet the most objectives; of these the cheapest; of near-equals one drawn,
/// so that routers that see the same don't herd.
pub(super) fn choose<'a>(
    config: &PolicyConfig,
    candidates: &[Candidate<'a>],
    rng: &mut impl RngCore,
) -> Option<(Candidate<'a>, Reasons)> {
    let value = candidates.iter().map(Candidate::value).max_by(f64::total_cmp)?;
    let good = || candidates.iter().filter(|one| is_near(one.value(), value));
    let cheapest = good().min_by(|a, b| a.cost.total_cmp(&b.cost))?;
    let near = config.near_equal * (cheapest.ttft + cheapest.exposed + cheapest.tpot);
    let equals = || good().filter(|one| one.cost <= cheapest.cost + near);
    let near_equal = equals().count() as u32;
    let drawn = draw(near_equal, rng) as usize;
    let chosen = *equals().nth(drawn)?;
    let won = match (candidates.len(), good().count()) {
        (1, _) => Won::Alone,
        _ if near_equal > 1 => Won::Draw,
        (_, 1) => Won::Attainment,
        _ => Won::Cost,
    };
    let candidates = candidates.len() as u32;
    Some((chosen, Reasons { won, candidates, near_equal, ..Reasons::default() }))
}

/// Alternatives that are told of.
const TOLD: usize = 7;

/// The best of the others, best first.
pub(super) fn others(
    mut candidates: Vec<Candidate<'_>>,
    chosen: &Candidate<'_>,
) -> Vec<Alternative> {
    candidates.retain(|one| !one.is(chosen));
    keep_least(&mut candidates, TOLD, Candidate::rank);
    candidates.sort_by(|a, b| lesser(a.rank(), b.rank()));
    candidates.iter().map(Candidate::alternative).collect()
}

/// Of `count`.
pub(super) fn draw(count: u32, rng: &mut impl RngCore) -> u32 {
    ((u64::from(rng.next_u32()) * u64::from(count)) >> 32) as u32
}

/// A placement with how it was chosen.
pub(super) fn placed(question: &Question<'_>, chosen: &Candidate<'_>, how: Reasons) -> Placement {
    let mut placement = chosen.placement(question);
    placement.reasons.won = how.won;
    placement.reasons.candidates = how.candidates;
    placement.reasons.near_equal = how.near_equal;
    placement
}

impl Candidate<'_> {
    /// The lesser is the better.
    fn rank(&self) -> (f64, f64) {
        (-rounded(self.value()), self.cost)
    }
}

fn rounded(value: f64) -> f64 {
    (value / NEAR_ATTAINMENT).round()
}

fn lesser(a: (f64, f64), b: (f64, f64)) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
}

fn keep_least<T>(items: &mut Vec<T>, most: usize, rank: impl Fn(&T) -> (f64, f64)) {
    if items.len() <= most {
        return;
    }
    let mut ranked: Vec<((f64, f64), T)> =
        items.drain(..).map(|item| (rank(&item), item)).collect();
    ranked.select_nth_unstable_by(most, |(a, _), (b, _)| lesser(*a, *b));
    ranked.truncate(most);
    items.extend(ranked.into_iter().map(|(_, item)| item));
}
