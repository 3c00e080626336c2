//! One node without its shell: a scheduler, its pool, a simulated engine and its pages.

use std::{collections::HashSet, time::Duration};

use baton_kv_cache::KvCache;
use baton_scheduler::{
    Engine, EngineError, Event, Goal, Refusal, Scheduler, SchedulerConfig, Start, Submission,
    Unobserved,
    sim::{MemorySlots, SimConfig, SimEngine, Unpaced},
};
use baton_types::{
    ChoiceIndex, Epoch, RequestId, RouterId, SamplingSpec, SequenceKey, SequenceSpec, StopTokens,
    Time, TokenId,
};

pub(crate) const BLOCK_TOKENS: u32 = 16;

/// A token and the digest of the logits it was drawn from.
pub(crate) type Drawn = (TokenId, u64);

pub(crate) struct Node {
    pub(crate) scheduler: Scheduler,
    pub(crate) engine: SimEngine<MemorySlots, Unpaced>,
    pub(crate) slots: MemorySlots,
    pub(crate) cache: KvCache,
    pub(crate) config: SchedulerConfig,
    pub(crate) now: Time,
}

impl Node {
    pub(crate) fn new(blocks: u32, config: SchedulerConfig) -> Self {
        let model = SimConfig::default();
        let slots = MemorySlots::new(model.layout.layers, blocks, BLOCK_TOKENS);
        let engine = SimEngine::new(model, slots.clone(), Unpaced).expect("the default is sound");
        let cache = KvCache::new(blocks, BLOCK_TOKENS);
        let scheduler = Scheduler::new(config, engine.info().clone(), cache.clone());
        Node { scheduler, engine, slots, cache, config, now: Time::ZERO }
    }

    pub(crate) fn submit(&mut self, spec: SequenceSpec, goal: Goal) -> Result<(), Refusal> {
        self.scheduler
            .submit(self.now, Submission { spec, start: Start::Tokens, goal, constraint: None })
    }

    /// One round of a node's step loop, a millisecond long. None when there was nothing to run.
    pub(crate) fn step(&mut self) -> (bool, Vec<Event>) {
        let mut events = Vec::new();
        self.now += Duration::from_millis(1);
        let composed = self.scheduler.compose(self.now, &mut events);
        if composed {
            self.check_step();
            let mut sampled = Vec::new();
            let engine = &mut self.engine;
            let outcome = self
                .scheduler
                .with_sequences(|step| engine.step(step, &mut Unobserved, &mut sampled));
            match outcome {
                Ok(()) => self.scheduler.complete(self.now, &sampled, &mut events),
                Err(error) => self.scheduler.fail_step(&error, &mut events),
            }
        }
        (composed, events)
    }

    /// A round whose step the engine refuses because of its `nth` sequence.
    pub(crate) fn failing_step(&mut self, nth: usize) -> Vec<Event> {
        let mut events = Vec::new();
        if self.scheduler.compose(self.now, &mut events) {
            let key = self.scheduler.with_sequences(|step| step[nth % step.len()].key);
            self.scheduler.fail_step(&EngineError::Empty { key }, &mut events);
        }
        events
    }

    /// Steps until nobody is here any more.
    pub(crate) fn run(&mut self) -> Vec<Event> {
        let mut all = Vec::new();
        for _ in 0..100_000 {
            if self.scheduler.is_idle() {
                return all;
            }
            all.append(&mut self.step().1);
        }
        panic!("no-lost-request: {:?} is left", self.scheduler.load());
    }

    /// What is true of every composed step.
    fn check_step(&mut self) {
        let shape = self.scheduler.step_shape();
        let bound = self.config.max_batch_tokens.max(shape.decode_batch + BLOCK_TOKENS);
        assert!(shape.prefill_tokens + shape.decode_batch <= bound, "{shape:?} over {bound}");
        let (mut keys, mut written) = (HashSet::new(), HashSet::new());
        self.scheduler.with_sequences(|step| {
            assert!(!step.is_empty());
            for part in step {
                assert!(keys.insert(part.key), "{} is twice in a step", part.key);
                let end = part.start as usize + part.tokens.len();
                let first = (part.start / BLOCK_TOKENS) as usize;
                for block in &part.blocks[first..end.div_ceil(BLOCK_TOKENS as usize)] {
                    assert!(written.insert(*block), "{block:?} is written twice in a step");
                }
            }
        });
        assert!(self.scheduler.load().running <= self.config.max_running);
    }

    /// `no-leak`: nobody is here and nothing is held.
    pub(crate) fn assert_whole(&self) {
        assert!(self.scheduler.is_idle());
        assert_eq!(self.scheduler.load(), Default::default());
        assert_eq!(self.scheduler.next_deadline(), None);
        assert_eq!(self.cache.usage().held, 0, "no-leak");
    }
}

pub(crate) fn key(request: u128) -> SequenceKey {
    SequenceKey { request: RequestId(request), choice: ChoiceIndex(0) }
}

pub(crate) fn epoch(counter: u64) -> Epoch {
    Epoch { counter, router: RouterId(1) }
}

/// A greedy sequence with a prompt of its own.
pub(crate) fn spec(request: u128, prompt_len: u32, max_tokens: u32) -> SequenceSpec {
    let seed = request as u32 * 31;
    SequenceSpec {
        key: key(request),
        epoch: epoch(1),
        tokens: (0..prompt_len).map(|i| TokenId((seed + i * 7) % 256)).collect(),
        prompt_len,
        max_tokens,
        sampling: SamplingSpec::GREEDY,
        stop_tokens: StopTokens::default(),
        cache_salt: 0,
        deadline: None,
        first_token_within: None,
    }
}

/// The tokens of one sequence among `events`; their indexes must have no gap (`exact-stream`).
pub(crate) fn drawn(events: &[Event], of: SequenceKey, first: u32) -> Vec<Drawn> {
    let mut tokens = Vec::new();
    for event in events.iter().filter(|event| event.key() == of) {
        if let Event::Token { index, token, logits_digest, .. } = *event {
            assert_eq!(index, first + tokens.len() as u32, "exact-stream");
            tokens.push((token, logits_digest));
        }
    }
    tokens
}

/// What a sequence yields alone on a node, in one chunk, with no cache: what it must always yield.
pub(crate) fn alone(spec: &SequenceSpec) -> Vec<Drawn> {
    let config = SchedulerConfig {
        max_batch_tokens: 4096,
        chunk_tokens: 4096,
        prefix_cache: false,
        ..SchedulerConfig::default()
    };
    let mut node = Node::new(64, config);
    let spec = SequenceSpec { deadline: None, ..spec.clone() };
    node.submit(spec.clone(), Goal::Finish).expect("it fits");
    let events = node.run();
    drawn(&events, spec.key, spec.next_index())
}
