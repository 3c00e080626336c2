//! The step loop: who is told what, and what happens when somebody goes away or something breaks.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use baton_kv_cache::{BlockRef, KvCache};
use baton_node::{
    clock::Clock,
    metrics::StepMetrics,
    steps::{Ended, SequenceEvent, SequenceWatcher, Steps, SubmitError},
};
use baton_scheduler::{
    Engine, EngineError, EngineInfo, Goal, Refusal, Sampled, SchedulerConfig, SequenceStep, Start,
    StepObserver, Submission,
    sim::{MemorySlots, SimConfig, SimEngine, Unpaced},
};
use baton_types::{
    ChoiceIndex, Epoch, FinishReason, LatencyProfile, RequestId, RouterId, SamplingSpec,
    SequenceKey, SequenceSpec, StopTokens, TokenId,
};

const BLOCKS: u32 = 64;
/// A token the test engine panics at.
const POISON: u32 = 250;

/// The simulated engine, which takes a pause in each step and panics when it is told to.
struct Fragile {
    sim: SimEngine<MemorySlots, Unpaced>,
    pause: Duration,
}

impl Engine for Fragile {
    fn info(&self) -> &EngineInfo {
        self.sim.info()
    }

    fn step(
        &mut self,
        sequences: &[SequenceStep<'_>],
        observer: &mut dyn StepObserver,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), EngineError> {
        assert!(sequences.iter().all(|s| s.tokens[0].0 != POISON), "poisoned");
        std::thread::sleep(self.pause);
        self.sim.step(sequences, observer, sampled)
    }
}

fn start(config: SchedulerConfig) -> (Steps, KvCache) {
    start_slow(config, Duration::ZERO)
}

fn start_slow(config: SchedulerConfig, pause: Duration) -> (Steps, KvCache) {
    let sim = SimConfig { profile: LatencyProfile::FREE, ..SimConfig::default() };
    let layout = sim.layout;
    let slots = MemorySlots::new(layout.layers, BLOCKS, layout.block_tokens);
    let engine = Fragile { sim: SimEngine::new(sim, slots, Unpaced).unwrap(), pause };
    let cache = KvCache::new(BLOCKS, layout.block_tokens);
    let (clock, metrics) = (Clock::start(), StepMetrics::new());
    (Steps::start(config, Box::new(engine), cache.clone(), clock, metrics).unwrap(), cache)
}

fn submission(request: u128, prompt: usize, max_tokens: u32, goal: Goal) -> Submission {
    let spec = SequenceSpec {
        key: SequenceKey { request: RequestId(request), choice: ChoiceIndex(0) },
        epoch: Epoch::first(RouterId(1)),
        tokens: vec![TokenId(65); prompt],
        prompt_len: prompt as u32,
        max_tokens,
        sampling: SamplingSpec::GREEDY,
        stop_tokens: StopTokens::default(),
        cache_salt: 0,
        deadline: None,
        first_token_within: None,
    };
    Submission { spec, start: Start::Tokens, goal, constraint: None }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let looking = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        while !condition() {
            ticks.tick().await;
        }
    };
    let looked = tokio::time::timeout(Duration::from_secs(10), looking).await;
    looked.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn events_come_in_order_and_end_with_a_last_one() {
    let (steps, cache) = start(SchedulerConfig::default());
    let mut running = steps.submit(submission(1, 40, 5, Goal::Finish), None).await.unwrap();
    assert!(matches!(running.next().await, Some(SequenceEvent::Admitted { cached_tokens: 0, .. })));
    for expect in 0..5 {
        let event = running.next().await;
        assert!(
            matches!(event, Some(SequenceEvent::Token { index, .. }) if index == expect),
            "{event:?}"
        );
    }
    let last = running.next().await;
    assert!(matches!(last, Some(SequenceEvent::Finished { reason: FinishReason::Length })));
    assert!(running.next().await.is_none());
    eventually("the pool is whole", || cache.usage().held == 0).await;
    // One step of prefill, four of decode, and none while idle.
    assert_eq!(steps.count(), 5);
    let reports = |since| {
        let (reports, upto) = steps.reports(since);
        (reports.len(), upto)
    };
    assert_eq!([reports(0), reports(3), reports(5)], [(5, 5), (2, 5), (0, 5)]);
}

#[tokio::test]
async fn nobody_reading_stalls_nobody() {
    let (steps, cache) = start(SchedulerConfig::default());
    let mut unread = steps.submit(submission(1, 40, 700, Goal::Finish), None).await.unwrap();
    let load = || steps.load().running;
    eventually("it ends unread", || steps.count() >= 700 && load() == 0).await;
    assert_eq!(cache.usage().held, 0, "unread events hold no blocks");
    let mut events = Vec::new();
    while unread.next_many(&mut events, 100).await > 0 {}
    assert_eq!(events.len(), 702);
}

#[tokio::test]
async fn dropping_a_handle_cancels_its_sequence_and_no_other() {
    let (steps, cache) = start_slow(SchedulerConfig::default(), Duration::from_millis(1));
    let dropped = steps.submit(submission(1, 40, 900, Goal::Finish), None).await.unwrap();
    let twin = steps.submit(submission(1, 40, 900, Goal::Finish), None).await;
    assert!(
        matches!(twin, Err(SubmitError::Refused(Refusal::DuplicateKey { .. }))),
        "a refused twin: {twin:?}"
    );
    let mut kept = steps.submit(submission(2, 40, 50, Goal::Finish), None).await.unwrap();
    drop(dropped);
    let mut events = Vec::new();
    while kept.next_many(&mut events, 100).await > 0 {}
    assert!(matches!(events.last(), Some(SequenceEvent::Finished { .. })));
    eventually("the pool is whole", || cache.usage().held == 0).await;
    assert!(steps.count() < 900, "the first was not run to its end");
}

#[tokio::test]
async fn prefilled_blocks_belong_to_the_reader() {
    let (steps, cache) = start(SchedulerConfig::default());
    let mut running = steps.submit(submission(1, 40, 5, Goal::FirstToken), None).await.unwrap();
    let blocks = loop {
        match running.next().await.unwrap() {
            SequenceEvent::Prefilled { blocks, .. } => break blocks,
            _ => continue,
        }
    };
    drop(running);
    assert_eq!((blocks.len(), cache.usage().held), (3, 3));
    drop(blocks);
    assert_eq!(cache.usage().held, 0);
}

struct Follower {
    layers: Arc<AtomicU32>,
    tokens: Arc<AtomicU32>,
    admitted: Arc<AtomicU32>,
}

impl SequenceWatcher for Follower {
    fn admitted(&mut self, blocks: Vec<BlockRef>, _cached_tokens: u32) {
        self.admitted.fetch_add(blocks.len() as u32, Ordering::SeqCst);
    }

    fn layer_done(&mut self, _layer: u32, tokens: u32) {
        self.layers.fetch_add(1, Ordering::SeqCst);
        self.tokens.fetch_max(tokens, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_watcher_hears_of_every_layer_of_every_chunk() {
    let config = SchedulerConfig { chunk_tokens: 32, ..SchedulerConfig::default() };
    let (steps, _cache) = start(config);
    let (layers, tokens, admitted) = <(Arc<AtomicU32>, Arc<AtomicU32>, Arc<AtomicU32>)>::default();
    let follower =
        Follower { layers: layers.clone(), tokens: tokens.clone(), admitted: admitted.clone() };
    let submission = submission(1, 100, 5, Goal::FirstToken);
    let mut running = steps.submit(submission, Some(Box::new(follower))).await.unwrap();
    while running.next().await.is_some() {}
    assert_eq!(admitted.load(Ordering::SeqCst), 7);
    assert_eq!(layers.load(Ordering::SeqCst), 4 * 4, "four chunks through four layers");
    assert_eq!(tokens.load(Ordering::SeqCst), 100);
}

#[tokio::test]
async fn a_panic_ends_every_stream_and_is_told() {
    let (steps, cache) = start(SchedulerConfig::default());
    let mut bystander = steps.submit(submission(1, 40, 900, Goal::Finish), None).await.unwrap();
    let mut poisoned = submission(2, 40, 5, Goal::Finish);
    poisoned.spec.tokens[0] = TokenId(POISON);
    let mut culprit = steps.submit(poisoned, None).await.unwrap();
    assert_eq!(steps.ended().await, Ended::Panicked("poisoned".to_owned()));
    while let Some(event) = culprit.next().await {
        assert!(matches!(event, SequenceEvent::Admitted { .. }), "{event:?}");
    }
    while bystander.next().await.is_some() {}
    assert!(steps.has_ended());
    assert_eq!(cache.usage().held, 0);
    let late = steps.submit(submission(3, 40, 5, Goal::Finish), None).await;
    assert_eq!(late.unwrap_err(), SubmitError::Ended);
}

#[tokio::test]
async fn stopping_drops_what_runs() {
    let (steps, cache) = start(SchedulerConfig::default());
    let mut running = steps.submit(submission(1, 40, 900, Goal::Finish), None).await.unwrap();
    running.next().await.unwrap();
    steps.stop();
    assert_eq!(steps.ended().await, Ended::Stopped);
    assert_eq!(cache.usage().held, 0);
}
