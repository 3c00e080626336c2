use std::time::Duration;

use baton_types::{Generation, ModelId, NodeId, Role};

use crate::{Demand, NodeView};

/// What to do with a request now.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    Place(Placement),
    /// Ask again when the view has changed.
    Queue(Shortage),
    Refuse(Refusal),
}

/// Who does what. The caller reserves it in the view before it decides anything else.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    pub prefill: Placed,
    /// Nobody when the first token is the last.
    pub decode: Option<Placed>,
    pub demand: Demand,
    pub predicted: Prediction,
    pub reasons: Reasons,
}

/// One incarnation of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub node: NodeId,
    pub generation: Generation,
}

impl Placed {
    pub(crate) fn on(view: &NodeView) -> Self {
        Placed { node: view.node.clone(), generation: view.generation }
    }
}

impl Placement {
    /// The nodes and what each does.
    pub fn placed(&self) -> impl Iterator<Item = (Role, &Placed)> {
        let decode = self.decode.iter().map(|placed| (Role::Decode, placed));
        std::iter::once((Role::Prefill, &self.prefill)).chain(decode)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prediction {
    /// Queue and prefill.
    pub ttft: Duration,
    /// Pages still on their way after the first token.
    pub exposed_transfer: Duration,
    /// Per output token, once it has joined the batch.
    pub tpot: Duration,
    /// What it adds to each step of those already there, all of them together.
    pub harm: Duration,
}

/// Why these nodes and no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    /// Pairs that could have taken the request,
    pub candidates: u32,
    /// and those that were about as good: one of them was drawn.
    pub near_equal: u32,
    /// Prompt tokens the prefill node probably has.
    pub prefill_cached_tokens: u32,
    /// Prompt tokens the decode node probably has.
    pub decode_cached_tokens: u32,
    /// Of the predicted time to first token, the wait for others.
    pub queue: Duration,
}

/// What there is too little of just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// No node of this role is there, or none accepts work.
    Nodes { role: Role },
    /// Every prefill node's pool and queue are full.
    PrefillRoom,
    /// No decode node has the blocks.
    DecodeBlocks { needed: u64, free: u64 },
}

impl Shortage {
    /// Of two, the one nearer to being over.
    pub(crate) fn or(self, other: Shortage) -> Shortage {
        match (self, other) {
            (Shortage::DecodeBlocks { free: a, .. }, Shortage::DecodeBlocks { free: b, .. }) => {
                if a >= b { self } else { other }
            }
            (Shortage::DecodeBlocks { .. }, _) => self,
            (Shortage::PrefillRoom, Shortage::Nodes { .. }) => self,
            _ => other,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("model {model} is not served here")]
    UnknownModel { model: ModelId },
    #[error("the prompt is empty; send at least one token")]
    EmptyPrompt,
    #[error("nothing is to be generated; ask for at least one token")]
    NothingToGenerate,
    #[error(
        "prompt and output together are {tokens} tokens; model {model} takes {max} at most: \
         shorten the prompt or ask for fewer tokens"
    )]
    TooLong { model: ModelId, tokens: u64, max: u64 },
    #[error(
        "the prompt has {tokens} tokens; the pools for model {model} hold {max} at most: shorten it"
    )]
    PromptTooLong { model: ModelId, tokens: u32, max: u32 },
    #[error("no {role} node accepts requests for model {model} just now; try again later")]
    NoNodes { model: ModelId, role: Role, retry_after: Duration },
    #[error("model {model} is at capacity with {queued} requests queued; try again later")]
    Full { model: ModelId, queued: usize, retry_after: Duration },
    #[error("model {model} had no room for {waited:?}; try again later")]
    WaitedTooLong { model: ModelId, waited: Duration, retry_after: Duration },
}

impl Refusal {
    /// A stable name, UPPER_SNAKE, for programs to decide by.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::UnknownModel { .. } => "MODEL_NOT_FOUND",
            Refusal::EmptyPrompt => "EMPTY_PROMPT",
            Refusal::NothingToGenerate => "NOTHING_TO_GENERATE",
            Refusal::TooLong { .. } | Refusal::PromptTooLong { .. } => "CONTEXT_TOO_LONG",
            Refusal::NoNodes { .. } => "NO_NODES",
            Refusal::Full { .. } => "AT_CAPACITY",
            Refusal::WaitedTooLong { .. } => "WAITED_TOO_LONG",
        }
    }

    /// When asking again may help; `None` when it won't.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::NoNodes { retry_after, .. }
            | Refusal::Full { retry_after, .. }
            | Refusal::WaitedTooLong { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}
