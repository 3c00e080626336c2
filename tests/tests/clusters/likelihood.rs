//! What a model thinks of tokens that are known already, and which of several answers it likes
//! best.

use baton_tests::{Cluster, Engine, Options, events, model, post};
use serde_json::{Value, json};

fn name() -> String {
    model().file_stem().unwrap().to_string_lossy().into_owned()
}

fn logprobs(choice: &Value) -> Vec<Value> {
    choice["logprobs"]["token_logprobs"].as_array().unwrap().clone()
}

/// `same-tokens`: a token is as likely in a prompt, chunked in any way, as it was when it was drawn.
#[test]
fn a_prompt_is_as_likely_as_when_it_was_drawn() {
    let options = Options::new(Engine::Llama).set("scheduler.chunk_tokens=7");
    let cluster = Cluster::start(&options).unwrap();
    let url = cluster.path("/v1/completions");
    let prompt = "The capital of France is";
    let mut body = json!({
        "model": name(), "prompt": prompt, "max_tokens": 24, "temperature": 0, "logprobs": 2,
    });
    let drawn = post(&url, &body).unwrap().json().unwrap()["choices"][0].clone();
    let text = format!("{prompt}{}", drawn["text"].as_str().unwrap());

    body["prompt"] = text.clone().into();
    body["max_tokens"] = 1.into();
    body["echo"] = true.into();
    let whole = post(&url, &body).unwrap().json().unwrap();
    let echoed = &whole["choices"][0];
    let after = echoed["text"].as_str().unwrap().strip_prefix(&text).unwrap();
    let told = logprobs(echoed);
    assert_eq!(told[0], Value::Null, "nothing comes before the first token");
    let expected = logprobs(&drawn);
    let from = told.len() - 1 - expected.len();
    assert_eq!(told[from..told.len() - 1], expected[..]);
    let tops = |choice: &Value| choice["logprobs"]["top_logprobs"].as_array().unwrap().clone();
    assert_eq!(tops(echoed)[from..told.len() - 1], tops(&drawn)[..]);
    let tokens = echoed["logprobs"]["tokens"].as_array().unwrap();
    let joined: String = tokens.iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(joined, format!("{text}{after}"));
    let usage = &whole["usage"]["prompt_tokens_details"];
    assert_eq!(usage["cached_tokens"], 0, "a cached prompt could not be told about");

    // Streamed, the prompt is the beginning of the first piece.
    body["stream"] = true.into();
    let chunks = events(&url, &body).unwrap().map(Result::unwrap).filter(|data| data != "[DONE]");
    let chunks: Vec<Value> = chunks.map(|data| serde_json::from_str(&data).unwrap()).collect();
    assert_eq!(logprobs(&chunks[0]["choices"][0]), told);
    let streamed: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(streamed, format!("{text}{after}"));
}

#[test]
fn the_best_of_several_answers_are_the_likeliest() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let url = cluster.path("/v1/completions");
    let mut body = json!({
        "model": name(), "prompt": "Once upon a time", "max_tokens": 8, "seed": 11,
        "n": 5, "logprobs": 0,
    });
    let all = post(&url, &body).unwrap().json().unwrap();
    let mut drawn: Vec<(f64, String)> = all["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| {
            let told = logprobs(choice);
            let sum: f64 = told.iter().map(|told| told.as_f64().unwrap()).sum();
            (sum / told.len() as f64, choice["text"].as_str().unwrap().to_owned())
        })
        .collect();
    drawn.sort_by(|a, b| b.0.total_cmp(&a.0));

    body["n"] = 2.into();
    body["best_of"] = 5.into();
    body["logprobs"] = Value::Null;
    let best = post(&url, &body).unwrap().json().unwrap();
    let choices = best["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(texts, [drawn[0].1.as_str(), drawn[1].1.as_str()]);
    assert!(choices.iter().all(|choice| choice["logprobs"].is_null()), "nobody asked: {best}");
    assert_eq!(best["usage"]["completion_tokens"], all["usage"]["completion_tokens"]);
}
