//! The drivers of the page transfer: between the protocol's two machines lies the network.
//!
//! A sink grants credits for the pages that have arrived, as many as the network's fluid carried, so
//! that the source's machine sends each page, and the sink's checks each, no earlier than it came.

use std::time::Duration;

use baton_kv_cache::BlockRef;
use baton_transfer_protocol::{
    Ending, GROWING, PullRequest, Sink, SinkError, SinkSpec, StreamId, Transmit,
};
use baton_types::{Capability, Epoch, Generation, KvLayout, SequenceKey, SequenceSpec, Time};

use super::{
    Simulation,
    decode::Imported,
    event::{Event, Moving, Source, Streams, ToNode},
    faults::Part,
};
use crate::{
    Map,
    network::{Drain, FlowId},
    node::Step,
    scenario::seconds,
};

/// One transfer; a slot used again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransferId {
    slot: usize,
    number: u64,
}

#[derive(Debug, Default)]
pub(super) struct Transfers {
    slots: Vec<Option<Transfer>>,
    free: Vec<usize>,
    by_capability: Map<Capability, TransferId>,
    by_flow: Map<FlowId, TransferId>,
    opened: u64,
    next_stream: u64,
}

#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) number: u64,
    pub(super) key: SequenceKey,
    pub(super) epoch: Epoch,
    pub(super) from: usize,
    pub(super) from_generation: Generation,
    pub(super) to: usize,
    pub(super) capability: Capability,
    pub(super) spec: SequenceSpec,
    /// The sequence's whole table at the sink.
    pub(super) blocks: Vec<BlockRef>,
    pub(super) skip_blocks: u32,
    /// The sequence runs while its pages are pulled.
    pub(super) grows: bool,
    pub(super) sink: Sink,
    pub(super) streams: Streams,
    /// It has its turn among the sink's pulls,
    pub(super) began: bool,
    /// and the source has heard of it.
    pub(super) at_source: bool,
    pub(super) flow: Option<FlowId>,
    pub(super) prompt_done: bool,
    pub(super) first_at: Option<Time>,
    /// Bytes that had left when the sink last looked.
    pub(super) seen: f64,
}

impl Transfers {
    fn insert(&mut self, transfer: Transfer) -> TransferId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let id = TransferId { slot, number: transfer.number };
        self.by_capability.insert(transfer.capability, id);
        self.slots[slot] = Some(transfer);
        id
    }

    pub(super) fn get(&mut self, id: TransferId) -> Option<&mut Transfer> {
        self.slots[id.slot].as_mut().filter(|transfer| transfer.number == id.number)
    }

    pub(super) fn remove(&mut self, id: TransferId) -> Option<Transfer> {
        self.get(id)?;
        self.free.push(id.slot);
        let transfer = self.slots[id.slot].take()?;
        self.by_capability.remove(&transfer.capability);
        if let Some(flow) = transfer.flow {
            self.by_flow.remove(&flow);
        }
        Some(transfer)
    }

    /// The transfer under this capability, if its source has heard of it.
    pub(super) fn parked(&mut self, capability: Capability) -> Option<TransferId> {
        let id = *self.by_capability.get(&capability)?;
        self.get(id).filter(|transfer| transfer.at_source).map(|_| id)
    }

    /// Those that match, in order of their slots.
    pub(super) fn matching(&self, is: impl Fn(&Transfer) -> bool) -> Vec<TransferId> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter_map(|(slot, transfer)| {
                let transfer = transfer.as_ref().filter(|transfer| is(transfer))?;
                Some(TransferId { slot, number: transfer.number })
            })
            .collect()
    }
}

impl Transfer {
    /// Bytes that may have left once `done` tokens are final.
    fn bytes_ready(&self, layout: &KvLayout, done: u32) -> f64 {
        let tokens = self.spec.tokens.len() as u32;
        let blocks = if done >= tokens {
            tokens.div_ceil(layout.block_tokens)
        } else {
            done / layout.block_tokens
        };
        f64::from(blocks.saturating_sub(self.skip_blocks)) * layout.block_bytes() as f64
    }
}

impl Simulation<'_> {
    /// The sink's side, with its blocks reserved.
    pub(super) fn open_transfer(
        &mut self,
        to: usize,
        spec: SequenceSpec,
        source: Source,
        (blocks, skip_blocks): (Vec<BlockRef>, u32),
        grows: bool,
    ) -> TransferId {
        let layout = self.scenario.cluster.model.layout();
        let config = &self.scenario.cluster.transfer;
        let count = config.streams.clamp(1, layout.layers);
        let mut sink = Sink::new(SinkSpec {
            layout,
            tokens: if grows { GROWING } else { spec.tokens.len() as u32 },
            skip_blocks,
            streams: count,
            silence: seconds(config.silence_s),
        });
        sink.extend(blocks.len() as u32);
        let streams = Streams { first: self.transfers.next_stream, count };
        self.transfers.next_stream += u64::from(count);
        self.transfers.opened += 1;
        self.transfers.insert(Transfer {
            number: self.transfers.opened,
            key: spec.key,
            epoch: spec.epoch,
            from: source.node,
            from_generation: source.generation,
            to,
            capability: source.capability,
            spec,
            blocks,
            skip_blocks,
            grows,
            sink,
            streams,
            began: false,
            at_source: false,
            flow: None,
            prompt_done: false,
            first_at: None,
            seen: 0.0,
        })
    }

    pub(super) fn begin_pull(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(id) else { return };
        transfer.began = true;
        let (from, to, generation) = (transfer.from, transfer.to, transfer.from_generation);
        if !transfer.grows {
            self.nodes[to].pulls += 1;
        }
        match self.links.deliver(self.now, Part::Node(to), Part::Node(from)) {
            Some(at) => self.post(at, from, generation, ToNode::Pull { transfer: id }),
            None => self.connections_broke(id),
        }
    }

    /// A pull comes to the source.
    pub(super) fn pull(&mut self, id: TransferId) {
        let now = self.now;
        let Some(transfer) = self.transfers.get(id) else { return };
        transfer.at_source = true;
        let source = &mut self.nodes[transfer.from].source;
        for (index, stream) in transfer.streams.ids() {
            source.stream_opened(stream);
            let request = PullRequest {
                key: transfer.key,
                epoch: transfer.epoch,
                capability: transfer.capability,
                tokens: if transfer.grows { GROWING } else { transfer.spec.tokens.len() as u32 },
                first_layer: index,
                stride: transfer.streams.count,
                skip_blocks: transfer.skip_blocks,
                credits: 0,
            };
            source.pull(now, stream, request);
            source.extended(stream, transfer.blocks.len() as u32);
        }
        let (from, first) = (transfer.from, StreamId(transfer.streams.first));
        if source.pulled_by(first).is_some() {
            self.begin_flow(id);
        } else if let Some(Transmit::Nack(_)) = source.poll_transmit(first) {
            self.connections_broke(id);
        } else {
            self.watch_source(from);
        }
    }

    /// Offer and pull have met.
    pub(super) fn begin_flow(&mut self, id: TransferId) {
        let (now, layout) = (self.now, self.scenario.cluster.model.layout());
        let Some(transfer) = self.transfers.get(id) else { return };
        let (from, to, key) = (transfer.from, transfer.to, transfer.key);
        let cut = self.links.is_cut(Part::Node(from), Part::Node(to));
        let flow = self.network.open(now, from, to, cut);
        transfer.flow = Some(flow);
        if transfer.grows {
            self.transfers.by_flow.insert(flow, id);
            return self.begin_growing(id);
        }
        let Some(prefill) = self.nodes[from].prefills.get_mut(&key) else { return };
        prefill.transfer = Some(id);
        let (done, held) = (prefill.done, prefill.held);
        let ready = transfer.bytes_ready(&layout, done);
        self.transfers.by_flow.insert(flow, id);
        self.network.ready(now, flow, ready);
        if held {
            return self.prompt_done(id);
        }
        let followed = self.nodes[from].followed.iter().find(|followed| followed.key == key);
        if let (Some(followed), Some(step)) = (followed, self.nodes[from].step) {
            self.expect_supply(id, step, followed.after);
        }
    }

    /// A step begins: its layers will be done one after the other.
    pub(super) fn follow_step(&mut self, node: usize) {
        let Some(step) = self.nodes[node].step else { return };
        for index in 0..self.nodes[node].followed.len() {
            let followed = self.nodes[node].followed[index];
            let prefill = self.nodes[node].prefills.get(&followed.key);
            if let Some(transfer) = prefill.and_then(|prefill| prefill.transfer) {
                self.expect_supply(transfer, step, followed.after);
            }
        }
    }

    fn expect_supply(&mut self, id: TransferId, step: Step, after: u32) {
        let layout = self.scenario.cluster.model.layout();
        let Some(transfer) = self.transfers.get(id) else { return };
        let Some(flow) = transfer.flow else { return };
        let Some(prefill) = self.nodes[transfer.from].prefills.get(&transfer.key) else { return };
        let before = transfer.bytes_ready(&layout, prefill.done);
        let gained = transfer.bytes_ready(&layout, after) - before;
        let Step { number, started, duration, .. } = step;
        if gained <= 0.0 || duration.is_zero() || layout.layers < 2 {
            return;
        }
        let bytes_per_second = gained / duration.as_secs_f64();
        let first_layer = started + duration / layout.layers;
        if first_layer > self.now {
            let supply = Event::Supply { transfer: id, step: number, bytes_per_second };
            return self.queue.push(first_layer, supply);
        }
        // The pull came in the middle of the step.
        let made = bytes_per_second * self.now.since(first_layer).as_secs_f64();
        self.network.ready(self.now, flow, before + made);
        self.network.supply(self.now, flow, bytes_per_second);
    }

    pub(super) fn supply(&mut self, id: TransferId, step: u64, bytes_per_second: f64) {
        let Some(transfer) = self.transfers.get(id) else { return };
        let same = self.nodes[transfer.from].step.is_some_and(|current| current.number == step);
        if let Some(flow) = transfer.flow.filter(|_| same) {
            self.network.supply(self.now, flow, bytes_per_second);
        }
    }

    /// A step ended: all layers of what it computed are final.
    pub(super) fn pages_ready(&mut self, id: TransferId) {
        let layout = self.scenario.cluster.model.layout();
        let Some(transfer) = self.transfers.get(id) else { return };
        let Some(flow) = transfer.flow else { return };
        let Some(prefill) = self.nodes[transfer.from].prefills.get(&transfer.key) else { return };
        self.network.ready(self.now, flow, transfer.bytes_ready(&layout, prefill.done));
    }

    /// The whole prompt is computed: the first token is on its way.
    pub(super) fn prompt_done(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(id) else { return };
        transfer.prompt_done = true;
        let (from, to, flow) = (transfer.from, transfer.to, transfer.flow);
        match self.links.deliver(self.now, Part::Node(from), Part::Node(to)) {
            Some(at) => self.queue.push(at, Event::FirstAtSink { transfer: id }),
            None => return self.connections_broke(id),
        }
        if flow.is_some_and(|flow| self.network.is_drained(flow)) {
            self.all_sent(id);
        }
    }

    pub(super) fn drained(&mut self, drain: &Drain) {
        if !self.network.drained(self.now, drain) {
            return;
        }
        let Some(&id) = self.transfers.by_flow.get(&drain.flow) else { return };
        let Some(&mut Transfer { prompt_done, grows, .. }) = self.transfers.get(id) else { return };
        if prompt_done {
            self.all_sent(id);
        } else if grows {
            self.growth_sent(id);
        }
    }

    fn all_sent(&mut self, id: TransferId) {
        self.close_flow(id);
        let Some(transfer) = self.transfers.get(id) else { return };
        let (from, to) = (Part::Node(transfer.from), Part::Node(transfer.to));
        match self.links.deliver(self.now, from, to) {
            Some(at) => self.queue.push(at, Event::LastPage { transfer: id }),
            None => self.connections_broke(id),
        }
    }

    pub(super) fn close_flow(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(id) else { return };
        if let Some(flow) = transfer.flow.take() {
            self.network.close(self.now, flow);
            self.transfers.by_flow.remove(&flow);
        }
    }

    pub(super) fn first_at_sink(&mut self, id: TransferId) {
        let now = self.now;
        if self.pump(id, 0).is_err() {
            return self.pull_failed(id);
        }
        let Some(transfer) = self.transfers.get(id) else { return };
        transfer.first_at = Some(now);
        if let Some(at) = transfer.sink.poll_timeout() {
            self.queue.push(at, Event::SinkTimer { transfer: id });
        }
    }

    pub(super) fn last_page(&mut self, id: TransferId) {
        let missing = u32::MAX;
        let complete = self.pump(id, missing).is_ok();
        let Some(transfer) = self.transfers.get(id) else { return };
        let Some((ending, _)) = transfer.sink.complete().filter(|_| complete) else {
            return self.pull_failed(id);
        };
        let exposed = self.now - transfer.first_at.unwrap_or(self.now);
        let block_tokens = self.scenario.cluster.model.block_tokens;
        let Some(transfer) = self.forget(id) else { return };
        let Transfer { from, from_generation, to, streams, spec, blocks, .. } = transfer;
        match self.links.deliver(self.now, Part::Node(to), Part::Node(from)) {
            Some(at) => self.post(at, from, from_generation, ToNode::Release { streams }),
            None => self.break_streams(from, from_generation, streams),
        }
        let first = match ending {
            Ending::First(first) => first,
            Ending::Last { tokens } => {
                let cached_tokens = transfer.skip_blocks * block_tokens;
                let moving = Moving { key: spec.key, attempt: spec.epoch };
                return self.pulled(to, moving, blocks, tokens, cached_tokens);
            }
        };
        let tokens = spec.tokens.len() as u32;
        let cached_tokens = (transfer.skip_blocks * block_tokens).min(tokens);
        let imported = Imported { spec, blocks, cached_tokens, first: first.token, exposed };
        self.imported(to, imported);
    }

    /// Lets `pages` more pages pass from the source's machine to the sink's, and the first token.
    pub(super) fn pump(&mut self, id: TransferId, pages: u32) -> Result<(), SinkError> {
        let now = self.now;
        let Some(transfer) = self.transfers.get(id) else { return Ok(()) };
        let source = &mut self.nodes[transfer.from].source;
        let streams = transfer.streams;
        for (index, stream) in streams.ids() {
            if pages > 0 {
                source.credit(now, stream, pages.div_ceil(streams.count));
            }
            while let Some(transmit) = source.poll_transmit(stream) {
                match transmit {
                    Transmit::Nack(reason) => return Err(SinkError::Nack(reason)),
                    Transmit::Ending(ending) => transfer.sink.ending(now, index, ending)?,
                    Transmit::Pages { layer, first_block, count, .. } => {
                        (self.run.layer, self.run.first_block) = (layer, first_block);
                        self.run.checksums.resize(count as usize, 0);
                        transfer.sink.expect(now, index, &self.run)?;
                        for _ in 0..count {
                            transfer.sink.arrived(now, layer, 0, 0)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Pages that the network has carried since the sink last looked are credited.
    pub(super) fn credit(&mut self, id: TransferId) -> bool {
        let page = self.scenario.cluster.model.layout().page_bytes() as f64;
        let Some(transfer) = self.transfers.get(id) else { return false };
        let Some(flow) = transfer.flow else { return false };
        let sent = self.network.sent(self.now, flow);
        let pages = ((sent - transfer.seen) / page + 1e-6) as u32;
        transfer.seen += f64::from(pages) * page;
        pages > 0 && self.pump(id, pages).is_ok()
    }

    /// Before leases are judged: a slow link isn't a puller that went away.
    pub(super) fn credit_flows(&mut self, node: usize) {
        for id in self.transfers.matching(|transfer| transfer.from == node) {
            self.credit(id);
        }
    }

    pub(super) fn sink_timer(&mut self, id: TransferId) {
        self.credit(id);
        let now = self.now;
        let Some(transfer) = self.transfers.get(id) else { return };
        if transfer.sink.handle_timeout(now).is_err() {
            return self.pull_failed(id);
        }
        if let Some(at) = transfer.sink.poll_timeout() {
            let at = at.max(now + Duration::from_nanos(1));
            self.queue.push(at, Event::SinkTimer { transfer: id });
        }
    }
}
