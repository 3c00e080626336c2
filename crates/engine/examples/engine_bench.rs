//! Speed of the real engine, as JSON: `engine_bench MODEL THREADS [ISA] [FIGURE…]`.
//!
//! Figures: `prefill_N`, one prompt of N tokens in chunks of 512; `decode_B`, B sequences with contexts of 128 to 192;
//! `decode_1_at_N`, one with a context of N; `mixed_B_N`, a step of B decodes and N tokens of a prompt over what both
//! take alone; `load`, until the model is ready; `work`, what a token asks for.
#![allow(clippy::print_stdout)]

use std::{path::Path, sync::Arc, time::Instant};

use baton_device::{Arena, Isa, Kernels, ThreadPool};
use baton_engine::{Model, TransformerEngine};
use baton_scheduler::{Engine, SampleStep, SequenceStep, Unobserved};
use baton_types::{BlockId, ChoiceIndex, KvDtype, RequestId, SamplingSpec, SequenceKey, TokenId};

const CHUNK: usize = 512;
const BLOCK_TOKENS: usize = 16;
const USUAL: [&str; 5] = ["prefill_512", "prefill_2048", "decode_1", "decode_8", "decode_16"];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, threads, more @ ..] = &args[..] else {
        panic!("usage: engine_bench MODEL THREADS [ISA] [FIGURE…]");
    };
    let (isa, figures) = match more.split_first() {
        Some((first, rest)) if first.parse::<Isa>().is_ok() => (first.parse().ok(), rest),
        _ => (None, more),
    };
    let figures: Vec<&str> = match figures {
        [] => USUAL.to_vec(),
        figures => figures.iter().map(String::as_str).collect(),
    };
    let begin = Instant::now();
    let model = Arc::new(Model::load(Path::new(model)).expect("the model loads"));
    let loaded = begin.elapsed();
    let layout = TransformerEngine::layout(&model, BLOCK_TOKENS as u32, KvDtype::F16);
    let arena = Arc::new(Arena::new(layout, 2048).expect("memory"));
    let kernels = Kernels::new(isa.unwrap_or_else(Isa::best)).expect("instructions of this CPU");
    let threads = threads.parse().expect("a number of threads");
    let pool = ThreadPool::new(threads);
    let mut engine = TransformerEngine::new(Arc::clone(&model), arena, kernels, pool, None);
    prefill(&mut engine, 64);
    let mut rows = Vec::new();
    for figure in figures {
        let number = |text: &str| text.parse::<usize>().expect("a number in a figure's name");
        let (name, rest) = figure.split_once('_').unwrap_or((figure, ""));
        let mut row = |name: &str, value: f64, unit: &str| {
            rows.push(format!(r#"{{"name":"{name}","value":{value:.4},"unit":"{unit}"}}"#));
        };
        match (name, rest.split('_').collect::<Vec<_>>().as_slice()) {
            ("prefill", [len]) => row(figure, prefill(&mut engine, number(len)), "tok/s"),
            ("decode", [batch]) => row(figure, decode(&mut engine, number(batch), 128), "tok/s"),
            ("decode", [batch, "at", context]) => {
                row(figure, decode(&mut engine, number(batch), number(context)), "tok/s");
            }
            ("mixed", [batch, chunk]) => {
                row(figure, mixed(&mut engine, number(batch), number(chunk)), "×");
            }
            ("load", _) => row(figure, loaded.as_secs_f64() * 1e3, "ms"),
            ("work", _) => {
                row("weights", model.weight_bytes() as f64 / 1e6, "MB");
                row("products", 2e-9 * model.layer_weights() as f64, "GOP");
            }
            _ => panic!("{figure} is no figure"),
        }
    }
    println!("[{}]", rows.join(","));
}

type Sequence<'a> = (u32, &'a [TokenId], &'a [BlockId]);

fn step(engine: &mut TransformerEngine, batch: &[Sequence<'_>]) {
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

fn prompt(len: usize) -> Vec<TokenId> {
    (0..len as u32).map(|i| TokenId(i * 37 % 49_000)).collect()
}

/// Those of the `index`th of some sequences, each of at most `tokens`.
fn blocks(index: usize, tokens: usize) -> Vec<BlockId> {
    let each = tokens.div_ceil(BLOCK_TOKENS);
    (index * each..(index + 1) * each).map(|block| BlockId(block as u32)).collect()
}

fn fill(engine: &mut TransformerEngine, tokens: &[TokenId], blocks: &[BlockId]) {
    for (index, chunk) in tokens.chunks(CHUNK).enumerate() {
        step(engine, &[((index * CHUNK) as u32, chunk, blocks)]);
    }
}

/// Tokens a second of one prompt of `len`.
fn prefill(engine: &mut TransformerEngine, len: usize) -> f64 {
    let (tokens, blocks) = (prompt(len), blocks(0, len));
    let begin = Instant::now();
    fill(engine, &tokens, &blocks);
    len as f64 / begin.elapsed().as_secs_f64()
}

/// Tokens a second of `batch` sequences that begin with contexts of `context`.
fn decode(engine: &mut TransformerEngine, batch: usize, context: usize) -> f64 {
    const STEPS: usize = 64;
    let blocks: Vec<Vec<_>> = (0..batch).map(|index| blocks(index, context + STEPS)).collect();
    let tokens = prompt(context);
    for blocks in &blocks {
        fill(engine, &tokens, blocks);
    }
    let begin = Instant::now();
    for position in context..context + STEPS {
        let token = [TokenId(1000 + position as u32)];
        let rows: Vec<_> =
            blocks.iter().map(|blocks| (position as u32, &token[..], blocks.as_slice())).collect();
        step(engine, &rows);
    }
    (STEPS * batch) as f64 / begin.elapsed().as_secs_f64()
}

/// How long a step of `batch` decodes and `chunk` tokens of a prompt takes, over the sum of what both take alone: medians
/// of steps in turn.
fn mixed(engine: &mut TransformerEngine, batch: usize, chunk: usize) -> f64 {
    const CONTEXT: usize = 128;
    const TIMES: usize = 15;
    let size = chunk.max(CONTEXT + BLOCK_TOKENS);
    let all: Vec<Vec<_>> = (0..=batch).map(|index| blocks(index, size)).collect();
    let (tokens, token) = (prompt(size), [TokenId(1000)]);
    for blocks in &all[..batch] {
        fill(engine, &tokens[..CONTEXT], blocks);
    }
    let decodes: Vec<Sequence<'_>> =
        all[..batch].iter().map(|blocks| (CONTEXT as u32, &token[..], &blocks[..])).collect();
    let prefill: Vec<Sequence<'_>> = vec![(0, &tokens[..chunk], &all[batch])];
    let both = [decodes.clone(), prefill.clone()].concat();
    let steps = [decodes, prefill, both];
    let mut took = [const { Vec::new() }; 3];
    for _ in 0..TIMES {
        for (sequences, took) in steps.iter().zip(&mut took) {
            let begin = Instant::now();
            step(engine, sequences);
            took.push(begin.elapsed().as_secs_f64());
        }
    }
    let [decodes, prefill, both] = took.map(|mut took| {
        took.sort_by(f64::total_cmp);
        took[TIMES / 2]
    });
    both / (decodes + prefill)
}
