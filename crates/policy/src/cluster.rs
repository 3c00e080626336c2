use std::collections::{BTreeMap, HashMap};

use baton_types::{BlockHash, Generation, ModelId, NodeHello, NodeId, NodeLoad, Role, StepReport};

use crate::{LatencyFit, Link, NodeView, Placed, Placement, ReservationId, reservation::Reserved};

/// The router's picture of the cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    pub prefill: Vec<NodeView>,
    pub decode: Vec<NodeView>,
    pub links: Links,
    reservations: HashMap<ReservationId, Reservation>,
    last: u64,
}

/// How fast pages move.
#[derive(Clone, Debug, Default)]
pub struct Links {
    /// Between nodes of which nothing is known.
    pub default: Link,
    /// From a prefill node to a decode node.
    pub known: BTreeMap<(NodeId, NodeId), Link>,
}

impl Links {
    pub fn between(&self, from: &NodeId, to: &NodeId) -> Link {
        if self.known.is_empty() {
            return self.default;
        }
        self.known.get(&(from.clone(), to.clone())).copied().unwrap_or(self.default)
    }
}

#[derive(Clone, Debug)]
struct Reservation {
    placement: Placement,
    prefill: Option<Reserved>,
    decode: Option<Reserved>,
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
        self.nodes_mut(hello.role).push(NodeView::new(hello, fit));
    }

    /// Forgets a node and what was promised by it.
    pub fn leave(&mut self, node: &NodeId) {
        for nodes in [&mut self.prefill, &mut self.decode] {
            nodes.retain(|view| view.node != *node);
        }
        for Reservation { placement, prefill, decode } in self.reservations.values_mut() {
            if placement.prefill.node == *node {
                *prefill = None;
            }
            if placement.decode.as_ref().is_some_and(|placed| placed.node == *node) {
                *decode = None;
            }
        }
    }

    /// Takes what a node said of itself.
    pub fn observe(&mut self, node: &NodeId, generation: Generation, load: NodeLoad) {
        if let Some(view) = self.node_mut(node, generation) {
            view.load = Some(load);
        }
    }

    /// Learns from a node's steps what its steps cost.
    pub fn observe_steps(&mut self, node: &NodeId, generation: Generation, reports: &[StepReport]) {
        if let Some(view) = self.node_mut(node, generation) {
            view.learn(reports);
        }
    }

    /// Whether a node may be sent new requests, as far as the router can tell.
    pub fn set_available(&mut self, node: &NodeId, generation: Generation, available: bool) {
        if let Some(view) = self.node_mut(node, generation) {
            view.available = available;
        }
    }

    /// Counts a placement's demands from now on.
    pub fn reserve(&mut self, placement: &Placement) -> ReservationId {
        self.last += 1;
        let id = ReservationId(self.last);
        let demand = &placement.demand;
        let prefill = Reserved::prefilling(demand);
        self.add(Role::Prefill, &placement.prefill, prefill);
        let decode = placement.decode.as_ref().map(|placed| {
            let reserved = Reserved::decoding(demand);
            self.add(Role::Decode, placed, reserved);
            reserved
        });
        let placement = placement.clone();
        self.reservations.insert(id, Reservation { placement, prefill: Some(prefill), decode });
        id
    }

    /// The prompt is computed; the prefill node holds its pages until they are handed over.
    pub fn first_token(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let Some(before) = reservation.prefill.take() else { return };
        let held = Reserved::held(&reservation.placement.demand);
        reservation.prefill = Some(held);
        let placed = reservation.placement.prefill.clone();
        self.take(Role::Prefill, &placed, before);
        self.add(Role::Prefill, &placed, held);
    }

    /// The prefill node is done with the request.
    pub fn handed_over(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get_mut(&id) else { return };
        let Some(before) = reservation.prefill.take() else { return };
        let placed = reservation.placement.prefill.clone();
        self.take(Role::Prefill, &placed, before);
    }

    /// Nothing of the reservation counts any more. Releasing twice is the same as once.
    pub fn release(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.remove(&id) else { return };
        let Placement { prefill, decode, .. } = &reservation.placement;
        if let Some(reserved) = reservation.prefill {
            self.take(Role::Prefill, prefill, reserved);
        }
        if let (Some(placed), Some(reserved)) = (decode, reservation.decode) {
            self.take(Role::Decode, placed, reserved);
        }
    }

    /// Notes that the placement's nodes will have these blocks cached: at once, so that requests
    /// with the same beginning follow the first.
    pub fn note_prefix(&mut self, placement: &Placement, hashes: &[BlockHash]) {
        for (role, placed) in placement.placed() {
            if let Some(view) = self.placed_mut(role, placed) {
                view.prefixes.note(hashes);
            }
        }
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

    fn add(&mut self, role: Role, placed: &Placed, reserved: Reserved) {
        if let Some(view) = self.placed_mut(role, placed) {
            view.reserved.add(reserved);
        }
    }

    fn take(&mut self, role: Role, placed: &Placed, reserved: Reserved) {
        if let Some(view) = self.placed_mut(role, placed) {
            view.reserved.take(reserved);
        }
    }
}
