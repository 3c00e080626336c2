//! Many nodes' tokens, made one exact stream. Pure.
//!
//! # Why is the stream exact?
//!
//! The router grants one epoch at a time; only tokens of the granted one are taken, each index at
//! most once, and they leave in order of their index without a gap. A token that comes twice is
//! dropped when it is the same one, and refused when it isn't: then a node lies, and whoever runs
//! the attempt ends it. What has left stays: a new epoch goes on at the next index.

use std::collections::BTreeMap;

use baton_proto::convert::Sampled;
use baton_types::{Epoch, FinishReason, TokenId};

/// Tokens that may wait for one before them. A decode node runs ahead by what the network holds of
/// the first token; more than this is nonsense.
const MAX_AHEAD: usize = 4096;

/// One choice's tokens, from all its attempts.
#[derive(Clone, Debug)]
pub(crate) struct Merge {
    epoch: Epoch,
    max_tokens: u32,
    emitted: Vec<TokenId>,
    /// Index of the first token the granted epoch makes.
    base: u32,
    /// Came before their turn.
    ahead: BTreeMap<u32, Sampled>,
    end: Option<End>,
}

/// The sequence ends before this index.
#[derive(Clone, Copy, Debug)]
struct End {
    index: u32,
    reason: FinishReason,
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It has left, or will in its turn.
    New,
    /// It was here already.
    Duplicate,
    /// It was made under an epoch that isn't the granted one.
    StaleEpoch,
}

/// A node broke the protocol; its attempt is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MergeError {
    #[error("token {index} came as {given}, and was {held} before")]
    Conflict { index: u32, given: u32, held: u32 },
    #[error("token {index} came, and the request ends after {max_tokens}")]
    BeyondEnd { index: u32, max_tokens: u32 },
    #[error("{MAX_AHEAD} tokens came before token {missing}")]
    TooFarAhead { missing: u32 },
    #[error("the sequence ended and token {missing} never came")]
    Gap { missing: u32 },
}

impl Merge {
    /// A stream of at most `max_tokens`, granted to `epoch`.
    pub(crate) fn new(epoch: Epoch, max_tokens: u32) -> Self {
        let (emitted, ahead) = (Vec::new(), BTreeMap::new());
        Merge { epoch, max_tokens, emitted, base: 0, ahead, end: None }
    }

    /// Grants the stream to another epoch: what the last one made and has not left is forgotten.
    pub(crate) fn grant(&mut self, epoch: Epoch) {
        debug_assert!(epoch > self.epoch, "{epoch} after {}", self.epoch);
        self.epoch = epoch;
        self.base = self.next_index();
        self.ahead.clear();
        self.end = None;
    }

    /// Takes a token made under `epoch`.
    pub(crate) fn accept(&mut self, epoch: Epoch, sampled: Sampled) -> Result<Taken, MergeError> {
        if epoch != self.epoch {
            return Ok(Taken::StaleEpoch);
        }
        let Sampled { index, token: TokenId(given), .. } = sampled;
        let ended = self.end.map_or(self.max_tokens, |end| end.index);
        let left = self.emitted.get(index as usize).copied();
        if let Some(TokenId(held)) = left.or(self.ahead.get(&index).map(|held| held.token)) {
            let same = held == given;
            return if same {
                Ok(Taken::Duplicate)
            } else {
                Err(MergeError::Conflict { index, given, held })
            };
        }
        if index >= ended {
            return Err(MergeError::BeyondEnd { index, max_tokens: ended });
        }
        if self.ahead.len() >= MAX_AHEAD {
            return Err(MergeError::TooFarAhead { missing: self.next_index() });
        }
        self.ahead.insert(index, sampled);
        Ok(Taken::New)
    }

    /// The sequence ended under `epoch`, with the last token that was sent for it or, when none
    /// was, with the first one.
    pub(crate) fn finish(&mut self, epoch: Epoch, reason: FinishReason) {
        if epoch == self.epoch {
            let last = self.ahead.last_key_value().map_or(0, |(index, _)| index + 1);
            let index = last.max(self.next_index()).max(self.base + 1);
            self.end = Some(End { index, reason });
        }
    }

    /// The next token of the stream, if it is here.
    pub(crate) fn release(&mut self) -> Option<Sampled> {
        let sampled = self.ahead.remove(&self.next_index())?;
        self.emitted.push(sampled.token);
        Some(sampled)
    }

    /// Takes tokens that were made elsewhere, from the first on: they leave in their turn.
    pub(crate) fn begin_with(&mut self, known: Vec<TokenId>) {
        debug_assert!(self.emitted.is_empty() && self.ahead.is_empty(), "it has begun");
        let sampled = |(index, token)| Sampled { index, token, logits_digest: 0, logprobs: None };
        let known = (0..self.max_tokens).zip(known).map(sampled);
        self.ahead.extend(known.map(|sampled| (sampled.index, sampled)));
    }

    /// Whether the next token of the stream is here.
    pub(crate) fn has_next(&self) -> bool {
        self.ahead.contains_key(&self.next_index())
    }

    /// How the sequence ended, once everything before has left.
    pub(crate) fn ended(&self) -> Option<FinishReason> {
        self.end.filter(|end| self.next_index() >= end.index).map(|end| end.reason)
    }

    /// No more tokens will come. An error when there is still one to wait for.
    pub(crate) fn close(&self) -> Result<(), MergeError> {
        match self.end {
            Some(end) if self.next_index() >= end.index => Ok(()),
            _ => Err(MergeError::Gap { missing: self.next_index() }),
        }
    }

    /// What has left, from all epochs.
    pub(crate) fn emitted(&self) -> &[TokenId] {
        &self.emitted
    }

    pub(crate) fn next_index(&self) -> u32 {
        self.emitted.len() as u32
    }

    /// Enough waits for its turn: whoever reads ahead should pause.
    pub(crate) fn is_far_ahead(&self) -> bool {
        self.ahead.len() >= MAX_AHEAD / 4
    }
}

#[cfg(test)]
mod tests {
    use baton_types::RouterId;
    use proptest::prelude::*;

    use super::*;

    fn epoch(counter: u64) -> Epoch {
        Epoch { counter, router: RouterId(1) }
    }

    /// The token every honest node makes at `index`: `same-tokens`.
    fn sampled(index: u32) -> Sampled {
        Sampled {
            index,
            token: TokenId(index * 7 + 3),
            logits_digest: index.into(),
            logprobs: None,
        }
    }

    fn drain(merge: &mut Merge) -> Vec<Sampled> {
        std::iter::from_fn(|| merge.release()).collect()
    }

    /// One attempt: how far it comes before it dies, in what order its words arrive, which arrive
    /// twice, and which words of earlier attempts come between.
    #[derive(Clone, Debug)]
    struct Attempt {
        tokens: usize,
        order: Vec<prop::sample::Index>,
        twice: Vec<prop::sample::Index>,
        stale: Vec<(u32, u32)>,
    }

    fn attempt() -> impl Strategy<Value = Attempt> {
        let indexes = |n| prop::collection::vec(any::<prop::sample::Index>(), 0..n);
        let stale = prop::collection::vec((0..40_u32, any::<u32>()), 0..6);
        (1..20_usize, indexes(20), indexes(6), stale)
            .prop_map(|(tokens, order, twice, stale)| Attempt { tokens, order, twice, stale })
    }

    proptest! {
        /// `exact-stream`: whatever is reordered, repeated, stale or lost with its attempt, the
        /// client sees each index once, in order, with the one token it has.
        #[test]
        fn exact_stream(attempts in prop::collection::vec(attempt(), 1..6), total in 1..40_u32) {
            let mut merge = Merge::new(epoch(1), total);
            let mut seen: Vec<Sampled> = Vec::new();
            for (number, attempt) in (1..).zip(&attempts) {
                let current = epoch(number);
                if number > 1 {
                    merge.grant(current);
                }
                let base = merge.next_index();
                let end = total.min(base + attempt.tokens as u32);
                let mut words: Vec<u32> = (base..end).collect();
                for index in &attempt.twice {
                    if !words.is_empty() {
                        words.push(words[index.index(words.len())]);
                    }
                }
                for (at, index) in attempt.order.iter().enumerate() {
                    if !words.is_empty() {
                        let (len, other) = (words.len(), index.index(words.len()));
                        words.swap(at % len, other);
                    }
                }
                for word in words {
                    for &(index, token) in &attempt.stale {
                        let lie = Sampled { index, token: TokenId(token), logits_digest: 0, logprobs: None };
                        let taken = merge.accept(epoch(number + 9), lie);
                        prop_assert_eq!(taken, Ok(Taken::StaleEpoch));
                    }
                    merge.accept(current, sampled(word)).unwrap();
                    seen.extend(drain(&mut merge));
                }
                if merge.next_index() == total {
                    merge.finish(current, FinishReason::Length);
                    prop_assert_eq!(merge.ended(), Some(FinishReason::Length));
                    break;
                }
                prop_assert_eq!(merge.ended(), None);
            }
            let expected: Vec<Sampled> = (0..seen.len() as u32).map(sampled).collect();
            prop_assert_eq!(&seen, &expected);
            let ids: Vec<TokenId> = seen.iter().map(|sampled| sampled.token).collect();
            prop_assert_eq!(merge.emitted(), &ids);
        }
    }

    #[test]
    fn the_end_waits_for_the_first_token() {
        let mut merge = Merge::new(epoch(1), 9);
        merge.accept(epoch(1), sampled(1)).unwrap();
        merge.finish(epoch(1), FinishReason::Stop);
        assert_eq!((merge.ended(), merge.close()), (None, Err(MergeError::Gap { missing: 0 })));
        merge.accept(epoch(1), sampled(0)).unwrap();
        assert_eq!(drain(&mut merge), [sampled(0), sampled(1)]);
        assert_eq!((merge.ended(), merge.close()), (Some(FinishReason::Stop), Ok(())));
    }

    #[test]
    fn a_decode_node_that_has_nothing_to_add_ends_after_the_first_token() {
        let mut merge = Merge::new(epoch(1), 9);
        merge.finish(epoch(1), FinishReason::Stop);
        assert_eq!(merge.ended(), None);
        merge.accept(epoch(1), sampled(0)).unwrap();
        merge.release().unwrap();
        assert_eq!(merge.ended(), Some(FinishReason::Stop));
        let late = merge.accept(epoch(1), sampled(1));
        assert_eq!(late, Err(MergeError::BeyondEnd { index: 1, max_tokens: 1 }));
    }

    #[test]
    fn lies_are_refused_with_both_values() {
        let mut merge = Merge::new(epoch(1), 3);
        merge.accept(epoch(1), sampled(0)).unwrap();
        merge.release().unwrap();
        assert_eq!(merge.accept(epoch(1), sampled(0)), Ok(Taken::Duplicate));
        let lie = Sampled { token: TokenId(99), ..sampled(0) };
        let expected = MergeError::Conflict { index: 0, given: 99, held: 3 };
        assert_eq!(merge.accept(epoch(1), lie), Err(expected));
        let beyond = merge.accept(epoch(1), sampled(3));
        assert_eq!(beyond, Err(MergeError::BeyondEnd { index: 3, max_tokens: 3 }));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut merge = Merge::new(epoch(1), u32::MAX);
        for index in 1..=MAX_AHEAD as u32 {
            merge.accept(epoch(1), sampled(index % 600_000_000)).unwrap();
        }
        assert!(merge.is_far_ahead());
        let error = merge.accept(epoch(1), sampled(5000)).unwrap_err();
        assert_eq!(error, MergeError::TooFarAhead { missing: 0 });
    }

    #[test]
    fn a_new_epoch_goes_on_where_the_stream_is() {
        let mut merge = Merge::new(epoch(1), 9);
        for index in [0, 1, 3] {
            merge.accept(epoch(1), sampled(index)).unwrap();
        }
        assert_eq!(drain(&mut merge).len(), 2);
        merge.grant(epoch(2));
        assert_eq!(merge.accept(epoch(1), sampled(2)), Ok(Taken::StaleEpoch));
        assert!(merge.release().is_none());
        merge.accept(epoch(2), sampled(2)).unwrap();
        assert_eq!(drain(&mut merge), [sampled(2)]);
    }
}
