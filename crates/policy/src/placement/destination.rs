//! Where a running sequence goes when it leaves its node.

use std::time::Duration;

use baton_types::{NodeId, Role, Time};

use super::{
    Costs,
    sides::{DecodeSide, Question, able, is_near},
};
use crate::{
    ClusterView, Demand, Group, Path, Placed, Placement, PolicyConfig, Prediction, Reasons,
    RequestView, Shortage, Won,
};

/// The decode node of `group` where a sequence that decodes already would best go on: where it most probably
/// meets its objective and the fewest others miss theirs for it, then where steps are shortest. Its
/// tokens so far are the request's, and its node is among those to pass over. `wanted`: this one or
/// none.
///
/// # Errors
///
/// What is missing.
pub fn destination(
    config: &PolicyConfig,
    view: &ClusterView,
    request: &RequestView,
    group: &Group,
    wanted: Option<&NodeId>,
    now: Time,
) -> Result<Placement, Shortage> {
    let matches = view.matches(request);
    let question = Question::new(config, view, request, &matches, now);
    let costs = Costs { config, view, request, question };
    let mut shortage = Shortage::Nodes { role: Role::Decode };
    let (mut best, mut candidates): (Option<(f64, DecodeSide<'_>)>, u32) = (None, 0);
    let mut growth = None;
    let is_meant = |name: &NodeId| wanted.is_none_or(|wanted| wanted == name);
    let nodes = able(&view.decode, Role::Decode, request);
    for node in nodes.filter(|node| node.group == *group && is_meant(&node.node)) {
        let (needed, free) = (question.decode_blocks(node), node.free_blocks());
        if !costs.takes_decode(node, needed, &mut growth) {
            shortage = shortage.or(Shortage::DecodeBlocks { needed, free });
            continue;
        }
        candidates += 1;
        let side = question.decode(node);
        let value = question.tpot_chance(node, side.step) - side.loss;
        let is_better = best.as_ref().is_none_or(|(known, other)| {
            if is_near(value, *known) { side.step < other.step } else { value > *known }
        });
        if is_better {
            best = Some((value, side));
        }
    }
    let (_, side) = best.ok_or(shortage)?;
    Ok(placement(&question, &side, candidates))
}

fn placement(question: &Question<'_>, side: &DecodeSide<'_>, candidates: u32) -> Placement {
    let (node, seconds) = (side.node, |s| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX));
    Placement {
        path: Path::Local { decode: Placed::on(node) },
        demand: Demand {
            new_tokens: 0,
            prefill: Duration::ZERO,
            due: Time::MAX,
            context_tokens: question.request.tokens.into(),
            prefill_blocks: 0,
            decode_blocks: question.decode_blocks(node),
            tpot: question.request.slo.tpot,
            weight: question.weight,
        },
        predicted: Prediction {
            tpot: seconds(side.step),
            attainment: question.tpot_chance(node, side.step),
            loss: side.loss,
            cost: seconds(side.step * question.more_tokens()),
            ..Prediction::default()
        },
        reasons: Reasons {
            won: if candidates > 1 { Won::Attainment } else { Won::Alone },
            candidates,
            near_equal: 1,
            decode_cached_tokens: side.cached,
            ..Reasons::default()
        },
        alternatives: Vec::new(),
    }
}
