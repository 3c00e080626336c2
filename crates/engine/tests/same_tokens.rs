//! `same-tokens`: a request's tokens and logits don't depend on how it is run.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]

mod common;

use baton_device::Isa;
use baton_types::{BlockId, KvDtype, SamplingSpec};
use common::{Running, Setup, alone, engine, golden_runs, model, prompt, results, step};

const SEEDED: SamplingSpec = SamplingSpec::seeded(0.8, 77);

/// Golden digests of numerics `baton-cpu-1`, f16 cache, greedy: prompt seed, prompt length, then
/// tokens and logits digests.
const GOLDEN: &str = include_str!("golden.json");

#[test]
fn golden_digests_hold_on_every_instruction_set() {
    let model = model();
    let golden: Vec<Vec<(u32, u64)>> = serde_json::from_str(GOLDEN).unwrap();
    for isa in Isa::available() {
        let mut engine = engine(&model, Setup { isa, threads: 2, ..Setup::default() });
        for ((seed, len), golden) in golden_runs().into_iter().zip(&golden) {
            // The portable kernels emulate fused multiply-adds: only the short ones.
            if isa == Isa::Portable && len > 20 {
                continue;
            }
            let ours = alone(&mut engine, &prompt(seed, len), 4, 512, SamplingSpec::GREEDY);
            assert_eq!(&ours, golden, "{isa}, prompt of {len}");
        }
    }
}

#[test]
fn chunks_threads_and_block_sizes_change_nothing() {
    let model = model();
    for (len, sampling) in [(1, SamplingSpec::GREEDY), (130, SEEDED), (600, SamplingSpec::GREEDY)] {
        let prompt = prompt(len as u64, len);
        let expect =
            alone(&mut engine(&model, Setup::default()), &prompt, 4, 1024, sampling.clone());
        for (chunk, threads, block_tokens) in [(1, 2, 16), (7, 1, 32), (64, 3, 16), (512, 2, 48)] {
            if chunk == 1 && len > 200 {
                continue;
            }
            let mut engine = engine(&model, Setup { threads, block_tokens, ..Setup::default() });
            let ours = alone(&mut engine, &prompt, 4, chunk, sampling.clone());
            assert_eq!(
                ours, expect,
                "prompt {len}, chunks {chunk}, {threads} threads, blocks {block_tokens}"
            );
        }
    }
}

#[test]
fn companions_and_scattered_blocks_change_nothing() {
    let model = model();
    let mut engine = engine(&model, Setup { threads: 2, ..Setup::default() });
    let lens = [1, 5, 16, 31, 33, 64, 100, 128, 2, 3, 17, 48, 90, 15, 7, 250];
    let sampling =
        |index: usize| if index.is_multiple_of(2) { SEEDED } else { SamplingSpec::GREEDY };
    let expect: Vec<_> = lens
        .iter()
        .enumerate()
        .map(|(i, &len)| alone(&mut engine, &prompt(i as u64, len), 6, 512, sampling(i)))
        .collect();
    let mut free: Vec<_> = (0..1024).map(|i| BlockId(i * 389 % 1024)).collect();
    let mut running: Vec<_> = lens
        .iter()
        .enumerate()
        .map(|(i, &len)| {
            let blocks = free.split_off(free.len() - 20);
            Running::new(i as u128, &prompt(i as u64, len), blocks, sampling(i))
        })
        .collect();
    // Chunks of 20: some decode while others prefill.
    while running.iter().any(|sequence| sequence.sampled.len() < 6) {
        step(&mut engine, &mut running, 20);
    }
    for (sequence, expect) in running.iter().zip(&expect) {
        assert_eq!(&results(sequence)[..6], expect, "{:?}", sequence.key);
    }
}

#[test]
fn cached_prefix_pages_give_the_same_as_computing_them() {
    let model = model();
    let mut engine = engine(&model, Setup::default());
    let prompt = prompt(9, 100);
    let expect = alone(&mut engine, &prompt, 5, 512, SamplingSpec::GREEDY);
    let blocks: Vec<_> = (0..8).map(BlockId).collect();
    let mut again = [Running::new(2, &prompt, blocks, SamplingSpec::GREEDY)];
    // The first six blocks are still there from the run alone.
    again[0].cached = 96;
    while again[0].sampled.len() < 5 {
        step(&mut engine, &mut again, 512);
    }
    assert_eq!(results(&again[0]), expect);
}

#[test]
fn the_cache_type_is_part_of_the_numerics() {
    let model = model();
    use baton_scheduler::Engine;
    let id = |dtype| engine(&model, Setup { dtype, ..Setup::default() }).info().numerics;
    assert_ne!(id(KvDtype::F16), id(KvDtype::F32));
}
