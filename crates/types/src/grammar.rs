//! What an output may be: a grammar, and the tokens it leaves at each place.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::TokenId;

/// What the whole output must match. Text as the client wrote it: every node compiles it for
/// itself, and knows where it stands from token ids alone, so that a sequence can move.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grammar {
    /// A JSON schema, as JSON.
    JsonSchema(Arc<str>),
    Regex(Arc<str>),
    /// In llguidance's dialect of Lark.
    Lark(Arc<str>),
    /// One of several. None of them knows of the others: neither names nor tokens can clash.
    AnyOf(Arc<[Grammar]>),
}

impl Grammar {
    /// The longest source, in bytes.
    pub const MAX_BYTES: usize = 256 << 10;
    /// The most alternatives of a grammar.
    pub const MAX_ALTERNATIVES: usize = 4;

    /// Each as it was written.
    pub fn sources(&self) -> Vec<&str> {
        match self {
            Grammar::JsonSchema(source) | Grammar::Regex(source) | Grammar::Lark(source) => {
                vec![source]
            }
            Grammar::AnyOf(grammars) => grammars.iter().flat_map(Grammar::sources).collect(),
        }
    }
}

/// A sequence's grammar, compiled: tells what may come next.
pub trait Constraint: Send + Sync + fmt::Debug {
    /// Makes `mask` the tokens that may follow `output`, which only ever grows between calls
    /// unless the sequence starts again. A stop token is allowed where the grammar may end.
    fn allowed(&self, output: &[TokenId], mask: &mut TokenMask) -> Result<(), ConstraintError>;
}

/// The grammar can't go on from what was emitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("after {emitted} tokens: {why}")]
pub struct ConstraintError {
    pub emitted: usize,
    pub why: String,
}

/// A set of tokens: one bit each, 32 to a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenMask {
    words: Vec<u32>,
}

impl TokenMask {
    /// Takes over a set's words; token `i` is bit `i % 32` of word `i / 32`.
    pub fn copy_from(&mut self, words: &[u32]) {
        self.words.clear();
        self.words.extend_from_slice(words);
    }

    pub fn contains(&self, token: TokenId) -> bool {
        let (word, bit) = (token.0 as usize / 32, token.0 % 32);
        self.words.get(word).is_some_and(|word| word >> bit & 1 == 1)
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = TokenId> + '_ {
        (0_u32..).zip(&self.words).flat_map(|(at, &word)| {
            (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| TokenId(at * 32 + bit))
        })
    }

    /// Bans every logit outside the set. False if that leaves none.
    pub fn apply(&self, logits: &mut [f32]) -> bool {
        let mut any = false;
        for (at, logits) in logits.chunks_mut(32).enumerate() {
            let word = self.words.get(at).copied().unwrap_or(0);
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
                any |= *logit != f32::NEG_INFINITY;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_its_bits() {
        let mut mask = TokenMask::default();
        mask.copy_from(&[1 << 3, 0, 1 | 1 << 31]);
        assert_eq!(mask.iter().collect::<Vec<_>>(), [3, 64, 95].map(TokenId));
        assert!(mask.contains(TokenId(64)) && !mask.contains(TokenId(65)));
        assert!(!mask.contains(TokenId(1000)));
        let mut logits = vec![1.0; 100];
        assert!(mask.apply(&mut logits));
        let left = |logits: &[f32]| logits.iter().filter(|logit| logit.is_finite()).count();
        assert_eq!(left(&logits), 3);
        assert!(!TokenMask::default().apply(&mut logits));
        assert_eq!(left(&logits), 0);
    }
}
