//! The OpenAI surface as curl would use it.

use baton_tests::{Cluster, Engine, Options, Reply, events, get, post};
use serde_json::{Value, json};

fn cluster() -> Cluster {
    Cluster::start(&Options::new(Engine::Sim)).unwrap()
}

fn completion(extra: Value) -> Value {
    let mut body =
        json!({ "model": "sim", "prompt": "Once upon a time", "max_tokens": 12, "seed": 5 });
    merge(&mut body, extra);
    body
}

fn merge(body: &mut Value, extra: Value) {
    let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) else { return };
    body.extend(extra);
}

/// An answer of OpenAI's error object.
fn check_error(reply: &Reply, status: u16, parts: &[&str]) {
    assert_eq!(reply.status, status, "{reply:?}");
    let body = reply.json().unwrap();
    let error = &body["error"];
    assert!(error["message"].is_string() && error["type"].is_string(), "{body}");
    for part in parts {
        assert!(reply.body.contains(part), "{part:?} is not in {body}");
    }
}

#[test]
fn health_readiness_and_the_models_are_told() {
    let cluster = cluster();
    assert_eq!(get(&cluster.path("/health")).unwrap().status, 200);
    assert_eq!(get(&cluster.path("/ready")).unwrap().status, 200);
    let models = get(&cluster.path("/v1/models")).unwrap().json().unwrap();
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["id"], "sim");
    assert_eq!(models["data"][0]["object"], "model");
    check_error(&get(&cluster.path("/v1/nothing")).unwrap(), 404, &[]);
}

#[test]
fn a_seeded_completion_is_the_same_streamed_or_not_and_again() {
    let cluster = cluster();
    let url = cluster.path("/v1/completions");
    let whole = post(&url, &completion(json!({}))).unwrap().json().unwrap();
    let text = whole["choices"][0]["text"].as_str().unwrap().to_owned();
    assert!(!text.is_empty(), "{whole}");
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["usage"]["completion_tokens"], 12, "{whole}");
    let prompt_tokens = whole["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(whole["usage"]["total_tokens"], prompt_tokens + 12);
    assert_eq!(whole["choices"][0]["finish_reason"], "length");

    let body = completion(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let stream: Vec<String> = events(&url, &body).unwrap().map(Result::unwrap).collect();
    assert_eq!(stream.last().unwrap(), "[DONE]");
    let chunks: Vec<Value> =
        stream[..stream.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    let streamed: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(streamed, text);
    let usage = &chunks.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], 12, "{usage}");
}

#[test]
fn a_chat_is_answered_with_a_message_or_with_deltas() {
    let cluster = cluster();
    let url = cluster.path("/v1/chat/completions");
    let messages = json!([{ "role": "user", "content": "Hello!" }]);
    let mut body =
        json!({ "model": "sim", "messages": messages, "max_tokens": 9, "temperature": 0 });
    let whole = post(&url, &body).unwrap().json().unwrap();
    assert_eq!(whole["object"], "chat.completion", "{whole}");
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["role"], "assistant");

    merge(&mut body, json!({ "stream": true }));
    let stream: Vec<String> = events(&url, &body).unwrap().map(Result::unwrap).collect();
    let mut text = String::new();
    for data in &stream[..stream.len() - 1] {
        let chunk: Value = serde_json::from_str(data).unwrap();
        assert_eq!(chunk["object"], "chat.completion.chunk");
        text += chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
    }
    assert_eq!(message["content"], text);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let cluster = cluster();
    let url = cluster.path("/v1/completions");
    let text = |extra| {
        let reply = post(&url, &completion(extra)).unwrap().json().unwrap();
        let choice = &reply["choices"][0];
        (choice["text"].as_str().unwrap().to_owned(), choice["finish_reason"].clone())
    };
    let (whole, _) = text(json!({}));
    let stop = &whole[4..6];
    let (cut, reason) = text(json!({ "stop": stop }));
    assert_eq!(cut, whole[..whole.find(stop).unwrap()]);
    assert_eq!(reason, "stop");
}

#[test]
fn nonsense_is_refused_with_openais_error_object_and_harms_nobody() {
    let cluster = cluster();
    let url = cluster.path("/v1/completions");
    for (extra, status, parts) in [
        (json!({ "model": "other" }), 404, vec!["other"]),
        (json!({ "prompt": "" }), 400, vec![]),
        (json!({ "temperature": -1 }), 400, vec!["temperature", "-1"]),
        (json!({ "temperature": "hot" }), 400, vec![]),
        (json!({ "max_tokens": 0 }), 400, vec!["max_tokens"]),
        (json!({ "prompt": "word ".repeat(10_000) }), 400, vec!["8192"]),
    ] {
        check_error(&post(&url, &completion(extra)).unwrap(), status, &parts);
    }
    assert_eq!(post(&url, &completion(json!({}))).unwrap().status, 200);
    cluster.wait_whole(std::time::Duration::from_secs(5)).unwrap();
}
