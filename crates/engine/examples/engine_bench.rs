//! Prompt and decode speed of the real engine, as JSON: `engine_bench MODEL THREADS`.
#![allow(clippy::print_stdout)]

use std::{path::Path, sync::Arc, time::Instant};

use baton_device::{Arena, Isa, Kernels};
use baton_engine::{Model, TransformerEngine};
use baton_scheduler::{Engine, SampleStep, SequenceStep, Unobserved};
use baton_types::{BlockId, ChoiceIndex, KvDtype, RequestId, SamplingSpec, SequenceKey, TokenId};

const CHUNK: usize = 512;

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(threads)) = (args.next(), args.next()) else {
        panic!("usage: engine_bench MODEL THREADS");
    };
    let threads = threads.parse().expect("a number of threads");
    let model = Arc::new(Model::load(Path::new(&model)).expect("the model loads"));
    let layout = TransformerEngine::layout(&model, 16, KvDtype::F16);
    let arena = Arc::new(Arena::new(layout, 2048).expect("memory"));
    let kernels = Kernels::new(Isa::best()).expect("the best there is");
    let mut engine = TransformerEngine::new(model, arena, kernels, threads, None);
    prefill(&mut engine, 64);
    let mut rows = Vec::new();
    for len in [512, 2048] {
        rows.push((format!("prefill_{len}"), prefill(&mut engine, len)));
    }
    for batch in [1, 8, 16] {
        rows.push((format!("decode_{batch}"), decode(&mut engine, batch)));
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|(name, value)| format!(r#"{{"name":"{name}","value":{value:.1},"unit":"tok/s"}}"#))
        .collect();
    println!("[{}]", rows.join(","));
}

fn step(engine: &mut TransformerEngine, batch: &[(u32, &[TokenId], &[BlockId])]) {
    let steps: Vec<_> = batch
        .iter()
        .enumerate()
        .map(|(index, &(start, tokens, blocks))| SequenceStep {
            key: SequenceKey { request: RequestId(index as u128), choice: ChoiceIndex(0) },
            tokens,
            start,
            blocks,
            sample: Some(SampleStep::new(const { &SamplingSpec::GREEDY }, 0)),
            score: None,
        })
        .collect();
    engine.step(&steps, &mut Unobserved, &mut Vec::new()).expect("a good step");
}

/// Tokens a second of one prompt of `len`.
fn prefill(engine: &mut TransformerEngine, len: usize) -> f64 {
    let tokens: Vec<_> = (0..len as u32).map(|i| TokenId(i * 37 % 49_000)).collect();
    let blocks: Vec<_> = (0..len.div_ceil(16) as u32).map(BlockId).collect();
    let begin = Instant::now();
    for (index, chunk) in tokens.chunks(CHUNK).enumerate() {
        step(engine, &[((index * CHUNK) as u32, chunk, &blocks)]);
    }
    len as f64 / begin.elapsed().as_secs_f64()
}

/// Tokens a second of `batch` sequences with contexts of 128 to 192.
fn decode(engine: &mut TransformerEngine, batch: usize) -> f64 {
    const STEPS: u32 = 64;
    let blocks: Vec<Vec<_>> =
        (0..batch as u32).map(|i| (0..12).map(|b| BlockId(i * 12 + b)).collect()).collect();
    let prompt: Vec<_> = (0..128).map(TokenId).collect();
    for blocks in &blocks {
        step(engine, &[(0, &prompt, blocks)]);
    }
    let begin = Instant::now();
    for position in 128..128 + STEPS {
        let token = [TokenId(1000 + position)];
        let rows: Vec<_> =
            blocks.iter().map(|blocks| (position, &token[..], blocks.as_slice())).collect();
        step(engine, &rows);
    }
    f64::from(STEPS) * batch as f64 / begin.elapsed().as_secs_f64()
}
