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
        (json!({ "top_p": 0 }), 400, vec!["top_p", "0"]),
        (json!({ "top_p": 1.5 }), 400, vec!["top_p", "1.5"]),
        (json!({ "top_k": -2 }), 400, vec!["top_k", "-2"]),
        (json!({ "min_p": -0.5 }), 400, vec!["min_p", "-0.5"]),
        (json!({ "typical_p": 2 }), 400, vec!["typical_p", "2"]),
        (json!({ "repetition_penalty": 0 }), 400, vec!["repetition_penalty", "0"]),
        (json!({ "frequency_penalty": 3 }), 400, vec!["frequency_penalty", "3"]),
        (json!({ "presence_penalty": -2.5 }), 400, vec!["presence_penalty", "-2.5"]),
        (json!({ "logit_bias": { "nine": 1 } }), 400, vec!["logit_bias", "nine"]),
        (json!({ "logit_bias": { "9": 101 } }), 400, vec!["logit_bias", "101"]),
        (json!({ "logit_bias": { "999": 1 } }), 400, vec!["logit_bias", "999", "257"]),
        (json!({ "stop_token_ids": [257] }), 400, vec!["stop_token_ids", "257"]),
        (json!({ "stop_token_ids": vec![1; 65] }), 400, vec!["stop_token_ids", "65", "64"]),
        (json!({ "min_tokens": 100, "max_tokens": 3 }), 400, vec!["min_tokens", "100", "3"]),
        (json!({ "logprobs": 21 }), 400, vec!["logprobs", "21", "20"]),
        (json!({ "logprobs": true }), 400, vec!["logprobs"]),
        (json!({ "prompt": "word ".repeat(10_000) }), 400, vec!["8192"]),
    ] {
        check_error(&post(&url, &completion(extra)).unwrap(), status, &parts);
    }
    assert_eq!(post(&url, &completion(json!({}))).unwrap().status, 200);
    cluster.wait_whole(std::time::Duration::from_secs(5)).unwrap();
}

#[test]
fn log_probabilities_come_in_both_shapes_streamed_or_not() {
    let cluster = cluster();
    let url = cluster.path("/v1/completions");
    let body = completion(json!({ "logprobs": 2 }));
    let whole = post(&url, &body).unwrap().json().unwrap();
    let told = &whole["choices"][0]["logprobs"];
    let tokens = whole["usage"]["completion_tokens"].as_u64().unwrap() as usize;
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(told[list].as_array().unwrap().len(), tokens, "{list}: {told}");
    }
    assert_eq!(told["top_logprobs"][0].as_object().unwrap().len(), 2, "{told}");
    assert_eq!(
        told["token_logprobs"][0],
        told["top_logprobs"][0][told["tokens"][0].as_str().unwrap()]
    );

    let body = completion(json!({ "logprobs": 2, "stream": true }));
    let pieces: Vec<Value> = events(&url, &body)
        .unwrap()
        .filter_map(|event| serde_json::from_str(&event.unwrap()).ok())
        .collect();
    let lists =
        pieces.iter().filter_map(|piece| piece["choices"][0]["logprobs"]["tokens"].as_array());
    assert_eq!(lists.flatten().cloned().collect::<Value>(), told["tokens"]);
    let lists =
        pieces.iter().filter_map(|piece| piece["choices"][0]["logprobs"]["text_offset"].as_array());
    assert_eq!(lists.flatten().cloned().collect::<Value>(), told["text_offset"]);

    let messages = json!([{ "role": "user", "content": "hi" }]);
    let chat = |extra: Value| {
        let mut body = json!({ "model": "sim", "messages": messages, "max_tokens": 5 });
        merge(&mut body, extra);
        post(&cluster.path("/v1/chat/completions"), &body).unwrap()
    };
    let reply = chat(json!({ "logprobs": true, "top_logprobs": 3 })).json().unwrap();
    let content = reply["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 5, "{reply}");
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 3);
    assert_eq!(content[0]["bytes"].as_array().unwrap().len(), 1);
    let reply = chat(json!({ "logprobs": true })).json().unwrap();
    assert_eq!(reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
    assert_eq!(chat(json!({})).json().unwrap()["choices"][0]["logprobs"], Value::Null);
    check_error(&chat(json!({ "top_logprobs": 3 })), 400, &["top_logprobs", "logprobs"]);
}

/// The texts of all choices of a stream.
fn streamed(url: &str, body: &Value, choices: usize) -> Vec<String> {
    let mut texts = vec![String::new(); choices];
    let mut ended = 0;
    for event in events(url, body).unwrap() {
        let Ok(chunk) = serde_json::from_str::<Value>(&event.unwrap()) else { continue };
        for choice in chunk["choices"].as_array().unwrap() {
            let text = &mut texts[choice["index"].as_u64().unwrap() as usize];
            *text += choice["text"].as_str().unwrap();
            ended += usize::from(choice["finish_reason"].is_string());
        }
    }
    assert_eq!(ended, choices);
    texts
}

#[test]
fn several_choices_differ_and_are_the_same_streamed_or_not_and_again() {
    let cluster = cluster();
    let url = cluster.path("/v1/completions");
    let prompt = "word ".repeat(40);
    let body = |extra| {
        let mut body = completion(json!({ "prompt": prompt, "temperature": 1 }));
        merge(&mut body, extra);
        body
    };
    let whole = post(&url, &body(json!({ "n": 4 }))).unwrap().json().unwrap();
    // All choices but the first find the prompt's full blocks where the first left them.
    let metrics = format!("http://{}/metrics", cluster.nodes().unwrap()["prefill-1"]);
    let metrics = get(&metrics).unwrap().body;
    let name = "baton_tokens_total{phase=\"prefill\"} ";
    let computed = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    assert!(computed.parse::<u32>().unwrap() <= 200 + 3 * 16, "{computed}");
    let choices = whole["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|c| c["text"].as_str().unwrap()).collect();
    let indexes: Vec<_> = choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [0, 1, 2, 3]);
    let distinct: std::collections::BTreeSet<_> = texts.iter().collect();
    assert_eq!(distinct.len(), 4, "{texts:?}");
    assert_eq!(whole["usage"]["completion_tokens"], 4 * 12);
    assert_eq!(whole["usage"]["prompt_tokens"], 200, "the prompt counts once");

    assert_eq!(streamed(&url, &body(json!({ "n": 4, "stream": true })), 4), texts);
    let one = post(&url, &body(json!({ "n": 1 }))).unwrap().json().unwrap();
    assert_eq!(one["choices"][0]["text"], texts[0], "the first is the only one's");
    let greedy = body(json!({ "n": 3, "temperature": 0, "stream": true }));
    let same = streamed(&url, &greedy, 3);
    assert!(same.iter().all(|text| *text == same[0]), "{same:?}");
    for n in [json!(0), json!(129), json!("2")] {
        check_error(&post(&url, &body(json!({ "n": n }))).unwrap(), 400, &["\"n\""]);
    }
    cluster.wait_whole(std::time::Duration::from_secs(5)).unwrap();
}

#[test]
fn prompts_become_tokens_and_tokens_text() {
    let cluster = cluster();
    let ask = |path: &str, body: Value| post(&cluster.path(path), &body).unwrap();
    let text = "naïve café 🏃";
    let body = json!({ "model": "sim", "prompt": text, "return_token_strs": true });
    let told = ask("/tokenize", body).json().unwrap();
    assert_eq!((&told["count"], &told["max_model_len"]), (&json!(text.len()), &json!(8192)));
    let bytes: Vec<u8> = text.bytes().collect();
    assert_eq!(told["tokens"], json!(bytes));
    assert_eq!(told["token_strs"][0], "n");
    let back = ask("/detokenize", json!({ "model": "sim", "tokens": told["tokens"] }));
    assert_eq!(back.json().unwrap(), json!({ "prompt": text }));
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let chat = ask("/tokenize", json!({ "model": "sim", "messages": messages })).json().unwrap();
    assert!(chat["count"].as_u64().unwrap() > 2, "{chat}");
    assert_eq!(chat["token_strs"], Value::Null);
    for (path, body, status, part) in [
        ("/tokenize", json!({ "model": "sim" }), 400, "prompt"),
        ("/tokenize", json!({ "model": "sim", "prompt": 3 }), 400, "prompt"),
        ("/tokenize", json!({ "model": "sim", "prompt": "a", "messages": [] }), 400, "messages"),
        ("/tokenize", json!({ "model": "none", "prompt": "a" }), 404, "none"),
        ("/tokenize", json!({ "model": 1, "prompt": "a" }), 400, "model"),
        ("/detokenize", json!({ "model": "sim" }), 400, "tokens"),
        ("/detokenize", json!({ "model": "sim", "tokens": [1, 257] }), 400, "257"),
        ("/detokenize", json!({ "model": "sim", "tokens": [-1] }), 400, "tokens"),
    ] {
        check_error(&ask(path, body), status, &[part]);
    }
    // Where one model is served it needn't be named, as with vLLM.
    assert_eq!(ask("/tokenize", json!({ "prompt": text })).json().unwrap(), {
        let mut told = told.clone();
        told["token_strs"] = Value::Null;
        told
    });
    let info = get(&cluster.path("/tokenizer_info")).unwrap().json().unwrap();
    assert_eq!((&info["vocab_size"], &info["bos_token"]), (&json!(257), &Value::Null));
    assert!(info["chat_template"].as_str().unwrap().contains("message.role"), "{info}");
    let named = get(&cluster.path("/tokenizer_info?model=sim")).unwrap().json().unwrap();
    assert_eq!(named, info);
    check_error(&get(&cluster.path("/tokenizer_info?model=x")).unwrap(), 404, &["`x`"]);
}
