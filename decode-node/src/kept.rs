//! Outputs of sequences whose callers are gone before their end. A caller may have died; then another router asks for
//! what was made, to go on behind it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use baton_types::{ChoiceIndex, RequestId, SequenceKey, SequenceSpec, TokenId};

/// How long an output is kept. Clients come back within seconds, or never.
const GRACE: Duration = Duration::from_secs(30);
/// Tokens of all that are kept; the oldest give way.
const MOST_TOKENS: usize = 1 << 20;

/// A node's.
#[derive(Debug, Default)]
pub(crate) struct KeptOutputs {
    /// The oldest first.
    outputs: Mutex<VecDeque<Output>>,
}

#[derive(Debug)]
struct Output {
    key: SequenceKey,
    tokens: Vec<TokenId>,
    since: Instant,
}

impl KeptOutputs {
    /// What was made of a request, choice by choice: the longest, if there are several.
    pub(crate) fn of(&self, request: RequestId) -> Vec<(ChoiceIndex, Vec<TokenId>)> {
        let mut outputs = self.lock();
        forget(&mut outputs, Instant::now());
        let mut found: Vec<(ChoiceIndex, Vec<TokenId>)> = Vec::new();
        for Output { key, tokens, .. } in outputs.iter().filter(|one| one.key.request == request) {
            match found.iter_mut().find(|(choice, _)| *choice == key.choice) {
                Some((_, known)) if known.len() >= tokens.len() => {}
                Some((_, known)) => known.clone_from(tokens),
                None => found.push((key.choice, tokens.clone())),
            }
        }
        found
    }

    fn keep(&self, key: SequenceKey, tokens: Vec<TokenId>, now: Instant) {
        let mut outputs = self.lock();
        outputs.push_back(Output { key, tokens, since: now });
        forget(&mut outputs, now);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Output>> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those that are too old, or too many.
fn forget(outputs: &mut VecDeque<Output>, now: Instant) {
    let mut tokens: usize = outputs.iter().map(|one| one.tokens.len()).sum();
    while let Some(oldest) = outputs.front()
        && (tokens > MOST_TOKENS || now.saturating_duration_since(oldest.since) > GRACE)
    {
        tokens -= oldest.tokens.len();
        outputs.pop_front();
    }
}

/// An output that is being made; kept if it is dropped before its end.
#[derive(Debug)]
pub(crate) struct Making {
    kept: Arc<KeptOutputs>,
    key: SequenceKey,
    tokens: Vec<TokenId>,
    is_over: bool,
}

impl Making {
    /// Of a sequence that has what it says, and is about to make more.
    pub(crate) fn new(kept: &Arc<KeptOutputs>, spec: &SequenceSpec) -> Self {
        let made = spec.tokens.get(spec.prompt_len as usize..).unwrap_or_default();
        Making { kept: Arc::clone(kept), key: spec.key, tokens: made.to_vec(), is_over: false }
    }

    pub(crate) fn push(&mut self, token: TokenId) {
        self.tokens.push(token);
    }

    /// Its caller has heard the end, or will.
    pub(crate) fn over(&mut self) {
        self.is_over = true;
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.is_over && !self.tokens.is_empty() {
            self.kept.keep(self.key, std::mem::take(&mut self.tokens), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(request: u128, choice: u16) -> SequenceKey {
        SequenceKey { request: RequestId(request), choice: ChoiceIndex(choice) }
    }

    fn tokens(count: usize) -> Vec<TokenId> {
        vec![TokenId(7); count]
    }

    #[test]
    fn the_longest_of_each_choice_is_told() {
        let (kept, now) = (KeptOutputs::default(), Instant::now());
        for (key, count) in
            [(key(1, 0), 3), (key(1, 1), 2), (key(1, 0), 5), (key(1, 0), 4), (key(2, 0), 9)]
        {
            kept.keep(key, tokens(count), now);
        }
        let lengths = |request| -> Vec<(u16, usize)> {
            let all = kept.of(RequestId(request)).into_iter();
            all.map(|(choice, tokens)| (choice.0, tokens.len())).collect()
        };
        assert_eq!(lengths(1), [(0, 5), (1, 2)]);
        assert_eq!(lengths(3), []);
    }

    #[test]
    fn the_old_and_the_many_are_forgotten() {
        let (kept, now) = (KeptOutputs::default(), Instant::now());
        let Some(long_ago) = now.checked_sub(2 * GRACE) else { return };
        kept.keep(key(1, 0), tokens(3), long_ago);
        kept.keep(key(2, 0), tokens(MOST_TOKENS), now);
        assert!(kept.of(RequestId(1)).is_empty(), "too old");
        kept.keep(key(3, 0), tokens(1), now);
        assert!(kept.of(RequestId(2)).is_empty(), "too many");
        assert_eq!(kept.of(RequestId(3)).len(), 1);
    }
}
