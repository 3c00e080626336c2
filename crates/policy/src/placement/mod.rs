//! What to do with a request now.

mod baseline;
mod candidate;
mod destination;
mod joint;
mod sides;

use std::time::Duration;

use baton_types::{Role, Time};
use rand_core::RngCore;

pub use self::destination::destination;
use self::{
    candidate::Candidate,
    joint::Pool,
    sides::{DecodeSide, PrefillSide, Question, able},
};
use crate::{
    Alternative, ClusterView, Decision, NodeView, Placement, Policy, PolicyConfig, Reasons,
    Refusal, RequestView, Service, Shortage, Won,
    growth::{Need, Sequence},
};

/// When to ask again: at least this late, and at most.
const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];
/// When to look for nodes again.
const RETRY_NODES: Duration = Duration::from_secs(1);
/// Of a decode node's blocks, what large requests leave free for others,
const SPARE: f64 = 0.05;
/// and how many times the mean of those there makes one large.
const LARGE: f64 = 1.25;
/// A prompt that takes this share of the time left can't be in time where anything else is to be done.
const TIGHT: f64 = 0.95;
/// Of the time that decoding leaves before it misses its objectives, what prompts may have.
const SPARED: f64 = 0.5;
/// Decode nodes lend themselves where no prefill node meets more objectives than this.
const LEND: f64 = 0.9;
/// A chance that is none.
const NO_CHANCE: f64 = 0.05;

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
    let matches = view.matches(request);
    let question = Question::new(config, view, request, &matches, now);
    let mut costs = Costs { config, view, request, question };
    let chosen = match config.policy {
        Policy::Joint => costs.joint(rng),
        _ => costs.baseline(rng),
    };
    match chosen {
        Ok((chosen, how, others)) => {
            let placement = joint::placed(&costs.question, &chosen, how);
            Decision::Place(Placement { alternatives: others, ..placement })
        }
        Err(Declined::Short(shortage)) => costs.wait(shortage),
        Err(Declined::Late(ttft)) => Decision::Refuse(costs.too_late(ttft)),
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

/// A choice, how it was made, and the best of the others.
type Chosen<'a> = (Candidate<'a>, Reasons, Vec<Alternative>);

/// Why a request isn't placed now.
enum Declined {
    Short(Shortage),
    /// The first token would come so many seconds after the request.
    Late(f64),
}

/// One request's costs on the nodes of one view.
struct Costs<'a> {
    config: &'a PolicyConfig,
    view: &'a ClusterView,
    request: &'a RequestView,
    question: Question<'a>,
}

impl<'a> Costs<'a> {
    fn joint(&mut self, rng: &mut impl RngCore) -> Result<Chosen<'a>, Declined> {
        let question = self.question;
        let question = &question;
        let pools = self.pools().map_err(|shortage| self.unless_late(shortage))?;
        let mut candidates = Vec::new();
        // When the first could begin.
        let mut soonest = f64::INFINITY;
        let lends = self.lends(&pools);
        for mut pool in pools {
            soonest = pool.prefill.iter().map(|side| side.begins).fold(soonest, f64::min);
            pool.shorten(question, self.config.shortlist.max(1));
            if self.request.needs_decode() {
                let local = |side: &DecodeSide<'_>| self.may_be_local(side, lends);
                pool.candidates(question, local, &mut candidates);
            } else {
                let alone = |side| Candidate::prefill_only(question, side);
                candidates.extend(pool.prefill.into_iter().map(alone));
            }
        }
        // What fails is better than nothing.
        if candidates.iter().any(|one| !one.is_troubled) {
            candidates.retain(|one| !one.is_troubled);
        }
        let Some((mut chosen, mut how)) = joint::choose(self.config, &candidates, rng) else {
            return Err(Declined::Short(Shortage::Nodes { role: Role::Decode }));
        };
        let is_urgent = self.request.has_begun;
        let in_time = |chance: f64| self.question.ttft.is_none() || chance > NO_CHANCE;
        let is_late = !candidates.iter().any(|one| in_time(one.attainment));
        if is_late && self.may_refuse_late() && self.is_hopeless(&candidates) {
            return Err(Declined::Late(chosen.ttft));
        }
        if is_late && !is_urgent {
            self.question.due =
                self.question.due.max(sides::claims_nothing(self.config, question.now));
        }
        let ahead = self.config.queue_ahead.as_secs_f64();
        // Its turn: those that are due before it come first, whether it waits here or there.
        let before = chosen.prefill().queue;
        let turn = if before > ahead { before.min(soonest) } else { soonest };
        let can_wait = || self.request.gives_way || question.can_wait(chosen.prefill(), turn);
        if !is_urgent && soonest > ahead && chosen.prefill().begins > ahead && can_wait() {
            // Who can begin elsewhere, and loses nothing by it, leaves its turn to others.
            let begins_now = |one: &&Candidate<'_>| one.prefill().begins <= ahead;
            let elsewhere: Vec<_> = candidates.iter().filter(begins_now).copied().collect();
            match joint::choose(self.config, &elsewhere, rng) {
                Some((now, of)) if sides::is_near(now.value(), chosen.value()) => {
                    (chosen, how) = (now, of);
                }
                _ => {
                    let after = Duration::try_from_secs_f64(turn - ahead).unwrap_or_default();
                    return Err(Declined::Short(Shortage::Turn { after }));
                }
            }
        }
        // Who is served late is served all the same, where it harms least.
        let worth = if is_late { chosen.attainment.max(0.5) } else { chosen.attainment };
        if !is_urgent && chosen.loss > 0.0 && worth <= chosen.loss {
            return Err(Declined::Short(Shortage::Objectives));
        }
        Ok((chosen, how, joint::others(candidates, &chosen)))
    }

    fn may_refuse_late(&self) -> bool {
        self.request.refuse_late && !self.request.has_begun && !self.request.waits_long()
    }

    /// There is no room; and when there is, it may be too late.
    fn unless_late(&self, shortage: Shortage) -> Declined {
        let Some(limit) = self.question.ttft.filter(|_| self.may_refuse_late()) else {
            return Declined::Short(shortage);
        };
        let prefill = able(&self.view.prefill, Role::Prefill, self.request);
        let soonest = prefill.map(|node| self.question.prefill(node).compute);
        match soonest.min_by(f64::total_cmp) {
            Some(soonest) if soonest >= limit => Declined::Late(soonest),
            _ => Declined::Short(shortage),
        }
    }

    /// Whether it would be late even if it were its turn everywhere; and where something else is
    /// to be done, it isn't worth waiting for.
    fn is_hopeless(&self, candidates: &[Candidate<'_>]) -> bool {
        let Some(limit) = self.question.ttft else { return false };
        let soonest = candidates.iter().map(|one| one.prefill().compute).min_by(f64::total_cmp);
        let is_busy = candidates.iter().all(|one| one.prefill().begins > 0.0);
        soonest.is_some_and(|soonest| soonest >= TIGHT * limit) && (is_busy || limit <= 0.0)
    }

    fn may_be_local(&self, side: &DecodeSide<'_>, lends: bool) -> bool {
        let new_tokens = self.request.tokens - side.cached;
        let is_short = new_tokens <= self.config.local_tokens;
        self.request.may_be_local && (is_short || lends && self.has_spare_time(side))
    }

    /// Whether decode nodes lend themselves: prefill nodes can't be in time, or only by making others
    /// late.
    fn lends(&self, pools: &[Pool<'_>]) -> bool {
        let mut sides = pools.iter().flat_map(|pool| &pool.prefill);
        self.config.lend && sides.all(|side| side.chance - side.loss < LEND)
    }

    /// Whether the prompt fits into what those who decode there can spare while an output lasts, less
    /// what was lent of that lately.
    fn has_spare_time(&self, side: &DecodeSide<'_>) -> bool {
        if side.others == 0.0 {
            return true;
        }
        let spare = side.node.spare();
        let lasts = self.question.more_tokens() * side.before;
        let compute = self.question.prefill(side.node).compute;
        side.node.lent.at(spare, self.question.now) + compute <= SPARED * spare * lasts
    }

    fn baseline(&self, rng: &mut impl RngCore) -> Result<Chosen<'a>, Declined> {
        let policy = self.config.policy;
        let pools = self.pools().map_err(Declined::Short)?;
        let nodes = || Declined::Short(Shortage::Nodes { role: Role::Prefill });
        let question = &self.question;
        let all: Vec<PrefillSide<'_>> =
            pools.iter().flat_map(|pool| pool.prefill.iter().copied()).collect();
        let prefill = all[baseline::prefill(policy, question, &all, rng).ok_or_else(nodes)?];
        let pairs: usize =
            pools.iter().map(|pool| pool.prefill.len() * pool.decode.len().max(1)).sum();
        let candidates = u32::try_from(pairs).unwrap_or(u32::MAX);
        let how = Reasons { won: Won::Policy, candidates, near_equal: 1, ..Reasons::default() };
        if !self.request.needs_decode() {
            return Ok((Candidate::prefill_only(question, prefill), how, Vec::new()));
        }
        let partners = pools.iter().find(|pool| pool.prefill[0].node.group == prefill.node.group);
        let partners = partners.map_or(&[][..], |pool| &pool.decode[..]);
        let at = baseline::decode(policy, partners, rng).ok_or_else(nodes)?;
        Ok((Candidate::disaggregated(question, prefill, partners[at]), how, Vec::new()))
    }

    /// Nodes with room for the request now, group by group: at least one pair, or what is missing.
    fn pools(&self) -> Result<Vec<Pool<'a>>, Shortage> {
        let (request, question) = (self.request, &self.question);
        let mut pools: Vec<Pool<'a>> = Vec::new();
        let mut shortage = Shortage::Nodes { role: Role::Prefill };
        let prefill: Vec<&NodeView> = able(&self.view.prefill, Role::Prefill, request).collect();
        if prefill.is_empty() {
            return Err(shortage);
        }
        shortage = Shortage::Nodes { role: Role::Decode };
        for node in prefill {
            let side = question.prefill(node);
            let at = pools.iter().position(|pool| pool.prefill[0].node.group == node.group);
            match at {
                Some(at) => pools[at].prefill.push(side),
                None => pools.push(Pool { prefill: vec![side], decode: Vec::new() }),
            }
        }
        if request.needs_decode() {
            let mut growth = None;
            for node in able(&self.view.decode, Role::Decode, request) {
                let group = |pool: &&mut Pool<'_>| pool.prefill[0].node.group == node.group;
                let Some(pool) = pools.iter_mut().find(group) else { continue };
                let (needed, free) = (question.decode_blocks(node), node.free_blocks());
                if self.takes_decode(node, needed, &mut growth) {
                    pool.decode.push(question.decode(node));
                } else {
                    shortage = shortage.or(Shortage::DecodeBlocks { needed, free });
                }
            }
            pools.retain(|pool| !pool.decode.is_empty());
            if pools.is_empty() {
                return Err(shortage);
            }
        }
        for pool in &mut pools {
            pool.prefill.retain(|side: &PrefillSide<'_>| self.takes_prefill(side.node));
        }
        pools.retain(|pool| !pool.prefill.is_empty());
        if pools.is_empty() { Err(Shortage::PrefillRoom) } else { Ok(pools) }
    }

    fn takes_prefill(&self, node: &NodeView) -> bool {
        let needed = self.question.prefill_blocks(node);
        let takes = needed <= node.free_blocks() || node.queued() < self.config.max_waiting.into();
        takes && (!self.request.is_batch() || self.leaves_room(node, needed))
    }

    /// Whether a decode node has room, now and as all there grow. `growth`: what the request will come to
    /// hold, with so many tokens in a block, once it is reckoned.
    fn takes_decode(&self, node: &NodeView, needed: u64, growth: &mut Option<(u32, Need)>) -> bool {
        if node.is_idle() || self.config.policy != Policy::Joint {
            return needed <= node.free_blocks();
        }
        let Some(spare) = self.spare(node, needed) else { return false };
        let block_tokens = node.group.layout.block_tokens;
        let known = growth.filter(|(of, _)| *of == block_tokens).map(|(_, need)| need);
        let need = known.unwrap_or_else(|| {
            let sequence = Sequence::of(self.request);
            Need::of(&sequence, 0, &self.view.outputs, block_tokens)
        });
        *growth = Some((block_tokens, need));
        let blocks = node.room().saturating_sub(spare);
        let leaves_room = !self.request.is_batch() || self.leaves_room(node, needed);
        leaves_room && node.growth.need().fits(&need, blocks, self.view.deviations)
    }

    /// Whether those who come later find room beside the request; see [`Costs::spare`].
    fn leaves_room(&self, node: &NodeView, needed: u64) -> bool {
        if node.is_idle() || self.config.policy != Policy::Joint {
            return true;
        }
        let spare = self.spare(node, needed);
        spare.is_some_and(|spare| needed.saturating_add(spare) <= node.free_blocks())
    }

    /// Blocks that the request must leave to those who come later: one that is larger than most there a
    /// share of all, so that it doesn't keep many small ones waiting; a batch's more. None: it must
    /// leave the node to them. A node with nothing else to do takes whatever fits.
    fn spare(&self, node: &NodeView, needed: u64) -> Option<u64> {
        let of = |share: f64| (f64::from(node.total_blocks) * share).ceil() as u64;
        match self.request.class.service {
            _ if self.request.has_begun => Some(0),
            Service::Interactive if needed as f64 > LARGE * node.mean_blocks() => Some(of(SPARE)),
            Service::Interactive => Some(0),
            Service::Batch if node.queued() >= self.config.batch_prompts.into() => None,
            Service::Batch => Some(of(self.config.batch_spare)),
        }
    }

    /// Queues a request for which there is no room now, or refuses it.
    fn wait(&self, shortage: Shortage) -> Decision {
        if self.request.waits_long() {
            return Decision::Queue(shortage);
        }
        let (queued, waited) =
            (self.request.queued_before, self.question.now - self.request.arrived);
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

    fn too_late(&self, ttft: f64) -> Refusal {
        let waited = self.question.now - self.request.arrived;
        Refusal::TooLate {
            model: self.request.model.clone(),
            ttft: waited + Duration::try_from_secs_f64(ttft).unwrap_or_default(),
            objective: self.request.slo.ttft.unwrap_or_default(),
            retry_after: self.retry_after(),
        }
    }

    /// About when those before the request will have made room.
    fn retry_after(&self) -> Duration {
        let output = self.question.expected.tokens;
        let serving = |role| {
            let nodes = self.view.nodes(role).iter();
            nodes.filter(|view| view.accepts() && view.group.model == self.request.model)
        };
        let queue = |view: &NodeView| view.queue_time(self.question.now);
        let prefill = serving(Role::Prefill).map(queue).min().unwrap_or_default();
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
}
