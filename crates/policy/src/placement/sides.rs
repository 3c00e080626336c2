//! What each node alone would mean to a request: what pairs are made of.

use std::time::Duration;

use baton_types::{Role, Time, blocks_for};

use crate::{
    ClusterView, Expected, NodeView, Policy, PolicyConfig, RequestView, Troubles, Way,
    chance::chance, prefix::Matches, prompts::Ahead, reservation::Weight,
};

/// Attainments that differ by less are as good.
pub(super) const NEAR_ATTAINMENT: f64 = 0.01;

/// Whether a value is as good as another, or better.
pub(super) fn is_near(value: f64, other: f64) -> bool {
    value >= other - NEAR_ATTAINMENT
}

/// Left for whoever goes before all others,
const URGENT: Duration = Duration::from_millis(1);
/// and the most, though its objective may leave it more: its client sees a pause.
const PAUSE: Duration = Duration::from_millis(250);

/// What a prompt would wait for and cost on one node, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct PrefillSide<'a> {
    pub(super) node: &'a NodeView,
    /// Prompt tokens it probably has.
    pub(super) cached: u32,
    pub(super) queue: f64,
    /// When it could be begun without overtaking: at once while there are fewer prompts than a step
    /// computes together.
    pub(super) begins: f64,
    /// Prompts it overtakes.
    pub(super) behind: u64,
    /// How many of those will be late for it.
    pub(super) loss: f64,
    pub(super) compute: f64,
    /// Queue and prefill, as corrected by how such predictions came out.
    pub(super) ttft: f64,
    /// The chance that this is in time.
    pub(super) chance: f64,
}

/// What decoding would be on one node, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecodeSide<'a> {
    pub(super) node: &'a NodeView,
    pub(super) cached: u32,
    /// Those already there, each by its weight beside the request's own.
    pub(super) others: f64,
    /// A step before the request has joined,
    pub(super) before: f64,
    /// and after it.
    pub(super) step: f64,
    /// What it adds to each of the others' steps.
    pub(super) share: f64,
    /// How many of the others will miss their objectives for it.
    pub(super) loss: f64,
}

/// What of a request all nodes are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) request: &'a RequestView,
    /// Which nodes have which of its blocks.
    pub(super) matches: &'a Matches,
    /// Which ways fail.
    pub(super) troubles: &'a Troubles,
    pub(super) expected: Expected,
    pub(super) now: Time,
    /// When its first token is due; nodes compute prompts in this order.
    pub(super) due: Time,
    /// Seconds left for the first token, and seconds for each of the others.
    pub(super) ttft: Option<f64>,
    pub(super) tpot: Option<f64>,
    pub(super) weight: Weight,
}

impl<'a> Question<'a> {
    pub(super) fn new(
        config: &PolicyConfig,
        view: &'a ClusterView,
        request: &'a RequestView,
        matches: &'a Matches,
        now: Time,
    ) -> Self {
        let (most, guess) = (request.max_new_tokens, config.expected_output_tokens);
        let expected = view.outputs.expected(&request.model, request.class.id, most, guess);
        let due = due(config, request, now);
        let waited = now.since(request.arrived).as_secs_f64();
        let ttft = request.slo.ttft.map(|ttft| ttft.as_secs_f64() - waited);
        let tpot = request.slo.tpot.map(|tpot| tpot.as_secs_f64());
        let weight = Weight::of(config.priority_weight, request.class.priority);
        let troubles = &view.troubles;
        Question { request, matches, troubles, expected, now, due, ttft, tpot, weight }
    }

    /// Whether what would be done there fails lately.
    pub(super) fn is_troubled(&self, prefill: &NodeView, decode: &NodeView) -> bool {
        let avoids = |way| self.troubles.avoids(&way, self.now);
        let node = |view: &NodeView| avoids(Way::Node(view.node.clone()));
        let link = || avoids(Way::Link(prefill.node.clone(), decode.node.clone()));
        !self.troubles.is_empty() && (node(prefill) || node(decode) || link())
    }

    /// Tokens after the first.
    pub(super) fn more_tokens(&self) -> f64 {
        f64::from(self.expected.tokens - 1)
    }

    pub(super) fn prefill_blocks(&self, node: &NodeView) -> u64 {
        blocks_for(self.request.tokens as usize, node.group.layout.block_tokens) as u64
    }

    /// For the prompt and as much output as most have.
    pub(super) fn decode_blocks(&self, node: &NodeView) -> u64 {
        let tokens = u64::from(self.request.tokens) + u64::from(self.expected.most) - 1;
        tokens.div_ceil(node.group.layout.block_tokens.into())
    }

    pub(super) fn cached(&self, node: &NodeView) -> u32 {
        node.cached_tokens(self.matches, self.request.tokens)
    }

    pub(super) fn prefill(&self, node: &'a NodeView) -> PrefillSide<'a> {
        let cached = self.cached(node);
        let new_tokens = u64::from(self.request.tokens - cached);
        let Ahead { prompts, time, behind, paused } = node.prompts.ahead_of(self.due, self.now);
        let has_turn = node.queued() < node.latency.prompts_in_step();
        let turn = if has_turn { Duration::ZERO } else { node.queue_time(self.now) };
        // Whoever is overtaken is, in the mean, in the midst of a step.
        let midst = if prompts + node.beyond.queued == 0 { paused / 2 } else { Duration::ZERO };
        let queue = time + node.others_time() + midst;
        let compute = node.latency.prefill(new_tokens, cached.into());
        let loss = node.prompts.loss(self.due, compute, node.ttft.spread(), self.now);
        self.timed(PrefillSide {
            node,
            cached,
            queue: queue.as_secs_f64(),
            begins: turn.as_secs_f64(),
            behind,
            loss,
            compute: compute.as_secs_f64(),
            ttft: 0.0,
            chance: 0.0,
        })
    }

    /// Queue and compute put together.
    pub(super) fn timed(&self, mut side: PrefillSide<'a>) -> PrefillSide<'a> {
        let calibration = side.node.ttft;
        side.ttft = calibration.corrected(side.queue + side.compute);
        let in_time = |limit| chance(side.ttft, limit, calibration.spread());
        side.chance = self.ttft.map_or(1.0, in_time);
        side
    }

    /// Whether the first token is as probably in time when the prompt is begun after `wait` seconds.
    pub(super) fn can_wait(&self, side: &PrefillSide<'_>, wait: f64) -> bool {
        let later = self.timed(PrefillSide { queue: wait, ..*side });
        is_near(later.chance, side.chance)
    }

    pub(super) fn decode(&self, node: &'a NodeView) -> DecodeSide<'a> {
        let (others, context) = (node.batch(), node.context_tokens());
        // In the mean over its life it has half of its output in the cache.
        let own = u64::from(self.request.tokens) + u64::from(self.expected.tokens / 2);
        let step =
            |batch, context| node.tpot.corrected(node.latency.decode(batch, context).as_secs_f64());
        let (before, after) = (step(others, context), step(others + 1, context + own));
        let mut side = DecodeSide {
            node,
            cached: self.cached(node),
            others: others as f64 * node.reserved.mean_weight() / self.weight.value(),
            before,
            step: after,
            share: node.latency.decode_share(own).as_secs_f64(),
            loss: 0.0,
        };
        side.loss = side.loss(after);
        side
    }

    /// The chance that a mean of `tpot` seconds per token is in time.
    pub(super) fn tpot_chance(&self, node: &NodeView, tpot: f64) -> f64 {
        let in_time = |limit| chance(tpot, limit, node.tpot.spread());
        self.tpot.map_or(1.0, in_time)
    }
}

impl DecodeSide<'_> {
    /// How many of the others miss their objectives when a step takes `after` seconds.
    pub(super) fn loss(&self, after: f64) -> f64 {
        let reserved = &self.node.reserved;
        let Some(objective) = reserved.objective() else { return 0.0 };
        let chance = |step| chance(step, objective, self.node.tpot.spread());
        let drop = chance(self.before) - chance(after);
        (drop * reserved.objectives as f64).max(0.0)
    }
}

/// When the request's first token is due: soon if its client waits for the next, after all others
/// if nobody does. Whoever is late already, or gives way, claims no more than who has no objective.
fn due(config: &PolicyConfig, request: &RequestView, now: Time) -> Time {
    if config.policy != Policy::Joint || request.is_batch() {
        return Time::MAX;
    }
    if request.has_begun {
        return request.next_due.unwrap_or(now).clamp(now + URGENT, now + PAUSE);
    }
    let by = request.slo.ttft.map(|ttft| request.arrived + ttft);
    let by = by.filter(|&by| by > now && !request.gives_way);
    by.unwrap_or(claims_nothing(config, now))
}

/// When the first token of one is due that has no objective, or can't meet it.
pub(super) fn claims_nothing(config: &PolicyConfig, now: Time) -> Time {
    now + config.max_queue_time
}

/// Nodes of `role` that accept work and are large enough for the request.
pub(super) fn able<'a>(
    nodes: &'a [NodeView],
    role: Role,
    request: &'a RequestView,
) -> impl Iterator<Item = &'a NodeView> {
    nodes.iter().filter(move |view| {
        view.group.model == request.model
            && view.accepts()
            && view.can_hold(role, request)
            && !request.exclude.contains(&view.node)
    })
}
