//! Live migration: the production machines of `baton-migration`, and what the nodes and the router do for
//! them; as `baton-decode-node` and `baton-router` do it.
//!
//! # How do their words travel?
//!
//! Each by itself: over an undisturbed network as any other message, and in a
//! [`Fault::Storm`](crate::Fault::Storm) lost, late, twice and out of order, which the machines bear. In the
//! binaries they are on streams, which do none of this without breaking.

mod arbiter;
mod destination;
mod pages;
mod source;

use std::time::Duration;

use baton_policy::rebalance::Proposal;
use baton_workload::random::unit;
use rand_core::RngCore;

use super::{
    Simulation,
    event::{Event, ToNode, ToRouter},
    faults::Part,
};
use crate::{Map, Scenario, node::Work};
pub(super) use arbiter::{Attempted, Departure, Migration};

/// What became of moves.
#[derive(Clone, Debug, Default)]
pub(crate) struct MoveStats {
    /// By what they were for: those that were made,
    pub(crate) moved: std::collections::BTreeMap<&'static str, u64>,
    /// and those that weren't.
    pub(crate) not_moved: std::collections::BTreeMap<&'static str, u64>,
    /// From the last token of the one node to the first of the other.
    pub(crate) gaps: Vec<Duration>,
}

impl Simulation<'_> {
    pub(super) fn expect_moves(&mut self) {
        if self.scenario.forced_moves_per_s > 0.0 {
            self.queue.push(self.now, Event::ForceMove);
        }
        let Scenario { rebalance, roles, scaling, .. } = self.scenario;
        // Nodes are to be empty before they change roles or leave.
        if rebalance.enabled || roles.is_some() || scaling.is_some() {
            self.queue.push(self.now, Event::Rebalance);
        }
    }

    /// Whoever the rebalancer wants to move begins to.
    pub(super) fn rebalance(&mut self) {
        self.queue.push(self.now + self.rebalancer.config().every, Event::Rebalance);
        let proposals = self.placer.rebalance(&mut self.rebalancer, self.now);
        if proposals.is_empty() {
            return;
        }
        let placed = self
            .live
            .values()
            .filter_map(|live| Some((live.attempt.as_ref()?.reservation, live.number)));
        let placed: Map<_, _> = placed.collect();
        for Proposal { reservation, to, reason, .. } in proposals {
            if let Some(&number) = placed.get(&reservation) {
                self.begin_to_move(number, to.as_ref(), reason.label());
            }
        }
        self.place_requests();
    }

    /// Somebody who runs goes somewhere, whatever for.
    pub(super) fn force_move(&mut self) {
        let mean = 1.0 / self.scenario.forced_moves_per_s;
        let pause = mean * -(1.0 - unit(&mut self.move_draws)).ln();
        self.queue.push(self.now + Duration::from_secs_f64(pause), Event::ForceMove);
        let of_role = (0..self.nodes.len()).filter(|&node| self.nodes[node].work == Work::Decode);
        let mut nodes: Vec<usize> = of_role.collect();
        let decoded = self.live.values().filter_map(|live| {
            let decode = live.attempt.as_ref()?.decode.filter(|node| nodes.contains(node))?;
            Some((live.number, decode))
        });
        let mut decoded: Vec<(u64, usize)> = decoded.collect();
        decoded.sort_unstable();
        let Some((number, from)) = self.drawn(&decoded) else { return };
        nodes.retain(|&node| node != from);
        if let Some(to) = self.drawn(&nodes) {
            let to = self.nodes[to].name.clone();
            self.begin_to_move(number, Some(&to), "forced");
        }
    }

    fn drawn<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let index = self.move_draws.next_u64() as usize % from.len().max(1);
        from.get(index).copied()
    }

    /// To a node, by itself; perhaps never, perhaps twice.
    fn tell_node(&mut self, node: usize, message: &ToNode) {
        let generation = self.nodes[node].generation;
        for at in
            self.links.datagram(self.now, Part::Router, Part::Node(node)).into_iter().flatten()
        {
            self.post(at, node, generation, message.clone());
        }
    }

    /// To the router, in the same way.
    fn tell_router(&mut self, node: usize, message: &ToRouter) {
        for at in
            self.links.datagram(self.now, Part::Node(node), Part::Router).into_iter().flatten()
        {
            self.queue.push(at, Event::ToRouter(Box::new(message.clone())));
        }
    }
}
