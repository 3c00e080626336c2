//! Which running requests go to other nodes, and where.
//!
//! # What for?
//!
//! In this order, at each look:
//!
//! - a node is to be *empty*;
//! - its pool will be *full*: somebody goes before somebody is preempted;
//! - somebody in line fits nowhere, though there is *room* enough on several nodes together. A sequence that moves
//!   is in two pools, so while somebody waits for room nobody moves for what follows;
//! - more *objectives* are met with somebody elsewhere, both nodes' and the moved one's own counted, each as far
//!   as it has come;
//! - requests are *faster* in the mean: those of higher classes count for more, so that lower ones make way for
//!   them; of one class, that means balance.
//!
//! # What stops requests from going to and fro?
//!
//! Every move must be worth more than what it costs (the pause, and the copy's part of the steps) and a threshold;
//! for balance the two nodes' steps must differ afterwards in the same direction, and by less
//! (`0 < Δload_after < Δload_before`, Llumnix, OSDI'24). Who has moved stays for a while. What is under way
//! counts at the destination from the decision on and at the source no more, and few move at once.
//!
//! Pure: what it knows is the [`ClusterView`]. The router and the simulator call it.

mod config;
mod empty;
mod faster;
mod full;
mod objectives;
mod room;
mod side;

use std::collections::BTreeMap;

use baton_types::{NodeId, Time};

pub use self::config::{RebalanceConfig, RebalanceError};
use self::side::{Context, Running, Side};
use crate::{ClusterView, Group, RequestView, ReservationId};

/// A running request is to go elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// Its place.
    pub reservation: ReservationId,
    pub from: NodeId,
    /// None: wherever it is best.
    pub to: Option<NodeId>,
    pub reason: Reason,
}

/// What a request moves for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Its node is to be empty.
    Drain,
    /// Its node's pool will be full.
    Memory,
    /// More objectives are met.
    Objectives,
    /// For one that waits for room.
    Room,
    /// For others of a higher class.
    Priority,
    /// Nodes do as much.
    Balance,
}

impl Reason {
    /// A label for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Drain => "drain",
            Reason::Memory => "memory",
            Reason::Objectives => "objectives",
            Reason::Room => "room",
            Reason::Priority => "priority",
            Reason::Balance => "balance",
        }
    }
}

/// Looks at the cluster now and then.
#[derive(Clone, Debug)]
pub struct Rebalancer {
    config: RebalanceConfig,
    /// When those that were to move were last told so.
    told: BTreeMap<ReservationId, Time>,
}

impl Rebalancer {
    pub fn new(config: RebalanceConfig) -> Self {
        Rebalancer { config, told: BTreeMap::new() }
    }

    pub fn config(&self) -> &RebalanceConfig {
        &self.config
    }

    /// Who is to go where, as things stand. `waits`: who fits nowhere, of those in line the first.
    pub fn look(
        &mut self,
        view: &mut ClusterView,
        waits: Option<&RequestView>,
        now: Time,
    ) -> Vec<Proposal> {
        let cool_down = self.config.cool_down;
        self.told.retain(|_, told| *told + cool_down > now);
        view.reckon_growth(now);
        let mut proposals = Vec::new();
        for group in view.decode_groups() {
            let from = Context { config: &self.config, cluster: view, told: &self.told, now };
            let mut look = Look::new(from, &group);
            look.empty();
            if self.config.enabled {
                look.full();
                match waits.filter(|request| request.model == group.model) {
                    Some(request) => look.room(view, request, now),
                    None => {
                        look.objectives();
                        look.faster();
                    }
                }
            }
            proposals.append(&mut look.proposals);
        }
        // Who is to leave for good is asked until it does.
        let told = proposals.iter().filter(|proposal| proposal.reason != Reason::Drain);
        self.told.extend(told.map(|proposal| (proposal.reservation, now)));
        proposals
    }
}

/// One look at one group of decode nodes.
struct Look<'a> {
    config: &'a RebalanceConfig,
    sides: Vec<Side<'a>>,
    proposals: Vec<Proposal>,
}

impl<'a> Look<'a> {
    fn new(from: Context<'a>, group: &Group) -> Self {
        let Context { config, cluster, now, .. } = from;
        let nodes = cluster.decode.iter().filter(|node| node.group == *group && node.available);
        let mut sides: Vec<Side<'a>> = nodes.map(|node| Side::new(from, node)).collect();
        for (id, source, destination, tokens) in cluster.moving(now) {
            for side in &mut sides {
                if source == Some(&side.view.node) {
                    side.is_left(id, tokens);
                }
                side.coming += u32::from(destination == Some(&side.view.node));
            }
        }
        Look { config, sides, proposals: Vec::new() }
    }

    /// Nodes whose requests may be asked to leave.
    fn sources(&self) -> Vec<usize> {
        let at_once = self.config.at_once;
        let open = |side: &Side<'_>| !side.is_used && side.leaving < at_once;
        (0..self.sides.len()).filter(|&at| open(&self.sides[at])).collect()
    }

    /// Where a request may go, but for its node: those with the shortest steps first, a few of them.
    fn destinations(&self, from: usize, at_once: u32) -> Vec<usize> {
        let mut open: Vec<usize> = (0..self.sides.len())
            .filter(|&at| at != from && self.sides[at].is_open(at_once))
            .collect();
        open.sort_by(|&a, &b| self.sides[a].step.total_cmp(&self.sides[b].step));
        open.truncate(MOST_DESTINATIONS);
        open
    }

    /// Objectives, by their weight, that are met more when it goes there.
    fn gained(&self, from: usize, to: usize, running: &Running) -> f64 {
        self.saved(from, running) + self.brought(to, running)
    }

    /// Those at the node it leaves, its own not met there any more.
    fn saved(&self, from: usize, running: &Running) -> f64 {
        let side = &self.sides[from];
        side.met(side.step_without(running), Some(running.id)) - side.met_now()
    }

    /// Those where it comes to, its own with them.
    fn brought(&self, to: usize, running: &Running) -> f64 {
        let other = &self.sides[to];
        let step = other.step_with(running);
        let there = other.chance(running, step, other.pause(step));
        running.weight * there + other.met(step, None) - other.met_now()
    }

    fn propose(&mut self, from: usize, to: usize, reservation: ReservationId, reason: Reason) {
        let name = |at: usize| self.sides[at].view.node.clone();
        let to_node = Some(name(to));
        self.proposals.push(Proposal { reservation, from: name(from), to: to_node, reason });
        self.sides[from].is_used = true;
        self.sides[to].is_used = true;
    }
}

/// Objectives that may be missed for somebody who would have no room otherwise.
const WORTH_ROOM: f64 = 0.5;
/// Nodes that are compared for one request.
const MOST_DESTINATIONS: usize = 4;
/// Requests of one node that are,
const MOST_VICTIMS: usize = 8;
/// and nodes that are looked at for one reason: a look is short, and the next comes soon.
const MOST_SOURCES: usize = 4;
