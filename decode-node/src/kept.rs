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
    of: Sequence,
    tokens: Vec<TokenId>,
    since: Instant,
}

/// Which sequence, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) key: SequenceKey,
    pub(crate) tenant: Box<str>,
}

impl KeptOutputs {
    /// What was made of a tenant's request.
    pub(crate) fn of(&self, request: RequestId, tenant: &str) -> Vec<(ChoiceIndex, Vec<TokenId>)> {
        let mut outputs = self.lock();
        forget(&mut outputs, Instant::now());
        let is_its = |one: &&Output| one.of.key.request == request && *one.of.tenant == *tenant;
        let found = outputs.iter().filter(is_its);
        found.map(|one| (one.of.key.choice, one.tokens.clone())).collect()
    }

    fn keep(&self, of: Sequence, tokens: Vec<TokenId>, now: Instant) {
        let mut outputs = self.lock();
        outputs.push_back(Output { of, tokens, since: now });
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
    /// Nobody's once it is over.
    of: Option<Sequence>,
    tokens: Vec<TokenId>,
}

impl Making {
    /// Of a sequence that has what it says, and is about to make more.
    pub(crate) fn new(kept: &Arc<KeptOutputs>, spec: &SequenceSpec, tenant: Box<str>) -> Self {
        let made = spec.tokens.get(spec.prompt_len as usize..).unwrap_or_default();
        let of = Some(Sequence { key: spec.key, tenant });
        Making { kept: Arc::clone(kept), of, tokens: made.to_vec() }
    }

    pub(crate) fn push(&mut self, token: TokenId) {
        self.tokens.push(token);
    }

    /// Its caller has heard the end, or will.
    pub(crate) fn over(&mut self) {
        self.of = None;
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Some(of) = self.of.take()
            && !self.tokens.is_empty()
        {
            self.kept.keep(of, std::mem::take(&mut self.tokens), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(request: u128, choice: u16, tenant: &str) -> Sequence {
        let key = SequenceKey { request: RequestId(request), choice: ChoiceIndex(choice) };
        Sequence { key, tenant: tenant.into() }
    }

    fn tokens(count: usize) -> Vec<TokenId> {
        vec![TokenId(7); count]
    }

    #[test]
    fn a_tenant_is_told_what_is_its_own() {
        let (kept, now) = (KeptOutputs::default(), Instant::now());
        for (request, choice, tenant, count) in
            [(1, 0, "a", 3), (1, 1, "a", 2), (1, 0, "a", 5), (1, 0, "b", 4), (2, 0, "a", 9)]
        {
            kept.keep(sequence(request, choice, tenant), tokens(count), now);
        }
        let lengths = |request, tenant| -> Vec<(u16, usize)> {
            let all = kept.of(RequestId(request), tenant).into_iter();
            all.map(|(choice, tokens)| (choice.0, tokens.len())).collect()
        };
        assert_eq!(lengths(1, "a"), [(0, 3), (1, 2), (0, 5)]);
        assert_eq!(lengths(1, "b"), [(0, 4)]);
        assert_eq!(lengths(1, ""), []);
        assert_eq!(lengths(3, "a"), []);
    }

    #[test]
    fn the_old_and_the_many_are_forgotten() {
        let (kept, now) = (KeptOutputs::default(), Instant::now());
        let Some(long_ago) = now.checked_sub(2 * GRACE) else { return };
        let has = |request| !kept.of(RequestId(request), "").is_empty();
        kept.keep(sequence(1, 0, ""), tokens(3), long_ago);
        kept.keep(sequence(2, 0, ""), tokens(MOST_TOKENS), now);
        assert!(!has(1), "too old");
        kept.keep(sequence(3, 0, ""), tokens(1), now);
        assert!(!has(2), "too many");
        assert!(has(3));
    }
}
