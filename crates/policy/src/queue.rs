//! Who waits for a place, and whose turn is next.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use baton_types::Time;

use crate::{Priority, RequestView, Ticket};

/// A place in line: the lesser goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    tier: Tier,
    /// When its prompt must be begun to be in time.
    latest: Time,
    pub(crate) ticket: Ticket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// Its client has tokens already and waits for the next.
    Begun,
    InTime,
    /// Too late, and served all the same.
    Late,
    Batch,
}

/// One that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) request: RequestView,
    /// How long its prompt takes, with nobody else there.
    compute: Duration,
}

/// The requests for one model that wait: least slack first.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: BTreeMap<Rank, Waiting>,
    by_ticket: BTreeMap<Ticket, Rank>,
    /// Those that can't all be in time and give way to the others; see [`Queue::sacrifice`].
    given_way: BTreeSet<Rank>,
}

/// No more than these are looked at to see who is to give way.
const LOOK_AHEAD: usize = 512;

impl Queue {
    /// `longest`: how long somebody waits who has no objective.
    pub(crate) fn enter(
        &mut self,
        ticket: Ticket,
        request: RequestView,
        compute: Duration,
        longest: Duration,
    ) {
        let tier = match request.priority {
            _ if request.has_begun => Tier::Begun,
            Priority::Interactive => Tier::InTime,
            Priority::Batch => Tier::Batch,
        };
        let within = request.slo.ttft.map_or(longest, |ttft| ttft.saturating_sub(compute));
        let rank = Rank { tier, latest: request.arrived + within, ticket };
        self.by_ticket.insert(ticket, rank);
        self.waiting.insert(rank, Waiting { request, compute });
    }

    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<Waiting> {
        let rank = self.by_ticket.remove(&ticket)?;
        self.given_way.remove(&rank);
        self.waiting.remove(&rank)
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

    /// Those that go before a batch's.
    pub(crate) fn interactive(&self) -> usize {
        self.waiting
            .range(..Rank { tier: Tier::Batch, latest: Time::ZERO, ticket: Ticket(0) })
            .count()
    }

    /// It can't be in time any more: whoever can goes before it.
    pub(crate) fn is_late(&mut self, ticket: Ticket) {
        let Some(rank) = self.by_ticket.get_mut(&ticket) else { return };
        if rank.tier != Tier::InTime {
            return;
        }
        self.given_way.remove(rank);
        let waiting = self.waiting.remove(rank);
        rank.tier = Tier::Late;
        if let Some(mut waiting) = waiting {
            waiting.request.gives_way = false;
            self.waiting.insert(*rank, waiting);
        }
    }

    /// In whose order to look: those that give way after those they make room for.
    pub(crate) fn order(&self) -> impl Iterator<Item = (Ticket, &Waiting)> {
        let gives_way = |rank: &Rank| self.given_way.contains(rank);
        let first = self
            .waiting
            .iter()
            .filter(move |(rank, _)| rank.tier <= Tier::InTime && !gives_way(rank));
        let late = self
            .waiting
            .iter()
            .filter(move |(rank, _)| rank.tier > Tier::InTime || gives_way(rank));
        first.chain(late).map(|(rank, waiting)| (rank.ticket, waiting))
    }

    /// Says who gives way when not all can be in time: by Moore and Hodgson (1968), which leaves as
    /// many in time as one machine can. In order of their deadlines, whenever one would be late,
    /// the longest so far is taken out. `machines` of them work off what waits, and `backlog`: when
    /// each of it must be begun and how long it takes, the earliest first.
    pub(crate) fn sacrifice(&mut self, now: Time, backlog: &[(Time, Duration)], machines: u32) {
        for rank in std::mem::take(&mut self.given_way) {
            if let Some(waiting) = self.waiting.get_mut(&rank) {
                waiting.request.gives_way = false;
            }
        }
        let (mut end, mut kept) = (now, BinaryHeap::new());
        let mut backlog = backlog.iter().peekable();
        for (rank, waiting) in self.waiting.iter().take(LOOK_AHEAD) {
            if rank.tier != Tier::InTime || waiting.request.slo.ttft.is_none() {
                continue;
            }
            while let Some((_, left)) = backlog.next_if(|(latest, _)| *latest <= rank.latest) {
                end += *left / machines.max(1);
            }
            let share = waiting.compute / machines.max(1);
            // Of equals the later one.
            kept.push((share, *rank));
            end += share;
            let begins = end - (now + share);
            if now + begins > rank.latest
                && let Some((longest, rank)) = kept.pop()
            {
                end = now + (end - now).saturating_sub(longest);
                self.given_way.insert(rank);
            }
        }
        for rank in &self.given_way {
            if let Some(waiting) = self.waiting.get_mut(rank) {
                waiting.request.gives_way = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use baton_types::Slo;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn request(arrived: u32, ttft: Option<u32>) -> RequestView {
        RequestView {
            slo: Slo { ttft: ttft.map(|ttft| ttft * MS), tpot: None },
            arrived: Time::ZERO + arrived * MS,
            ..RequestView::new("m".into())
        }
    }

    fn order(queue: &Queue) -> Vec<u64> {
        queue.order().map(|(ticket, _)| ticket.0).collect()
    }

    #[test]
    fn least_slack_goes_first_and_late_and_batch_last() {
        let mut queue = Queue::default();
        let longest = Duration::from_secs(30);
        let batch = RequestView { priority: Priority::Batch, ..request(0, None) };
        let begun = RequestView { has_begun: true, ..request(9, Some(1)) };
        for (ticket, request, compute) in [
            (1, batch, 1),
            (2, request(0, None), 1),
            (3, request(0, Some(500)), 100),
            (4, request(5, Some(450)), 10),
            (5, request(1, Some(900)), 600),
            (6, begun, 1),
            (7, request(1, None), 1),
        ] {
            queue.enter(Ticket(ticket), request, compute * MS, longest);
        }
        assert_eq!(order(&queue), [6, 5, 3, 4, 2, 7, 1]);
        queue.is_late(Ticket(5));
        queue.is_late(Ticket(1));
        assert_eq!(order(&queue), [6, 3, 4, 2, 7, 5, 1]);
        assert_eq!(queue.interactive(), 6);
        assert!(queue.leave(Ticket(3)).is_some() && queue.leave(Ticket(3)).is_none());
        assert_eq!(order(&queue), [6, 4, 2, 7, 5, 1]);
    }

    #[test]
    fn the_longest_gives_way_when_not_all_can_be_in_time() {
        let mut queue = Queue::default();
        let longest = Duration::from_secs(30);
        for (ticket, ttft, compute) in [(1, 300, 250), (2, 310, 100), (3, 320, 100), (4, 330, 100)]
        {
            queue.enter(Ticket(ticket), request(0, Some(ttft)), compute * MS, longest);
        }
        assert_eq!(order(&queue)[0], 1, "it has the least slack");
        queue.sacrifice(Time::ZERO, &[], 1);
        assert_eq!(order(&queue), [2, 3, 4, 1]);
        queue.sacrifice(Time::ZERO, &[], 4);
        assert_eq!(order(&queue)[0], 1, "with four nodes all are in time");
        queue.sacrifice(Time::ZERO, &[(Time::ZERO, 150 * MS)], 1);
        let in_time = order(&queue).len() - queue.given_way.len();
        assert_eq!(in_time, 1, "after a backlog only one is: {:?}", queue.given_way);
    }
}
