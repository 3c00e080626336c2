//! The router's part: who owns a sequence, and what is said to both nodes.

use baton_migration::{Ended, FromDestination, FromSource, Order, ToDestination, ToSource};
use baton_policy::{ReservationId, destination};
use baton_types::{Capability, Epoch, NodeId, SequenceSpec};

use super::super::{
    Simulation,
    event::{Event, Failure, Moving, Source, ToNode},
    requests::{Live, key, tokens_of},
};
use crate::node::Work;

/// A sequence on its way.
#[derive(Debug)]
pub(in super::super) struct Migration {
    pub(in super::super) from: usize,
    pub(in super::super) to: usize,
    epoch: Epoch,
    /// That it runs under at its source.
    source_epoch: Epoch,
    /// At the destination.
    reservation: ReservationId,
    why: &'static str,
    spec: SequenceSpec,
    source: Source,
    /// The destination is the owner.
    pub(in super::super) granted: bool,
}

/// What a sequence holds at the node it has left.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Departure {
    pub(in super::super) node: usize,
    reservation: ReservationId,
}

/// Where an attempt was made, for what is still said of it.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Attempted {
    epoch: Epoch,
    from: usize,
    to: usize,
}

impl Simulation<'_> {
    /// Moves a sequence that is decoded elsewhere: to this node, or wherever it is best. Whether that could
    /// be begun.
    pub(in super::super) fn begin_to_move(
        &mut self,
        number: u64,
        wanted: Option<&NodeId>,
        why: &'static str,
    ) -> bool {
        let Some(live) = self.live.get(&number) else { return false };
        let Some(attempt) = &live.attempt else { return false };
        let Some(from) = attempt.decode.filter(|&node| self.nodes[node].work == Work::Decode)
        else {
            return false;
        };
        let is_decoding = attempt.prefilled && (attempt.joined || attempt.whole);
        if !is_decoding || attempt.finished || live.migration.is_some() {
            return false;
        }
        let old = attempt.reservation;
        let from_name = self.nodes[from].name.clone();
        let mut request = self.view_of(live);
        request.exclude = vec![from_name.clone()];
        let view = self.placer.view();
        let Some(group) = view.decode.iter().find(|view| view.node == from_name) else {
            return false;
        };
        let group = group.group.clone();
        let config = self.placer.config();
        let Ok(there) = destination(config, view, &request, &group, wanted, self.now) else {
            return false;
        };
        let Some(to) = there.path.decode().and_then(|to| self.by_name.get(&to.node).copied())
        else {
            return false;
        };
        let model = self.scenario.cluster.model;
        let Some(live) = self.live.get_mut(&number) else { return false };
        let source_epoch = live.epoch();
        let Ok(epoch) = live.arbiter.begin(self.now) else { return false };
        let reservation = self.placer.view_mut().reserve_move(old, &request, &there, self.now);
        let capability = Capability(u128::from(number) << 64 | u128::from(epoch.counter));
        let mut spec = self.spec_of(number, model.vocab);
        spec.epoch = epoch;
        let generation = self.nodes[from].generation;
        let source = Source { node: from, generation, capability };
        let migration = Migration {
            from,
            to,
            epoch,
            source_epoch,
            reservation,
            why,
            spec,
            source,
            granted: false,
        };
        let Some(live) = self.live.get_mut(&number) else { return false };
        live.migration = Some(Box::new(migration));
        live.attempted.push(Attempted { epoch, from, to });
        self.obey(number);
        true
    }

    pub(in super::super) fn arbiter_timer(&mut self, number: u64) {
        let now = self.now;
        let Some(live) = self.live.get_mut(&number) else { return };
        if live.timer == Some(now) {
            live.timer = None;
            live.arbiter.handle_timeout(now);
            self.obey(number);
        }
    }

    pub(in super::super) fn heard_source(&mut self, node: usize, moving: Moving, said: FromSource) {
        let (number, now) = (moving.key.request.0 as u64, self.now);
        let Some(live) = self.live.get_mut(&number) else {
            if matches!(said, FromSource::Frozen { .. }) {
                let word = ToSource::Release;
                self.tell_node(node, &ToNode::SourceWord { moving, word });
            }
            return;
        };
        let is_current = live.arbiter.attempt() == Some(moving.attempt);
        match said {
            // Its last tokens are on their way yet; it says so again.
            FromSource::Frozen { tokens }
                if is_current && live.request.prompt.len() + live.emitted != tokens =>
            {
                return;
            }
            // How the sequence ended there, its stream tells.
            FromSource::Gone if is_current && !live.is_granted() => live.arbiter.give_up(),
            said => live.arbiter.from_source(now, moving.attempt, said),
        }
        self.obey(number);
    }

    pub(in super::super) fn heard_destination(
        &mut self,
        node: usize,
        moving: Moving,
        said: FromDestination,
    ) {
        let (number, now) = (moving.key.request.0 as u64, self.now);
        let Some(live) = self.live.get_mut(&number) else {
            if said != FromDestination::Gone {
                let (word, tokens) = (ToDestination::Drop, Vec::new());
                self.tell_node(node, &ToNode::DestinationWord { moving, word, tokens });
            }
            return;
        };
        live.arbiter.from_destination(now, moving.attempt, said);
        self.obey(number);
    }

    /// Does what the arbiter orders.
    pub(in super::super) fn obey(&mut self, number: u64) {
        while let Some(live) = self.live.get_mut(&number)
            && let Some(order) = live.arbiter.poll_order()
        {
            match order {
                Order::ToSource(epoch, word) => self.order_source(number, epoch, word),
                Order::ToDestination(epoch, word) => self.order_destination(number, epoch, word),
                Order::Ended(epoch, ended) => self.end_move(number, epoch, ended),
                Order::Replay => {
                    let decode = live.attempt.as_ref().and_then(|attempt| attempt.decode);
                    let nodes: Vec<usize> = decode.into_iter().collect();
                    self.attempt_failed(number, Failure::Node, &nodes);
                }
            }
        }
        let Some(live) = self.live.get_mut(&number) else { return };
        if let Some(at) = live.arbiter.poll_timeout()
            && live.timer.is_none_or(|timer| at < timer)
        {
            live.timer = Some(at);
            self.queue.push(at, Event::ArbiterTimer { number });
        }
    }

    fn order_source(&mut self, number: u64, epoch: Epoch, word: ToSource) {
        let Some(live) = self.live.get_mut(&number) else { return };
        let Some(&Attempted { from, .. }) = live.attempted(epoch) else { return };
        let moving = Moving { key: key(number), attempt: epoch };
        let message = match (word, &live.migration) {
            (ToSource::Offer, Some(migration)) => ToNode::Offer {
                moving,
                epoch: migration.source_epoch,
                capability: migration.source.capability,
            },
            (ToSource::Offer, None) => return,
            (word, _) => ToNode::SourceWord { moving, word },
        };
        if matches!(word, ToSource::Resume { .. }) {
            live.handing_over = false;
        }
        self.tell_node(from, &message);
    }

    fn order_destination(&mut self, number: u64, epoch: Epoch, word: ToDestination) {
        let vocab = self.scenario.cluster.model.vocab;
        let Some(live) = self.live.get_mut(&number) else { return };
        let Some(&Attempted { to, .. }) = live.attempted(epoch) else { return };
        let moving = Moving { key: key(number), attempt: epoch };
        let message = match (word, &mut live.migration) {
            (ToDestination::Prepare, Some(migration)) => {
                ToNode::Adopt { spec: migration.spec.clone(), source: migration.source }
            }
            (ToDestination::Prepare, None) => return,
            (ToDestination::Own, Some(migration)) => {
                let told = migration.spec.tokens.len();
                live.handing_over |= !std::mem::replace(&mut migration.granted, true);
                let tokens = tokens_of(live, vocab).split_off(told);
                ToNode::DestinationWord { moving, word, tokens }
            }
            (word, _) => ToNode::DestinationWord { moving, word, tokens: Vec::new() },
        };
        self.tell_node(to, &message);
    }

    /// A node has given up a sequence that it had.
    pub(in super::super) fn has_left(&mut self, moving: Moving) {
        if let Some(Departure { reservation, .. }) = self.departures.remove(&moving) {
            self.placer.view_mut().release(reservation);
        }
    }

    /// The node is gone.
    pub(in super::super) fn departures_over(&mut self, node: usize) {
        let gone = self.departures.extract_if(|_, departure| departure.node == node);
        let gone: Vec<Departure> = gone.map(|(_, departure)| departure).collect();
        for Departure { reservation, .. } in gone {
            self.placer.view_mut().release(reservation);
        }
    }

    fn end_move(&mut self, number: u64, epoch: Epoch, ended: Ended) {
        let Some(live) = self.live.get_mut(&number) else { return };
        let Some(migration) = live.migration.take_if(|migration| migration.epoch == epoch) else {
            return;
        };
        let Migration { from, to, reservation, why, .. } = *migration;
        let moving = Moving { key: key(number), attempt: epoch };
        let view = self.placer.view_mut();
        match (ended, &mut live.attempt) {
            (Ended::Moved, Some(attempt)) => {
                view.moved(attempt.reservation, reservation);
                let departure = Departure { node: from, reservation: attempt.reservation };
                if self.nodes[from].offerings.contains_key(&moving) {
                    self.departures.insert(moving, departure);
                } else {
                    view.release(departure.reservation);
                }
                (attempt.reservation, attempt.decode) = (reservation, Some(to));
                live.moves += 1;
                *self.moves.moved.entry(why).or_default() += 1;
            }
            _ => {
                view.release(reservation);
                // To be placed anew for no fault of its own isn't an attempt.
                live.attempts -= u32::from(ended == Ended::Bare);
                *self.moves.not_moved.entry(why).or_default() += 1;
            }
        }
    }
}

impl Live {
    /// Whose tokens count.
    pub(in super::super) fn epoch(&self) -> Epoch {
        self.arbiter.owner()
    }

    pub(in super::super) fn is_granted(&self) -> bool {
        self.migration.as_ref().is_some_and(|migration| migration.granted)
    }

    fn attempted(&self, epoch: Epoch) -> Option<&Attempted> {
        self.attempted.iter().find(|attempted| attempted.epoch == epoch)
    }
}
