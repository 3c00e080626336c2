//! `Prefill.Run`: queued → prefilling → held → released, expired or aborted; as `baton-prefill-node`
//! does it.

use baton_scheduler::{Event as Said, Goal, Start, Submission};
use baton_transfer_protocol::{FirstToken, OfferSpec, Outcome, Source};
use baton_types::{Capability, Epoch, Generation, SequenceKey, SequenceSpec};

use super::{
    Simulation,
    event::{Event, Failure, Word},
};
use crate::node::{Command, Node, Prefill};

impl Simulation<'_> {
    pub(super) fn prefill_run(
        &mut self,
        node: usize,
        spec: SequenceSpec,
        capability: Option<Capability>,
    ) {
        let (key, epoch) = (spec.key, spec.epoch);
        if let Some(older) = self.nodes[node].prefills.get(&key).map(|older| older.epoch) {
            self.cancel_prefill(node, key, older);
        }
        let prefill = Prefill {
            epoch,
            capability,
            tokens: spec.tokens.len() as u32,
            arrived: self.now,
            admitted: None,
            cached_tokens: 0,
            done: 0,
            offer: None,
            offered: Vec::new(),
            first: None,
            held: false,
            transfer: None,
        };
        self.nodes[node].prefills.insert(key, prefill);
        let submission =
            Submission { spec, start: Start::Tokens, goal: Goal::FirstToken, constraint: None };
        self.mail(node, Command::Submit(Box::new(submission)));
    }

    /// The router dropped its stream: the sequence is cancelled, the offer withdrawn, the blocks go
    /// back.
    pub(super) fn cancel_prefill(&mut self, node: usize, key: SequenceKey, epoch: Epoch) {
        let Some(prefill) = self.nodes[node].prefills.get(&key) else { return };
        // It may have been moved since: the router's word is about the latest.
        if prefill.epoch > epoch {
            return;
        }
        let epoch = prefill.epoch;
        if !prefill.held {
            self.mail(node, Command::Cancel { key, epoch });
        }
        self.end_prefill(node, key);
    }

    /// Nothing of it is left, its offer withdrawn.
    fn end_prefill(&mut self, node: usize, key: SequenceKey) {
        let Some(prefill) = self.nodes[node].prefills.remove(&key) else { return };
        if let Some(offer) = prefill.offer {
            self.nodes[node].source.withdraw(offer);
            self.offers_ended(node);
        }
        drop(prefill.offered);
        self.blocks_freed(node);
        if let Some(transfer) = prefill.transfer {
            self.offer_gone(transfer);
        }
    }

    pub(super) fn prefill_said(&mut self, node: usize, said: Said) {
        let (key, epoch) = (said.key(), said.epoch());
        if self.nodes[node].prefills.get(&key).is_none_or(|prefill| prefill.epoch != epoch) {
            return;
        }
        match said {
            Said::Admitted { blocks, cached_tokens, .. } => {
                self.offer(node, key, blocks, cached_tokens);
            }
            Said::Token { index, token, logits_digest, .. } => {
                if let Some(prefill) = self.nodes[node].prefills.get_mut(&key) {
                    prefill.first = Some(FirstToken { token, logits_digest });
                }
                self.token(node, key, epoch, index);
            }
            Said::Prefilled { blocks, .. } => self.hold(node, key, blocks),
            Said::Finished { .. } => {
                self.timed_prefill(node, key);
                self.end_prefill(node, key);
                self.say(node, key, epoch, Word::First { finished: true });
            }
            Said::Failed { error, .. } => {
                self.end_prefill(node, key);
                let failure = super::decode::failure(&error);
                self.say(node, key, epoch, Word::Failed(failure));
            }
        }
    }

    /// It has its blocks: they are offered before anything is computed.
    fn offer(
        &mut self,
        node: usize,
        key: SequenceKey,
        blocks: Vec<baton_kv_cache::BlockRef>,
        cached_tokens: u32,
    ) {
        let layers = self.scenario.cluster.model.layers;
        let Node { source, prefills, .. } = &mut self.nodes[node];
        let Some(prefill) = prefills.get_mut(&key) else { return };
        prefill.admitted = Some(self.now);
        prefill.cached_tokens = cached_tokens;
        prefill.done = cached_tokens;
        let Some(capability) = prefill.capability else { return };
        let spec = OfferSpec { key, epoch: prefill.epoch, capability, tokens: prefill.tokens };
        let Ok(offer) = source.offer(spec) else {
            debug_assert!(false, "{key}: a capability is used once");
            return;
        };
        prefill.offer = Some(offer);
        prefill.offered = blocks;
        if cached_tokens > 0 {
            layers_done(source, offer, layers, cached_tokens);
        }
        // A pull that was parked begins.
        if let Some(transfer) = self.transfers.parked(capability) {
            self.begin_flow(transfer);
        }
    }

    /// The prompt is computed; the blocks wait for their puller.
    fn hold(&mut self, node: usize, key: SequenceKey, blocks: Vec<baton_kv_cache::BlockRef>) {
        self.timed_prefill(node, key);
        let now = self.now;
        let Node { source, prefills, .. } = &mut self.nodes[node];
        let Some(prefill) = prefills.get_mut(&key) else { return };
        let (epoch, transfer) = (prefill.epoch, prefill.transfer);
        prefill.held = true;
        prefill.done = prefill.tokens;
        let (Some(offer), Some(first)) = (prefill.offer, prefill.first) else {
            // Nobody will pull.
            self.nodes[node].prefills.remove(&key);
            self.say(node, key, epoch, Word::First { finished: false });
            return;
        };
        source.finished(now, offer, first);
        // The offer holds the same blocks.
        drop(blocks);
        self.say(node, key, epoch, Word::First { finished: false });
        self.watch_source(node);
        if let Some(transfer) = transfer {
            self.prompt_done(transfer);
        }
    }

    fn timed_prefill(&mut self, node: usize, key: SequenceKey) {
        let Some(prefill) = self.nodes[node].prefills.get(&key) else { return };
        let admitted = prefill.admitted.unwrap_or(self.now);
        let (queue, compute) = (admitted - prefill.arrived, self.now - admitted);
        let (epoch, cached) = (prefill.epoch, prefill.cached_tokens);
        if let Some(live) = self.live_of(key, epoch) {
            live.parts.prefill_queue = queue;
            live.parts.prefill = compute;
            live.cached_tokens.get_or_insert(cached);
        }
    }

    /// At a step's end: the pages of its prompts are final in all layers.
    pub(super) fn pages_done(&mut self, node: usize) {
        let layers = self.scenario.cluster.model.layers;
        let followed = std::mem::take(&mut self.nodes[node].followed);
        for followed in &followed {
            let Node { source, prefills, .. } = &mut self.nodes[node];
            let Some(prefill) = prefills.get_mut(&followed.key) else { continue };
            let Some(offer) = prefill.offer else { continue };
            prefill.done = followed.after.min(prefill.tokens);
            layers_done(source, offer, layers, prefill.done);
            if let Some(transfer) = prefill.transfer {
                self.pages_ready(transfer);
            }
        }
        self.nodes[node].followed = followed;
    }

    /// The source's next deadline gets its event.
    pub(super) fn watch_source(&mut self, node: usize) {
        let Node { source, source_timer, generation, .. } = &mut self.nodes[node];
        if let Some(at) = source.poll_timeout()
            && source_timer.is_none_or(|timer| at < timer)
        {
            *source_timer = Some(at);
            self.queue.push(at, Event::SourceTimer { node, generation: *generation });
        }
    }

    pub(super) fn source_timer(&mut self, node: usize, generation: Generation) {
        if !self.is_alive(node, generation) || self.nodes[node].source_timer != Some(self.now) {
            return;
        }
        self.nodes[node].source_timer = None;
        self.credit_flows(node);
        self.nodes[node].source.handle_timeout(self.now);
        self.offers_ended(node);
        self.nacks(node);
        self.watch_source(node);
    }

    /// Offers that ended give their blocks back.
    pub(super) fn offers_ended(&mut self, node: usize) {
        while let Some(ended) = self.nodes[node].source.poll_event() {
            if self.growing_ended(node, &ended) {
                continue;
            }
            let of = |(_, prefill): &(&SequenceKey, &Prefill)| prefill.offer == Some(ended.offer);
            let Some((&key, prefill)) = self.nodes[node].prefills.iter().find(of) else { continue };
            let (epoch, transfer) = (prefill.epoch, prefill.transfer);
            let was_held = prefill.held;
            self.nodes[node].prefills.remove(&key);
            self.blocks_freed(node);
            let word = match ended.outcome {
                Outcome::Released { bytes, .. } => {
                    self.nodes[node].stats.sent_bytes += bytes;
                    Word::HandedOver
                }
                Outcome::Expired | Outcome::Aborted { .. } => {
                    if let Some(transfer) = transfer {
                        self.offer_gone(transfer);
                    }
                    if !was_held {
                        self.mail(node, Command::Cancel { key, epoch });
                    }
                    Word::Failed(Failure::HandOver)
                }
            };
            self.say(node, key, epoch, word);
        }
    }
}

fn layers_done(
    source: &mut Source,
    offer: baton_transfer_protocol::OfferId,
    layers: u32,
    tokens: u32,
) {
    for layer in 0..layers {
        source.layer_done(offer, layer, tokens);
    }
}
