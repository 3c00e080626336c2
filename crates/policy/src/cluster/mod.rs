mod decoded;
mod reserving;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use baton_types::{
    BlockHash, Generation, KvEvents, ModelId, NodeHello, NodeId, NodeLoad, Role, StepReport,
    StepShape, Time,
};

pub(crate) use self::decoded::Decoded;
use self::reserving::Reservation;
use crate::{
    LatencyFit, Link, MissedEvents, NodeView, OutputLengths, Placed, RequestView, ReservationId,
    Service, Troubles,
    advice::{Asked, Ended, Traffic},
    prefix::{Matches, PrefixIndex},
};

/// The router's picture of the cluster.
#[derive(Clone, Debug)]
pub struct ClusterView {
    pub prefill: Vec<NodeView>,
    pub decode: Vec<NodeView>,
    /// Where learning of a node's link begins.
    pub link: Link,
    /// How long outputs were.
    pub outputs: OutputLengths,
    /// What came lately, and what became of it.
    pub traffic: Traffic,
    /// Standard deviations of what sequences will come to hold that are kept free: `cargo run --release -p
    /// baton-sim --example memory` tells what they cost, and what fewer would.
    pub deviations: f64,
    /// Ways that fail.
    pub troubles: Troubles,
    prefixes: PrefixIndex,
    reservations: HashMap<ReservationId, Reservation>,
    /// Who is about to move, and what was reserved for it there.
    moving: BTreeMap<ReservationId, ReservationId>,
    last: u64,
}

impl Default for ClusterView {
    fn default() -> Self {
        ClusterView {
            prefill: Vec::new(),
            decode: Vec::new(),
            link: Link::default(),
            outputs: OutputLengths::default(),
            traffic: Traffic::default(),
            deviations: 2.5,
            troubles: Troubles::default(),
            prefixes: PrefixIndex::default(),
            reservations: HashMap::new(),
            moving: BTreeMap::new(),
            last: 0,
        }
    }
}

impl ClusterView {
    /// Adds a node. What was promised by an earlier generation is gone with it; the same generation
    /// is only back, with what was learned of it. Otherwise `fit` is where learning begins.
    pub fn join(&mut self, hello: &NodeHello, fit: LatencyFit) {
        if let Some(view) = self.node_mut(&hello.node, hello.generation) {
            view.available = true;
            return;
        }
        self.leave(&hello.node);
        let (link, slot) = (self.link, self.prefixes.enter());
        self.nodes_mut(hello.role).push(NodeView::new(hello, fit, link, slot));
    }

    /// Forgets a node and what was promised by it.
    pub fn leave(&mut self, node: &NodeId) {
        self.troubles.leave(node);
        for nodes in [&mut self.prefill, &mut self.decode] {
            for view in nodes.extract_if(.., |view| view.node == *node) {
                self.prefixes.leave(view.slot);
            }
        }
        let is_there = |placed: Option<&Placed>| placed.is_some_and(|placed| placed.node == *node);
        for reservation in self.reservations.values_mut() {
            if is_there(reservation.placement.path.prefill()) {
                reservation.prefill = None;
            }
            if is_there(reservation.placement.path.decode()) {
                reservation.decode = None;
            }
        }
    }

    /// Takes what a node said of itself.
    pub fn observe(&mut self, node: &NodeId, generation: Generation, load: NodeLoad) {
        if let Some(view) = self.node_mut(node, generation) {
            view.observe(load);
        }
    }

    /// Takes what a node told of its cache with its latest word, if anything.
    pub fn observe_events(
        &mut self,
        node: &NodeId,
        generation: Generation,
        events: Option<&KvEvents>,
    ) -> Result<(), MissedEvents> {
        let Some(slot) = self.node_mut(node, generation).map(|view| view.slot) else {
            return Ok(());
        };
        self.prefixes.observe(slot, events)
    }

    /// Blocks a node has cached, or is about to.
    pub fn cached_blocks(&self, view: &NodeView) -> usize {
        self.prefixes.blocks(view.slot)
    }

    /// How often some of a node's events were missing.
    pub fn missed_events(&self, view: &NodeView) -> u64 {
        self.prefixes.missed(view.slot)
    }

    /// Which nodes have which of the prompt's blocks.
    pub(crate) fn matches(&self, request: &RequestView) -> Matches {
        let mut prompts: Vec<&Arc<[BlockHash]>> =
            request.hashes.iter().map(|prompt| &prompt.hashes).collect();
        prompts.dedup_by(|one, other| Arc::ptr_eq(one, other));
        let mut matches = Matches::default();
        for hashes in prompts {
            matches.merge(self.prefixes.matching(hashes));
        }
        matches
    }

    /// Learns from a node's steps what its steps cost.
    pub fn observe_steps(&mut self, node: &NodeId, generation: Generation, reports: &[StepReport]) {
        if let Some(view) = self.node_mut(node, generation) {
            view.learn(reports);
        }
    }

    /// What a step of this shape takes on a node, once that has been learned of it.
    pub fn learned_step(
        &self,
        node: &NodeId,
        generation: Generation,
        shape: &StepShape,
    ) -> Option<Duration> {
        let nodes = [&self.prefill, &self.decode];
        let view = nodes.into_iter().flatten().find(|view| view.node == *node)?;
        view.fit.learned(shape).filter(|_| view.generation == generation)
    }

    /// Whether a node may be sent new requests, as far as the router can tell.
    pub fn set_available(&mut self, node: &NodeId, generation: Generation, available: bool) {
        if let Some(view) = self.node_mut(node, generation) {
            view.available = available;
        }
    }

    /// Whether a node is to finish what it has and gets nothing new; until it says so itself.
    pub fn set_draining(&mut self, node: &NodeId, role: Role, draining: bool) {
        let mut nodes = self.nodes_mut(role).iter_mut();
        if let Some(view) = nodes.find(|view| view.node == *node) {
            view.draining = draining;
        }
    }

    /// A request has come that takes so long where it is done soonest, with nobody else there.
    pub(crate) fn asked(&mut self, request: &RequestView) -> Duration {
        let matches = self.matches(request);
        let compute = |view: &NodeView| {
            let cached = view.cached_tokens(&matches, request.tokens);
            let new_tokens = request.tokens - cached;
            (view.latency.prefill(new_tokens.into(), cached.into()), new_tokens)
        };
        let serving = self.prefill.iter().filter(|view| view.group.model == request.model);
        let (compute, new_tokens) =
            serving.map(compute).min().unwrap_or((Duration::ZERO, request.tokens));
        if is_counted(request) {
            let &RequestView { arrived: at, tokens, max_new_tokens, slo, .. } = request;
            let class = request.class.id;
            let asked = Asked { at, class, tokens, new_tokens, max_new_tokens, slo };
            self.traffic.asked(&request.model, asked);
        }
        compute
    }

    /// A request was refused.
    pub(crate) fn refused(&mut self, request: &RequestView, now: Time) {
        if is_counted(request) {
            let ended = Ended { at: now, ttft: None, tpot: None, slo: request.slo };
            self.traffic.ended(&request.model, ended);
        }
    }

    /// What the request takes of nodes' time: its prompt's `compute`, and its part of the steps that
    /// generate `output` tokens.
    pub(crate) fn service(
        &self,
        request: &RequestView,
        compute: Duration,
        output: u32,
    ) -> Duration {
        let context = u64::from(request.tokens) + u64::from(output / 2);
        let serving = self.decode.iter().filter(|view| view.group.model == request.model);
        let share = serving.map(|view| view.latency.decode_share(context)).min();
        compute + share.unwrap_or_default().saturating_mul(output.saturating_sub(1))
    }

    /// What nodes compute that can be in time, as when it must be begun and how long it takes, the
    /// earliest first; and how many nodes there are.
    pub(crate) fn prefill_backlog(
        &self,
        model: &ModelId,
        now: Time,
    ) -> (Vec<(Time, Duration)>, u32) {
        let accepts = |view: &&NodeView| view.accepts() && view.group.model == *model;
        let nodes = || self.prefill.iter().filter(accepts);
        let latest = |(due, left): (Time, Duration)| {
            (Time::from_nanos(due.as_nanos().saturating_sub(left.as_nanos() as u64)), left)
        };
        let mut backlog: Vec<(Time, Duration)> =
            nodes().flat_map(|view| view.prompts.in_time(now)).map(latest).collect();
        backlog.sort_unstable();
        (backlog, nodes().count() as u32)
    }

    /// The most tokens, prompt and output together, that a request for `model` can have now;
    /// `None` while nobody serves it.
    pub fn max_tokens(&self, model: &ModelId) -> Option<u32> {
        let most = |nodes: &[NodeView], limit: fn(&NodeView) -> u32| {
            nodes.iter().filter(|view| view.group.model == *model).map(limit).max()
        };
        let prefill = most(&self.prefill, |view| view.max_context);
        let decode = most(&self.decode, NodeView::max_decode_tokens);
        prefill.into_iter().chain(decode).min()
    }

    /// The most tokens a prompt for `model` can have now.
    pub(crate) fn max_prompt(&self, model: &ModelId) -> Option<u32> {
        let serving = self.prefill.iter().filter(|view| view.group.model == *model);
        serving.map(|view| view.pool_tokens().min(view.max_context.saturating_sub(1))).max()
    }

    /// Nodes of a role.
    pub fn nodes(&self, role: Role) -> &[NodeView] {
        match role {
            Role::Prefill => &self.prefill,
            Role::Decode => &self.decode,
        }
    }

    /// How many promises stand.
    pub fn reservations(&self) -> usize {
        self.reservations.len()
    }

    fn nodes_mut(&mut self, role: Role) -> &mut Vec<NodeView> {
        match role {
            Role::Prefill => &mut self.prefill,
            Role::Decode => &mut self.decode,
        }
    }

    fn node_mut(&mut self, node: &NodeId, generation: Generation) -> Option<&mut NodeView> {
        let mut nodes = self.prefill.iter_mut().chain(&mut self.decode);
        nodes.find(|view| view.node == *node && view.generation == generation)
    }

    fn placed_mut(&mut self, role: Role, placed: &Placed) -> Option<&mut NodeView> {
        let is =
            |view: &&mut NodeView| view.node == placed.node && view.generation == placed.generation;
        self.nodes_mut(role).iter_mut().find(is)
    }
}

/// Whether it comes for the first time, and somebody waits for it.
fn is_counted(request: &RequestView) -> bool {
    request.class.service == Service::Interactive && !request.has_begun
}
