use std::time::Duration;

use baton_kv_cache::BlockRef;
use baton_types::{Epoch, FinishReason, SequenceKey, TokenId, TokenLogprobs};

use crate::EngineError;

/// What became of a sequence. Those of one sequence come in the order of this enum; `Finished`,
/// `Prefilled` and `Failed` are its last, and exactly one of them comes unless it is cancelled.
#[derive(Debug)]
pub enum Event {
    /// It has its place in the batch. Comes once, also when it is preempted later.
    Admitted {
        key: SequenceKey,
        epoch: Epoch,
        /// Under [`crate::Goal::FirstToken`]: the whole prompt's table, reserved up front, which
        /// stays its table to the end. Otherwise empty, for its blocks may be taken from it.
        blocks: Vec<BlockRef>,
        /// Leading tokens whose keys and values were there already.
        cached_tokens: u32,
        /// Since it was submitted.
        queue: Duration,
    },
    Token {
        key: SequenceKey,
        epoch: Epoch,
        /// In the client's stream.
        index: u32,
        token: TokenId,
        logits_digest: u64,
        logprobs: Option<Box<TokenLogprobs>>,
    },
    /// It ended well, and its blocks are given back.
    Finished { key: SequenceKey, epoch: Epoch, reason: FinishReason },
    /// [`crate::Goal::FirstToken`] is reached, right after its `Token`, and more tokens are to
    /// come. The blocks hold all of `spec.tokens` and are the caller's now.
    Prefilled {
        key: SequenceKey,
        epoch: Epoch,
        blocks: Vec<BlockRef>,
        /// Since it was admitted.
        prefill: Duration,
    },
    /// It ended badly, and its blocks are given back.
    Failed { key: SequenceKey, epoch: Epoch, error: SequenceError },
}

/// Why an accepted sequence didn't get to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    #[error(
        "the deadline of {deadline:?} passed with {emitted} of at most {max_tokens} tokens emitted"
    )]
    DeadlineExceeded { deadline: Duration, emitted: u32, max_tokens: u32 },
    #[error("superseded by epoch {by}")]
    Superseded { by: Epoch },
    #[error("it left the batch to go on elsewhere, and nobody said within {patience:?} where")]
    Abandoned { patience: Duration },
    #[error("the engine refused it")]
    Engine(#[source] EngineError),
}

impl Event {
    pub fn key(&self) -> SequenceKey {
        match *self {
            Event::Admitted { key, .. }
            | Event::Token { key, .. }
            | Event::Finished { key, .. }
            | Event::Prefilled { key, .. }
            | Event::Failed { key, .. } => key,
        }
    }

    pub fn epoch(&self) -> Epoch {
        match *self {
            Event::Admitted { epoch, .. }
            | Event::Token { epoch, .. }
            | Event::Finished { epoch, .. }
            | Event::Prefilled { epoch, .. }
            | Event::Failed { epoch, .. } => epoch,
        }
    }

    /// Whether this is the sequence's last event.
    pub fn is_last(&self) -> bool {
        matches!(self, Event::Finished { .. } | Event::Prefilled { .. } | Event::Failed { .. })
    }
}
