use std::time::Duration;

use baton_types::{
    Generation, KvLayout, ModelId, NodeHello, NodeId, NodeLoad, NumericsId, Role, StepReport, Time,
};

use crate::{
    Calibration, LatencyFit, LatencyModel, Link, RequestView,
    growth::Growth,
    prefix::{Matches, Slot},
    prompts::Prompts,
    reservation::Reserved,
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
    /// Its number in the index of prefixes.
    pub(crate) slot: Slot,
    /// What its steps are predicted to cost: as the fit has it.
    pub latency: LatencyModel,
    pub fit: LatencyFit,
    /// How fast pages come, when it decodes.
    pub link: Link,
    /// How predictions of its times to first token came out,
    pub ttft: Calibration,
    /// and those of its decode steps.
    pub tpot: Calibration,
    /// Decode steps it should have taken since it joined, by what they were predicted to cost with
    /// the load of each moment,
    steps: f64,
    /// and tokens that each sequence should have made,
    made: f64,
    /// until here.
    steps_at: Time,
    /// What it lent of its time to prompts, when it decodes.
    pub(crate) lent: Lent,
    /// This router's that it has still to compute.
    pub(crate) prompts: Prompts,
    /// What those it decodes will come to hold.
    pub(crate) growth: Growth,
    /// The number of the last placement here; 0: none.
    pub(crate) last_placed: u64,
}

/// Seconds that went to prompts where others decode: a bucket that leaks as fast as time is spared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lent {
    seconds: f64,
    at: Time,
}

impl Lent {
    /// What hasn't been made up for at `now`, if so large a share of time is spared.
    pub(crate) fn at(&self, spare: f64, now: Time) -> f64 {
        (self.seconds - spare * now.since(self.at).as_secs_f64()).max(0.0)
    }

    pub(crate) fn add(&mut self, compute: Duration, spare: f64, now: Time) {
        *self = Lent { seconds: self.at(spare, now) + compute.as_secs_f64(), at: now };
    }
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

/// An output of so many tokens counts for half of a long one.
const FEW_TOKENS: f64 = 8.0;

impl NodeView {
    pub(crate) fn new(hello: &NodeHello, fit: LatencyFit, link: Link, slot: Slot) -> Self {
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
            slot,
            latency: LatencyModel {
                profile: fit.profile(),
                max_batch_tokens: hello.max_batch_tokens,
                chunk_tokens: hello.chunk_tokens,
            },
            fit,
            link,
            ttft: Calibration::default(),
            tpot: Calibration::default(),
            steps: 0.0,
            made: 0.0,
            steps_at: Time::ZERO,
            lent: Lent::default(),
            prompts: Prompts::default(),
            growth: Growth::default(),
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

    /// The share of its time that it needn't decode for those there to meet their objectives; half if
    /// they have none.
    pub(crate) fn spare(&self) -> f64 {
        let Some(objective) = self.reserved.objective() else { return 0.5 };
        let step = self.latency.decode(self.batch(), self.context_tokens()).as_secs_f64();
        (1.0 - self.tpot.corrected(step) / objective).max(0.0)
    }

    /// Decode steps it should have taken until `now`. To be asked before its load changes.
    pub(crate) fn steps(&mut self, now: Time) -> f64 {
        self.made = self.made_at(now);
        (self.steps, self.steps_at) = (self.steps + self.steps_since(now), now);
        self.steps
    }

    /// Tokens that each of its sequences should have made since it joined: those steps, corrected by how
    /// predictions of them came out.
    pub(crate) fn made_at(&self, now: Time) -> f64 {
        self.made + self.steps_since(now) / self.tpot.corrected(1.0)
    }

    fn steps_since(&self, now: Time) -> f64 {
        let step = self.latency.decode(self.batch(), self.context_tokens()).as_secs_f64();
        if self.batch() == 0 || step <= 0.0 {
            return 0.0;
        }
        now.since(self.steps_at).as_secs_f64() / step
    }

    /// Learns from an output of `tokens`, during which so many steps were expected. That a sequence
    /// joins in the midst of a step says nothing of steps, so few tokens say little.
    pub(crate) fn decoded(&mut self, tokens: u32, expected_steps: f64) {
        let more = f64::from(tokens.saturating_sub(1));
        if more > 0.0 {
            let ratio = (expected_steps - 0.5) / more;
            self.tpot.observe_ratio(ratio, more / (more + FEW_TOKENS));
        }
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

    /// Blocks that this router's sequences can have.
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.total_blocks).saturating_sub(self.beyond.blocks)
    }

    /// Blocks a sequence has there, in the mean.
    pub(crate) fn mean_blocks(&self) -> f64 {
        let held = u64::from(self.total_blocks).saturating_sub(self.free_blocks());
        held as f64 / self.batch().max(1) as f64
    }

    /// Prompt tokens to compute before a new request's turn.
    pub fn queued_tokens(&self) -> u64 {
        self.reserved.queued_tokens + self.beyond.queued_tokens
    }

    /// Requests whose prompts are not yet computed: those waiting, at most.
    pub fn queued(&self) -> u64 {
        self.reserved.queued + self.beyond.queued
    }

    /// How long it takes to compute all prompts that are there.
    pub fn queue_time(&self, now: Time) -> Duration {
        self.prompts.total(now) + self.others_time()
    }

    /// How long other routers' prompts take, as far as they are known.
    pub(crate) fn others_time(&self) -> Duration {
        self.latency.queue(self.beyond.queued, self.beyond.queued_tokens)
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
    pub(crate) fn cached_tokens(&self, matches: &Matches, tokens: u32) -> u32 {
        let blocks = matches.of(self.slot);
        let block_tokens = self.group.layout.block_tokens;
        (blocks * block_tokens).min(tokens.saturating_sub(1) / block_tokens * block_tokens)
    }
}
