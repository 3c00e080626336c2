//! The one seam between scheduling and computing.

use baton_types::{
    BlockId, Constraint, ConstraintError, KvLayout, NumericsId, SamplingSpec, SequenceKey, TokenId,
    TokenLogprobs,
};

/// What an engine can do; fixed for its life.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineInfo {
    pub layout: KvLayout,
    pub numerics: NumericsId,
    /// The longest sequence, in tokens, prompt and output together.
    pub max_context: u32,
    pub vocab: u32,
}

/// One sequence's part of a step: run `tokens` at positions `start..start + tokens.len()`, whose
/// keys and values go to their slots in `blocks`.
#[derive(Clone, Copy, Debug)]
pub struct SequenceStep<'a> {
    pub key: SequenceKey,
    /// At least one: a prefill chunk, or the last sampled token.
    pub tokens: &'a [TokenId],
    /// Tokens of this sequence already in the cache.
    pub start: u32,
    /// The sequence's whole block table: position `t` lives in `blocks[t / block_tokens]`.
    pub blocks: &'a [BlockId],
    /// Set when the last of `tokens` is followed by a sampled one.
    pub sample: Option<SampleStep<'a>>,
    /// Set when log-probabilities of the prompt are wanted.
    pub score: Option<ScoreStep<'a>>,
}

/// Which log-probabilities to tell of tokens that are known already.
#[derive(Clone, Copy, Debug)]
pub struct ScoreStep<'a> {
    /// `targets[i]` follows `tokens[i]`. The last of `tokens` may have none.
    pub targets: &'a [TokenId],
    /// How many of the likeliest to tell at each place.
    pub top: u32,
}

/// How to draw the token after this step.
#[derive(Clone, Copy, Debug)]
pub struct SampleStep<'a> {
    pub sampling: &'a SamplingSpec,
    /// Index of the new token in the client's stream: part of the generator's key.
    pub index: u32,
    /// The prompt,
    pub prompt: &'a [TokenId],
    /// what was emitted after it,
    pub output: &'a [TokenId],
    /// and what ends the sequence.
    pub stop_tokens: &'a [TokenId],
    /// `sampling.grammar`, compiled.
    pub constraint: Option<&'a dyn Constraint>,
}

impl<'a> SampleStep<'a> {
    /// For a draw that knows no history.
    pub fn new(sampling: &'a SamplingSpec, index: u32) -> Self {
        SampleStep { sampling, index, prompt: &[], output: &[], stop_tokens: &[], constraint: None }
    }
}

/// What a step sampled for one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    pub key: SequenceKey,
    pub token: TokenId,
    /// Digest of the raw logits the token was drawn from: two runs agree bit for bit exactly when
    /// these agree (`same-tokens`).
    pub logits_digest: u64,
    /// If they were wanted.
    pub logprobs: Option<Box<TokenLogprobs>>,
}

/// Hears of a step's progress while it runs, on the step thread. Must be quick.
pub trait StepObserver {
    /// Every key and value this step writes in `layer` is in the cache; nothing later in the step
    /// changes them. Layers come in ascending order.
    fn layer_done(&mut self, layer: u32);

    /// How likely the token at `position` of `key`'s sequence was. Positions of a sequence come in
    /// ascending order, after all layers.
    fn scored(&mut self, key: SequenceKey, position: u32, logprobs: TokenLogprobs) {
        let _ = (key, position, logprobs);
    }
}

/// For steps nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl StepObserver for Unobserved {
    fn layer_done(&mut self, _layer: u32) {}
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("{key}: token id {token} is outside the vocabulary of {vocab}")]
    Token { key: SequenceKey, token: u32, vocab: u32 },
    #[error("{key}: position {position} is beyond the context of {max_context} tokens")]
    Context { key: SequenceKey, position: u32, max_context: u32 },
    #[error("{key}: the block table covers {covered} tokens, the step needs {needed}")]
    BlockTable { key: SequenceKey, covered: u32, needed: u32 },
    #[error("{key}: the step has no tokens")]
    Empty { key: SequenceKey },
    #[error("{key}: the logits are not finite; the model or its input is broken")]
    NotFinite { key: SequenceKey },
    #[error("{key}: the grammar leaves nothing to draw {source}")]
    Constraint { key: SequenceKey, source: ConstraintError },
    #[error("{key}: page ({layer}, {block:?}) is in use by somebody else")]
    PageBusy { key: SequenceKey, layer: u32, block: BlockId },
}

impl EngineError {
    /// The sequence the step failed for; its companions can be tried again without it.
    pub fn key(&self) -> SequenceKey {
        match self {
            EngineError::Token { key, .. }
            | EngineError::Context { key, .. }
            | EngineError::BlockTable { key, .. }
            | EngineError::Empty { key }
            | EngineError::NotFinite { key }
            | EngineError::Constraint { key, .. }
            | EngineError::PageBusy { key, .. } => *key,
        }
    }
}

/// A model and the KV arena it reads and writes, driven one ragged step at a time by one thread.
///
/// Prefill, chunked prefill, decode and any mixture are the same call. What it computes for a
/// sequence depends on that sequence's tokens and cached pages alone, bit for bit, never on its
/// companions in the step (`same-tokens`).
///
/// A step that returns an error has sampled nothing; pages it was about to write may hold anything.
pub trait Engine: Send {
    fn info(&self) -> &EngineInfo;

    /// Runs one step. `sampled` is cleared, then filled in the order of `sequences`.
    fn step(
        &mut self,
        sequences: &[SequenceStep<'_>],
        observer: &mut dyn StepObserver,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), EngineError>;

    /// There is nothing to compute until the next step.
    fn idle(&mut self) {}
}
