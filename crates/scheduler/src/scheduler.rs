use std::collections::{BTreeSet, HashMap, VecDeque};

use baton_kv_cache::KvCache;
use baton_types::{Epoch, NumericsId, SequenceKey, StepShape, Time};
use serde::{Deserialize, Serialize};

use crate::{
    EngineInfo, Event, Refusal, SequenceError, SequenceStep, Start, Submission,
    freezing::Frozen,
    sequence::{Sequence, Ticket},
    step::Step,
};

/// Bounds of a node's batch. A zero is read as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// The most tokens in a step, but every decoding sequence has its one and prefill has at least
    /// a block of them.
    pub max_batch_tokens: u32,
    /// The most prefill tokens of one sequence in a step.
    pub chunk_tokens: u32,
    /// The most sequences in the batch.
    pub max_running: u32,
    /// The most sequences waiting for a place in it. Sequences with imported pages are not
    /// counted: the pool bounds them.
    pub max_waiting: u32,
    /// Whether full blocks are published and looked up.
    pub prefix_cache: bool,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        SchedulerConfig {
            max_batch_tokens: 512,
            chunk_tokens: 256,
            max_running: 64,
            max_waiting: 256,
            prefix_cache: true,
        }
    }
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences in the batch.
    pub running: u32,
    /// Sequences waiting for a place in it.
    pub waiting: u32,
    /// Prompt tokens of both that have not been computed.
    pub queued_tokens: u64,
    /// Tokens in the cache of both.
    pub context_tokens: u64,
}

/// Sums over the live sequences. Every change of a sequence's tokens, phase or `computed` stands
/// between `discount` and `count`.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    queued_tokens: u64,
    context_tokens: u64,
}

impl Totals {
    pub(crate) fn count(&mut self, sequence: &Sequence) {
        self.queued_tokens += sequence.queued_tokens();
        self.context_tokens += sequence.computed as u64;
    }

    pub(crate) fn discount(&mut self, sequence: &Sequence) {
        self.queued_tokens -= sequence.queued_tokens();
        self.context_tokens -= sequence.computed as u64;
    }
}

/// Decides which sequences compute what in the next step. See the crate's documentation.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: SchedulerConfig,
    info: EngineInfo,
    pub(crate) cache: KvCache,
    /// In the batch, in order of arrival.
    pub(crate) running: Vec<Sequence>,
    /// With imported pages, waiting for a place in the batch; in order of arrival.
    pub(crate) joining: VecDeque<Sequence>,
    /// Waiting for blocks and a place, the most urgent first. Only the first may hold blocks.
    pub(crate) waiting: VecDeque<Sequence>,
    /// Out of the batch with all their blocks, until somebody decides where they go on.
    pub(crate) frozen: Vec<Frozen>,
    pub(crate) live: HashMap<SequenceKey, (Epoch, Ticket)>,
    deadlines: BTreeSet<(Time, Ticket)>,
    next_ticket: u64,
    pub(crate) totals: Totals,
    pub(crate) preemptions: u64,
    pub(crate) step: Step,
    /// Told of at the next [`Scheduler::compose`].
    pub(crate) outbox: Vec<Event>,
}

impl Scheduler {
    pub fn new(config: SchedulerConfig, info: EngineInfo, cache: KvCache) -> Self {
        let config = SchedulerConfig {
            max_batch_tokens: config.max_batch_tokens.max(1),
            chunk_tokens: config.chunk_tokens.max(1),
            max_running: config.max_running.max(1),
            max_waiting: config.max_waiting.max(1),
            prefix_cache: config.prefix_cache,
        };
        Scheduler {
            config,
            info,
            cache,
            running: Vec::new(),
            joining: VecDeque::new(),
            waiting: VecDeque::new(),
            frozen: Vec::new(),
            live: HashMap::new(),
            deadlines: BTreeSet::new(),
            next_ticket: 0,
            totals: Totals::default(),
            preemptions: 0,
            step: Step::default(),
            outbox: Vec::new(),
        }
    }

    /// Takes a sequence to run, or says why not. One that runs under an older epoch of the same
    /// key is dropped, with [`SequenceError::Superseded`] (`one-owner`).
    pub fn submit(&mut self, now: Time, submission: Submission) -> Result<(), Refusal> {
        let (key, epoch) = (submission.spec.key, submission.spec.epoch);
        let older = self.older_owner(key, epoch)?;
        submission.check(&self.info, &self.cache)?;
        let imported = matches!(submission.start, Start::Imported { .. });
        let (waiting, max) = (self.waiting.len() as u32, self.config.max_waiting);
        if !imported && waiting >= max {
            return Err(Refusal::QueueFull { waiting, max });
        }
        if let Some(older) = older {
            self.fail(older, |_| SequenceError::Superseded { by: epoch });
        }

        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let sequence = Sequence::new(ticket, now, submission, self.numerics());
        self.live.insert(key, (epoch, ticket));
        if let Some(deadline) = sequence.deadline() {
            self.deadlines.insert((deadline, ticket));
        }
        self.totals.count(&sequence);
        if imported {
            self.joining.push_back(sequence);
        } else {
            self.wait(sequence);
        }
        Ok(())
    }

    /// Drops a sequence, whatever it is doing, and gives its blocks back; no event tells of it.
    /// False when it doesn't run here under exactly this epoch.
    pub fn cancel(&mut self, key: SequenceKey, epoch: Epoch) -> bool {
        match self.live.get(&key) {
            Some(&(current, ticket)) if current == epoch => self.remove(ticket).is_some(),
            _ => false,
        }
    }

    /// Calls `f` with the composed step, for [`crate::Engine::step`].
    pub fn with_sequences<R>(&mut self, f: impl FnOnce(&[SequenceStep<'_>]) -> R) -> R {
        self.step.with_sequences(&self.running, f)
    }

    /// What the composed step consists of.
    pub fn step_shape(&self) -> StepShape {
        self.step.shape
    }

    /// O(1).
    pub fn load(&self) -> Load {
        Load {
            running: self.running.len() as u32,
            waiting: (self.waiting.len() + self.joining.len()) as u32,
            queued_tokens: self.totals.queued_tokens,
            context_tokens: self.totals.context_tokens,
        }
    }

    /// [`Scheduler::load`], the slow way.
    pub(crate) fn recount(&self) -> Load {
        let mut totals = Totals::default();
        let frozen = self.frozen.iter().map(|frozen| &frozen.sequence);
        let waiting = self.joining.iter().chain(&self.waiting);
        let all = self.running.iter().chain(waiting).chain(frozen);
        all.for_each(|sequence| totals.count(sequence));
        let Totals { queued_tokens, context_tokens } = totals;
        Load { queued_tokens, context_tokens, ..self.load() }
    }

    /// How often a sequence had to give its blocks back since the scheduler was made.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// When [`Scheduler::compose`] must be called at the latest, were there nothing else to do.
    pub fn next_deadline(&self) -> Option<Time> {
        let frozen = self.frozen.iter().map(|frozen| frozen.until);
        frozen.chain(self.deadlines.first().map(|&(deadline, _)| deadline)).min()
    }

    /// Whether no sequence lives here.
    pub fn is_idle(&self) -> bool {
        self.live.is_empty()
    }

    fn older_owner(&self, key: SequenceKey, given: Epoch) -> Result<Option<Ticket>, Refusal> {
        match self.live.get(&key) {
            None => Ok(None),
            Some(&(current, ticket)) if current < given => Ok(Some(ticket)),
            Some(&(epoch, _)) if epoch == given => Err(Refusal::DuplicateKey { key, epoch }),
            Some(&(current, _)) => Err(Refusal::StaleEpoch { key, given, current }),
        }
    }

    fn numerics(&self) -> Option<NumericsId> {
        self.config.prefix_cache.then_some(self.info.numerics)
    }

    /// Ends every sequence whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Time) {
        while let Some(&(deadline, ticket)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.remove(&(deadline, ticket));
            self.fail(ticket, Sequence::deadline_exceeded);
        }
        self.expire_frozen(now);
    }

    /// Ends a sequence with an error, told of by the outbox.
    pub(crate) fn fail(&mut self, ticket: Ticket, error: impl FnOnce(&Sequence) -> SequenceError) {
        if let Some(sequence) = self.remove(ticket) {
            let (key, epoch) = (sequence.key(), sequence.epoch());
            self.outbox.push(Event::Failed { key, epoch, error: error(&sequence) });
        }
    }

    /// Takes a live sequence out of wherever it is.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Sequence> {
        let sequence = if let Ok(at) = self.running.binary_search_by_key(&ticket, |s| s.ticket) {
            self.running.remove(at)
        } else if let Ok(at) = self.joining.binary_search_by_key(&ticket, |s| s.ticket) {
            self.joining.remove(at)?
        } else if let Some(at) = self.frozen.iter().position(|f| f.sequence.ticket == ticket) {
            self.frozen.remove(at).sequence
        } else {
            let at = self.waiting.iter().position(|s| s.ticket == ticket)?;
            self.waiting.remove(at)?
        };
        self.totals.discount(&sequence);
        self.live.remove(&sequence.key());
        if let Some(deadline) = sequence.deadline() {
            self.deadlines.remove(&(deadline, ticket));
        }
        Some(sequence)
    }
}
