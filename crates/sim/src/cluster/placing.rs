//! A place for a request, and the calls to the nodes it is placed on.

use baton_kv_cache::block_hashes;
use baton_policy::{
    Class, ClassId, Path, Placement, PromptHashes, RequestView, ReservationId, Tenant, Ticket,
    Verdict,
};
use baton_types::{Capability, NodeId, NumericsId, SamplingSpec, SequenceSpec, Slo, StopTokens};

use super::{
    NUMERICS, Simulation,
    event::{Event, Failure, Source, ToNode, ToRouter, Word},
    faults::Part,
    requests::{Attempt, Live, key, tokens_of},
    steps::stop_token,
};
use crate::{node::Work, outcome::End, scenario::seconds};

impl Simulation<'_> {
    pub(super) fn ask_for_place(&mut self, number: u64) {
        let Some(live) = self.live.get_mut(&number) else { return };
        let exclude = std::mem::take(&mut live.exclude);
        let Some(live) = self.live.get(&number) else { return };
        let view = RequestView { exclude, ..self.view_of(live) };
        self.placer.submit(Ticket(number), view);
    }

    /// The request as the policy sees it.
    pub(super) fn view_of(&self, live: &Live) -> RequestView {
        let tokens = tokens_of(live, self.scenario.cluster.model.vocab);
        let block_tokens = self.scenario.cluster.model.block_tokens;
        let hashes: std::sync::Arc<[_]> = block_hashes(NUMERICS, 0, &tokens, block_tokens).into();
        // Names are opaque to the policy: workers that do both, each a group of its own, go by one.
        let kinds = match self.scenario.cluster.topology.is_colocated() {
            true => (0..self.nodes.len()).map(|node| NUMERICS.0 + 1 + node as u128).collect(),
            false => vec![NUMERICS.0],
        };
        let hashes = kinds.into_iter().map(|numerics| PromptHashes {
            numerics: NumericsId(numerics),
            block_tokens,
            hashes: hashes.clone(),
        });
        let declared = self.scenario.slo.declared;
        let slo = if declared { live.request.slo } else { Slo::default() };
        RequestView {
            model: self.model.clone(),
            class: Class {
                id: ClassId(live.request.priority.into()),
                priority: live.request.priority,
                ..Class::default()
            },
            tenant: Tenant::default(),
            tokens: tokens.len() as u32,
            max_new_tokens: live.request.max_tokens - live.emitted,
            slo: if live.emitted > 0 { Slo { ttft: None, ..slo } } else { slo },
            refuse_late: slo.ttft.is_some() && live.emitted == 0,
            has_begun: live.attempts > 0,
            next_due: live.first.map(|first| match slo.tpot {
                Some(tpot) => first + tpot * live.emitted,
                None => live.last,
            }),
            gives_way: false,
            may_be_local: !self.scenario.cluster.topology.is_colocated(),
            arrived: live.request.at,
            queued_before: 0,
            follows: false,
            exclude: Vec::new(),
            hashes: hashes.collect(),
        }
    }

    /// The view changed, or somebody came: whoever can be placed is.
    pub(super) fn place_requests(&mut self) {
        while let Some((ticket, said)) = self.placer.poll(self.now, &mut self.policy_draws) {
            let Ticket(number) = ticket;
            match said {
                Verdict::Placed(reservation, placement) => {
                    self.attempt(number, reservation, &placement);
                }
                Verdict::Refused(refusal) if self.attempts_of(number) == 0 => {
                    self.end(number, End::Refused(refusal.reason()));
                }
                Verdict::Refused(refusal) => self.end(number, End::Failed(refusal.reason())),
            }
        }
        self.fragmented.is(self.now, self.placer.fragmented());
        let waits = self.placer.poll_timeout();
        let lives = self.deadlines.front().map(|&(deadline, _)| deadline);
        if let Some(at) = waits.into_iter().chain(lives).min()
            && self.router_timer.is_none_or(|timer| at < timer)
        {
            self.router_timer = Some(at);
            self.queue.push(at, Event::RouterTimer);
        }
    }

    pub(super) fn router_timer(&mut self) {
        if self.router_timer == Some(self.now) {
            self.router_timer = None;
        }
        while let Some(&(deadline, number)) = self.deadlines.front() {
            if deadline > self.now && self.live.contains_key(&number) {
                break;
            }
            self.deadlines.pop_front();
            if self.live.contains_key(&number) {
                self.placer.cancel(Ticket(number));
                self.drop_attempt(number);
                self.end(number, End::Failed(Failure::Deadline.label()));
            }
        }
        self.place_requests();
    }

    fn attempts_of(&self, number: u64) -> u32 {
        self.live.get(&number).map_or(0, |live| live.attempts)
    }

    /// Calls the nodes, at the same time.
    fn attempt(&mut self, number: u64, reservation: ReservationId, placement: &Placement) {
        let model = &self.scenario.cluster.model;
        let (prefill, decode, whole) = self.route(&placement.path);
        let Some(live) = self.live.get_mut(&number) else { return };
        if live.attempts > 0 {
            live.arbiter.draw();
        }
        if !live.placed {
            live.placed = true;
            live.parts.router_queue = self.now - live.request.at;
        }
        live.attempts += 1;
        live.attempt = Some(Attempt {
            reservation,
            prefill,
            decode,
            whole,
            began: live.emitted,
            prefilled: false,
            joined: false,
            finished: false,
        });
        let epoch = live.epoch();
        let within = placement.demand.first_token_within(self.now);
        let spec = SequenceSpec { first_token_within: within, ..self.spec_of(number, model.vocab) };
        let capability = Capability(u128::from(number) << 64 | u128::from(epoch.counter));
        match (prefill, decode) {
            (Some(prefill), Some(decode)) => {
                let generation = self.nodes[prefill].generation;
                let source = Source { node: prefill, generation, capability };
                let (spec, same) = (spec.clone(), spec);
                self.call(number, decode, ToNode::DecodeRun { spec, source });
                let run = ToNode::PrefillRun { spec: same, capability: Some(capability) };
                self.call(number, prefill, run);
            }
            (Some(prefill), None) => {
                self.call(number, prefill, ToNode::PrefillRun { spec, capability: None });
            }
            (None, Some(worker)) => self.call(number, worker, ToNode::WholeRun { spec }),
            (None, None) => {}
        }
    }

    /// The sequence as it is by now.
    pub(super) fn spec_of(&self, number: u64, vocab: u32) -> SequenceSpec {
        let deadline = seconds(self.scenario.cluster.membership.deadline_s);
        let live = &self.live[&number];
        SequenceSpec {
            key: key(number),
            epoch: live.epoch(),
            tokens: tokens_of(live, vocab),
            prompt_len: live.request.prompt.len(),
            max_tokens: live.request.max_tokens,
            sampling: SamplingSpec::GREEDY,
            stop_tokens: StopTokens(vec![stop_token(vocab)]),
            cache_salt: 0,
            deadline: Some(deadline.saturating_sub(self.now - live.request.at)),
            first_token_within: None,
        }
    }

    /// Who prefills, who decodes, and whether one worker does both.
    fn route(&self, path: &Path) -> (Option<usize>, Option<usize>, bool) {
        let node = |name: &NodeId| self.by_name.get(name).copied();
        match path {
            Path::Disaggregated { prefill, decode } if prefill.node != decode.node => {
                match (node(&prefill.node), node(&decode.node)) {
                    // Two faces of one worker.
                    (prefill, decode) if prefill == decode => (None, decode, true),
                    (prefill, decode) => (prefill, decode, false),
                }
            }
            Path::Disaggregated { decode, .. } | Path::Local { decode } => {
                (None, node(&decode.node), true)
            }
            Path::PrefillOnly { prefill } => match node(&prefill.node) {
                Some(worker) if self.nodes[worker].work == Work::Both => (None, Some(worker), true),
                prefill => (prefill, None, false),
            },
        }
    }

    /// A message to a node, whichever incarnation lives there now.
    fn call(&mut self, number: u64, node: usize, message: ToNode) {
        let generation = self.nodes[node].generation;
        match self.links.deliver(self.now, Part::Router, Part::Node(node)) {
            Some(at) => self.post(at, node, generation, message),
            None => self.unreachable(number, node),
        }
    }

    /// The router hears, a moment later, that a call came to nothing.
    pub(super) fn unreachable(&mut self, number: u64, node: usize) {
        let Some(live) = self.live.get(&number) else { return };
        let word = Word::Failed(Failure::Unreachable);
        let word = ToRouter::Word { number, epoch: live.epoch(), node, word };
        let at = self.now + self.links.router_latency;
        self.queue.push(at, Event::ToRouter(Box::new(word)));
    }
}
