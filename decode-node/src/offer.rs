//! `Decode.Offer`: a sequence that runs here goes to another node.
//!
//! Its pages are offered while it runs on; when they are nearly all sent it leaves the batch, and waits for the
//! router's word. When the stream ends nothing of the sequence is left here, if it went. Dropping the stream takes the offer back; a sequence that has left the batch by then waits
//! for the end of its lease, or of its own stream.

use std::{pin::pin, sync::Arc, time::Duration};

use baton_kv_cache::BlockRef;
use baton_kv_transfer::{Exporter, Growing, GrowingOffer};
use baton_migration::{FromSource, Source, SourceConfig, SourceOrder, Standing, ToSource};
use baton_node::{
    Node,
    clock::Clock,
    error::RunError,
    respond::{Cut, Outgoing},
    wire,
};
use baton_proto::{
    ConvertError,
    node::v1::{
        self as proto, OfferRequest, OfferResponse, offer_request::Message, offer_response::Event,
    },
};
use baton_scheduler::Snapshot;
use baton_types::{Capability, Epoch, SequenceKey};
use tonic::Streaming;

/// How often to look at a sequence whose tokens are still being computed.
const COMPUTING: Duration = Duration::from_millis(5);

/// What is offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) key: SequenceKey,
    /// That it runs under here.
    epoch: Epoch,
    attempt: Epoch,
    capability: Capability,
    is_urgent: bool,
}

impl Terms {
    pub(crate) fn parse(start: proto::OfferStart) -> Result<Self, RunError> {
        let missing = |field| move || RunError::invalid(field, "it is missing");
        let invalid = |error: ConvertError| RunError::invalid("key", error);
        let terms = Terms {
            key: start.key.ok_or_else(missing("key"))?.try_into().map_err(invalid)?,
            epoch: start.epoch.ok_or_else(missing("epoch"))?.into(),
            attempt: start.attempt.ok_or_else(missing("attempt"))?.into(),
            capability: wire::capability("capability", &start.capability)?,
            is_urgent: start.urgent,
        };
        if terms.attempt <= terms.epoch {
            let why = format!("{} is not above {}", terms.attempt, terms.epoch);
            return Err(RunError::invalid("attempt", why));
        }
        Ok(terms)
    }
}

/// One offer, and the machine that says what to do.
struct Offer {
    node: Arc<Node>,
    terms: Terms,
    source: Source,
    growing: Growing,
    clock: Clock,
    /// The sequence's table, as it was seen last.
    blocks: Vec<BlockRef>,
    /// Blocks that are to be sent before the sequence is looked at again.
    awaited: Option<u32>,
    is_computing: bool,
}

/// Serves an offer to its end.
pub(crate) async fn serve(
    node: Arc<Node>,
    exporter: Exporter,
    terms: Terms,
    words: Streaming<OfferRequest>,
    out: Outgoing<OfferResponse>,
) -> Result<(), Cut> {
    let Terms { key, attempt, capability, .. } = terms;
    // Who leaves isn't held up by those that leave too.
    let is_urgent = terms.is_urgent || node.gate.is_draining();
    let share = if is_urgent { 1.0 } else { node.config.transfer.migration_share };
    let growing = GrowingOffer { key, epoch: attempt, capability, share };
    let growing = exporter.offer_growing(growing);
    let growing = growing.map_err(|error| RunError::Offer(error.to_string()))?;
    out.send(response(Event::Offered(proto::Offered {}))).await?;
    let clock = Clock::start();
    let config = SourceConfig::new(node.info.layout.block_tokens);
    let source = Source::new(config, clock.now(), attempt);
    let (blocks, awaited) = (Vec::new(), None);
    let offer = Offer { node, terms, source, growing, clock, blocks, awaited, is_computing: false };
    offer.run(words, &out).await
}

impl Offer {
    async fn run(
        mut self,
        mut words: Streaming<OfferRequest>,
        out: &Outgoing<OfferResponse>,
    ) -> Result<(), Cut> {
        loop {
            while let Some(order) = self.source.poll_order() {
                self.obey(order, out).await?;
            }
            if self.source.is_over() {
                return Ok(());
            }
            let timeout = self.source.poll_timeout().map(|at| at.since(self.clock.now()));
            let (awaited, attempt) = (self.awaited, self.terms.attempt);
            let growing = &mut self.growing;
            let sent = async {
                match awaited {
                    Some(blocks) => growing.sent(blocks).await,
                    None => std::future::pending().await,
                }
            };
            let overdue = async {
                match timeout {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            let (sent, overdue) = (pin!(sent), pin!(overdue));
            tokio::select! {
                biased;
                word = words.message() => match word.ok().flatten().and_then(|word| word.message) {
                    Some(Message::Resume(proto::Resume { epoch: Some(epoch) })) => {
                        self.source.hears(attempt, ToSource::Resume { epoch: epoch.into() });
                    }
                    Some(Message::Release(_)) => self.source.hears(attempt, ToSource::Release),
                    Some(Message::Start(_) | Message::Resume(_)) => {
                        return Err(RunError::invalid("message", "a resume or a release").into());
                    }
                    // A sequence that is frozen waits for its lease.
                    None => return Ok(()),
                },
                () = sent => {
                    self.awaited = None;
                    if std::mem::take(&mut self.is_computing) {
                        tokio::time::sleep(COMPUTING).await;
                    }
                    self.source.sent(awaited.unwrap_or_default());
                }
                () = overdue => self.source.handle_timeout(self.clock.now()),
            }
        }
    }

    async fn obey(&mut self, order: SourceOrder, out: &Outgoing<OfferResponse>) -> Result<(), Cut> {
        let Terms { key, epoch, attempt, .. } = self.terms;
        let steps = &self.node.steps;
        let refused = |error: baton_kv_transfer::OfferError| RunError::Offer(error.to_string());
        match order {
            SourceOrder::Look => {
                let snapshot = steps.look(key, epoch).await;
                let standing = snapshot.as_ref().map_or(Standing::Gone, |snapshot| {
                    let Snapshot { has_place, is_decoding, cached, .. } = *snapshot;
                    Standing::here(has_place, is_decoding, cached)
                });
                self.is_computing = matches!(standing, Standing::Computing { .. });
                self.blocks = snapshot.map_or_else(Vec::new, |snapshot| snapshot.blocks);
                self.source.stands(standing);
            }
            SourceOrder::Offer { tokens } => {
                let blocks = tokens / self.node.info.layout.block_tokens;
                self.growing.grow(self.blocks.clone(), tokens).map_err(refused)?;
                self.awaited = Some(blocks);
            }
            SourceOrder::Freeze => {
                let lease = SourceConfig::new(self.node.info.layout.block_tokens).lease;
                let frozen = steps.freeze(key, epoch, attempt, lease).await;
                let tokens = frozen.as_ref().map(|frozen| frozen.cached + 1);
                self.blocks = frozen.map_or_else(Vec::new, |frozen| frozen.blocks);
                self.source.frozen(self.clock.now(), tokens);
            }
            SourceOrder::Last { cached } => {
                self.growing.last(std::mem::take(&mut self.blocks), cached).map_err(refused)?;
            }
            // Its own stream tells, behind its tokens; and that stream loses nothing.
            SourceOrder::Tell(FromSource::Frozen { .. }) => {}
            SourceOrder::Tell(FromSource::Bare) => {
                out.send(response(Event::Bare(proto::Bare {}))).await?;
            }
            SourceOrder::Tell(FromSource::Gone) => {
                out.send(response(Event::Gone(proto::Gone {}))).await?;
            }
            SourceOrder::Thaw { epoch } => steps.thaw(key, epoch),
            SourceOrder::Release => steps.release(key, epoch, attempt).await,
        }
        Ok(())
    }
}

fn response(event: Event) -> OfferResponse {
    OfferResponse { event: Some(event) }
}
