//! Against others: a plain f32 forward pass, and llama.cpp.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]

mod common;
#[path = "reference/plain.rs"]
mod plain;

use baton_text::{ChatMessage, TextModel};
use baton_types::TokenId;
use common::{Setup, each_logits, engine, model, model_path, relative_errors};
use serde::Deserialize;

/// Thirty layers amplify what one rounds: single rows are further off.
#[test]
fn the_default_models_logits_are_those_of_a_plain_forward_pass() {
    let english = llama_cpp().english;
    let mut engine = engine(&model(), Setup { threads: 2, ..Setup::default() });
    let ours = each_logits(&mut engine, &english[..48], 0);
    let errors = relative_errors(&ours, &plain::forward(&model_path(), &english[..48]));
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
    let text = TextModel::new((*model.text).clone()).unwrap();
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
