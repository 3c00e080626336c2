use baton_kv_cache::{BlockRef, KvCache};
use baton_types::{Constraint, Epoch, SequenceKey, SequenceSpec, TokenId, blocks_for};

use crate::EngineInfo;

/// A sequence to run here.
#[derive(Debug)]
pub struct Submission {
    pub spec: SequenceSpec,
    pub start: Start,
    pub goal: Goal,
    /// `spec.sampling.grammar`, compiled; there when that is.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// Where a sequence's keys and values come from.
#[derive(Debug)]
pub enum Start {
    /// They are computed here from `spec.tokens`, but for what the prefix cache has.
    Tokens,
    /// They were computed elsewhere and lie in `blocks`, all of `spec.tokens`; `first` was sampled
    /// there as index `spec.next_index()`, and decoding goes on from it. No [`crate::Event::Token`]
    /// tells of `first`. Such a sequence is run to its end whatever its goal.
    Imported {
        /// At least as many blocks as `spec.tokens` needs, in order.
        blocks: Vec<BlockRef>,
        /// Of `spec.tokens`, those that were in this node's cache and needn't be moved.
        cached_tokens: u32,
        first: ImportedToken,
    },
}

/// The token another node sampled after its prefill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportedToken {
    pub token: TokenId,
}

/// How far a sequence is run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Until the next token is sampled, then the blocks are handed over: a prefill node's work.
    FirstToken,
    /// Until the sequence ends.
    Finish,
}

/// Why a submission was not taken. Nothing of it is kept; imported blocks are given back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{key}: the prompt is empty; send at least one token")]
    EmptyPrompt { key: SequenceKey },
    #[error(
        "{key}: prompt_len is {prompt_len}, but there are only {tokens} tokens; \
         the prompt comes first, then what was already emitted"
    )]
    PromptLen { key: SequenceKey, prompt_len: u32, tokens: u32 },
    #[error(
        "{key}: {emitted} tokens are emitted already and max_tokens is {max_tokens}: \
         nothing is left to generate"
    )]
    NothingToGenerate { key: SequenceKey, emitted: u32, max_tokens: u32 },
    #[error(
        "{key}: prompt and output may reach {tokens} tokens, the model's context is {max}; \
         shorten the prompt or lower max_tokens"
    )]
    TooLong { key: SequenceKey, tokens: u64, max: u32 },
    #[error("{key}: token id {token} is outside the vocabulary of {vocab}")]
    UnknownToken { key: SequenceKey, token: u32, vocab: u32 },
    #[error(
        "{key}: the sequence may need {blocks} KV blocks, the pool has {total} in all; \
         lower max_tokens or give the node a larger pool"
    )]
    PoolTooSmall { key: SequenceKey, blocks: u64, total: u32 },
    #[error("{key}: {given} blocks were imported, its {tokens} tokens need {needed}")]
    ImportedBlocks { key: SequenceKey, given: u32, needed: u32, tokens: u32 },
    #[error("{key}: the sequence has a grammar that was not compiled")]
    NoConstraint { key: SequenceKey },
    #[error("{waiting} sequences are waiting, at most {max} may; try again later")]
    QueueFull { waiting: u32, max: u32 },
    #[error("{key} is already running under epoch {epoch}")]
    DuplicateKey { key: SequenceKey, epoch: Epoch },
    #[error("{key}: epoch {given} is superseded by {current}, which runs here")]
    StaleEpoch { key: SequenceKey, given: Epoch, current: Epoch },
}

impl Refusal {
    /// Whether the same submission may be taken later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Refusal::QueueFull { .. })
    }
}

impl Submission {
    /// Refuses what could never run here, whatever else does.
    pub(crate) fn check(&self, info: &EngineInfo, cache: &KvCache) -> Result<(), Refusal> {
        let spec = &self.spec;
        let key = spec.key;
        let tokens = spec.tokens.len() as u32;
        if tokens == 0 || spec.prompt_len == 0 {
            return Err(Refusal::EmptyPrompt { key });
        }
        if spec.prompt_len > tokens {
            return Err(Refusal::PromptLen { key, prompt_len: spec.prompt_len, tokens });
        }
        let (emitted, max_tokens) = (spec.next_index(), spec.max_tokens);
        if emitted >= max_tokens {
            return Err(Refusal::NothingToGenerate { key, emitted, max_tokens });
        }
        let longest = u64::from(spec.prompt_len) + u64::from(max_tokens);
        if longest > u64::from(info.max_context) {
            return Err(Refusal::TooLong { key, tokens: longest, max: info.max_context });
        }
        let vocab = info.vocab;
        if let Some(&TokenId(token)) = spec.tokens.iter().find(|token| token.0 >= vocab) {
            return Err(Refusal::UnknownToken { key, token, vocab });
        }
        if spec.sampling.grammar.is_some() && self.constraint.is_none() {
            return Err(Refusal::NoConstraint { key });
        }
        self.check_blocks(cache)
    }

    fn check_blocks(&self, cache: &KvCache) -> Result<(), Refusal> {
        let spec = &self.spec;
        let longest = match self.goal {
            Goal::FirstToken => spec.tokens.len(),
            Goal::Finish => spec.max_context(),
        };
        let blocks = blocks_for(longest, cache.block_tokens()) as u64;
        let total = cache.usage().total;
        if blocks > u64::from(total) {
            return Err(Refusal::PoolTooSmall { key: spec.key, blocks, total });
        }
        if let Start::Imported { blocks, .. } = &self.start {
            let (given, tokens) = (blocks.len() as u32, spec.tokens.len() as u32);
            let needed = blocks_for(spec.tokens.len(), cache.block_tokens()) as u32;
            if given < needed {
                return Err(Refusal::ImportedBlocks { key: spec.key, given, needed, tokens });
            }
        }
        Ok(())
    }
}
