use std::time::Duration;

use baton_kv_cache::BlockRef;
use baton_scheduler::SequenceError;
use baton_types::{Epoch, FinishReason, TokenId, TokenLogprobs};

/// What the step loop tells the owner of one sequence. `Prefilled`, `Finished` and `Failed` are the
/// last; when the events end without one, the step loop itself has ended.
#[derive(Debug)]
pub enum SequenceEvent {
    /// It has its place in the batch.
    Admitted {
        cached_tokens: u32,
        /// Since it was submitted.
        queue: Duration,
    },
    Token {
        /// In the client's stream.
        index: u32,
        token: TokenId,
        logits_digest: u64,
        logprobs: Option<Box<TokenLogprobs>>,
        /// With the first token, if they were wanted: of the prompt's tokens but the first.
        prompt_logprobs: Vec<TokenLogprobs>,
        /// How long the step took that made it.
        step: Duration,
    },
    Finished {
        reason: FinishReason,
    },
    /// It has left the batch, to go on elsewhere under `attempt` or here again.
    Frozen {
        attempt: Epoch,
        /// Prompt and output.
        tokens: u32,
    },
    /// The blocks hold the whole prompt and are the receiver's.
    Prefilled {
        blocks: Vec<BlockRef>,
        /// Since it was admitted.
        prefill: Duration,
    },
    Failed {
        error: SequenceError,
    },
}

/// Follows one sequence on the step thread. Must be quick and never block.
pub trait SequenceWatcher: Send {
    /// The sequence has its whole block table; the first `cached_tokens` are computed already.
    fn admitted(&mut self, blocks: Vec<BlockRef>, cached_tokens: u32);

    /// The first `tokens` tokens are in the cache, in this layer. Called during the step.
    fn layer_done(&mut self, layer: u32, tokens: u32);
}
