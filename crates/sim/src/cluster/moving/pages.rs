//! The pages of sequences that run: offered as they become full, the rest when it has left the batch.
//!
//! While a sequence runs, its pages take a share of the network card at most; that there is room for more of
//! them is known at once at the source, which in the binaries takes a message.

use baton_types::blocks_for;

use super::super::{Simulation, TransferId, event::Moving, transfers::Transfer};
use crate::node::Node;

impl Simulation<'_> {
    /// So many tokens are final, of one that runs on.
    pub(super) fn grow(&mut self, node: usize, moving: Moving, tokens: u32) {
        let Node { source, offerings, .. } = &mut self.nodes[node];
        let Some(offering) = offerings.get_mut(&moving) else { return };
        offering.offered = tokens;
        if let Some(offer) = offering.offer {
            source.grown(offer, tokens);
        }
        if let Some(transfer) = offering.transfer {
            self.growth_ready(transfer);
        }
    }

    /// It runs no more, with so many tokens.
    pub(super) fn grow_last(&mut self, node: usize, moving: Moving, tokens: u32) {
        let now = self.now;
        let Node { source, offerings, .. } = &mut self.nodes[node];
        let Some(offering) = offerings.get_mut(&moving) else { return };
        (offering.offered, offering.is_last) = (tokens, true);
        if let Some(offer) = offering.offer {
            source.last(now, offer, tokens);
        }
        let transfer = offering.transfer;
        self.watch_source(node);
        let Some(id) = transfer else { return };
        if let Some(&mut Transfer { flow: Some(flow), .. }) = self.transfers.get(id) {
            self.network.limit(now, flow, f64::INFINITY);
        }
        self.growth_ready(id);
        self.prompt_done(id);
    }

    /// The puller is there.
    pub(in super::super) fn begin_growing(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let (from, moving, flow) = (transfer.from, transfer.moving(), transfer.flow);
        let Some(offering) = self.nodes[from].offerings.get_mut(&moving) else { return };
        offering.transfer = Some(id);
        if let Some(flow) = flow {
            let config = &self.scenario.cluster;
            let limit = config.network.bytes_per_second * config.transfer.migration_share;
            self.network.limit(self.now, flow, limit);
        }
        self.growth_ready(id);
    }

    /// Bytes of what is offered may leave.
    fn growth_ready(&mut self, id: TransferId) {
        let layout = self.scenario.cluster.model.layout();
        let Some(transfer) = self.transfers.get(id) else { return };
        let (from, skip, flow) = (transfer.from, transfer.skip_blocks, transfer.flow);
        let moving = transfer.moving();
        let Some(offering) = self.nodes[from].offerings.get(&moving) else { return };
        let is_last = offering.is_last;
        let blocks = match is_last {
            true => offering.offered.div_ceil(layout.block_tokens),
            false => offering.offered / layout.block_tokens,
        };
        if !self.make_room(id, blocks as usize) {
            return self.pull_failed(id);
        }
        let Some(flow) = flow else { return };
        let bytes = f64::from(blocks.saturating_sub(skip)) * layout.block_bytes() as f64;
        self.network.ready(self.now, flow, bytes);
        if !is_last && self.network.is_drained(flow) {
            self.growth_sent(id);
        }
    }

    /// The destination reserves before anything more is sent.
    fn make_room(&mut self, id: TransferId, blocks: usize) -> bool {
        let Some(transfer) = self.transfers.get(id) else { return false };
        let Transfer { from, to, spec, blocks: table, sink, streams, .. } = transfer;
        let most = blocks_for(spec.max_context(), self.scenario.cluster.model.block_tokens);
        // One more, for what is made meanwhile.
        let wanted = (blocks + 1).min(most).max(blocks);
        if table.len() >= blocks {
            return true;
        }
        let more = wanted - table.len();
        if self.nodes[*to].cache.reserve_into(more, table).is_err() {
            return false;
        }
        let room = table.len() as u32;
        sink.extend(room);
        for (_, stream) in streams.ids() {
            self.nodes[*from].source.extended(stream, room);
        }
        true
    }

    /// The network has carried all that was offered.
    pub(in super::super) fn growth_sent(&mut self, id: TransferId) {
        if self.pump(id, u32::MAX).is_err() {
            return self.pull_failed(id);
        }
        let Some(transfer) = self.transfers.get(id) else { return };
        let (from, moving) = (transfer.from, transfer.moving());
        self.growth_is_sent(from, moving);
    }
}

impl Transfer {
    /// Whose pages they are, where the sequence runs meanwhile.
    fn moving(&self) -> Moving {
        Moving { key: self.key, attempt: self.epoch }
    }
}
