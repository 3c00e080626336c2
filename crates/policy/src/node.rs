use std::time::Duration;

use baton_types::{
    BlockHash, Generation, KvLayout, ModelId, NodeHello, NodeId, NodeLoad, NumericsId, Role,
    StepReport,
};

use crate::{LatencyFit, LatencyModel, PrefixRecord, RequestView, reservation::Reserved};

/// Nodes that can work on the same requests: nothing pairs across groups.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    pub model: ModelId,
    pub numerics: NumericsId,
    pub layout: KvLayout,
}

/// One node as the router sees it.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub node: NodeId,
    pub generation: Generation,
    pub group: Group,
    pub max_context: u32,
    pub total_blocks: u32,
    /// False while its stream is lost or while its requests fail.
    pub available: bool,
    /// As it said last; `None` before its first heartbeat.
    pub load: Option<NodeLoad>,
    /// What this router has promised there.
    pub reserved: Reserved,
    pub prefixes: PrefixRecord,
    /// What its steps are predicted to cost: as the fit has it.
    pub latency: LatencyModel,
    pub fit: LatencyFit,
}

impl NodeView {
    pub fn new(hello: &NodeHello, fit: LatencyFit) -> Self {
        NodeView {
            node: hello.node.clone(),
            generation: hello.generation,
            group: Group {
                model: hello.model.clone(),
                numerics: hello.numerics,
                layout: hello.layout,
            },
            max_context: hello.max_context,
            total_blocks: hello.total_blocks,
            available: true,
            load: None,
            reserved: Reserved::default(),
            prefixes: PrefixRecord::new(2 * hello.total_blocks as usize),
            latency: LatencyModel {
                profile: fit.profile(),
                max_batch_tokens: hello.max_batch_tokens,
                chunk_tokens: hello.chunk_tokens,
            },
            fit,
        }
    }

    /// Learns what steps cost here.
    pub(crate) fn learn(&mut self, reports: &[StepReport]) {
        for report in reports {
            self.fit.observe(report);
        }
        self.latency.profile = self.fit.profile();
    }

    /// Whether new requests may be sent there.
    pub fn accepts(&self) -> bool {
        self.available && !self.load.is_some_and(|load| load.draining)
    }

    /// The most tokens the pool holds of one sequence.
    pub fn pool_tokens(&self) -> u32 {
        self.total_blocks.saturating_mul(self.group.layout.block_tokens)
    }

    /// The most tokens, prompt and output together, one request can have when it is decoded here.
    /// The last token is never cached.
    pub fn max_decode_tokens(&self) -> u32 {
        self.max_context.min(self.pool_tokens().saturating_add(1))
    }

    /// Whether the request could ever be run here, were the node empty.
    pub(crate) fn can_hold(&self, role: Role, request: &RequestView) -> bool {
        let most = match role {
            Role::Prefill if request.tokens > self.pool_tokens() => return false,
            Role::Prefill => self.max_context,
            Role::Decode => self.max_decode_tokens(),
        };
        request.max_tokens() <= u64::from(most)
    }

    /// Blocks a new request can have.
    pub fn free_blocks(&self) -> u64 {
        let total = u64::from(self.total_blocks);
        let said = self.load.map_or(total, |load| load.free_blocks.into());
        said.min(total.saturating_sub(self.reserved.blocks))
    }

    /// Prompt tokens to compute before a new request's turn.
    pub fn queued_tokens(&self) -> u64 {
        self.load.map_or(0, |load| load.queued_tokens).max(self.reserved.queued_tokens)
    }

    /// Time to compute them.
    pub(crate) fn queue_time(&self) -> Duration {
        self.latency.queue(self.queued(), self.queued_tokens())
    }

    /// Requests whose prompts are not yet computed: those waiting, at most.
    pub fn queued(&self) -> u64 {
        self.load.map_or(0, |load| load.waiting.into()).max(self.reserved.queued)
    }

    /// Sequences in the decode batch, or on their way there.
    pub fn batch(&self) -> u64 {
        let said = self.load.map_or(0, |load| {
            u64::from(load.running) + u64::from(load.waiting) + u64::from(load.handing_over)
        });
        said.max(self.reserved.sequences)
    }

    /// Whether it has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.batch() == 0 && self.queued() == 0
    }

    /// Their tokens.
    pub fn context_tokens(&self) -> u64 {
        self.load.map_or(0, |load| load.context_tokens).max(self.reserved.context_tokens)
    }

    /// Prompt tokens it probably needn't compute or be sent. The last one always is, for its logits.
    pub fn cached_tokens(&self, hashes: &[BlockHash], tokens: u32) -> u32 {
        let blocks = self.prefixes.matching(hashes) as u32;
        let block_tokens = self.group.layout.block_tokens;
        (blocks * block_tokens).min(tokens.saturating_sub(1) / block_tokens * block_tokens)
    }
}
