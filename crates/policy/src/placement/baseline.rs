//! Policies to be compared with: each role's node chosen by itself.

use rand_core::RngCore;

use super::{
    joint::draw,
    sides::{DecodeSide, PrefillSide, Question},
};
use crate::{NodeView, Policy};

/// Of the nodes with most of the prompt, none is taken that has this many requests more than the
/// idlest, and this many times as many: the fallback of SGLang's cache-aware policy.
const IMBALANCE: (u64, f64) = (32, 1.1);
/// What Dynamo's router multiplies the prefill part with.
const PREFILL_SCALE: f64 = 1.0;

/// The index of the node to compute the prompt.
pub(super) fn prefill(
    policy: Policy,
    question: &Question<'_>,
    sides: &[PrefillSide<'_>],
    rng: &mut impl RngCore,
) -> Option<usize> {
    pick(
        policy,
        sides,
        |side| side.node,
        rng,
        |side| match policy {
            Policy::PrefixAffinity => {
                affinity(side.node, side.cached, sides.iter().map(|s| s.node))
            }
            Policy::Freeness => {
                let used = side.node.queued_tokens() + u64::from(question.request.tokens);
                -freeness(side.node, used)
            }
            Policy::KvCost => {
                let new = f64::from(question.request.tokens - side.cached);
                PREFILL_SCALE * (side.node.queued_tokens() as f64 + new)
            }
            _ => side.node.batch() as f64,
        },
    )
}

/// The index of the node to decode.
pub(super) fn decode(
    policy: Policy,
    sides: &[DecodeSide<'_>],
    rng: &mut impl RngCore,
) -> Option<usize> {
    pick(
        policy,
        sides,
        |side| side.node,
        rng,
        |side| match policy {
            Policy::PrefixAffinity => {
                affinity(side.node, side.cached, sides.iter().map(|s| s.node))
            }
            Policy::Freeness => -freeness(side.node, side.node.context_tokens()),
            Policy::KvCost => side.node.total_blocks as f64 - side.node.free_blocks() as f64,
            _ => side.node.batch() as f64,
        },
    )
}

/// The least by `score`, unless the policy doesn't compare; among equals one drawn.
fn pick<T>(
    policy: Policy,
    sides: &[T],
    node: impl Fn(&T) -> &NodeView,
    rng: &mut impl RngCore,
    score: impl Fn(&T) -> f64,
) -> Option<usize> {
    let count = u32::try_from(sides.len()).ok().filter(|&count| count > 0)?;
    let mut any = || draw(count, rng) as usize;
    match policy {
        Policy::Random => Some(any()),
        Policy::RoundRobin => (0..sides.len()).min_by_key(|&at| node(&sides[at]).last_placed),
        Policy::PowerOfTwo => {
            let (one, other) = (any(), any());
            Some(if score(&sides[one]) <= score(&sides[other]) { one } else { other })
        }
        _ => {
            let scores: Vec<f64> = sides.iter().map(score).collect();
            let least = scores.iter().copied().min_by(f64::total_cmp)?;
            let equals = || (0..sides.len()).filter(|&at| scores[at] <= least);
            equals().nth(draw(equals().count() as u32, rng) as usize)
        }
    }
}

/// Cached tokens, as a cost; requests alone when the node has far too many.
fn affinity<'a>(node: &NodeView, cached: u32, nodes: impl Iterator<Item = &'a NodeView>) -> f64 {
    let (idlest, batch) = (nodes.map(NodeView::batch).min().unwrap_or(0), node.batch());
    let (more, times) = IMBALANCE;
    let is_crowded = batch > idlest + more && batch as f64 > idlest as f64 * times;
    let cached = if is_crowded { 0 } else { cached };
    batch as f64 * 1e-3 - f64::from(cached)
}

/// `F = (M − ΣV)/B` (Llumnix, OSDI'24, §4.4), in tokens per request.
fn freeness(node: &NodeView, used: u64) -> f64 {
    let all = f64::from(node.pool_tokens());
    (all - used as f64) / node.batch().max(1) as f64
}
