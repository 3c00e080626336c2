//! Getting a sequence's pages here: reserve, or refuse; then pull what the prefix cache lacks.

use std::{sync::Arc, time::Duration};

use baton_kv_cache::{BlockRef, block_hashes};
use baton_kv_transfer::{Followed, Importer, Pull, Pulled};
use baton_node::{Node, error::RunError, steps::SubmitError, wire};
use baton_proto::node::v1 as proto;
use baton_scheduler::Refusal;
use baton_types::{Capability, Generation, NodeId, SequenceSpec, blocks_for};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

/// Pulls pages, a bounded number of sequences at a time.
#[derive(Clone, Debug)]
pub(crate) struct Imports {
    node: Arc<Node>,
    importer: Importer,
    slots: Arc<Semaphore>,
}

/// Where a sequence's pages are.
#[derive(Debug)]
pub(crate) struct Source {
    node: NodeId,
    generation: Generation,
    address: String,
    capability: Capability,
}

/// Blocks for a whole prompt; the first of them are cached here already.
#[derive(Debug)]
pub(crate) struct Reserved {
    blocks: Vec<BlockRef>,
    cached_blocks: u32,
}

/// Blocks that are reserved beyond what a sequence has when it begins to come here: it grows meanwhile.
const GROWTH_BLOCKS: usize = 16;

/// A prompt whose pages are all here.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) blocks: Vec<BlockRef>,
    pub(crate) cached_tokens: u32,
    pub(crate) pulled: Pulled,
}

impl Source {
    pub(crate) fn parse(source: proto::Source) -> Result<Self, RunError> {
        Ok(Source {
            node: NodeId::from(source.node.as_str()),
            generation: Generation(source.generation),
            address: source.address,
            capability: wire::capability("source.capability", &source.capability)?,
        })
    }
}

impl Imports {
    pub(crate) fn new(node: Arc<Node>, importer: Importer) -> Self {
        let slots = Arc::new(Semaphore::new(node.config.transfer.max_pulls as usize));
        Imports { node, importer, slots }
    }

    /// Blocks for all of the sequence's tokens, reusing what the prefix cache has; refuses when the
    /// pool is full, which is the backpressure on the router.
    pub(crate) fn reserve(&self, spec: &SequenceSpec) -> Result<Reserved, RunError> {
        self.reserve_for(spec, spec.tokens.len())
    }

    /// The same for a sequence that runs elsewhere and grows.
    pub(crate) fn reserve_growing(&self, spec: &SequenceSpec) -> Result<Reserved, RunError> {
        let more = GROWTH_BLOCKS * self.node.info.layout.block_tokens as usize;
        self.reserve_for(spec, (spec.tokens.len() + more).min(spec.max_context()))
    }

    fn reserve_for(&self, spec: &SequenceSpec, tokens: usize) -> Result<Reserved, RunError> {
        self.is_possible(spec).map_err(SubmitError::Refused)?;
        let (info, cache) = (&self.node.info, &self.node.cache);
        let block_tokens = info.layout.block_tokens;
        let needed = blocks_for(tokens, block_tokens);
        let mut blocks = Vec::new();
        if self.node.config.scheduler.prefix_cache {
            let hashes = block_hashes(info.numerics, spec.cache_salt, &spec.tokens, block_tokens);
            blocks = cache.lookup(&hashes);
        }
        let cached_blocks = blocks.len() as u32;
        cache.reserve_into(needed - blocks.len(), &mut blocks)?;
        Ok(Reserved { blocks, cached_blocks })
    }

    /// Refuses before anything moves what the scheduler would refuse once it has.
    fn is_possible(&self, spec: &SequenceSpec) -> Result<(), Refusal> {
        let (key, info) = (spec.key, &self.node.info);
        let tokens = u64::from(spec.prompt_len) + u64::from(spec.max_tokens);
        if tokens > u64::from(info.max_context) {
            return Err(Refusal::TooLong { key, tokens, max: info.max_context });
        }
        let longest = spec.max_context().max(spec.tokens.len());
        let blocks = blocks_for(longest, info.layout.block_tokens) as u64;
        let total = self.node.arena.blocks();
        if blocks > u64::from(total) {
            return Err(Refusal::PoolTooSmall { key, blocks, total });
        }
        Ok(())
    }

    /// Pulls the pages of a sequence that runs elsewhere, and those made meanwhile, until it has left the
    /// batch there. Dropping the future tells the source.
    pub(crate) async fn follow(
        &self,
        spec: &SequenceSpec,
        source: Source,
        reserved: Reserved,
    ) -> Result<(Followed, u32), RunError> {
        let transfers = self.node.metrics.transfers();
        let _held = transfers.hold();
        let (cached_blocks, from) = (reserved.cached_blocks, source.node.clone());
        let pull = pull_of(spec, source, reserved);
        let most = blocks_for(spec.max_context(), self.node.info.layout.block_tokens);
        let cache = &self.node.cache;
        let reserve =
            move |there: usize, more: usize| cache.reserve(more.min(most.saturating_sub(there)));
        let followed = self.importer.follow(pull, &reserve).await;
        let followed = followed
            .map_err(|source| RunError::Pull { node: from, source: source.into() })
            .inspect_err(|error| transfers.failed(error.reason()))?;
        transfers.moved(followed.pages, followed.bytes);
        let cached_tokens = cached_blocks * self.node.info.layout.block_tokens;
        Ok((followed, cached_tokens))
    }

    /// Pulls what isn't cached. Dropping the future tells the source.
    pub(crate) async fn pull(
        &self,
        spec: &SequenceSpec,
        source: Source,
        reserved: Reserved,
    ) -> Result<Imported, RunError> {
        let transfers = self.node.metrics.transfers();
        let _held = transfers.hold();
        let Reserved { blocks, cached_blocks } = &reserved;
        let (blocks, cached_blocks) = (blocks.clone(), *cached_blocks);
        let (tokens, from) = (spec.tokens.len() as u32, source.node.clone());
        let pull = pull_of(spec, source, reserved);
        let pulling = async {
            let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
            self.importer.pull(pull).await
        };
        let result = match spec.deadline {
            Some(deadline) => timeout(deadline, pulling)
                .await
                .map_err(|_late| RunError::DeadlineInTransfer { deadline }),
            None => Ok(pulling.await),
        };
        let pulled = result
            .and_then(|pulled| {
                pulled.map_err(|source| RunError::Pull { node: from, source: source.into() })
            })
            .inspect_err(|error| transfers.failed(error.reason()))?;
        transfers.moved(pulled.pages, pulled.bytes);
        let cached_tokens = (cached_blocks * self.node.info.layout.block_tokens).min(tokens);
        Ok(Imported { blocks, cached_tokens, pulled })
    }
}

fn pull_of(spec: &SequenceSpec, source: Source, reserved: Reserved) -> Pull {
    Pull {
        key: spec.key,
        epoch: spec.epoch,
        capability: source.capability,
        address: source.address,
        node: source.node,
        generation: source.generation,
        skip_blocks: reserved.cached_blocks,
        blocks: reserved.blocks,
        tokens: spec.tokens.len() as u32,
    }
}

/// A deadline as it stands after some of it is used up.
pub(crate) fn remaining(
    deadline: Option<Duration>,
    since: Instant,
) -> Result<Option<Duration>, RunError> {
    deadline
        .map(|deadline| {
            deadline
                .checked_sub(since.elapsed())
                .filter(|left| !left.is_zero())
                .ok_or(RunError::DeadlineInTransfer { deadline })
        })
        .transpose()
}
