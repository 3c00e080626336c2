use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Epoch, SamplingSpec, SequenceKey, TokenId};

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Prefill,
    Decode,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Prefill => "prefill",
            Role::Decode => "decode",
        })
    }
}

/// Token ids that end a sequence. They are sampled and counted, never shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopTokens(pub Vec<TokenId>);

impl StopTokens {
    pub fn contains(&self, token: TokenId) -> bool {
        self.0.contains(&token)
    }
}

/// One sequence as a node is asked to run it: everything needed to start, continue or replay it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SequenceSpec {
    pub key: SequenceKey,
    pub epoch: Epoch,
    /// The prompt, then the tokens already emitted (none unless this is a continuation).
    pub tokens: Vec<TokenId>,
    /// How many of `tokens` are the prompt.
    pub prompt_len: u32,
    /// The most tokens the whole sequence may emit, those already in `tokens` counted.
    pub max_tokens: u32,
    pub sampling: SamplingSpec,
    pub stop_tokens: StopTokens,
    /// Separates tenants in the prefix cache: part of the block-hash chain's root.
    pub cache_salt: u64,
    /// Time left, counted from when the node receives it.
    pub deadline: Option<Duration>,
    /// Time left for the first token, counted likewise. Nodes compute the most urgent prompts first,
    /// then those whose time has passed, then those that don't say; nothing ends because it passes.
    pub first_token_within: Option<Duration>,
}

impl SequenceSpec {
    /// The index the next sampled token will have in the client's stream.
    pub fn next_index(&self) -> u32 {
        self.tokens.len() as u32 - self.prompt_len
    }

    /// The most tokens the sequence can ever hold in the KV cache. The last sampled token is never
    /// fed back, so it needs no slot.
    pub fn max_context(&self) -> usize {
        self.prompt_len as usize + (self.max_tokens as usize).saturating_sub(1)
    }
}

/// Why a sequence ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop token was sampled, or a stop string was found.
    Stop,
    /// `max_tokens` was reached.
    Length,
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        })
    }
}
