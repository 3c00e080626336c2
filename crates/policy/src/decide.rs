use std::time::Duration;

use baton_types::{Role, Time, blocks_for};
use rand_core::RngCore;
use serde::{Deserialize, Serialize};

use crate::{
    ClusterView, Decision, Demand, NodeView, Placed, Placement, Prediction, Priority, Reasons,
    Refusal, RequestView, Scoring, Shortage, scoring::Candidate,
};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    pub scoring: Scoring,
    /// Requests that may wait on a prefill node for blocks.
    pub max_waiting: u32,
    /// Requests for one model that may wait in the router.
    pub max_queued: usize,
    /// The longest a request may wait in the router.
    pub max_queue_time: Duration,
    /// How long an output is reckoned to be, when it may be longer.
    pub expected_output_tokens: u32,
    /// Scores within this share of the best are as good.
    pub near_equal: f64,
    /// Of a batch: it is placed on prefill nodes with fewer prompts to compute,
    pub batch_prompts: u32,
    /// and on nodes where this share of all blocks stays free.
    pub batch_spare: f64,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        PolicyConfig {
            scoring: Scoring::default(),
            max_waiting: 64,
            max_queued: 1024,
            max_queue_time: Duration::from_secs(30),
            expected_output_tokens: 128,
            near_equal: 0.05,
            batch_prompts: 1,
            batch_spare: 0.25,
        }
    }
}

/// When to ask again: at least this late, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];
/// When to look for nodes again.
const RETRY_NODES: Duration = Duration::from_secs(1);

/// Says what to do with `request` now. Decides the same for the same view, request and draws.
///
/// Order among waiting requests is the caller's: it asks for the first in the queue first.
pub fn decide(
    config: &PolicyConfig,
    view: &ClusterView,
    request: &RequestView,
    now: Time,
    rng: &mut impl RngCore,
) -> Decision {
    if let Err(refusal) = check(view, request) {
        return Decision::Refuse(refusal);
    }
    let costs = Costs { config, view, request };
    match costs.candidates() {
        Ok(candidates) => choose(config, candidates, rng),
        Err(shortage) => costs.wait(shortage, now),
    }
}

/// Refuses what no node will ever take.
fn check(view: &ClusterView, request: &RequestView) -> Result<(), Refusal> {
    let model = || request.model.clone();
    let Some(max) = view.max_tokens(&request.model) else {
        return Err(Refusal::UnknownModel { model: model() });
    };
    if request.tokens == 0 {
        return Err(Refusal::EmptyPrompt);
    }
    if request.max_new_tokens == 0 {
        return Err(Refusal::NothingToGenerate);
    }
    let (tokens, max) = (request.max_tokens(), u64::from(max));
    if tokens > max {
        return Err(Refusal::TooLong { model: model(), tokens, max });
    }
    match view.max_prompt(&request.model) {
        Some(max) if request.tokens > max => {
            Err(Refusal::PromptTooLong { model: model(), tokens: request.tokens, max })
        }
        _ => Ok(()),
    }
}

/// Draws one of the best.
fn choose(
    config: &PolicyConfig,
    mut candidates: Vec<(f64, Placement)>,
    rng: &mut impl RngCore,
) -> Decision {
    let count = candidates.len() as u32;
    let best = |a: &&(f64, Placement), b: &&(f64, Placement)| a.0.total_cmp(&b.0);
    if let Some((score, placement)) = candidates.iter().min_by(best) {
        let limit = score + config.scoring.near(config.near_equal, &placement.predicted);
        candidates.retain(|(score, _)| *score <= limit);
    }
    let near_equal = candidates.len() as u32;
    let drawn = (u64::from(rng.next_u32()) * u64::from(near_equal)) >> 32;
    let (_, mut placement) = candidates.swap_remove(drawn as usize);
    placement.reasons = Reasons { candidates: count, near_equal, ..placement.reasons };
    Decision::Place(placement)
}

/// One request's costs on the nodes of one view.
struct Costs<'a> {
    config: &'a PolicyConfig,
    view: &'a ClusterView,
    request: &'a RequestView,
}

/// A node with what it probably has of the prompt.
type Cached<'a> = (&'a NodeView, u32);

impl Costs<'_> {
    /// Every pair that can take the request now, with its score: at least one, or what is missing.
    fn candidates(&self) -> Result<Vec<(f64, Placement)>, Shortage> {
        let prefill = self.able(Role::Prefill)?;
        let mut candidates = Vec::new();
        if !self.request.needs_decode() {
            candidates.extend(
                prefill
                    .into_iter()
                    .filter(|(node, _)| self.takes_prefill(node))
                    .map(|node| self.candidate(node, None)),
            );
            return if candidates.is_empty() { Err(Shortage::PrefillRoom) } else { Ok(candidates) };
        }
        let decode = self.able(Role::Decode)?;
        let mut shortage = Shortage::Nodes { role: Role::Decode };
        for &from in &prefill {
            let mut partners = decode.iter().filter(|to| to.0.group == from.0.group).peekable();
            if partners.peek().is_none() {
                continue;
            }
            if !self.takes_prefill(from.0) {
                shortage = shortage.or(Shortage::PrefillRoom);
                continue;
            }
            for &to in partners {
                let (needed, free) = (self.decode_blocks(to.0), to.0.free_blocks());
                if needed <= free && self.leaves_room(to.0, needed) {
                    candidates.push(self.candidate(from, Some(to)));
                } else {
                    shortage = shortage.or(Shortage::DecodeBlocks { needed, free });
                }
            }
        }
        if candidates.is_empty() { Err(shortage) } else { Ok(candidates) }
    }

    /// Nodes of `role` that accept work and are large enough for the request.
    fn able(&self, role: Role) -> Result<Vec<Cached<'_>>, Shortage> {
        let request = self.request;
        let able = |view: &&NodeView| {
            view.group.model == request.model
                && view.accepts()
                && view.can_hold(role, request)
                && !request.exclude.contains(&view.node)
        };
        let cached = |view: &'_ NodeView| {
            view.cached_tokens(request.hashes_for(&view.group), request.tokens)
        };
        let nodes: Vec<_> =
            self.view.nodes(role).iter().filter(able).map(|view| (view, cached(view))).collect();
        if nodes.is_empty() { Err(Shortage::Nodes { role }) } else { Ok(nodes) }
    }

    fn takes_prefill(&self, node: &NodeView) -> bool {
        let needed = self.prefill_blocks(node);
        let takes = needed <= node.free_blocks() || node.queued() < self.config.max_waiting.into();
        takes && self.leaves_room(node, needed)
    }

    /// Whether those who come later find room beside the request, if that is asked of it. A node
    /// with nothing else to do takes whatever fits.
    fn leaves_room(&self, node: &NodeView, needed: u64) -> bool {
        if self.request.priority == Priority::Interactive || node.is_idle() {
            return true;
        }
        let spare = (f64::from(node.total_blocks) * self.config.batch_spare).ceil() as u64;
        node.queued() < self.config.batch_prompts.into()
            && needed.saturating_add(spare) <= node.free_blocks()
    }

    fn candidate(&self, prefill: Cached<'_>, decode: Option<Cached<'_>>) -> (f64, Placement) {
        let (from, prefill_cached) = prefill;
        let tokens = u64::from(self.request.tokens);
        let new_tokens = tokens - u64::from(prefill_cached);
        let queue = from.queue_time();
        let prefill_time = from.latency.prefill(new_tokens, prefill_cached.into());
        let mut predicted = Prediction { ttft: queue + prefill_time, ..Prediction::default() };
        if let Some((to, cached)) = decode {
            let layout = to.group.layout;
            let missing = self.request.tokens - cached;
            let blocks = blocks_for(missing as usize, layout.block_tokens);
            let bytes = (blocks * layout.block_bytes()) as u64;
            let link = self.view.links.between(&from.node, &to.node);
            let batch = to.batch();
            predicted.exposed_transfer = link.exposed(bytes, layout.layers, prefill_time);
            predicted.tpot = to.latency.decode(batch + 1, to.context_tokens() + tokens);
            let others = u32::try_from(batch).unwrap_or(u32::MAX);
            predicted.harm = to.latency.decode_share(tokens).saturating_mul(others);
        }
        let to = decode.map(|(to, _)| to);
        let more_tokens = self.expected_output() - 1;
        let score = self.config.scoring.score(&Candidate {
            prefill: from,
            decode: to,
            predicted,
            more_tokens,
        });
        let demand = Demand {
            new_tokens,
            context_tokens: tokens,
            prefill_blocks: self.prefill_blocks(from),
            decode_blocks: to.map_or(0, |to| self.decode_blocks(to)),
        };
        let reasons = Reasons {
            prefill_cached_tokens: prefill_cached,
            decode_cached_tokens: decode.map_or(0, |(_, cached)| cached),
            queue,
            ..Reasons::default()
        };
        let (prefill, decode) = (Placed::on(from), to.map(Placed::on));
        (score, Placement { prefill, decode, demand, predicted, reasons })
    }

    /// Queues a request for which there is no room now, or refuses it.
    fn wait(&self, shortage: Shortage, now: Time) -> Decision {
        if self.request.priority == Priority::Batch {
            return Decision::Queue(shortage);
        }
        let (queued, waited) = (self.request.queued_before, now - self.request.arrived);
        let has_waited = waited >= self.config.max_queue_time;
        if queued < self.config.max_queued && !has_waited {
            return Decision::Queue(shortage);
        }
        let model = self.request.model.clone();
        let retry_after = self.retry_after();
        Decision::Refuse(match shortage {
            Shortage::Nodes { role } => Refusal::NoNodes { model, role, retry_after: RETRY_NODES },
            _ if has_waited => Refusal::WaitedTooLong { model, waited, retry_after },
            _ => Refusal::Full { model, queued, retry_after },
        })
    }

    /// About when those before the request will have made room.
    fn retry_after(&self) -> Duration {
        let output = self.config.expected_output_tokens;
        let serving = |role| {
            let nodes = self.view.nodes(role).iter();
            nodes.filter(|view| view.accepts() && view.group.model == self.request.model)
        };
        let prefill = serving(Role::Prefill).map(NodeView::queue_time).min().unwrap_or_default();
        let departure = |view: &NodeView| {
            let batch = view.batch().max(1);
            let step = view.latency.decode(batch, view.context_tokens());
            step.saturating_mul(output) / u32::try_from(batch).unwrap_or(u32::MAX)
        };
        let decode = serving(Role::Decode).map(departure).min().unwrap_or_default();
        let before = u32::try_from(self.request.queued_before).unwrap_or(u32::MAX);
        let turns = before.saturating_add(1);
        prefill.saturating_add(decode.saturating_mul(turns)).clamp(RETRY[0], RETRY[1])
    }

    fn prefill_blocks(&self, node: &NodeView) -> u64 {
        blocks_for(self.request.tokens as usize, node.group.layout.block_tokens) as u64
    }

    /// For the prompt and as much output as is expected.
    fn decode_blocks(&self, node: &NodeView) -> u64 {
        let tokens = u64::from(self.request.tokens) + u64::from(self.expected_output()) - 1;
        tokens.div_ceil(node.group.layout.block_tokens.into())
    }

    fn expected_output(&self) -> u32 {
        self.request.max_new_tokens.min(self.config.expected_output_tokens.max(1))
    }
}
