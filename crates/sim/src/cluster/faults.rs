//! What goes wrong, by script, and what of the network it concerns.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use baton_types::Time;
use baton_workload::random::{Draws, unit};

use super::{
    Simulation,
    event::{Event, ToRouter},
};
use crate::{
    fault::{Fault, ROUTER},
    scenario::{micros, seconds},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Router,
    Node(usize),
}

/// How messages travel.
#[derive(Debug)]
pub(super) struct Links {
    /// One way, between nodes, and between the router and a node.
    pub(super) latency: Duration,
    pub(super) router_latency: Duration,
    /// Until when nothing passes between two parts.
    cuts: Vec<(Part, Part, Time)>,
    /// The next message from one part to the other is lost.
    losses: Vec<(Part, Part)>,
    /// Nodes that nobody hears break.
    dark: BTreeSet<usize>,
    storms: Vec<Storm>,
    /// When the last late message of a stream arrives: those after it don't overtake it.
    latest: BTreeMap<(Part, Part), Time>,
    draws: Draws,
}

/// What any message risks, by the index of its fault.
#[derive(Clone, Copy, Debug)]
struct Storm {
    fault: usize,
    lose: f64,
    double: f64,
    late: Duration,
}

impl Links {
    pub(super) fn new(draws: Draws) -> Self {
        Links {
            latency: Duration::ZERO,
            router_latency: Duration::ZERO,
            cuts: Vec::new(),
            losses: Vec::new(),
            dark: BTreeSet::new(),
            storms: Vec::new(),
            latest: BTreeMap::new(),
            draws,
        }
    }

    /// When a message sent on a stream now arrives; never, if it is one to be lost, and the stream with it.
    pub(super) fn deliver(&mut self, now: Time, from: Part, to: Part) -> Option<Time> {
        let mut at = self.arrives(now, from, to)?;
        if !self.storms.is_empty() || !self.latest.is_empty() {
            let latest = self.latest.entry((from, to)).or_insert(at);
            at = at.max(*latest);
            *latest = at;
        }
        Some(at)
    }

    /// When one that needs no stream arrives, which may be twice.
    pub(super) fn datagram(&mut self, now: Time, from: Part, to: Part) -> [Option<Time>; 2] {
        let double = self.storms.iter().map(|storm| storm.double).fold(0.0, f64::max);
        let is_double = double > 0.0 && unit(&mut self.draws) < double;
        let once = self.arrives(now, from, to);
        [once, is_double.then(|| self.arrives(now, from, to)).flatten()]
    }

    fn arrives(&mut self, now: Time, from: Part, to: Part) -> Option<Time> {
        if let Some(at) = self.losses.iter().position(|&loss| loss == (from, to)) {
            self.losses.swap_remove(at);
            return None;
        }
        let ends = from == Part::Router || to == Part::Router;
        let latency = if ends { self.router_latency } else { self.latency };
        let leaves = self.cut_until(from, to).map_or(now, |until| until.max(now));
        let mut at = leaves + latency;
        for index in 0..self.storms.len() {
            let Storm { lose, late, .. } = self.storms[index];
            if unit(&mut self.draws) < lose {
                return None;
            }
            at += late.mul_f64(unit(&mut self.draws));
        }
        Some(at)
    }

    pub(super) fn is_cut(&self, a: Part, b: Part) -> bool {
        self.cut_until(a, b).is_some()
    }

    fn cut_until(&self, a: Part, b: Part) -> Option<Time> {
        let between =
            |cut: &&(Part, Part, Time)| (cut.0, cut.1) == (a, b) || (cut.0, cut.1) == (b, a);
        self.cuts.iter().find(between).map(|&(_, _, until)| until)
    }

    /// Whether anything is wrong on a node's way to the router.
    pub(super) fn is_disturbed(&self, node: usize) -> bool {
        let (node, router) = (Part::Node(node), Part::Router);
        !self.storms.is_empty()
            || !self.latest.is_empty()
            || (!self.cuts.is_empty() && self.is_cut(node, router))
            || self.losses.contains(&(node, router))
    }

    pub(super) fn is_dark(&self, node: usize) -> bool {
        self.dark.contains(&node)
    }
}

impl Simulation<'_> {
    pub(super) fn schedule_faults(&mut self) {
        let network = &self.scenario.cluster.network;
        self.links.latency = micros(network.latency_us);
        self.links.router_latency = micros(network.router_latency_us);
        for (index, fault) in self.scenario.faults.iter().enumerate() {
            let (begins, ends) = match fault {
                Fault::Crash { at_s, restart_after_s, .. } => {
                    (*at_s, restart_after_s.map(|after| at_s + after))
                }
                Fault::Slow { from_s, to_s, .. }
                | Fault::Cut { from_s, to_s, .. }
                | Fault::Storm { from_s, to_s, .. } => (*from_s, Some(*to_s)),
                Fault::Lose { after_s, .. } => (*after_s, None),
            };
            self.queue.push(Time::ZERO + seconds(begins), Event::FaultBegins(index));
            if let Some(ends) = ends {
                self.queue.push(Time::ZERO + seconds(ends), Event::FaultEnds(index));
            }
        }
    }

    pub(super) fn fault_begins(&mut self, index: usize) {
        match &self.scenario.faults[index] {
            Fault::Crash { node, silent, .. } => {
                let node = self.node_named(node);
                self.crash(node, *silent);
            }
            Fault::Slow { node, factor, .. } => {
                let node = self.node_named(node);
                self.nodes[node].slowness *= factor;
            }
            Fault::Cut { a, b, to_s, .. } => {
                let (a, b) = (self.part(a), self.part(b));
                self.links.cuts.push((a, b, Time::ZERO + seconds(*to_s)));
                self.cut_changed(a, b, true);
            }
            &Fault::Storm { lose, double, late_s, .. } => {
                let late = seconds(late_s);
                self.links.storms.push(Storm { fault: index, lose, double, late });
            }
            Fault::Lose { from, to, .. } => {
                let loss = (self.part(from), self.part(to));
                self.links.losses.push(loss);
            }
        }
    }

    pub(super) fn fault_ends(&mut self, index: usize) {
        match &self.scenario.faults[index] {
            Fault::Crash { node, .. } => {
                let node = self.node_named(node);
                self.links.dark.remove(&node);
                self.nodes[node].alive = true;
                let generation = self.nodes[node].generation;
                // It joins with its first word; an old self's lease may have to end before.
                self.queue.push(self.now, Event::Heartbeat { node, generation });
            }
            Fault::Slow { node, factor, .. } => {
                let node = self.node_named(node);
                self.nodes[node].slowness /= factor;
            }
            Fault::Cut { a, b, to_s, .. } => {
                let (a, b) = (self.part(a), self.part(b));
                let until = Time::ZERO + seconds(*to_s);
                if let Some(at) = self.links.cuts.iter().position(|&cut| cut == (a, b, until)) {
                    self.links.cuts.remove(at);
                }
                let still = self.links.is_cut(a, b);
                self.cut_changed(a, b, still);
            }
            Fault::Storm { .. } => self.links.storms.retain(|storm| storm.fault != index),
            Fault::Lose { .. } => {}
        }
    }

    pub(super) fn crash(&mut self, node: usize, silent: bool) {
        if !self.nodes[node].alive {
            return;
        }
        let generation = self.nodes[node].generation;
        self.transfers_lost(node, silent);
        self.nodes[node].crash(self.now);
        if silent {
            self.links.dark.insert(node);
            return;
        }
        let broken = ToRouter::Broken { node, generation };
        let at = self.now + self.links.router_latency;
        self.queue.push(at, Event::ToRouter(Box::new(broken)));
    }

    fn cut_changed(&mut self, a: Part, b: Part, cut: bool) {
        if let (Part::Node(a), Part::Node(b)) = (a, b) {
            self.flows_cut(a, b, cut);
        }
    }

    fn part(&self, name: &str) -> Part {
        if name == ROUTER { Part::Router } else { Part::Node(self.node_named(name)) }
    }

    /// The scenario was validated: there is one.
    fn node_named(&self, name: &str) -> usize {
        let named = |face: &str| self.by_name.get(&face.into()).copied();
        named(name).or_else(|| named(&format!("{name}/prefill"))).unwrap_or_default()
    }
}
