//! Against others: a plain f32 forward pass, and llama.cpp.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]

mod common;
#[path = "reference/plain.rs"]
mod plain;
#[path = "common/tiny.rs"]
mod tiny;

use std::{path::Path, sync::Arc};

use baton_engine::{LlamaEngine, Model};
use baton_scheduler::{Engine, SampleStep, SequenceStep, Unobserved};
use baton_text::{ChatMessage, TextModel};
use baton_types::{BlockId, KvDtype, SamplingSpec, TokenId, blocks_for};
use candle_core::quantized::GgmlDType;
use common::{Setup, engine, key, model, model_path};
use serde::Deserialize;
use tiny::Tiny;

/// Runs `tokens` one after the other from `start` on, and gives each one's logits.
fn each_logits(engine: &mut LlamaEngine, tokens: &[TokenId], start: usize) -> Vec<Vec<f32>> {
    let layout = engine.info().layout;
    let blocks: Vec<_> =
        (0..blocks_for(tokens.len(), layout.block_tokens) as u32).map(BlockId).collect();
    let mut logits = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let end = if at < start { start } else { at + 1 };
        let step = SequenceStep {
            key: key(1),
            tokens: &tokens[at..end],
            start: at as u32,
            blocks: &blocks,
            sample: Some(SampleStep::new(const { &SamplingSpec::GREEDY }, 0)),
        };
        engine.step(&[step], &mut Unobserved, &mut Vec::new()).unwrap();
        logits.push(engine.logits().to_vec());
        at = end;
    }
    logits
}

/// ‖ours − plain‖ / ‖plain‖ of every row, ascending.
fn relative_errors(path: &Path, dtype: KvDtype, tokens: &[TokenId]) -> Vec<f64> {
    let model = Arc::new(Model::load(path).unwrap());
    let mut engine = engine(&model, Setup { dtype, threads: 2, ..Setup::default() });
    let (ours, plain) = (each_logits(&mut engine, tokens, 0), plain::forward(path, tokens));
    assert_eq!(ours.len(), plain.len());
    let norm = |row: &mut dyn Iterator<Item = f64>| row.map(|x| x * x).sum::<f64>().sqrt();
    let errors = ours.iter().zip(&plain).map(|(ours, plain)| {
        assert_eq!(ours.len(), plain.len());
        let off = norm(&mut ours.iter().zip(plain).map(|(a, b)| f64::from(a - b)));
        off / norm(&mut plain.iter().map(|&x| f64::from(x)))
    });
    let mut errors: Vec<_> = errors.collect();
    errors.sort_by(f64::total_cmp);
    errors
}

/// Where nothing is rounded to fewer bits, only the order of sums differs. Elsewhere cache and
/// activations are: a few parts in a thousand with f16, in a hundred with eight bits.
#[test]
fn logits_are_those_of_a_plain_forward_pass() {
    let folder = tempfile::tempdir().unwrap();
    let tokens: Vec<_> = (0..40).map(|i| TokenId((i * 37 + 11) % tiny::VOCAB as u32)).collect();
    for (dtype, kv, bound) in [
        (GgmlDType::F32, KvDtype::F32, 1e-5),
        (GgmlDType::F16, KvDtype::F16, 1e-2),
        (GgmlDType::Q8_0, KvDtype::F16, 5e-2),
        (GgmlDType::Q4_0, KvDtype::F16, 5e-2),
        (GgmlDType::Q4_1, KvDtype::F16, 5e-2),
    ] {
        let path = folder.path().join("tiny.gguf");
        Tiny::new(dtype).write(&path);
        let errors = relative_errors(&path, kv, &tokens);
        let worst = errors[errors.len() - 1];
        assert!(worst < bound, "{dtype:?}, cache {kv}: {worst:e}, at most {bound:e}");
    }
}

/// Thirty layers amplify what one rounds: single rows are further off.
#[test]
fn the_default_models_logits_are_those_of_a_plain_forward_pass() {
    let english = llama_cpp().english;
    let errors = relative_errors(&model_path(), KvDtype::F16, &english[..48]);
    let median = errors[errors.len() / 2];
    assert!(median < 0.05, "{median:e}");
}

/// What llama.cpp makes of it; `make_reference.py` wrote it.
#[derive(Deserialize)]
struct LlamaCpp {
    texts: Vec<Text>,
    english: Vec<TokenId>,
    window: usize,
    perplexity: f64,
    greedy: Vec<Greedy>,
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<TokenId>,
}

#[derive(Deserialize)]
struct Greedy {
    prompt: Vec<TokenId>,
    tokens: Vec<TokenId>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    prompt: Vec<TokenId>,
    tokens: Vec<TokenId>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

fn llama_cpp() -> LlamaCpp {
    serde_json::from_str(include_str!("reference/llama_cpp.json")).unwrap()
}

#[test]
fn token_ids_are_llama_cpps() {
    let (model, reference) = (model(), llama_cpp());
    let text = TextModel::new(model.text.clone()).unwrap();
    for Text { text: given, ids } in &reference.texts {
        assert_eq!(&text.encode(given).unwrap(), ids, "{given:?}");
    }
    let english = text.encode(include_str!("reference/english.txt")).unwrap();
    assert_eq!(english, reference.english);
    for Chat { messages, prompt, .. } in &reference.chats {
        let messages: Vec<_> = messages
            .iter()
            .map(|Message { role, content }| ChatMessage::new(role, content))
            .collect();
        let chat = baton_text::Chat::new(messages);
        assert_eq!(&text.encode_chat(&chat).unwrap(), prompt);
    }
}

#[test]
fn perplexity_is_llama_cpps() {
    let reference = llama_cpp();
    let mut engine = engine(&model(), Setup { threads: 2, ..Setup::default() });
    let half = reference.window / 2;
    let mut nlls = Vec::new();
    for window in reference.english.chunks_exact(reference.window) {
        let logits = each_logits(&mut engine, &window[..window.len() - 1], half);
        for (row, token) in logits.iter().zip(&window[half..]) {
            let highest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
            let sum: f64 = row.iter().map(|&x| (f64::from(x) - highest).exp()).sum();
            nlls.push(highest + sum.ln() - f64::from(row[token.0 as usize]));
        }
    }
    let ours = (nlls.iter().sum::<f64>() / nlls.len() as f64).exp();
    let ratio = ours / reference.perplexity;
    assert!((0.99..1.01).contains(&ratio), "{ours} against {}", reference.perplexity);
}

/// Token by token, given what llama.cpp said before: roundings differ, so a near tie may fall the
/// other way now and then.
#[test]
fn greedy_tokens_are_llama_cpps() {
    let reference = llama_cpp();
    let mut engine = engine(&model(), Setup { threads: 2, ..Setup::default() });
    let chats =
        reference.chats.into_iter().map(|Chat { prompt, tokens, .. }| Greedy { prompt, tokens });
    let (mut same, mut all) = (0, 0);
    for Greedy { prompt, tokens } in reference.greedy.into_iter().chain(chats) {
        let sequence = [&prompt[..], &tokens[..tokens.len() - 1]].concat();
        let logits = each_logits(&mut engine, &sequence, prompt.len());
        let best = |row: &Vec<f32>| {
            let (best, _) = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
            TokenId(best as u32)
        };
        same +=
            logits.iter().map(best).zip(&tokens).filter(|(ours, theirs)| ours == *theirs).count();
        all += tokens.len();
    }
    let share = same as f64 / all as f64;
    assert!(share >= 0.95, "{same} of {all} tokens agree");
}
