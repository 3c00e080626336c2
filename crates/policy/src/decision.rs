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
    pub path: Path,
    pub demand: Demand,
    pub predicted: Prediction,
    pub reasons: Reasons,
    /// Others that could have taken the request: the best few, best first.
    pub alternatives: Vec<Alternative>,
}

/// A path that wasn't taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    pub path: Path,
    pub predicted: Prediction,
}

/// Why a path won over the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Won {
    /// There was no other.
    #[default]
    Alone,
    /// More objectives are met by it.
    Attainment,
    /// Of those that meet as many it costs least.
    Cost,
    /// Of those that meet as many and cost about as much it was drawn.
    Draw,
    /// By a policy that compares nothing of this.
    Policy,
}

/// Which nodes work on a request, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// One computes the prompt, the other takes its pages over and decodes.
    Disaggregated { prefill: Placed, decode: Placed },
    /// The first token is the last: nobody decodes.
    PrefillOnly { prefill: Placed },
    /// Who decodes computes the prompt too.
    Local { decode: Placed },
}

impl Path {
    pub fn prefill(&self) -> Option<&Placed> {
        match self {
            Path::Disaggregated { prefill, .. } | Path::PrefillOnly { prefill } => Some(prefill),
            Path::Local { .. } => None,
        }
    }

    pub fn decode(&self) -> Option<&Placed> {
        match self {
            Path::Disaggregated { decode, .. } | Path::Local { decode } => Some(decode),
            Path::PrefillOnly { .. } => None,
        }
    }
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
        let prefill = self.path.prefill().map(|placed| (Role::Prefill, placed));
        prefill.into_iter().chain(self.path.decode().map(|placed| (Role::Decode, placed)))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prediction {
    /// From the placement on: queue and prefill.
    pub ttft: Duration,
    /// Pages still on their way after the first token.
    pub exposed_transfer: Duration,
    /// Per output token after the first, the exposed transfer spread over them.
    pub tpot: Duration,
    /// What it adds to each step of those already there, all of them together.
    pub harm: Duration,
    /// The chance that the request meets both objectives,
    pub attainment: f64,
    /// and how many of those already there will miss theirs for it.
    pub loss: f64,
    /// The request's time to its end, and what it costs others meanwhile.
    pub cost: Duration,
    /// What the latency model alone says of the two, before it is corrected by how predictions
    /// came out.
    pub uncorrected_ttft: Duration,
}

/// Why these nodes and no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    pub won: Won,
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
    /// Every prefill node has as many prompts before it as it should: what waits can still be
    /// ordered here, and one has fewer after `after`.
    Turn { after: Duration },
    /// Wherever it is placed, more objectives are missed for it than it may meet.
    Objectives,
}

impl Shortage {
    /// Of two, the one nearer to being over.
    pub(crate) fn or(self, other: Shortage) -> Shortage {
        match (self, other) {
            (Shortage::DecodeBlocks { free: a, .. }, Shortage::DecodeBlocks { free: b, .. }) => {
                if a >= b { self } else { other }
            }
            (Shortage::DecodeBlocks { .. }, _) => self,
            (_, Shortage::Nodes { .. }) => self,
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
    #[error(
        "the first token would come {ttft:?} after the request, and it was to come within \
         {objective:?}; try again later, or with a longer x-slo-ttft-ms"
    )]
    TooLate { model: ModelId, ttft: Duration, objective: Duration, retry_after: Duration },
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
            Refusal::TooLate { .. } => "OBJECTIVE_OUT_OF_REACH",
        }
    }

    /// When asking again may help; `None` when it won't.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::NoNodes { retry_after, .. }
            | Refusal::Full { retry_after, .. }
            | Refusal::WaitedTooLong { retry_after, .. }
            | Refusal::TooLate { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}
