//! The step thread's side of a hand-over: it offers a sequence's pages when the sequence gets its
//! blocks, and says which layers are done while the prefill runs.

use std::sync::Arc;

use baton_kv_cache::BlockRef;
use baton_kv_transfer::{Exporter, Offer, OfferError, Offered};
use baton_node::steps::SequenceWatcher;
use baton_types::{Capability, Epoch, SequenceKey};
use tokio::sync::oneshot;

/// What an offer will say, once there are blocks.
pub(crate) struct Terms {
    pub(crate) key: SequenceKey,
    pub(crate) epoch: Epoch,
    pub(crate) capability: Capability,
    /// Tokens the pages hold in the end.
    pub(crate) tokens: u32,
    pub(crate) layers: u32,
}

/// How the service learns of the offer.
pub(crate) type Offering = oneshot::Receiver<Result<Arc<Offered>, OfferError>>;

pub(crate) struct Offerer {
    exporter: Exporter,
    terms: Terms,
    announce: Option<oneshot::Sender<Result<Arc<Offered>, OfferError>>>,
    offered: Option<Arc<Offered>>,
}

impl Offerer {
    pub(crate) fn new(exporter: Exporter, terms: Terms) -> (Self, Offering) {
        let (announce, offering) = oneshot::channel();
        (Offerer { exporter, terms, announce: Some(announce), offered: None }, offering)
    }
}

impl SequenceWatcher for Offerer {
    fn admitted(&mut self, blocks: Vec<BlockRef>, cached_tokens: u32) {
        let Some(announce) = self.announce.take() else { return };
        let Terms { key, epoch, capability, tokens, layers } = self.terms;
        let offer = self.exporter.offer(Offer { key, epoch, capability, blocks, tokens });
        let offered = offer.map(Arc::new);
        if let Ok(offered) = &offered {
            // What the prefix cache had may leave before the first step.
            for layer in (0..layers).filter(|_| cached_tokens > 0) {
                offered.layer_done(layer, cached_tokens);
            }
            self.offered = Some(Arc::clone(offered));
        }
        // A caller that is gone is about to cancel.
        let _ = announce.send(offered);
    }

    fn layer_done(&mut self, layer: u32, tokens: u32) {
        if let Some(offered) = &self.offered {
            offered.layer_done(layer, tokens);
        }
    }
}
