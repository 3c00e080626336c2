//! The simulated engine shows what goes wrong with pages and counters.

use baton_scheduler::{
    Engine, EngineError, Goal, SampleStep, Sampled, SchedulerConfig, SequenceStep, StepObserver,
    Unobserved,
    sim::{MemorySlots, SimConfig, SimConfigError, SimEngine, Unpaced},
};
use baton_types::{BlockId, KvLayout, SamplingSpec, TokenId};

use crate::node::{BLOCK_TOKENS, key};

const TABLE: [BlockId; 4] = [BlockId(5), BlockId(0), BlockId(3), BlockId(1)];
const LAYERS: u32 = 4;

fn engine() -> (SimEngine<MemorySlots, Unpaced>, MemorySlots) {
    let slots = MemorySlots::new(LAYERS, 8, BLOCK_TOKENS);
    let engine = SimEngine::new(SimConfig::default(), slots.clone(), Unpaced);
    (engine.expect("the default is sound"), slots)
}

fn prompt() -> Vec<TokenId> {
    (0..40).map(|i| TokenId(i * 5 % 256)).collect()
}

struct Run<'a> {
    tokens: &'a [TokenId],
    start: u32,
    blocks: &'a [BlockId],
    index: u32,
    sampling: SamplingSpec,
}

fn run(engine: &mut SimEngine<MemorySlots, Unpaced>, run: Run<'_>) -> Result<Sampled, EngineError> {
    let Run { tokens, start, blocks, index, sampling } = run;
    let sample = Some(SampleStep::new(&sampling, index));
    let step = SequenceStep { key: key(1), tokens, start, blocks, sample, score: None };
    let mut sampled = Vec::new();
    engine.step(&[step], &mut Unobserved, &mut sampled)?;
    Ok(sampled[0].clone())
}

fn decode(
    engine: &mut SimEngine<MemorySlots, Unpaced>,
    blocks: &[BlockId],
    index: u32,
    sampling: SamplingSpec,
) -> Sampled {
    let tokens = [TokenId(9)];
    run(engine, Run { tokens: &tokens, start: 40, blocks, index, sampling })
        .expect("the step is sound")
}

/// An engine that has computed [`prompt`].
fn prefilled() -> (SimEngine<MemorySlots, Unpaced>, MemorySlots) {
    let (mut engine, slots) = engine();
    let (tokens, sampling) = (prompt(), SamplingSpec::GREEDY);
    run(&mut engine, Run { tokens: &tokens, start: 0, blocks: &TABLE, index: 0, sampling })
        .expect("the step is sound");
    (engine, slots)
}

#[test]
fn every_slot_of_every_layer_matters() {
    let right = decode(&mut prefilled().0, &TABLE, 1, SamplingSpec::GREEDY);
    for layer in 0..LAYERS {
        for position in 0..40 {
            let (mut engine, slots) = prefilled();
            let block = TABLE[(position / BLOCK_TOKENS) as usize];
            slots.corrupt(layer, block, position % BLOCK_TOKENS);
            let wrong = decode(&mut engine, &TABLE, 1, SamplingSpec::GREEDY);
            assert_ne!(wrong.logits_digest, right.logits_digest, "layer {layer}, {position}");
        }
    }
}

#[test]
fn a_wrong_or_stale_block_shows() {
    let right = decode(&mut prefilled().0, &TABLE, 1, SamplingSpec::GREEDY);
    let swapped = [TABLE[1], TABLE[0], TABLE[2], TABLE[3]];
    let wrong = decode(&mut prefilled().0, &swapped, 1, SamplingSpec::GREEDY);
    assert_ne!(wrong.logits_digest, right.logits_digest);

    let (mut engine, _) = prefilled();
    let (tokens, sampling) = (vec![TokenId(77); 16], SamplingSpec::GREEDY);
    run(&mut engine, Run { tokens: &tokens, start: 0, blocks: &TABLE[1..2], index: 0, sampling })
        .unwrap();
    let stale = decode(&mut engine, &TABLE, 1, SamplingSpec::GREEDY);
    assert_ne!(stale.logits_digest, right.logits_digest);
}

#[test]
fn a_page_left_behind_shows() {
    let (mut source, pages) = prefilled();
    let right = decode(&mut source, &TABLE, 1, SamplingSpec::GREEDY);
    let moved = [BlockId(2), BlockId(4), BlockId(6)];
    for left_behind in (0..LAYERS).flat_map(|layer| (0..3).map(move |at| Some((layer, at)))) {
        for skip in [None, left_behind] {
            let (mut engine, slots) = engine();
            for layer in 0..LAYERS {
                for (at, &block) in moved.iter().enumerate() {
                    if skip != Some((layer, at)) {
                        pages.copy_page(layer, TABLE[at], &slots, block);
                    }
                }
            }
            let there = decode(&mut engine, &moved, 1, SamplingSpec::GREEDY);
            assert_eq!(there == right, skip.is_none(), "{skip:?}");
        }
    }
}

#[test]
fn a_lost_counter_or_sampler_state_shows() {
    let hot = |seed| SamplingSpec::seeded(0.7, seed);
    let draws = |sampling: SamplingSpec, from: u32| -> Vec<TokenId> {
        let (mut engine, _) = prefilled();
        (from..from + 16)
            .map(|index| decode(&mut engine, &TABLE, index, sampling.clone()).token)
            .collect()
    };
    assert_eq!(draws(hot(1), 1), draws(hot(1), 1));
    assert_ne!(draws(hot(1), 1), draws(hot(1), 2), "index");
    assert_ne!(draws(hot(1), 1), draws(hot(2), 1), "seed");
    assert_ne!(draws(SamplingSpec::GREEDY, 1), draws(SamplingSpec::GREEDY, 2), "greedy index");
    let greedy = |seed| SamplingSpec::seeded(0.0, seed);
    assert_eq!(draws(greedy(1), 1), draws(greedy(2), 1), "greedy knows no seed");
}

#[test]
fn layers_are_reported_once_each_in_order() {
    struct Layers(Vec<u32>);
    impl StepObserver for Layers {
        fn layer_done(&mut self, layer: u32) {
            self.0.push(layer);
        }
    }
    let (mut engine, _) = engine();
    let (tokens, mut layers) = (prompt(), Layers(Vec::new()));
    let step = SequenceStep {
        key: key(1),
        tokens: &tokens,
        start: 0,
        blocks: &TABLE,
        sample: None,
        score: None,
    };
    engine.step(&[step], &mut layers, &mut Vec::new()).unwrap();
    assert_eq!(layers.0, [0, 1, 2, 3]);
}

#[test]
fn nonsense_is_refused_with_its_values() {
    let (mut engine, _) = engine();
    let sampling = SamplingSpec::GREEDY;
    let mut check = |tokens: &[TokenId], start, blocks: &[BlockId], expect: EngineError| {
        let given =
            run(&mut engine, Run { tokens, start, blocks, index: 0, sampling: sampling.clone() });
        assert_eq!(given, Err(expect));
    };
    let key = key(1);
    check(&[], 0, &TABLE, EngineError::Empty { key });
    check(&[TokenId(300)], 0, &TABLE, EngineError::Token { key, token: 300, vocab: 257 });
    check(&[TokenId(1)], 64, &TABLE, EngineError::BlockTable { key, covered: 64, needed: 65 });
    let max_context = 8192;
    check(&[TokenId(1)], 8192, &TABLE, EngineError::Context { key, position: 8192, max_context });

    let default = SimConfig::default();
    let small = KvLayout { head_dim: 3, ..default.layout };
    for (config, expect) in [
        (
            SimConfig { layout: small, ..default.clone() },
            SimConfigError::PageTooSmall { given: 192, needed: 256 },
        ),
        (
            SimConfig { drawn: 32..258, ..default },
            SimConfigError::Drawn { from: 32, to: 258, vocab: 257 },
        ),
    ] {
        let slots = MemorySlots::new(1, 1, 16);
        assert_eq!(SimEngine::new(config, slots, Unpaced).err(), Some(expect));
    }
}

/// The defaults fit each other.
#[test]
fn a_node_of_defaults_runs() {
    let mut node = crate::node::Node::new(8, SchedulerConfig::default());
    node.submit(crate::node::spec(1, 20, 5), Goal::Finish).unwrap();
    assert_eq!(crate::node::drawn(&node.run(), key(1), 0).len(), 5);
    node.assert_whole();
}
