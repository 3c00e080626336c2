use std::sync::Arc;

use baton_types::{BlockHash, ModelId, NodeId, NumericsId, Slo, Time};

use crate::{Class, Group, Service, Tenant};

/// A request as the policy sees it.
#[derive(Clone, Debug)]
pub struct RequestView {
    pub model: ModelId,
    pub class: Class,
    pub tenant: Tenant,
    /// Tokens to compute before the next can be sampled: the prompt and, in a replay, what was
    /// emitted already.
    pub tokens: u32,
    /// The most tokens still to be generated.
    pub max_new_tokens: u32,
    /// What it is to be done in, from its arrival.
    pub slo: Slo,
    /// Whether it is worth nothing once it is too late: then it is refused rather than served late.
    pub refuse_late: bool,
    /// It has answered before and its client waits for the next token: it goes first.
    pub has_begun: bool,
    /// When the next token is due by its objective, or at once without one; where its client has had any.
    pub next_due: Option<Time>,
    /// Not all that wait can be in time, and this one gives way to the others.
    pub gives_way: bool,
    /// Whether the node that decodes may compute its prompt.
    pub may_be_local: bool,
    /// When the router took it in.
    pub arrived: Time,
    /// Requests for the same model that wait in the router before it; where others share the queue, as
    /// many as if each tenant had as many for its share as this one's has.
    pub queued_before: usize,
    /// Others of the same client's request go before it, and may run already: it waits for as long
    /// as it has to, since to refuse it would waste their work.
    pub follows: bool,
    /// Nodes that failed this request just now; they are passed over.
    pub exclude: Vec<NodeId>,
    /// Names of its full blocks, once for each way they can be computed.
    pub hashes: Vec<PromptHashes>,
}

/// A prompt's full blocks as one kind of node names them.
#[derive(Clone, Debug)]
pub struct PromptHashes {
    pub numerics: NumericsId,
    pub block_tokens: u32,
    pub hashes: Arc<[BlockHash]>,
}

impl RequestView {
    /// Nobody's, of nothing.
    pub fn new(model: ModelId) -> Self {
        RequestView {
            model,
            class: Class::default(),
            tenant: Tenant::default(),
            tokens: 0,
            max_new_tokens: 0,
            slo: Slo::default(),
            refuse_late: false,
            has_begun: false,
            next_due: None,
            gives_way: false,
            may_be_local: true,
            arrived: Time::ZERO,
            queued_before: 0,
            follows: false,
            exclude: Vec::new(),
            hashes: Vec::new(),
        }
    }

    pub(crate) fn is_batch(&self) -> bool {
        self.class.service == Service::Batch
    }

    /// Whether it is never refused for want of room.
    pub fn waits_long(&self) -> bool {
        self.follows || self.is_batch()
    }

    /// The prompt's blocks as nodes of `group` name them; none if nobody has hashed them so.
    pub fn hashes_for(&self, group: &Group) -> Arc<[BlockHash]> {
        let named = |prompt: &&PromptHashes| {
            prompt.numerics == group.numerics && prompt.block_tokens == group.layout.block_tokens
        };
        self.hashes
            .iter()
            .find(named)
            .map_or_else(Arc::default, |prompt| Arc::clone(&prompt.hashes))
    }

    /// One token alone needs no decode node: the prefill node samples it.
    pub(crate) fn needs_decode(&self) -> bool {
        self.max_new_tokens > 1
    }

    /// Prompt and output together.
    pub(crate) fn max_tokens(&self) -> u64 {
        u64::from(self.tokens) + u64::from(self.max_new_tokens)
    }
}
