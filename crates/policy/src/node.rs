use std::time::Duration;

use baton_types::{
    BlockHash, Generation, KvLayout, ModelId, NodeHello, NodeId, NodeLoad, NumericsId, Role,
    StepReport, Time,
};

use crate::{
    Calibration, LatencyFit, LatencyModel, PrefixRecord, RequestView, reservation::Reserved,
};

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
    /// It finishes what it has and takes nothing new.
    pub draining: bool,
    /// What this router has promised there,
    pub reserved: Reserved,
    /// and what the node had beyond that when it spoke last: other routers' requests, and outputs
    /// longer than was reckoned.
    pub beyond: Beyond,
    pub prefixes: PrefixRecord,
    /// What its steps are predicted to cost: as the fit has it.
    pub latency: LatencyModel,
    pub fit: LatencyFit,
    /// How predictions of its times to first token came out,
    pub ttft: Calibration,
    /// and those of its times per output token.
    pub tpot: Calibration,
    /// Since when the first prompt of this router's is being computed.
    pub(crate) turn_began: Time,
    /// The number of the last placement here; 0: none.
    pub(crate) last_placed: u64,
}

/// What a node has that this router hasn't promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    pub sequences: u64,
    pub queued: u64,
    pub queued_tokens: u64,
    pub context_tokens: u64,
    pub blocks: u64,
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
            draining: false,
            reserved: Reserved::default(),
            beyond: Beyond::default(),
            prefixes: PrefixRecord::new(2 * hello.total_blocks as usize),
            latency: LatencyModel {
                profile: fit.profile(),
                max_batch_tokens: hello.max_batch_tokens,
                chunk_tokens: hello.chunk_tokens,
            },
            fit,
            ttft: Calibration::default(),
            tpot: Calibration::default(),
            turn_began: Time::ZERO,
            last_placed: 0,
        }
    }

    /// Learns what steps cost here.
    pub(crate) fn learn(&mut self, reports: &[StepReport]) {
        for report in reports {
            self.fit.observe(report);
        }
        self.latency.profile = self.fit.profile();
    }

    /// Takes what the node said of itself. What it says is a little old; compared with what was
    /// promised when it came, not with what is promised when it is used, it doesn't bring back
    /// requests that have ended since.
    pub(crate) fn observe(&mut self, load: NodeLoad) {
        let reserved = &self.reserved;
        let NodeLoad { running, waiting, handing_over, .. } = load;
        let sequences = u64::from(running) + u64::from(waiting) + u64::from(handing_over);
        let used = u64::from(self.total_blocks.saturating_sub(load.free_blocks));
        self.beyond = Beyond {
            sequences: sequences.saturating_sub(reserved.sequences),
            queued: u64::from(waiting).saturating_sub(reserved.queued),
            queued_tokens: load.queued_tokens.saturating_sub(reserved.queued_tokens),
            context_tokens: load.context_tokens.saturating_sub(reserved.context_tokens),
            blocks: used.saturating_sub(reserved.blocks),
        };
        self.draining = load.draining;
    }

    /// Whether new requests may be sent there.
    pub fn accepts(&self) -> bool {
        self.available && !self.draining
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
        u64::from(self.total_blocks).saturating_sub(self.reserved.blocks + self.beyond.blocks)
    }

    /// Prompt tokens to compute before a new request's turn.
    pub fn queued_tokens(&self) -> u64 {
        self.reserved.queued_tokens + self.beyond.queued_tokens
    }

    /// Requests whose prompts are not yet computed: those waiting, at most.
    pub fn queued(&self) -> u64 {
        self.reserved.queued + self.beyond.queued
    }

    /// How long until a new request's turn.
    pub fn queue_time(&self, now: Time) -> Duration {
        let Reserved { queued, queued_time, .. } = self.reserved;
        let turn = queued_time / u32::try_from(queued.max(1)).unwrap_or(u32::MAX);
        let done = now.since(self.turn_began).min(turn);
        queued_time - done + self.latency.queue(self.beyond.queued, self.beyond.queued_tokens)
    }

    /// Sequences in the decode batch, or on their way there.
    pub fn batch(&self) -> u64 {
        self.reserved.sequences + self.beyond.sequences
    }

    /// Whether it has nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.batch() == 0 && self.queued() == 0
    }

    /// Their tokens.
    pub fn context_tokens(&self) -> u64 {
        self.reserved.context_tokens + self.beyond.context_tokens
    }

    /// Prompt tokens it probably needn't compute or be sent. The last one always is, for its logits.
    pub fn cached_tokens(&self, hashes: &[BlockHash], tokens: u32) -> u32 {
        let blocks = self.prefixes.matching(hashes) as u32;
        let block_tokens = self.group.layout.block_tokens;
        (blocks * block_tokens).min(tokens.saturating_sub(1) / block_tokens * block_tokens)
    }
}
