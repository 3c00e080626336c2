//! The router's decisions: who is placed where, who waits, who is refused. The policy decides; here
//! is the line before it, as the router keeps it.

use std::collections::{BTreeMap, BTreeSet};

use baton_policy::{
    ClusterView, Decision, Placement, PolicyConfig, Refusal, RequestView, ReservationId, Shortage,
    decide,
};
use baton_types::{NodeId, Role, Time};
use rand_core::RngCore;

/// Numbers of requests, in order of arrival.
pub(crate) type Ticket = u64;

#[derive(Debug)]
pub(crate) enum Answer {
    Placed(ReservationId, Placement),
    Refused(Refusal),
}

/// Who works on a request.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// One computes the prompt; the other, if more than a token is wanted, decodes.
    Handed { prefill: NodeId, decode: Option<NodeId> },
}

pub(crate) fn route(placement: &Placement) -> Route {
    Route::Handed {
        prefill: placement.prefill.node.clone(),
        decode: placement.decode.as_ref().map(|placed| placed.node.clone()),
    }
}

#[derive(Debug)]
pub(crate) struct Placer {
    config: PolicyConfig,
    view: ClusterView,
    /// Came since the last poll.
    fresh: Vec<(Ticket, Entry)>,
    waiting: BTreeMap<Ticket, Entry>,
    deadlines: BTreeSet<(Time, Ticket)>,
    /// The view may let somebody in.
    changed: bool,
}

#[derive(Debug)]
struct Entry {
    request: RequestView,
    /// Whether to wait for nodes when there are none: not worth it for a request that has just
    /// come, and the only way for one that has begun.
    patient: bool,
}

impl Placer {
    pub(crate) fn new(config: PolicyConfig) -> Self {
        Placer {
            config,
            view: ClusterView::default(),
            fresh: Vec::new(),
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            changed: false,
        }
    }

    /// The view, to be changed: those in line look again.
    pub(crate) fn view(&mut self) -> &mut ClusterView {
        self.changed = true;
        &mut self.view
    }

    pub(crate) fn submit(&mut self, ticket: Ticket, request: RequestView, patient: bool) {
        self.fresh.push((ticket, Entry { request, patient }));
    }

    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        self.fresh.retain(|(fresh, _)| *fresh != ticket);
        if let Some(entry) = self.waiting.remove(&ticket) {
            self.deadlines.remove(&(self.deadline(&entry), ticket));
            self.changed = true;
        }
    }

    /// When to poll at the latest.
    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// The next request there is something to say about.
    pub(crate) fn poll(&mut self, now: Time, rng: &mut impl RngCore) -> Option<(Ticket, Answer)> {
        while !self.fresh.is_empty() {
            let (ticket, mut entry) = self.fresh.remove(0);
            let before = self.waiting.range(..ticket).count();
            entry.request.queued_before = if entry.patient { 0 } else { before };
            match self.ask(&mut entry, before == 0, now, rng) {
                Some(answer) => return Some((ticket, answer)),
                None => {
                    self.deadlines.insert((self.deadline(&entry), ticket));
                    self.waiting.insert(ticket, entry);
                }
            }
        }
        let late = self.deadlines.first().filter(|(deadline, _)| *deadline <= now);
        let late = late.map(|&(_, ticket)| ticket);
        let first = self.waiting.keys().next().copied().filter(|_| self.changed);
        for ticket in late.into_iter().chain(first) {
            let Some(mut entry) = self.waiting.remove(&ticket) else { continue };
            let is_first = self.waiting.range(..ticket).next().is_none();
            entry.request.queued_before = 0;
            let answer = self.ask(&mut entry, is_first, now, rng);
            let deadline = self.deadline(&entry);
            match answer {
                Some(answer) => {
                    self.deadlines.remove(&(deadline, ticket));
                    return Some((ticket, answer));
                }
                None => {
                    self.waiting.insert(ticket, entry);
                }
            }
        }
        self.changed = false;
        None
    }

    fn deadline(&self, entry: &Entry) -> Time {
        entry.request.arrived + self.config.max_queue_time
    }

    /// Asks the policy; nothing when the request is to wait.
    fn ask(
        &mut self,
        entry: &mut Entry,
        is_first: bool,
        now: Time,
        rng: &mut impl RngCore,
    ) -> Option<Answer> {
        let Entry { request, patient } = entry;
        let mut decision = decide(&self.config, &self.view, request, now, rng);
        if !matches!(decision, Decision::Place(_)) && !request.exclude.is_empty() {
            request.exclude.clear();
            decision = decide(&self.config, &self.view, request, now, rng);
        }
        match decision {
            Decision::Place(placement) if is_first => {
                let reservation = self.view.reserve(&placement);
                let node = self.view.nodes(Role::Prefill).iter();
                let group = node
                    .filter(|node| node.node == placement.prefill.node)
                    .map(|node| &node.group)
                    .next();
                let hashes = group.map_or(&[][..], |group| request.hashes_for(group)).to_vec();
                self.view.note_prefix(&placement, &hashes);
                Some(Answer::Placed(reservation, placement))
            }
            Decision::Queue(Shortage::Nodes { role }) if !*patient => {
                Some(Answer::Refused(no_nodes(request, role)))
            }
            Decision::Refuse(Refusal::UnknownModel { .. }) if !*patient => {
                Some(Answer::Refused(no_nodes(request, Role::Prefill)))
            }
            Decision::Place(_)
            | Decision::Queue(_)
            | Decision::Refuse(Refusal::UnknownModel { .. }) => self.wait(request, now),
            Decision::Refuse(refusal) => Some(Answer::Refused(refusal)),
        }
    }

    fn wait(&self, request: &RequestView, now: Time) -> Option<Answer> {
        let (waited, model) = (now - request.arrived, request.model.clone());
        let retry_after = RETRY_NODES;
        if waited >= self.config.max_queue_time {
            return Some(Answer::Refused(Refusal::WaitedTooLong { model, waited, retry_after }));
        }
        let queued = request.queued_before;
        (queued >= self.config.max_queued).then_some(Answer::Refused(Refusal::Full {
            model,
            queued,
            retry_after,
        }))
    }
}

/// When to look for nodes again.
const RETRY_NODES: std::time::Duration = std::time::Duration::from_secs(1);

fn no_nodes(request: &RequestView, role: Role) -> Refusal {
    Refusal::NoNodes { model: request.model.clone(), role, retry_after: RETRY_NODES }
}
