//! Offers that grow: the pages of sequences that run.
//!
//! # Why are they paced?
//!
//! Whoever computes beside the pages being sent isn't to feel it: sending takes a share of the time, of all
//! such offers together. When a sequence runs no more its client waits, and nothing is held back.

use std::{future::Future, time::Duration};

use baton_kv_cache::BlockRef;
use baton_transfer_protocol::{GROWING, OfferError, OfferId, OfferSpec, Outcome, Source};
use baton_types::{Capability, Epoch, SequenceKey, blocks_for};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Exporter, Held, Offered, Shared, State};

/// A puller that reads slowly isn't work of this node's.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The pages of a sequence that runs, while more are made. Dropping it before it ended withdraws it.
#[derive(Debug)]
pub struct Growing {
    offered: Offered,
    sent: watch::Receiver<Option<u32>>,
}

/// A running sequence to offer.
#[derive(Clone, Copy, Debug)]
pub struct GrowingOffer {
    pub key: SequenceKey,
    pub epoch: Epoch,
    pub capability: Capability,
    /// Of the time, what sending pages of such offers may take while the sequences still run, of all of them
    /// together: above 0, and 1 for as much as it takes.
    pub share: f64,
}

/// Of an offer that grows.
pub(super) struct Growth {
    /// Leading blocks that have been sent, if somebody pulls.
    sent: watch::Sender<Option<u32>>,
    pace: Pace,
}

/// Who runs beside the pages being sent isn't to feel it.
#[derive(Clone, Copy, Debug)]
struct Pace {
    share: f64,
    /// It runs no more: its client waits for the rest.
    is_over: bool,
}

impl Exporter {
    /// Offers the pages of a sequence that runs, none yet. Never blocks; may be called outside a runtime.
    pub fn offer_growing(&self, offer: GrowingOffer) -> Result<Growing, OfferError> {
        let GrowingOffer { key, epoch, capability, share } = offer;
        let spec = OfferSpec { key, epoch, capability, tokens: GROWING };
        let (sender, sent) = watch::channel(None);
        let pace = Pace { share: share.clamp(1e-3, 1.0), is_over: false };
        let growth = Some(Growth { sent: sender, pace });
        Ok(Growing { offered: self.shared.offer(spec, Vec::new(), growth)?, sent })
    }
}

impl Growing {
    /// Keys and values of the first `tokens` tokens are final, and lie in `blocks`, the whole table so far.
    /// Never blocks.
    pub fn grow(&self, blocks: Vec<BlockRef>, tokens: u32) -> Result<(), OfferError> {
        self.offered.replace(blocks, tokens, |source, _, id| source.grown(id, tokens))
    }

    /// The sequence holds `tokens` tokens and won't grow here any more: the lease begins.
    pub fn last(&self, blocks: Vec<BlockRef>, tokens: u32) -> Result<(), OfferError> {
        let now = self.offered.shared.clock.now();
        self.offered.replace(blocks, tokens, |source, held, id| {
            held.growth.iter_mut().for_each(|growth| growth.pace.is_over = true);
            source.last(now, id, tokens);
        })
    }

    /// Waits until somebody pulls and so many leading blocks have been sent, or needn't be. For ever, if the
    /// offer ends before.
    pub async fn sent(&mut self, blocks: u32) {
        if self.sent.wait_for(|sent| sent.is_some_and(|sent| sent >= blocks)).await.is_err() {
            std::future::pending().await
        }
    }

    /// How the offer ended.
    pub fn outcome(&self) -> impl Future<Output = Outcome> + Send + use<> {
        self.offered.outcome()
    }
}

impl Offered {
    /// The offer has other blocks: more of them, in the same order.
    fn replace(
        &self,
        blocks: Vec<BlockRef>,
        tokens: u32,
        feed: impl FnOnce(&mut Source, &mut Held, OfferId),
    ) -> Result<(), OfferError> {
        let block_tokens = self.shared.arena.layout().block_tokens;
        let needed = blocks_for(tokens as usize, block_tokens);
        let mut state = self.shared.lock();
        let State { source, held, .. } = &mut *state;
        if let Some(held) = held.get_mut(&self.id) {
            if blocks.len() < needed {
                let key = source.key(self.id).expect("what is held is offered");
                return Err(OfferError::Blocks { key, tokens, needed, given: blocks.len() });
            }
            let before = std::mem::replace(&mut held.blocks, blocks.into());
            feed(source, held, self.id);
            drop(state);
            // They go back to the pool, whose lock has nothing to do with this one.
            drop(before);
            // Whoever pulled before there was an offer may need none of it.
            self.shared.sent(self.id);
        }
        self.shared.changed.notify_waiters();
        self.shared.timer.notify_one();
        Ok(())
    }
}

impl Shared {
    /// Waits until pages of the offer may be sent; only those of sequences that run ever wait.
    pub(super) async fn turn(&self, id: OfferId) {
        loop {
            let changed = self.changed.notified();
            let until = {
                let state = self.lock();
                let growth = state.held.get(&id).and_then(|held| held.growth.as_ref());
                match growth {
                    Some(Growth { pace: Pace { is_over: false, .. }, .. }) => state.paced_until,
                    _ => return,
                }
            };
            tokio::select! {
                () = sleep_until(until) => return,
                () = changed => {}
            }
        }
    }

    /// Sending has taken so long: the next pause is for that.
    pub(super) fn paused(&self, id: OfferId, took: Duration) {
        let mut state = self.lock();
        let growth = state.held.get(&id).and_then(|held| held.growth.as_ref());
        if let Some(Growth { pace: Pace { share, is_over: false }, .. }) = growth {
            let pause = took.mul_f64(1.0 / share - 1.0).min(LONGEST_PAUSE);
            state.paced_until = state.paced_until.max(Instant::now()) + pause;
        }
    }

    /// Tells whoever waits for it that pages of a growing offer were handed to the network.
    pub(super) fn sent(&self, id: OfferId) {
        let state = self.lock();
        if let Some(Held { growth: Some(Growth { sent, .. }), .. }) = state.held.get(&id) {
            let blocks = state.source.sent_blocks(id);
            sent.send_if_modified(|known| std::mem::replace(known, blocks) != blocks);
        }
    }
}
