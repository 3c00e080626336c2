//! The desk where requests wait for a place. Sans-io: whoever drives it tells it what happens and
//! when, and asks what can be said.
//!
//! # Who goes first?
//!
//! Those whose clients have tokens already and wait for the next; then, by model, the classes of the
//! highest priority, and of these whoever has the least slack: the time until its prompt must be begun
//! for the first token to be in time. When not all can be in time, those give way that cost the most,
//! of the tenant that has had most ([`Queue::sacrifice`]). Who is too late is refused if it asked for
//! that, and waits behind the others if not. Batches come last.
//!
//! Those without an objective, and those that miss theirs, take turns by what their tenants have had
//! (`share`). With one tenant nothing of this changes the order.
//!
//! # Does anybody overtake?
//!
//! Only whoever waits for others' objectives, not for room: the next few are looked at past it.
//! What lacks room collects what becomes free.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use baton_types::{ModelId, Role, Time};
use rand_core::RngCore;

use crate::{
    ClusterView, Decision, Placement, PolicyConfig, Refusal, RequestView, ReservationId, Shortage,
    decide,
    queue::{Queue, Waiting},
    rebalance::{Proposal, Rebalancer},
};

/// A request's number at the desk, its caller's choice: none waits twice under the same. Of equals
/// the lesser goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Its place counts in the view until it is released.
    Placed(ReservationId, Placement),
    Refused(Refusal),
}

/// Past how many that wait for others' objectives the next is looked at.
const LOOK_PAST: usize = 8;
/// When to look for nodes again.
const RETRY_NODES: Duration = Duration::from_secs(1);

/// One that waits.
#[derive(Debug)]
struct Known {
    model: ModelId,
    timer: Time,
}

#[derive(Debug, Default)]
pub struct Placer {
    config: PolicyConfig,
    view: ClusterView,
    queues: BTreeMap<ModelId, Queue>,
    tickets: BTreeMap<Ticket, Known>,
    /// When to look at whom, though nothing happens.
    timers: BTreeSet<(Time, Ticket)>,
    /// Something happened: it is worth looking.
    look: bool,
    /// When it is, though nothing happens.
    look_at: Option<Time>,
    /// Who fits on no decode node, though it is its turn, and the blocks that it needs.
    cramped: Option<(Ticket, u64)>,
}

impl Placer {
    pub fn new(config: PolicyConfig) -> Self {
        let mut placer = Placer { config, ..Placer::default() };
        placer.view.outputs.guess = config.expected_output_tokens;
        placer
    }

    pub fn config(&self) -> &PolicyConfig {
        &self.config
    }

    pub fn view(&self) -> &ClusterView {
        &self.view
    }

    /// For telling it what happens in the cluster; [`Placer::poll`] afterwards.
    pub fn view_mut(&mut self) -> &mut ClusterView {
        self.look = true;
        &mut self.view
    }

    /// Takes a request in. What becomes of it [`Placer::poll`] says.
    pub fn submit(&mut self, ticket: Ticket, mut request: RequestView) {
        let queue = self.queues.entry(request.model.clone()).or_default();
        request.queued_before = if request.waits_long() { 0 } else { queue.before(&request) };
        let compute = self.view.asked(&request);
        let longest = self.config.max_queue_time;
        let timer = first_timer(&request, compute, longest);
        self.timers.insert((timer, ticket));
        self.tickets.insert(ticket, Known { model: request.model.clone(), timer });
        let guess = self.config.expected_output_tokens;
        let (class, most) = (request.class.id, request.max_new_tokens);
        let output = self.view.outputs.expected(&request.model, class, most, guess).tokens;
        let service = self.view.service(&request, compute, output);
        queue.enter(ticket, request, compute, service, longest);
        self.look = true;
    }

    /// Forgets a request that waits; nothing is said of it any more.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.leave(ticket);
        self.look = true;
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.tickets.len()
    }

    /// When to [`Placer::poll`] again, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Time> {
        let timer = self.timers.first().map(|&(at, _)| at);
        timer.into_iter().chain(self.look_at).min()
    }

    /// Of all decode nodes' blocks, those that are free and of no use: whoever is next in line would fit into them
    /// together, and fits on no node (Llumnix, OSDI'24, §3). What is kept for sequences to grow counts as free.
    pub fn fragmented(&self) -> f64 {
        let Some((ticket, needed)) = self.cramped else { return 0.0 };
        let Some(known) = self.tickets.get(&ticket) else { return 0.0 };
        let nodes = self.view.decode.iter();
        let able = nodes.filter(|node| node.accepts() && node.group.model == known.model);
        let (free, all) = able.fold((0, 0), |(free, all), node| {
            (free + node.free_blocks(), all + u64::from(node.total_blocks))
        });
        if free < needed { 0.0 } else { free as f64 / (all as f64).max(1.0) }
    }

    /// Who is to move elsewhere.
    pub fn rebalance(&mut self, rebalancer: &mut Rebalancer, now: Time) -> Vec<Proposal> {
        let waiting = self.cramped.and_then(|(ticket, _)| {
            let queue = self.queues.get(&self.tickets.get(&ticket)?.model)?;
            Some(&queue.get(ticket)?.request)
        });
        rebalancer.look(&mut self.view, waiting, now)
    }

    /// What can be said now, one request at a time; `None` when there is no more.
    pub fn poll(&mut self, now: Time, rng: &mut impl RngCore) -> Option<(Ticket, Verdict)> {
        while let Some(&(at, ticket)) = self.timers.first()
            && at <= now
        {
            self.timers.remove(&(at, ticket));
            if let Some(refusal) = self.is_due(ticket, now, rng) {
                if let Some(request) = self.leave(ticket) {
                    self.view.refused(&request, now);
                }
                return Some((ticket, Verdict::Refused(refusal)));
            }
        }
        if !self.look && self.look_at.is_none_or(|at| at > now) {
            return None;
        }
        (self.look, self.look_at, self.cramped) = (true, None, None);
        let models: Vec<ModelId> = self.queues.keys().cloned().collect();
        for model in models {
            if let Some(said) = self.first_of(&model, now, rng) {
                return Some(said);
            }
        }
        self.look = false;
        None
    }

    /// The first of a model that something can be said of.
    fn first_of(
        &mut self,
        model: &ModelId,
        now: Time,
        rng: &mut impl RngCore,
    ) -> Option<(Ticket, Verdict)> {
        let queue = self.queues.get_mut(model)?;
        if queue.len() > 1 {
            let (backlog, machines) = self.view.prefill_backlog(model, now);
            queue.sacrifice(now, &backlog, machines);
        }
        let mut said = None;
        for (ticket, waiting) in queue.order().take(LOOK_PAST) {
            match verdict(&self.config, &self.view, &waiting.request, now, rng) {
                Decision::Queue(Shortage::Objectives) => {}
                Decision::Queue(Shortage::Turn { after }) => {
                    let at = now + after.max(Duration::from_micros(100));
                    self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
                    break;
                }
                Decision::Queue(Shortage::DecodeBlocks { needed, .. }) => {
                    self.cramped.get_or_insert((ticket, needed));
                    break;
                }
                Decision::Queue(_) => break,
                decision => {
                    said = Some((ticket, decision));
                    break;
                }
            }
        }
        let (ticket, decision) = said?;
        Some((
            ticket,
            match decision {
                Decision::Place(placement) => {
                    let request = self.take(ticket, Queue::serve)?;
                    let reservation = self.view.reserve(&request, &placement, now);
                    Verdict::Placed(reservation, placement)
                }
                Decision::Refuse(refusal) => {
                    if let Some(request) = self.leave(ticket) {
                        self.view.refused(&request, now);
                    }
                    Verdict::Refused(refusal)
                }
                Decision::Queue(_) => unreachable!("only what is decided is said"),
            },
        ))
    }

    /// Somebody's time is over: for being in time, or for waiting at all.
    fn is_due(&mut self, ticket: Ticket, now: Time, rng: &mut impl RngCore) -> Option<Refusal> {
        let known = self.tickets.get_mut(&ticket)?;
        let queue = self.queues.get_mut(&known.model)?;
        let request = &queue.get(ticket)?.request;
        if request.waits_long() {
            return None;
        }
        if let Decision::Refuse(refusal) = verdict(&self.config, &self.view, request, now, rng) {
            return Some(refusal);
        }
        let last = request.arrived + self.config.max_queue_time;
        // Whoever may be placed at this very moment is.
        known.timer = if last > now { last } else { now + RETRY_NODES };
        self.timers.insert((known.timer, ticket));
        queue.is_late(ticket);
        self.look = true;
        None
    }

    fn leave(&mut self, ticket: Ticket) -> Option<RequestView> {
        self.take(ticket, Queue::leave)
    }

    /// Takes it out of its queue, by `how` it leaves.
    fn take(
        &mut self,
        ticket: Ticket,
        how: impl FnOnce(&mut Queue, Ticket) -> Option<Waiting>,
    ) -> Option<RequestView> {
        let Known { model, timer } = self.tickets.remove(&ticket)?;
        self.timers.remove(&(timer, ticket));
        let queue = self.queues.get_mut(&model)?;
        let waiting = how(queue, ticket)?;
        if queue.is_empty() {
            self.queues.remove(&model);
        }
        Some(waiting.request)
    }
}

/// When it can't be in time any more, or has waited too long.
fn first_timer(request: &RequestView, compute: Duration, longest: Duration) -> Time {
    let within = request.slo.ttft.map_or(longest, |ttft| ttft.saturating_sub(compute));
    request.arrived + within.min(longest)
}

/// Nodes that failed the request are better than none; and who has begun, or goes with others that
/// have, waits for nodes when there are none.
fn verdict(
    config: &PolicyConfig,
    view: &ClusterView,
    request: &RequestView,
    now: Time,
    rng: &mut impl RngCore,
) -> Decision {
    let mut decision = decide(config, view, request, now, rng);
    if !matches!(decision, Decision::Place(_)) && !request.exclude.is_empty() {
        let request = RequestView { exclude: Vec::new(), ..request.clone() };
        decision = decide(config, view, &request, now, rng);
    }
    let no_nodes = |role| {
        let model = request.model.clone();
        Decision::Refuse(Refusal::NoNodes { model, role, retry_after: RETRY_NODES })
    };
    let is_patient = request.has_begun || request.waits_long();
    match decision {
        Decision::Queue(Shortage::Nodes { role }) if !is_patient => no_nodes(role),
        Decision::Refuse(Refusal::UnknownModel { .. }) if !is_patient => no_nodes(Role::Prefill),
        Decision::Refuse(Refusal::UnknownModel { .. }) => {
            Decision::Queue(Shortage::Nodes { role: Role::Prefill })
        }
        decision => decision,
    }
}
