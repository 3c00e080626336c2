//! How transfers end before they are whole: offers that are gone, connections that break, cuts, and
//! nodes that die.

use baton_transfer_protocol::{StreamId, Transmit};
use baton_types::Generation;

use super::{
    Simulation,
    event::{Event, Failure, Moving, Streams, ToNode, Word},
    faults::Part,
    transfers::{Transfer, TransferId},
};
use crate::node::Node;

impl Simulation<'_> {
    /// The source has nothing for it any more, and says so.
    pub(super) fn offer_gone(&mut self, id: TransferId) {
        self.close_flow(id);
        self.break_at_sink(id);
    }

    /// Parked pulls whose patience ended.
    pub(super) fn nacks(&mut self, node: usize) {
        let parked = |transfer: &Transfer| {
            transfer.from == node && transfer.at_source && !transfer.prompt_done
        };
        for id in self.transfers.matching(parked) {
            let Some(transfer) = self.transfers.get(id) else { continue };
            let first = StreamId(transfer.streams.first);
            let source = &mut self.nodes[node].source;
            if source.pulled_by(first).is_none()
                && let Some(Transmit::Nack(_)) = source.poll_transmit(first)
            {
                self.break_at_sink(id);
            }
        }
    }

    /// A message was lost on its connections: both ends hear of it.
    pub(super) fn connections_broke(&mut self, id: TransferId) {
        self.close_flow(id);
        let Some(transfer) = self.transfers.get(id) else { return };
        let Transfer { from, from_generation, streams, .. } = *transfer;
        self.break_streams(from, from_generation, streams);
        self.break_at_sink(id);
    }

    pub(super) fn break_streams(&mut self, from: usize, generation: Generation, streams: Streams) {
        let at = self.now + self.links.latency;
        self.post(at, from, generation, ToNode::Abort { streams, broken: true });
    }

    fn break_at_sink(&mut self, id: TransferId) {
        let at = self.now + self.links.latency;
        self.queue.push(at, Event::PullBroken { transfer: id });
    }

    /// The sink's half ended badly: the router hears of it.
    pub(super) fn pull_failed(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let (to, key, epoch, grows) = (transfer.to, transfer.key, transfer.epoch, transfer.grows);
        if grows {
            self.abort_transfer(id);
            return self.not_pulled(to, Moving { key, attempt: epoch });
        }
        self.nodes[to].decodes.remove(&key);
        self.abort_transfer(id);
        self.say(to, key, epoch, Word::Failed(Failure::HandOver));
    }

    /// The sink gives up; its blocks go back, and the source is told.
    pub(super) fn abort_transfer(&mut self, id: TransferId) {
        let Some(transfer) = self.forget(id) else { return };
        let Transfer { from, from_generation, to, streams, at_source, began, .. } = transfer;
        drop(transfer.blocks);
        self.blocks_freed(to);
        if began {
            let at = self.links.deliver(self.now, Part::Node(to), Part::Node(from));
            let at = at.unwrap_or(self.now + self.links.latency);
            let broken = !at_source;
            self.post(at, from, from_generation, ToNode::Abort { streams, broken });
        }
    }

    /// Takes a transfer out; the next pull has its turn.
    pub(super) fn forget(&mut self, id: TransferId) -> Option<Transfer> {
        self.close_flow(id);
        let transfer = self.transfers.remove(id)?;
        let Transfer { from, to, key, epoch, began, grows, .. } = transfer;
        if grows {
            let moving = Moving { key, attempt: epoch };
            if let Some(offering) = self.nodes[from].offerings.get_mut(&moving) {
                offering.transfer = None;
            }
            if let Some(adoption) = self.nodes[to].adoptions.get_mut(&moving) {
                adoption.transfer = None;
            }
            return Some(transfer);
        }
        if let Some(prefill) = self.nodes[from].prefills.get_mut(&key)
            && prefill.transfer == Some(id)
        {
            prefill.transfer = None;
        }
        if began {
            self.nodes[to].pulls -= 1;
            while let Some(next) = self.nodes[to].pulls_waiting.pop_front() {
                if self.transfers.get(next).is_some() {
                    self.begin_pull(next);
                    break;
                }
            }
        }
        Some(transfer)
    }

    /// The sink has everything.
    pub(super) fn released(&mut self, node: usize, streams: Streams) {
        self.nodes[node].source.released(StreamId(streams.first));
        self.forget_streams(node, streams);
    }

    pub(super) fn aborted(&mut self, node: usize, streams: Streams, broken: bool) {
        if !broken {
            self.nodes[node].source.aborted(StreamId(streams.first));
        }
        self.forget_streams(node, streams);
    }

    fn forget_streams(&mut self, node: usize, streams: Streams) {
        let Node { source, .. } = &mut self.nodes[node];
        streams.ids().for_each(|(_, stream)| source.stream_lost(stream));
        self.offers_ended(node);
    }

    /// A node is gone. Transfers to it end there; those from it break, if anybody hears of it.
    pub(super) fn transfers_lost(&mut self, node: usize, silent: bool) {
        for id in self.transfers.matching(|transfer| transfer.to == node) {
            let Some(transfer) = self.forget(id) else { continue };
            let Transfer { from, from_generation, streams, at_source, .. } = transfer;
            if at_source && !silent {
                self.break_streams(from, from_generation, streams);
            }
        }
        for id in self.transfers.matching(|transfer| transfer.from == node) {
            self.close_flow(id);
            if !silent {
                self.break_at_sink(id);
            }
        }
    }

    /// A link was cut or joined again.
    pub(super) fn flows_cut(&mut self, one: usize, other: usize, cut: bool) {
        let between = |transfer: &Transfer| {
            [(one, other), (other, one)].contains(&(transfer.from, transfer.to))
        };
        for id in self.transfers.matching(between) {
            let flow = self.transfers.get(id).and_then(|transfer| transfer.flow);
            if let Some(flow) = flow {
                self.network.cut(self.now, flow, cut);
            }
        }
    }
}
