use std::time::Duration;

use baton_kv_cache::{BlockRef, HashChain, KvCache};
use baton_types::{
    BlockHash, BlockId, Constraint, Epoch, FinishReason, NumericsId, SequenceKey, SequenceSpec,
    Time, TokenId, blocks_for,
};

use crate::{Goal, SampleStep, ScoreStep, SequenceError, SequenceStep, Start, Submission};

/// Order of arrival, and the name of one submission: a key may come again under a newer epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// Whose prompt goes first: the earliest first token that is owed and can still be in time, then what
/// is overdue, then those that don't say; of equals who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Urgency {
    claim: Claim,
    due: Time,
    pub(crate) ticket: Ticket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    InTime,
    Overdue,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Some of its tokens but the last sampled one are not in the cache.
    Prefilling,
    /// Only the token sampled last is not in the cache.
    Decoding,
}

/// One live sequence: its tokens, and how much of it is in which blocks.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) ticket: Ticket,
    pub(crate) goal: Goal,
    pub(crate) phase: Phase,
    pub(crate) arrived: Time,
    /// None until it was in the batch for the first time.
    pub(crate) admitted: Option<Time>,
    /// As submitted, but `tokens` grows by what is emitted.
    pub(crate) spec: SequenceSpec,
    /// Tokens in the cache: `tokens[..computed]`.
    pub(crate) computed: usize,
    /// Tokens that were in the cache when it was admitted.
    pub(crate) cached_tokens: u32,
    table: Vec<BlockRef>,
    /// The table's ids, in the form engines take.
    ids: Vec<BlockId>,
    hashes: Option<Hashes>,
    constraint: Option<Box<dyn Constraint>>,
}

/// The hashes of a sequence's full blocks, as far as they were needed.
#[derive(Debug)]
struct Hashes {
    chain: HashChain,
    done: Vec<BlockHash>,
    /// How many of the table's blocks are known to the cache.
    published: usize,
}

impl Sequence {
    /// `prefix_cache`: the numerics its blocks are published under, if they are.
    pub(crate) fn new(
        ticket: Ticket,
        now: Time,
        submission: Submission,
        prefix_cache: Option<NumericsId>,
    ) -> Self {
        let Submission { spec, start, goal, constraint } = submission;
        // A cached prompt would not be scored.
        let prefix_cache = prefix_cache.filter(|_| spec.sampling.prompt_logprobs.is_none());
        let hashes = prefix_cache.map(|numerics| Hashes {
            chain: HashChain::root(numerics, spec.cache_salt),
            done: Vec::new(),
            published: 0,
        });
        let mut sequence = Sequence {
            ticket,
            goal,
            phase: Phase::Prefilling,
            arrived: now,
            admitted: None,
            spec,
            computed: 0,
            cached_tokens: 0,
            table: Vec::new(),
            ids: Vec::new(),
            hashes,
            constraint,
        };
        if let Start::Imported { blocks, cached_tokens, first } = start {
            sequence.goal = Goal::Finish;
            sequence.phase = Phase::Decoding;
            sequence.computed = sequence.spec.tokens.len();
            sequence.cached_tokens = cached_tokens;
            sequence.table = blocks;
            sequence.index_table();
            sequence.spec.tokens.push(first.token);
        }
        sequence
    }

    pub(crate) fn key(&self) -> SequenceKey {
        self.spec.key
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.spec.epoch
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.spec.deadline.map(|left| self.arrived + left)
    }

    /// When its first token is.
    pub(crate) fn due(&self) -> Time {
        self.spec.first_token_within.map_or(Time::MAX, |left| self.arrived + left)
    }

    pub(crate) fn urgency(&self, now: Time) -> Urgency {
        let due = self.due();
        let claim = match due {
            Time::MAX => Claim::None,
            due if due < now => Claim::Overdue,
            _ => Claim::InTime,
        };
        Urgency { claim, due, ticket: self.ticket }
    }

    pub(crate) fn deadline_exceeded(&self) -> SequenceError {
        SequenceError::DeadlineExceeded {
            deadline: self.spec.deadline.unwrap_or(Duration::MAX),
            emitted: self.spec.next_index(),
            max_tokens: self.spec.max_tokens,
        }
    }

    /// Tokens not in the cache yet; at least one while it is live.
    pub(crate) fn pending(&self) -> usize {
        self.spec.tokens.len() - self.computed
    }

    /// What it adds to the prompt tokens still to be computed.
    pub(crate) fn queued_tokens(&self) -> u64 {
        match self.phase {
            Phase::Prefilling => self.pending() as u64,
            Phase::Decoding => 0,
        }
    }

    pub(crate) fn holds_blocks(&self) -> bool {
        !self.table.is_empty()
    }

    pub(crate) fn blocks(&self) -> &[BlockRef] {
        &self.table
    }

    pub(crate) fn into_blocks(self) -> Vec<BlockRef> {
        self.table
    }

    /// Why the last of its tokens is its last, if it is.
    pub(crate) fn finish_reason(&self) -> Option<FinishReason> {
        let last = *self.spec.tokens.last()?;
        if self.spec.stop_tokens.contains(last) {
            Some(FinishReason::Stop)
        } else if self.spec.next_index() >= self.spec.max_tokens {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// Blocks all its present tokens need, those it holds already not counted.
    pub(crate) fn missing_blocks(&self, block_tokens: u32) -> usize {
        blocks_for(self.spec.tokens.len(), block_tokens).saturating_sub(self.table.len())
    }

    /// Takes from the cache what it has of this sequence, full blocks only and never all its
    /// tokens: the last one is always computed, for something must be sampled after it.
    pub(crate) fn take_cached_prefix(&mut self, cache: &KvCache) {
        let block_tokens = cache.block_tokens() as usize;
        let reusable = (self.spec.tokens.len() - 1) / block_tokens;
        let Some(hashes) = &mut self.hashes else { return };
        hashes.extend_to(reusable, &self.spec.tokens, block_tokens);
        self.table = cache.lookup(&hashes.done[..reusable]);
        hashes.published = self.table.len();
        self.computed = self.table.len() * block_tokens;
        self.index_table();
    }

    /// Takes as many of the blocks it misses as are free; true when it misses none any more.
    pub(crate) fn collect_blocks(&mut self, cache: &KvCache) -> bool {
        let missing = self.missing_blocks(cache.block_tokens());
        if missing > 0 {
            cache.reserve_up_to(missing, &mut self.table);
            self.index_table();
        }
        self.missing_blocks(cache.block_tokens()) == 0
    }

    /// Gives every block back: it will be computed again from its tokens.
    pub(crate) fn give_back(&mut self) {
        self.phase = Phase::Prefilling;
        self.computed = 0;
        self.table.clear();
        self.ids.clear();
        if let Some(hashes) = &mut self.hashes {
            hashes.published = 0;
        }
    }

    /// Notes that `new` more of its tokens are in the cache, and lets others find the blocks that
    /// are full now.
    pub(crate) fn advance(&mut self, new: usize, cache: &KvCache) {
        self.computed += new;
        self.publish(cache);
    }

    pub(crate) fn publish(&mut self, cache: &KvCache) {
        let block_tokens = cache.block_tokens() as usize;
        let full = self.computed / block_tokens;
        let Some(hashes) = &mut self.hashes else { return };
        hashes.extend_to(full, &self.spec.tokens, block_tokens);
        for i in hashes.published..full {
            let parent = i.checked_sub(1).map(|before| hashes.done[before]);
            cache.publish(hashes.done[i], parent, &self.table[i]);
        }
        hashes.published = full;
    }

    /// Its part of a step that computes the next `new` tokens.
    pub(crate) fn step(&self, new: usize) -> SequenceStep<'_> {
        SequenceStep {
            key: self.spec.key,
            tokens: &self.spec.tokens[self.computed..self.computed + new],
            start: self.computed as u32,
            blocks: &self.ids,
            sample: (new == self.pending()).then(|| self.sample_step()),
            score: self.score_step(new),
        }
    }

    fn score_step(&self, new: usize) -> Option<ScoreStep<'_>> {
        let top = self.spec.sampling.prompt_logprobs?;
        let end = (self.computed + new + 1).min(self.spec.prompt_len as usize);
        let targets = self.spec.tokens.get(self.computed + 1..end)?;
        (!targets.is_empty()).then_some(ScoreStep { targets, top })
    }

    fn sample_step(&self) -> SampleStep<'_> {
        let (prompt, output) = self.spec.tokens.split_at(self.spec.prompt_len as usize);
        SampleStep {
            sampling: &self.spec.sampling,
            index: self.spec.next_index(),
            prompt,
            output,
            stop_tokens: &self.spec.stop_tokens.0,
            constraint: self.constraint.as_deref(),
        }
    }

    fn index_table(&mut self) {
        self.ids.truncate(self.table.len());
        self.ids.extend(self.table[self.ids.len()..].iter().map(BlockRef::id));
    }
}

impl Hashes {
    fn extend_to(&mut self, blocks: usize, tokens: &[TokenId], block_tokens: usize) {
        for block in tokens.chunks_exact(block_tokens).take(blocks).skip(self.done.len()) {
            self.done.push(self.chain.extend(block));
        }
    }
}
