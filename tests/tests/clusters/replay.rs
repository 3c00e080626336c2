//! A decode node dies in the middle: its sequences go on elsewhere, and nobody can tell
//! (`exact-stream`, `same-tokens`), whatever was asked for.

use std::{sync::Arc, time::Duration};

use baton_tests::{Ask, Cluster, Engine, Options, Reference, events, generate_all, post};
use baton_types::{Grammar, SamplingSpec, TokenId};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);

fn slow_cluster() -> Cluster {
    Cluster::start(&Options::new(Engine::Sim).set("engine.profile.decode_us=3000.0")).unwrap()
}

fn prompt(variety: u32) -> Vec<TokenId> {
    (0..20 + variety * 3).map(|i| TokenId(33 + (i * 7 + variety * 13) % 90)).collect()
}

/// Held to a grammar, penalised for what was emitted, cut, and plain.
fn asks() -> Vec<Ask> {
    let list = r#"{"type": "array", "items": {"type": "object"}, "minItems": 40}"#;
    (0..8)
        .map(|variety| {
            let seeded = SamplingSpec::seeded(0.9, 77 + u64::from(variety));
            let sampling = match variety % 4 {
                0 => SamplingSpec { grammar: Some(Grammar::JsonSchema(list.into())), ..seeded },
                1 => SamplingSpec {
                    repetition_penalty: 1.3,
                    frequency_penalty: 0.5,
                    logprobs: Some(2),
                    ..seeded
                },
                2 => SamplingSpec {
                    grammar: Some(Grammar::Regex("([a-z]+ ){80}".into())),
                    top_p: 0.8,
                    ..seeded
                },
                _ => SamplingSpec { prompt_logprobs: None, min_tokens: 100, ..seeded },
            };
            Ask { prompt: prompt(variety), max_tokens: 160, sampling }
        })
        .collect()
}

/// Waits until `node` decodes, then kills it.
fn kill_at_work(cluster: &Cluster, node: &str) {
    let start = std::time::Instant::now();
    while cluster.samples("baton_requests_running").unwrap()[node] < 1.0 {
        assert!(start.elapsed() < PATIENCE, "{node} never had anything to do");
        std::thread::sleep(Duration::from_millis(5));
    }
    let child = cluster.child(node).unwrap();
    child.kill().unwrap();
    assert!(child.wait_end(PATIENCE));
}

#[tokio::test]
async fn every_way_to_draw_survives_the_death_of_a_decode_node() {
    let cluster = Arc::new(slow_cluster());
    let mut reference = Reference::sim().unwrap();
    let asks = asks();
    let killed = Arc::clone(&cluster);
    let killing = tokio::task::spawn_blocking(move || kill_at_work(&killed, "decode-1"));
    let (generated, killed) = tokio::join!(generate_all(cluster.url(), "sim", &asks), killing);
    killed.unwrap();
    for (ask, ours) in asks.iter().zip(&generated.unwrap()) {
        let alone = reference.generate(ask).unwrap();
        assert_eq!(ours.bits(), alone.bits(), "{:?}", ask.sampling);
    }
    let metrics = baton_tests::get(&cluster.path("/metrics")).unwrap().body;
    let retries = metrics.lines().filter(|line| line.starts_with("baton_router_retries_total"));
    assert!(retries.count() > 0, "nobody was replayed:\n{metrics}");
}

/// What a stream said: its text, and the arguments of its calls.
fn said(data: &[String]) -> (String, String) {
    let (mut text, mut arguments) = (String::new(), String::new());
    for chunk in data.iter().filter_map(|data| serde_json::from_str::<Value>(data).ok()) {
        let delta = &chunk["choices"][0]["delta"];
        text += delta["content"].as_str().unwrap_or_default();
        let call = &delta["tool_calls"][0]["function"]["arguments"];
        arguments += call.as_str().unwrap_or_default();
    }
    (text, arguments)
}

/// Streams `body`'s answer and kills the decode node it comes from in the middle. It must be what
/// it is without the accident. Says whether it was a call.
fn survives(mut body: Value) -> bool {
    let cluster = slow_cluster();
    let url = cluster.path("/v1/chat/completions");
    body["stream"] = true.into();
    let stream = || events(&url, &body).unwrap().map(Result::unwrap);
    let expected = said(&stream().collect::<Vec<_>>());

    let mut stream = stream();
    let mut data: Vec<String> = stream.by_ref().take(20).collect();
    let running = cluster.samples("baton_requests_running").unwrap();
    let busy = ["decode-1", "decode-2"].into_iter().find(|node| running[*node] >= 1.0).unwrap();
    cluster.child(busy).unwrap().kill().unwrap();
    data.extend(stream);
    assert_eq!(said(&data), expected);
    assert_eq!(data.last().map(String::as_str), Some("[DONE]"));
    let metrics = baton_tests::get(&cluster.path("/metrics")).unwrap().body;
    assert!(metrics.contains("baton_router_retries_total"), "nobody was replayed:\n{metrics}");
    let (text, arguments) = expected;
    assert_ne!(text.is_empty(), arguments.is_empty(), "either text or calls");
    text.is_empty()
}

fn many_numbers() -> Value {
    let many =
        json!({ "type": "array", "items": { "type": "integer" }, "minItems": 60, "maxItems": 60 });
    json!({
        "type": "object", "properties": { "numbers": many }, "required": ["numbers"],
        "additionalProperties": false,
    })
}

/// A conversation in which a tool may be called.
fn counting(extra: Value) -> Value {
    let tool = json!({ "name": "count", "parameters": many_numbers() });
    let mut body = json!({
        "model": "sim", "seed": 4, "max_tokens": 400, "parallel_tool_calls": false,
        "messages": [{ "role": "user", "content": "Count." }],
        "tools": [{ "type": "function", "function": tool }],
    });
    if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
        body.extend(extra);
    }
    body
}

#[test]
fn a_call_of_a_tool_survives_the_death_of_its_decode_node() {
    assert!(survives(counting(json!({ "tool_choice": "required" }))));
}

#[test]
fn an_answer_in_a_format_survives_the_death_of_its_decode_node_where_tools_might_be_called() {
    let format = json!({ "name": "numbers", "schema": many_numbers() });
    let format = json!({ "type": "json_schema", "json_schema": format });
    let body = |seed| counting(json!({ "response_format": format, "seed": seed }));
    // Which of the two it is, the first token says.
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let first = |seed: u32| {
        let mut body = body(seed);
        body["max_tokens"] = 1.into();
        let whole = post(&cluster.path("/v1/chat/completions"), &body).unwrap().json().unwrap();
        whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    for (beginning, is_call) in [("{", false), ("<", true)] {
        let seed = (0..50).find(|&seed| first(seed) == beginning).unwrap();
        assert_eq!(survives(body(seed)), is_call);
    }
}
