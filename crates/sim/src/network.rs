//! Transfers that share bandwidth.
//!
//! A flow has bytes that are ready to leave (its backlog) and, while a prefill step computes more of
//! them, a rate at which they become so (its supply). One with a backlog takes as much bandwidth as
//! it gets, one without at most its supply. Each direction of each network card divides its bandwidth
//! so that nobody gets more than anybody who wants more has (water-filling); a flow runs at the
//! lesser of its two ends' shares. What an end can't use for the other's sake stays unused.

use std::time::Duration;

use baton_types::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowId(usize);

/// A flow's backlog may end then, unless its version has changed by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drain {
    pub(crate) flow: FlowId,
    pub(crate) version: u64,
    pub(crate) at: Time,
}

#[derive(Debug)]
pub(crate) struct Network {
    /// Bytes a second, of each node and direction.
    capacity: f64,
    flows: Vec<Option<Flow>>,
    free: Vec<usize>,
    /// Of nodes that send, then of those that receive.
    cards: [Vec<Card>; 2],
    versions: u64,
    drains: Vec<Drain>,
}

#[derive(Debug, Default)]
struct Card {
    flows: Vec<usize>,
    /// The most any of its flows gets.
    level: f64,
}

#[derive(Debug)]
struct Flow {
    from: usize,
    to: usize,
    at: Time,
    /// Bytes that were ready until `at`, and that have left.
    ready: f64,
    sent: f64,
    supply: f64,
    rate: f64,
    cut: bool,
    /// It never takes more.
    limit: f64,
    version: u64,
    /// Its backlog's end is still to be told.
    draining: bool,
}

impl Network {
    pub(crate) fn new(nodes: usize, capacity: f64) -> Self {
        let cards = || (0..nodes).map(|_| Card::default()).collect();
        Network {
            capacity,
            flows: Vec::new(),
            free: Vec::new(),
            cards: [cards(), cards()],
            versions: 0,
            drains: Vec::new(),
        }
    }

    /// A flow with nothing to send yet.
    pub(crate) fn open(&mut self, now: Time, from: usize, to: usize, cut: bool) -> FlowId {
        let flow = Flow {
            from,
            to,
            at: now,
            ready: 0.0,
            sent: 0.0,
            supply: 0.0,
            rate: 0.0,
            cut,
            limit: f64::INFINITY,
            version: 0,
            draining: false,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.flows.push(None);
            self.flows.len() - 1
        });
        self.flows[id] = Some(flow);
        self.cards[0][from].flows.push(id);
        self.cards[1][to].flows.push(id);
        FlowId(id)
    }

    pub(crate) fn close(&mut self, now: Time, id: FlowId) {
        let Some(Flow { from, to, .. }) = self.flows[id.0] else { return };
        self.advance_around(now, from, to);
        self.flows[id.0] = None;
        self.free.push(id.0);
        self.cards[0][from].flows.retain(|&flow| flow != id.0);
        self.cards[1][to].flows.retain(|&flow| flow != id.0);
        self.share(from, to);
    }

    /// `total` bytes of the flow are ready by now, and no more become so until told.
    pub(crate) fn ready(&mut self, now: Time, id: FlowId, total: f64) {
        self.change(now, id, |flow| {
            flow.ready = total.max(flow.sent);
            flow.supply = 0.0;
        });
    }

    /// From now on so many bytes a second become ready.
    pub(crate) fn supply(&mut self, now: Time, id: FlowId, supply: f64) {
        self.change(now, id, |flow| flow.supply = supply);
    }

    /// From now on it takes so many bytes a second at most.
    pub(crate) fn limit(&mut self, now: Time, id: FlowId, limit: f64) {
        self.change(now, id, |flow| flow.limit = limit);
    }

    /// Whether its link is cut.
    pub(crate) fn cut(&mut self, now: Time, id: FlowId, cut: bool) {
        self.change(now, id, |flow| flow.cut = cut);
    }

    /// A drain has come to its time: true if it still counts, and the backlog is gone.
    pub(crate) fn drained(&mut self, now: Time, drain: &Drain) -> bool {
        let Some(flow) = &self.flows[drain.flow.0] else { return false };
        if flow.version != drain.version {
            return false;
        }
        self.change(now, drain.flow, |flow| {
            flow.sent = flow.ready;
            flow.draining = false;
        });
        true
    }

    /// Bytes that have left by now.
    pub(crate) fn sent(&mut self, now: Time, id: FlowId) -> f64 {
        self.flows[id.0].as_mut().map_or(0.0, |flow| {
            flow.advance(now);
            flow.sent
        })
    }

    pub(crate) fn is_drained(&self, id: FlowId) -> bool {
        self.flows[id.0].as_ref().is_none_or(|flow| flow.backlog() == 0.0)
    }

    /// Drains that were predicted since the last time.
    pub(crate) fn poll_drain(&mut self) -> Option<Drain> {
        self.drains.pop()
    }

    fn change(&mut self, now: Time, id: FlowId, change: impl FnOnce(&mut Flow)) {
        let Some(Flow { from, to, .. }) = self.flows[id.0] else { return };
        self.advance_around(now, from, to);
        let Some(flow) = &mut self.flows[id.0] else { return };
        change(flow);
        flow.version = 0;
        self.share(from, to);
    }

    fn advance_around(&mut self, now: Time, from: usize, to: usize) {
        let Network { flows, cards, .. } = self;
        for &id in cards[0][from].flows.iter().chain(&cards[1][to].flows) {
            if let Some(flow) = &mut flows[id] {
                flow.advance(now);
            }
        }
    }

    /// Divides the bandwidth of two cards anew.
    fn share(&mut self, from: usize, to: usize) {
        for (side, node) in [(0, from), (1, to)] {
            let wants = self.cards[side][node].flows.iter();
            let wants = wants.filter_map(|&id| self.flows[id].as_ref()).map(Flow::want);
            self.cards[side][node].level = level(self.capacity, wants.collect());
        }
        let count = self.cards[0][from].flows.len();
        for index in 0..count + self.cards[1][to].flows.len() {
            let id = match index.checked_sub(count) {
                None => self.cards[0][from].flows[index],
                Some(index) => self.cards[1][to].flows[index],
            };
            let Some(flow) = &mut self.flows[id] else { continue };
            let level = self.cards[0][flow.from].level.min(self.cards[1][flow.to].level);
            let rate = flow.want().min(level);
            if rate == flow.rate && flow.version != 0 {
                continue;
            }
            flow.rate = rate;
            self.versions += 1;
            flow.version = self.versions;
            if let Some(at) = flow.drains_at() {
                flow.draining = true;
                self.drains.push(Drain { flow: FlowId(id), version: flow.version, at });
            }
        }
    }
}

impl Flow {
    fn backlog(&self) -> f64 {
        self.ready - self.sent
    }

    /// The bandwidth it could use.
    fn want(&self) -> f64 {
        if self.cut {
            0.0
        } else if self.backlog() > 0.0 {
            self.limit
        } else {
            self.supply.min(self.limit)
        }
    }

    fn advance(&mut self, now: Time) {
        let seconds = now.since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.ready += self.supply * seconds;
        self.sent = (self.sent + self.rate * seconds).min(self.ready);
    }

    fn drains_at(&self) -> Option<Time> {
        if self.backlog() <= 0.0 {
            // It ended while another flow was looked at, at the very same time.
            return self.draining.then_some(self.at);
        }
        let gain = self.rate - self.supply;
        if gain <= 0.0 {
            return None;
        }
        let nanos = (self.backlog() / gain * 1e9).ceil();
        Some(self.at + Duration::from_nanos(nanos as u64))
    }
}

/// The greatest share such that all together don't use more than `capacity`.
fn level(capacity: f64, mut wants: Vec<f64>) -> f64 {
    wants.retain(|&want| want > 0.0);
    wants.sort_by(f64::total_cmp);
    let (mut left, mut count) = (capacity, wants.len());
    for want in wants {
        let share = left / count as f64;
        if want >= share {
            return share;
        }
        left -= want;
        count -= 1;
    }
    capacity
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    /// Runs until nothing drains any more; who drained, and when, in milliseconds.
    fn run(network: &mut Network) -> Vec<(usize, u64)> {
        let (mut pending, mut seen): (Vec<Drain>, _) = (Vec::new(), Vec::new());
        loop {
            while let Some(drain) = network.poll_drain() {
                pending.push(drain);
            }
            pending.sort_by_key(|drain| std::cmp::Reverse(drain.at));
            let Some(drain) = pending.pop() else { return seen };
            if network.drained(drain.at, &drain) {
                seen.push((drain.flow.0, drain.at.as_nanos() / 1_000_000));
            }
        }
    }

    #[test]
    fn flows_share_the_card_they_meet_at() {
        // 1000 bytes a second: two flows into node 2 have 500 each until the short one ends.
        let mut network = Network::new(4, 1000.0);
        let short = network.open(at(0), 0, 2, false);
        let long = network.open(at(0), 1, 2, false);
        let alone = network.open(at(0), 3, 0, false);
        for (flow, bytes) in [(short, 100.0), (long, 300.0), (alone, 300.0)] {
            network.ready(at(0), flow, bytes);
        }
        assert_eq!(run(&mut network), [(0, 200), (2, 300), (1, 400)]);
    }

    #[test]
    fn flows_that_end_together_are_all_told_of() {
        let mut network = Network::new(4, 1000.0);
        for from in 0..3 {
            let flow = network.open(at(0), from, 3, false);
            network.ready(at(0), flow, 100.0);
        }
        let mut ends = run(&mut network);
        ends.sort_unstable();
        assert_eq!(ends, [(0, 300), (1, 300), (2, 300)]);
    }

    #[test]
    fn a_flow_without_backlog_takes_no_more_than_its_supply() {
        // 200 of 1000 bytes a second are supplied, so the other flow has 800.
        let mut network = Network::new(3, 1000.0);
        let (slow, fast) = (network.open(at(0), 0, 2, false), network.open(at(0), 1, 2, false));
        network.supply(at(0), slow, 200.0);
        network.ready(at(0), fast, 800.0);
        assert_eq!(run(&mut network), [(1, 1000)]);
        assert_eq!(network.sent(at(1000), slow), 200.0);
        assert!(network.is_drained(slow));
    }

    #[test]
    fn nothing_passes_a_cut_link() {
        let mut network = Network::new(2, 1000.0);
        let flow = network.open(at(0), 0, 1, true);
        network.ready(at(0), flow, 100.0);
        assert_eq!(run(&mut network), []);
        network.cut(at(500), flow, false);
        assert_eq!(run(&mut network), [(0, 600)]);
    }
}
