//! What the scheduler promises, one case each.

use std::{collections::VecDeque, time::Duration};

use baton_scheduler::{
    Engine, Event, Goal, ImportedToken, Refusal, SchedulerConfig, SequenceError, Start, Submission,
};
use baton_types::{FinishReason, SequenceSpec, StopTokens};

use crate::node::{Node, alone, drawn, epoch, key, spec};

fn config() -> SchedulerConfig {
    SchedulerConfig { max_batch_tokens: 64, chunk_tokens: 32, ..SchedulerConfig::default() }
}

fn finished(events: &[Event], request: u128) -> Option<FinishReason> {
    events.iter().find_map(|event| match event {
        Event::Finished { key: of, reason, .. } if *of == key(request) => Some(*reason),
        _ => None,
    })
}

fn admitted(events: &[Event], request: u128) -> Option<u32> {
    events.iter().find_map(|event| match event {
        Event::Admitted { key: of, cached_tokens, .. } if *of == key(request) => {
            Some(*cached_tokens)
        }
        _ => None,
    })
}

#[test]
fn it_ends_at_max_tokens_or_at_a_stop_token() {
    let mut node = Node::new(16, config());
    let tokens = alone(&spec(1, 20, 12));
    node.submit(spec(1, 20, 12), Goal::Finish).unwrap();
    let events = node.run();
    assert_eq!(
        (finished(&events, 1), drawn(&events, key(1), 0)),
        (Some(FinishReason::Length), tokens.clone())
    );

    let stop_tokens = StopTokens(vec![tokens[5].0]);
    let first = tokens.iter().position(|token| *token == tokens[5] || token.0 == tokens[5].0);
    node.submit(SequenceSpec { stop_tokens, ..spec(1, 20, 12) }, Goal::Finish).unwrap();
    let events = node.run();
    assert_eq!(finished(&events, 1), Some(FinishReason::Stop));
    assert_eq!(drawn(&events, key(1), 0), tokens[..=first.unwrap()]);
    node.assert_whole();
}

#[test]
fn the_cached_prefix_is_reused_but_the_last_token_is_computed() {
    let mut node = Node::new(16, config());
    for (prompt_len, cached) in [(48, 0), (48, 32), (49, 48), (40, 32)] {
        node.submit(spec(1, prompt_len, 3), Goal::Finish).unwrap();
        let events = node.run();
        assert_eq!(admitted(&events, 1), Some(cached), "{prompt_len} tokens");
        assert_eq!(drawn(&events, key(1), 0), alone(&spec(1, prompt_len, 3)));
    }
    node.submit(SequenceSpec { cache_salt: 1, ..spec(1, 48, 3) }, Goal::Finish).unwrap();
    assert_eq!(admitted(&node.run(), 1), Some(0), "another tenant's blocks are not found");
}

#[test]
fn decode_goes_first_and_chunks_fill_the_budget() {
    let mut node = Node::new(32, config());
    node.submit(spec(1, 10, 20), Goal::Finish).unwrap();
    node.step();
    node.submit(spec(2, 100, 2), Goal::Finish).unwrap();
    node.submit(spec(3, 100, 2), Goal::Finish).unwrap();
    node.step();
    let shape = node.scheduler.step_shape();
    assert_eq!((shape.decode_batch, shape.decode_context), (1, 10));
    assert_eq!(shape.prefill_tokens, 63);
    assert_eq!(shape.prefill_attention, 32.0 * 16.0 + 31.0 * 15.5);
    let load = node.scheduler.load();
    assert_eq!((load.running, load.queued_tokens, load.context_tokens), (3, 137, 74));
    node.run();
    node.assert_whole();
}

#[test]
fn the_youngest_is_preempted_and_nobody_sees_it() {
    let mut node = Node::new(6, config());
    for request in 1..=3 {
        node.submit(spec(request, 20, 50), Goal::Finish).unwrap();
    }
    let events = node.run();
    assert!(node.scheduler.preemptions() > 0);
    for request in 1..=3 {
        assert_eq!(drawn(&events, key(request), 0), alone(&spec(request, 20, 50)));
    }
    let admissions = events.iter().filter(|event| matches!(event, Event::Admitted { .. })).count();
    assert_eq!(admissions, 3, "a preemption is nobody's business");
    let order: Vec<_> = events.iter().filter(|e| e.is_last()).map(Event::key).collect();
    assert_eq!(order, [key(1), key(2), key(3)]);
    node.assert_whole();
}

#[test]
fn the_oldest_gets_a_token_in_every_step() {
    let mut node = Node::new(6, config());
    for request in 1..=3 {
        node.submit(spec(request, 20, 50), Goal::Finish).unwrap();
    }
    for _ in 0..50 {
        assert_eq!(drawn_now(&node.step().1, 1), 1);
    }
    assert!(node.scheduler.preemptions() > 0);
    node.run();
    node.assert_whole();
}

fn drawn_now(events: &[Event], request: u128) -> usize {
    let is_token = |e: &&Event| matches!(e, Event::Token { .. }) && e.key() == key(request);
    events.iter().filter(is_token).count()
}

#[test]
fn imported_sequences_give_way_to_older_ones() {
    let mut node = Node::new(4, SchedulerConfig { max_running: 1, ..config() });
    node.submit(spec(1, 30, 30), Goal::Finish).unwrap();
    node.step();
    let imported = spec(2, 20, 9);
    let expect = alone(&imported);
    let start = Start::Imported {
        blocks: node.cache.reserve(2).unwrap(),
        cached_tokens: 0,
        first: ImportedToken { token: expect[0].0 },
    };
    let submission = Submission { spec: imported, start, goal: Goal::Finish, constraint: None };
    node.scheduler.submit(node.now, submission).unwrap();
    let mut events = Vec::new();
    for _ in 1..30 {
        let now = node.step().1;
        assert_eq!(drawn_now(&now, 1), 1);
        events.extend(now);
    }
    assert_eq!(node.scheduler.preemptions(), 1);
    events.extend(node.run());
    assert_eq!(drawn(&events, key(2), 1), expect[1..]);
    node.assert_whole();
}

#[test]
fn a_prompt_to_be_handed_over_keeps_its_blocks() {
    let chunks = SchedulerConfig { chunk_tokens: 4, ..config() };
    let mut node = Node::new(6, chunks);
    node.submit(spec(1, 16, 30), Goal::Finish).unwrap();
    node.submit(spec(2, 70, 9), Goal::FirstToken).unwrap();
    let mut events = Vec::new();
    let mut promised = Vec::new();
    while !events.iter().any(|event| matches!(event, Event::Prefilled { .. })) {
        events.extend(node.step().1);
        for event in events.drain(..events.len().saturating_sub(1)) {
            if let Event::Admitted { blocks, .. } = event {
                promised.extend(blocks.iter().map(|block| block.id()));
            }
        }
    }
    let Some(Event::Prefilled { blocks, .. }) = events.pop() else { panic!("{events:?}") };
    assert_eq!(blocks.iter().map(|block| block.id()).collect::<Vec<_>>(), promised);
    assert_eq!(node.scheduler.preemptions(), 1, "the older one waited for it");
    drop(blocks);
    node.run();
    node.assert_whole();
}

#[test]
fn a_first_token_leaves_its_blocks_with_the_caller() {
    let mut node = Node::new(8, config());
    node.submit(spec(1, 40, 5), Goal::FirstToken).unwrap();
    let mut events = node.run();
    let Some(Event::Prefilled { blocks, .. }) = events.pop() else { panic!("{events:?}") };
    let Event::Admitted { blocks: promised, .. } = &events[0] else { panic!("{events:?}") };
    let ids =
        |blocks: &[baton_kv_cache::BlockRef]| blocks.iter().map(|b| b.id()).collect::<Vec<_>>();
    assert_eq!(ids(&blocks), ids(promised));
    assert_eq!(drawn(&events, key(1), 0), alone(&spec(1, 40, 5))[..1]);
    events.clear();
    assert_eq!(node.cache.usage().held, 3);
    drop(blocks);
    node.assert_whole();

    node.submit(spec(2, 40, 1), Goal::FirstToken).unwrap();
    let events = node.run();
    assert!(matches!(events.last(), Some(Event::Finished { .. })), "{events:?}");
}

#[test]
fn the_first_in_line_is_not_overtaken_for_ever() {
    let mut node = Node::new(10, config());
    let mut small = 100;
    let mut submit_small = |node: &mut Node| {
        small += 1;
        node.submit(spec(small, 30, 4), Goal::Finish).unwrap();
    };
    (0..3).for_each(|_| submit_small(&mut node));
    node.step();
    node.submit(spec(1, 100, 2), Goal::Finish).unwrap();
    // Others take all that is free and keep it for a few steps, so that it is never free at once.
    let mut taken = VecDeque::new();
    for round in 0.. {
        assert!(round < 100, "it starves");
        submit_small(&mut node);
        if taken.len() == 3 {
            taken.pop_front();
        }
        if admitted(&node.step().1, 1).is_some() {
            break;
        }
        taken.push_back(node.cache.reserve(node.cache.usage().free.min(4) as usize).unwrap());
    }
    drop(taken);
    node.run();
    node.assert_whole();
}

#[test]
fn what_can_never_run_is_refused() {
    let mut node = Node::new(4, SchedulerConfig { max_waiting: 1, ..config() });
    let key = key(1);
    let mut check = |spec: SequenceSpec, expect: Result<(), Refusal>| {
        assert_eq!(node.submit(spec, Goal::Finish), expect);
    };
    let good = spec(1, 20, 5);
    check(SequenceSpec { tokens: vec![], ..good.clone() }, Err(Refusal::EmptyPrompt { key }));
    check(
        SequenceSpec { prompt_len: 21, ..good.clone() },
        Err(Refusal::PromptLen { key, prompt_len: 21, tokens: 20 }),
    );
    check(
        SequenceSpec { prompt_len: 15, ..good.clone() },
        Err(Refusal::NothingToGenerate { key, emitted: 5, max_tokens: 5 }),
    );
    check(spec(1, 8000, 193), Err(Refusal::TooLong { key, tokens: 8193, max: 8192 }));
    check(spec(1, 60, 6), Err(Refusal::PoolTooSmall { key, blocks: 5, total: 4 }));
    check(spec(1, 60, 5), Ok(()));
    check(spec(1, 60, 5), Err(Refusal::DuplicateKey { key, epoch: epoch(1) }));
    check(spec(2, 60, 5), Err(Refusal::QueueFull { waiting: 1, max: 1 }));
    let imported = Start::Imported {
        blocks: node.cache.reserve(1).unwrap(),
        cached_tokens: 0,
        first: ImportedToken { token: good.tokens[0] },
    };
    let spec = SequenceSpec { key: crate::node::key(3), ..good };
    let refused = Refusal::ImportedBlocks { key: spec.key, given: 1, needed: 2, tokens: 20 };
    let given = Submission { spec, start: imported, goal: Goal::Finish, constraint: None };
    assert_eq!(node.scheduler.submit(node.now, given), Err(refused));
    assert_eq!(node.cache.usage().held, 0);
}

#[test]
fn one_owner_the_newest_epoch() {
    let mut node = Node::new(8, config());
    let of = |counter| SequenceSpec { epoch: epoch(counter), ..spec(1, 20, 5) };
    node.submit(of(2), Goal::Finish).unwrap();
    node.step();
    let (given, current) = (epoch(1), epoch(2));
    let stale = Refusal::StaleEpoch { key: key(1), given, current };
    assert_eq!(node.submit(of(1), Goal::Finish), Err(stale));
    assert!(!node.scheduler.cancel(key(1), epoch(1)));
    assert!(!node.scheduler.cancel(key(1), epoch(3)));
    node.submit(of(3), Goal::Finish).unwrap();
    let events = node.run();
    let Event::Failed { epoch: old, error, .. } = &events[0] else { panic!("{events:?}") };
    assert_eq!((*old, error), (epoch(2), &SequenceError::Superseded { by: epoch(3) }));
    assert!(events[1..].iter().all(|event| event.epoch() == epoch(3)));
    assert_eq!(drawn(&events, key(1), 0), alone(&of(3)));
    node.assert_whole();
}

#[test]
fn an_overdue_sequence_fails_wherever_it_is() {
    let mut node = Node::new(4, config());
    let deadline = Some(Duration::from_millis(5));
    for request in 1..=2 {
        node.submit(SequenceSpec { deadline, ..spec(request, 40, 20) }, Goal::Finish).unwrap();
    }
    assert_eq!(node.scheduler.next_deadline(), Some(node.now + Duration::from_millis(5)));
    let events = node.run();
    let failed = events.iter().filter(|event| {
        matches!(event, Event::Failed { error: SequenceError::DeadlineExceeded { .. }, .. })
    });
    assert_eq!(failed.count(), 2, "one ran, one waited");
    assert!(!drawn(&events, key(1), 0).is_empty());
    node.assert_whole();
}

#[test]
fn a_failed_step_costs_only_the_offender() {
    let mut node = Node::new(16, config());
    for request in 1..=3 {
        node.submit(spec(request, 20, 5), Goal::Finish).unwrap();
    }
    let mut events = node.step().1;
    events.extend(node.failing_step(1));
    events.extend(node.run());
    for request in [1, 3] {
        assert_eq!(drawn(&events, key(request), 0), alone(&spec(request, 20, 5)));
    }
    assert_eq!(finished(&events, 2), None);
    let failed: Vec<_> =
        events.iter().filter(|e| matches!(e, Event::Failed { .. })).map(Event::key).collect();
    assert_eq!(failed, [key(2)]);
    node.assert_whole();
}

#[test]
fn a_sequence_cancelled_between_compose_and_step_is_not_computed() {
    let mut node = Node::new(8, config());
    for request in 1..=2 {
        node.submit(spec(request, 20, 5), Goal::Finish).unwrap();
    }
    assert!(node.scheduler.compose(node.now, &mut Vec::new()));
    assert!(node.scheduler.cancel(key(1), epoch(1)));
    let keys = node.scheduler.with_sequences(|step| step.iter().map(|s| s.key).collect::<Vec<_>>());
    assert_eq!(keys, [key(2)]);
    node.run();
    node.assert_whole();
}

fn due(spec: SequenceSpec, ms: u64) -> SequenceSpec {
    SequenceSpec { first_token_within: Some(Duration::from_millis(ms)), ..spec }
}

/// The requests in the order of their ends.
fn ends(events: &[Event]) -> Vec<u128> {
    let ended = |event: &Event| match event {
        Event::Finished { key, .. } => (0..10).find(|&request| *key == self::key(request)),
        _ => None,
    };
    events.iter().filter_map(ended).collect()
}

#[test]
fn a_prompt_that_is_due_first_overtakes_a_longer_one() {
    // Steps take a millisecond: the first takes five.
    let config = SchedulerConfig { max_batch_tokens: 32, ..config() };
    let long = || due(spec(1, 150, 1), 500);
    let order = |second: SequenceSpec| {
        let mut node = Node::new(64, config);
        node.submit(long(), Goal::Finish).unwrap();
        let mut events = node.step().1;
        node.submit(second, Goal::Finish).unwrap();
        events.append(&mut node.run());
        assert_eq!(drawn(&events, key(1), 0), alone(&long()), "a pause changes nothing");
        node.assert_whole();
        ends(&events)
    };
    assert_eq!(order(due(spec(2, 30, 1), 100)), [2, 1]);
    assert_eq!(order(due(spec(2, 30, 1), 600)), [1, 2]);
    assert_eq!(order(spec(2, 30, 1)), [1, 2], "who doesn't say isn't in a hurry");
    assert_eq!(order(due(spec(2, 30, 1), 0)), [1, 2], "it is too late already");
    // Whoever is late goes before those that don't say: nobody waits for a batch.
    let mut node = Node::new(64, config);
    node.submit(spec(1, 150, 1), Goal::Finish).unwrap();
    let mut events = node.step().1;
    node.submit(due(spec(2, 30, 1), 0), Goal::Finish).unwrap();
    events.append(&mut node.run());
    assert_eq!(ends(&events), [2, 1]);
}

#[test]
fn who_waits_for_memory_waits_in_the_order_it_is_due() {
    // One prompt at a time fits.
    let mut node = Node::new(10, config());
    for (request, ms) in [(1, 900), (2, 800), (3, 300), (4, 700)] {
        node.submit(due(spec(request, 100, 2), ms), Goal::Finish).unwrap();
    }
    assert_eq!(ends(&node.run()), [3, 4, 2, 1]);
    node.assert_whole();
}

/// A sequence leaves the batch with all it has, and goes on where it was, here or elsewhere.
#[test]
fn a_frozen_sequence_goes_on_here_or_elsewhere() {
    let (mut here, mut there) = (Node::new(16, config()), Node::new(16, config()));
    let tokens: Vec<_> = alone(&spec(1, 20, 30));
    let patience = Duration::from_secs(5);
    here.submit(spec(1, 20, 30), Goal::Finish).unwrap();
    let mut events: Vec<Event> = (0..6).flat_map(|_| here.step().1).collect();
    let frozen = here.scheduler.freeze(here.now, key(1), epoch(1), patience).unwrap();
    let drawn_so_far = drawn(&events, key(1), 0).len();
    assert_eq!((frozen.cached as usize, frozen.is_decoding), (20 + drawn_so_far - 1, true));
    drop(frozen);
    assert!(!here.step().0, "it computes nothing");
    assert!(here.scheduler.freeze(here.now, key(1), epoch(1), patience).is_none());
    let snapshot = here.scheduler.snapshot(key(1), epoch(1)).unwrap();
    assert!(snapshot.has_place && !snapshot.is_decoding, "it can't be frozen a second time");
    drop(snapshot);

    // Under a newer epoch it goes on here.
    assert!(!here.scheduler.thaw(key(2), epoch(2)));
    assert!(here.scheduler.thaw(key(1), epoch(2)));
    events.extend((0..4).flat_map(|_| here.step().1));
    assert!(here.scheduler.snapshot(key(1), epoch(1)).is_none(), "the epoch is over");
    let snapshot = here.scheduler.snapshot(key(1), epoch(2)).unwrap();
    assert!(snapshot.has_place && snapshot.is_decoding);
    drop(snapshot);

    // And elsewhere from the same tokens, once its pages are there.
    let frozen = here.scheduler.freeze(here.now, key(1), epoch(2), patience).unwrap();
    let made = drawn(&events, key(1), 0);
    let all: Vec<_> = spec(1, 20, 30).tokens.into_iter().chain(made.iter().map(|t| t.0)).collect();
    let (last, cached) = all.split_last().unwrap();
    assert_eq!(cached.len(), frozen.cached as usize);
    let blocks = there.cache.reserve(frozen.blocks.len()).unwrap();
    for (from, to) in frozen.blocks.iter().zip(&blocks) {
        for layer in 0..there.engine.info().layout.layers {
            here.slots.copy_page(layer, from.id(), &there.slots, to.id());
        }
    }
    let first = ImportedToken { token: *last };
    let start = Start::Imported { blocks, cached_tokens: 0, first };
    let spec = SequenceSpec { tokens: cached.to_vec(), epoch: epoch(3), ..spec(1, 20, 30) };
    let submission = Submission { spec, start, goal: Goal::Finish, constraint: None };
    there.scheduler.submit(there.now, submission).unwrap();
    let rest = drawn(&there.run(), key(1), made.len() as u32);
    assert_eq!([made, rest].concat(), tokens);
    assert!(here.scheduler.cancel(key(1), epoch(2)));
    drop(frozen);
    here.assert_whole();
    there.assert_whole();
}

#[test]
fn a_frozen_sequence_that_nobody_speaks_of_fails_and_gives_its_blocks_back() {
    let mut node = Node::new(16, config());
    node.submit(spec(1, 20, 30), Goal::Finish).unwrap();
    (0..4).for_each(|_| drop(node.step()));
    let patience = Duration::from_millis(50);
    drop(node.scheduler.freeze(node.now, key(1), epoch(1), patience).unwrap());
    assert_eq!(node.scheduler.next_deadline(), Some(node.now + patience));
    node.now += patience;
    let events = node.step().1;
    let expected = SequenceError::Abandoned { patience };
    assert!(
        matches!(&events[..], [Event::Failed { error, .. }] if *error == expected),
        "{events:?}"
    );
    node.assert_whole();
}
