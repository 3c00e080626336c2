//! `Decode.Offer`: a sequence that runs here goes to another node.

use std::time::Duration;

use baton_migration::{Source, SourceConfig, SourceOrder, Standing, ToSource};
use baton_scheduler::Snapshot;
use baton_transfer_protocol::{Event as Ended, GROWING, OfferSpec, Outcome};
use baton_types::{Capability, Epoch, Generation, SequenceKey};

use super::super::{
    Simulation,
    event::{Event, Failure, Moving, ToRouter, Word},
};
use crate::node::{Command, Node, Offering};

/// How often to look at a sequence whose tokens are still being computed; as in `baton-decode-node`.
const COMPUTING: Duration = Duration::from_millis(5);

impl Simulation<'_> {
    pub(in super::super) fn offer_run(
        &mut self,
        node: usize,
        moving: Moving,
        epoch: Epoch,
        capability: Capability,
    ) {
        if self.nodes[node].offerings.contains_key(&moving) {
            return;
        }
        let Moving { key, attempt } = moving;
        let spec = OfferSpec { key, epoch: attempt, capability, tokens: GROWING };
        let Ok(offer) = self.nodes[node].source.offer(spec) else { return };
        let machine = Source::new(self.source_config(), self.now, attempt);
        let offering = Offering {
            epoch,
            machine,
            offer: Some(offer),
            blocks: Vec::new(),
            offered: 0,
            is_last: false,
            is_computing: false,
            transfer: None,
            timer: None,
        };
        self.nodes[node].offerings.insert(moving, offering);
        if let Some(transfer) = self.transfers.parked(capability) {
            self.begin_flow(transfer);
        }
        self.drive_offering(node, moving);
    }

    fn source_config(&self) -> SourceConfig {
        SourceConfig::new(self.scenario.cluster.model.block_tokens)
    }

    /// The arbiter spoke.
    pub(in super::super) fn source_hears(&mut self, node: usize, moving: Moving, word: ToSource) {
        if let Some(offering) = self.nodes[node].offerings.get_mut(&moving) {
            offering.machine.hears(moving.attempt, word);
            self.drive_offering(node, moving);
        }
    }

    pub(in super::super) fn offer_timer(
        &mut self,
        node: usize,
        generation: Generation,
        moving: Moving,
    ) {
        if !self.is_alive(node, generation) {
            return;
        }
        let now = self.now;
        if let Some(offering) = self.nodes[node].offerings.get_mut(&moving)
            && offering.timer == Some(now)
        {
            offering.timer = None;
            offering.machine.handle_timeout(now);
            self.drive_offering(node, moving);
        }
    }

    /// At a step's boundary.
    pub(in super::super) fn look(&mut self, node: usize, moving: Moving) {
        let Node { scheduler, offerings, .. } = &mut self.nodes[node];
        let Some(offering) = offerings.get_mut(&moving) else { return };
        let snapshot = scheduler.snapshot(moving.key, offering.epoch);
        let standing = snapshot.as_ref().map_or(Standing::Gone, |snapshot| {
            let Snapshot { has_place, is_decoding, cached, .. } = *snapshot;
            Standing::here(has_place, is_decoding, cached)
        });
        offering.is_computing = matches!(standing, Standing::Computing { .. });
        offering.blocks = snapshot.map_or_else(Vec::new, |snapshot| snapshot.blocks);
        offering.machine.stands(standing);
        self.drive_offering(node, moving);
    }

    pub(in super::super) fn look_again(
        &mut self,
        node: usize,
        generation: Generation,
        moving: Moving,
    ) {
        if self.is_alive(node, generation) {
            self.offering_sent(node, moving);
        }
    }

    /// At a step's boundary.
    pub(in super::super) fn freeze(&mut self, node: usize, moving: Moving) {
        let (now, lease) = (self.now, self.source_config().lease);
        let Node { scheduler, offerings, .. } = &mut self.nodes[node];
        let Some(offering) = offerings.get_mut(&moving) else { return };
        let frozen = scheduler.freeze(now, moving.key, offering.epoch, lease);
        let tokens = frozen.as_ref().map(|frozen| frozen.cached + 1);
        offering.blocks = frozen.map_or_else(Vec::new, |frozen| frozen.blocks);
        offering.machine.frozen(now, tokens);
        self.drive_offering(node, moving);
    }

    /// At a step's boundary.
    pub(in super::super) fn thaw(&mut self, node: usize, key: SequenceKey, epoch: Epoch) {
        if !self.nodes[node].scheduler.thaw(key, epoch)
            && self.nodes[node].decodes.get(&key).is_some_and(|decode| decode.epoch == epoch)
        {
            self.forget_decode(node, key);
            self.say(node, key, epoch, Word::Failed(Failure::Node));
        }
    }

    /// Does what the machine orders.
    fn drive_offering(&mut self, node: usize, moving: Moving) {
        while let Some(offering) = self.nodes[node].offerings.get_mut(&moving)
            && let Some(order) = offering.machine.poll_order()
        {
            let epoch = offering.epoch;
            match order {
                SourceOrder::Look => self.mail(node, Command::Look(moving)),
                SourceOrder::Offer { tokens } => self.grow(node, moving, tokens),
                SourceOrder::Freeze => self.mail(node, Command::Freeze(moving)),
                SourceOrder::Last { cached } => self.grow_last(node, moving, cached),
                SourceOrder::Tell(said) => {
                    self.tell_router(node, &ToRouter::Source { node, moving, said });
                }
                SourceOrder::Thaw { epoch } => {
                    let key = moving.key;
                    if let Some(decode) = self.nodes[node].decodes.get_mut(&key)
                        && decode.epoch <= epoch
                    {
                        decode.epoch = epoch;
                        self.mail(node, Command::Thaw { key, epoch });
                    }
                }
                SourceOrder::Release => self.mail(node, Command::Release { moving, epoch }),
            }
        }
        let Node { offerings, generation, .. } = &mut self.nodes[node];
        let Some(offering) = offerings.get_mut(&moving) else { return };
        if offering.machine.is_over() {
            return self.end_offering(node, moving);
        }
        if let Some(at) = offering.machine.poll_timeout()
            && offering.timer.is_none_or(|timer| at < timer)
        {
            offering.timer = Some(at);
            self.queue.push(at, Event::OfferTimer { node, generation: *generation, moving });
        }
    }

    /// Nothing of it is left, its offer withdrawn.
    fn end_offering(&mut self, node: usize, moving: Moving) {
        let Some(offering) = self.nodes[node].offerings.remove(&moving) else { return };
        if let Some(offer) = offering.offer {
            self.nodes[node].source.withdraw(offer);
            self.offers_ended(node);
        }
        drop(offering.blocks);
        self.blocks_freed(node);
        self.mail(node, Command::Leave(moving));
        if let Some(transfer) = offering.transfer {
            self.offer_gone(transfer);
        }
    }

    /// Whether it was the offer of a sequence that runs; then that is over.
    pub(in super::super) fn growing_ended(&mut self, node: usize, ended: &Ended) -> bool {
        let Node { offerings, stats, .. } = &mut self.nodes[node];
        let mut all = offerings.values_mut();
        let Some(offering) = all.find(|offering| offering.offer == Some(ended.offer)) else {
            return false;
        };
        offering.offer = None;
        let transfer = offering.transfer.take();
        match ended.outcome {
            Outcome::Released { bytes, .. } => stats.sent_bytes += bytes,
            Outcome::Expired | Outcome::Aborted { .. } => {
                if let Some(transfer) = transfer {
                    self.offer_gone(transfer);
                }
            }
        }
        true
    }

    /// What was offered has been sent.
    pub(super) fn offering_sent(&mut self, node: usize, moving: Moving) {
        let Node { source, offerings, .. } = &mut self.nodes[node];
        let Some(offering) = offerings.get_mut(&moving) else { return };
        let sent = offering.offer.and_then(|offer| source.sent_blocks(offer));
        if let Some(blocks) = sent {
            offering.machine.sent(blocks);
            self.drive_offering(node, moving);
        }
    }

    /// The same, but one whose tokens are still being computed isn't looked at again at once.
    pub(super) fn growth_is_sent(&mut self, node: usize, moving: Moving) {
        let Node { offerings, generation, .. } = &mut self.nodes[node];
        let Some(offering) = offerings.get_mut(&moving) else { return };
        if std::mem::take(&mut offering.is_computing) {
            let event = Event::LookAgain { node, generation: *generation, moving };
            return self.queue.push(self.now + COMPUTING, event);
        }
        self.offering_sent(node, moving);
    }
}
