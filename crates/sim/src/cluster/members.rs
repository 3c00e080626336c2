//! The registry: nodes join, speak, and are gone; as `baton-router` and `baton-node` do it.

use baton_membership::Joined;
use baton_migration::FromDestination;
use baton_types::{Generation, KvEvents, NodeLoad, StepReport};

use super::{
    Simulation,
    event::{Event, Moving, ToNode, ToRouter},
    faults::Part,
};
use crate::scenario::seconds;

impl Simulation<'_> {
    /// The router takes a node in. What runs on the same incarnation goes on.
    pub(super) fn join(&mut self, node: usize) {
        for (face, role) in self.faces(node) {
            let hello = self.hello(node, face.clone(), role);
            match self.members.join(self.now, face, hello.generation, 1) {
                // What ran on its older self is gone.
                Ok(Joined { replaced: true }) => self.attempts_lost(node),
                Ok(Joined { replaced: false }) => {}
                // Its older self was heard just now; it tries again with its next word.
                Err(_) => return,
            }
            self.placer.view_mut().join(&hello, self.scenario.latency_fit(role));
        }
        self.watch_leases();
    }

    fn watch_leases(&mut self) {
        if !self.lease_timer
            && let Some(at) = self.members.poll_timeout()
        {
            self.lease_timer = true;
            self.queue.push(at, Event::LeaseTimer);
        }
    }

    /// A lease can only end later than it was going to, so one timer at a time is enough.
    pub(super) fn lease_timer(&mut self) {
        self.lease_timer = false;
        let expired = self.members.expire(self.now);
        for face in expired {
            if let Some(&node) = self.by_name.get(&face) {
                self.placer.view_mut().leave(&face);
                self.attempts_lost(node);
            }
        }
        self.watch_leases();
        self.place_requests();
    }

    pub(super) fn heartbeat(&mut self, node: usize, generation: Generation) {
        if !self.is_alive(node, generation) {
            return;
        }
        let interval = seconds(self.scenario.cluster.membership.heartbeat_s);
        let at = self.now + interval;
        self.queue.push(at, Event::Heartbeat { node, generation });
        let load = self.nodes[node].heartbeat();
        if self.links.is_cut(Part::Node(node), Part::Router) {
            return;
        }
        let state = &mut self.nodes[node];
        let events = Some(state.cache.events(state.told)).filter(|events| !events.is_empty());
        // What is lost on the way the router finds missing.
        state.told = events.as_ref().map(|events| events.upto).or(state.told);
        if let Some(at) = self.links.deliver(self.now, Part::Node(node), Part::Router) {
            let reports = self.nodes[node].reports.drain(..).collect();
            let beat = ToRouter::Beat { node, generation, load, reports, events };
            self.queue.push(at, Event::ToRouter(Box::new(beat)));
        }
    }

    pub(super) fn beat(
        &mut self,
        node: usize,
        generation: Generation,
        load: NodeLoad,
        reports: &[StepReport],
        events: Option<&KvEvents>,
    ) {
        if self.nodes[node].generation != generation {
            return;
        }
        for (face, _) in self.faces(node) {
            if self.members.heartbeat(self.now, &face, generation).is_err() {
                self.join(node);
            }
            let view = self.placer.view_mut();
            view.observe(&face, generation, load);
            view.observe_steps(&face, generation, reports);
            if view.observe_events(&face, generation, events).is_err() {
                self.nodes[node].told = None;
            }
            self.placer.view_mut().set_available(&face, generation, true);
        }
    }

    /// Sends nothing to a node whose connection failed until it speaks again.
    pub(super) fn suspect(&mut self, node: usize) {
        let generation = self.nodes[node].generation;
        for (face, _) in self.faces(node) {
            self.placer.view_mut().set_available(&face, generation, false);
        }
    }

    /// A node's connections broke.
    pub(super) fn node_gone(&mut self, node: usize, generation: Generation) {
        for (face, _) in self.faces(node) {
            if self.members.leave(&face, generation) {
                self.placer.view_mut().leave(&face);
            }
        }
        self.attempts_lost(node);
    }

    /// A message to a node that isn't there any more.
    pub(super) fn bounced(&mut self, node: usize, message: ToNode) {
        if self.links.is_dark(node) {
            return;
        }
        match message {
            ToNode::PrefillRun { spec, .. }
            | ToNode::DecodeRun { spec, .. }
            | ToNode::WholeRun { spec } => {
                if self.live_of(spec.key, spec.epoch).is_some() {
                    self.unreachable(spec.key.request.0 as u64, node);
                }
            }
            ToNode::Pull { transfer } => self.offer_gone(transfer),
            ToNode::Adopt { spec, .. } => {
                let moving = Moving { key: spec.key, attempt: spec.epoch };
                self.heard_destination(node, moving, FromDestination::Gone);
            }
            ToNode::Offer { .. }
            | ToNode::SourceWord { .. }
            | ToNode::DestinationWord { .. }
            | ToNode::Cancel { .. }
            | ToNode::Release { .. }
            | ToNode::Abort { .. } => {}
        }
    }
}
