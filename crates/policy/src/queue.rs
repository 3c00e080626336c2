//! Who waits for a place, and whose turn is next.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use baton_types::Time;

use crate::{Class, RequestView, Service, Ticket, lane::Lane, share::Had};

/// A place in line: the lesser goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) level: Level,
    /// Too late, and served all the same.
    pub(crate) late: bool,
    /// When its prompt must be begun to be in time.
    pub(crate) latest: Time,
    pub(crate) ticket: Ticket,
}

/// Whose turn comes before any of others': by class alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Their clients have tokens already and wait for the next.
    Begun,
    /// Of this priority.
    Interactive(Reverse<u8>),
    Batch(Reverse<u8>),
}

/// One that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) request: RequestView,
    /// How long its prompt takes, with nobody else there.
    pub(crate) compute: Duration,
    /// What its tenant will have had more when it is served.
    pub(crate) cost: Had,
}

/// The requests for one model that wait: by level, least slack first.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) waiting: BTreeMap<Rank, Waiting>,
    by_ticket: BTreeMap<Ticket, Rank>,
    pub(crate) lanes: BTreeMap<Level, Lane>,
    /// Those that can't all be in time and give way to the others; see [`Queue::sacrifice`].
    pub(crate) given_way: BTreeSet<Rank>,
}

impl Level {
    fn of(request: &RequestView) -> Self {
        let Class { priority, service, .. } = request.class;
        match service {
            _ if request.has_begun => Level::Begun,
            Service::Interactive => Level::Interactive(Reverse(priority)),
            Service::Batch => Level::Batch(Reverse(priority)),
        }
    }

    fn first(self) -> Rank {
        Rank { level: self, late: false, latest: Time::ZERO, ticket: Ticket(0) }
    }
}

impl Queue {
    /// `longest`: how long somebody waits who has no objective. `service`: nodes' time it takes.
    pub(crate) fn enter(
        &mut self,
        ticket: Ticket,
        mut request: RequestView,
        compute: Duration,
        service: Duration,
        longest: Duration,
    ) {
        let level = Level::of(&request);
        request.tenant = level.tenant(&request.tenant);
        let within = request.slo.ttft.map_or(longest, |ttft| ttft.saturating_sub(compute));
        let latest = match request.next_due {
            Some(due) if level == Level::Begun => {
                Time::ZERO + due.since(Time::ZERO).saturating_sub(compute)
            }
            _ => request.arrived + within,
        };
        let rank = Rank { level, late: false, latest, ticket };
        let cost = Had::of(service, request.tenant.share);
        self.by_ticket.insert(ticket, rank);
        self.lanes.entry(level).or_default().enter(&request.tenant, rank);
        self.waiting.insert(rank, Waiting { request, compute, cost });
    }

    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<Waiting> {
        let rank = self.by_ticket.remove(&ticket)?;
        self.given_way.remove(&rank);
        let waiting = self.waiting.remove(&rank)?;
        if let Some(lane) = self.lanes.get_mut(&rank.level) {
            lane.leave(&waiting.request.tenant.id, rank);
            if lane.is_empty() {
                self.lanes.remove(&rank.level);
            }
        }
        Some(waiting)
    }

    /// It leaves because it is served: its tenant has had so much more.
    pub(crate) fn serve(&mut self, ticket: Ticket) -> Option<Waiting> {
        let rank = self.by_ticket.get(&ticket)?;
        let Waiting { request, cost, .. } = self.waiting.get(rank)?;
        if let Some(lane) = self.lanes.get_mut(&rank.level) {
            lane.shares.charge(&request.tenant.id, *cost);
        }
        self.leave(ticket)
    }

    pub(crate) fn get(&self, ticket: Ticket) -> Option<&Waiting> {
        self.waiting.get(self.by_ticket.get(&ticket)?)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Those that are before a newcomer, as if each tenant had as many for its share as its own.
    pub(crate) fn before(&self, request: &RequestView) -> usize {
        let level = Level::of(request);
        let higher = self.lanes.range(..level).map(|(_, lane)| lane.len());
        let equal = self.lanes.get(&level).map_or(0, |lane| lane.shares.before(&request.tenant));
        higher.sum::<usize>() + equal
    }

    /// It can't be in time any more: whoever can goes before it.
    pub(crate) fn is_late(&mut self, ticket: Ticket) {
        let Some(rank) = self.by_ticket.get_mut(&ticket) else { return };
        if rank.late || !matches!(rank.level, Level::Interactive(_)) {
            return;
        }
        let before = *rank;
        rank.late = true;
        self.given_way.remove(&before);
        if let Some(mut waiting) = self.waiting.remove(&before) {
            waiting.request.gives_way = false;
            if let Some(lane) = self.lanes.get_mut(&rank.level) {
                lane.moved(&waiting.request.tenant.id, before, *rank);
            }
            self.waiting.insert(*rank, waiting);
        }
    }

    /// In whose order to look, level by level.
    pub(crate) fn order(&self) -> impl Iterator<Item = (Ticket, &Waiting)> {
        let ranks = self.lanes.iter().flat_map(|(level, lane)| self.order_of(*level, lane));
        ranks.filter_map(|rank| Some((rank.ticket, self.waiting.get(&rank)?)))
    }

    /// Those with an objective that they can meet by when they are due, whosever they are: all can be
    /// in time. Between them those without one, then those that give way and those that are late,
    /// each of the two by what their tenants have had.
    fn order_of<'a>(&'a self, level: Level, lane: &'a Lane) -> impl Iterator<Item = Rank> + 'a {
        let cost = |rank: &Rank| self.waiting.get(rank).map_or(Had::default(), |one| one.cost);
        let aims =
            |rank: &Rank| self.waiting.get(rank).is_some_and(|one| one.request.slo.ttft.is_some());
        let gives_way = |rank: &Rank| self.given_way.contains(rank);
        let mut plain = lane.turns(move |rank| !rank.late && !aims(rank), cost).peekable();
        // Seldom asked for.
        let rest = move || lane.turns(move |rank| rank.late || gives_way(rank), cost);
        let mut aiming = self
            .waiting
            .range(level.first()..)
            .take_while(move |(rank, _)| rank.level == level && !rank.late)
            .filter(move |(rank, one)| one.request.slo.ttft.is_some() && !gives_way(rank))
            .peekable();
        // Whether some miss their objectives in any case.
        let is_short = self.given_way.range(level.first()..).any(|rank| rank.level == level);
        let firsts = std::iter::from_fn(move || {
            let Some((due, one)) = aiming.peek() else { return Some(plain.next()?.rank) };
            let tenant = &one.request.tenant.id;
            let goes_first = |turn: &crate::lane::Turn<'_>| {
                let is_behind = turn.tenant != tenant && turn.after <= lane.shares.had(tenant);
                turn.rank < **due || is_short && is_behind
            };
            match plain.next_if(goes_first) {
                Some(turn) => Some(turn.rank),
                None => aiming.next().map(|(rank, _)| *rank),
            }
        });
        firsts.chain(std::iter::once_with(rest).flatten().map(|turn| turn.rank))
    }
}

#[cfg(test)]
mod tests;
