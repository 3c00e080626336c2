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

/// Calls of tools, told to have been the same without the accident.
#[test]
fn a_call_of_a_tool_survives_the_death_of_its_decode_node() {
    let cluster = slow_cluster();
    let url = cluster.path("/v1/chat/completions");
    let many =
        json!({ "type": "array", "items": { "type": "integer" }, "minItems": 60, "maxItems": 60 });
    let schema = json!({
        "type": "object", "properties": { "numbers": many }, "required": ["numbers"],
        "additionalProperties": false,
    });
    let mut body = json!({
        "model": "sim", "seed": 4, "max_tokens": 400, "tool_choice": "required",
        "messages": [{ "role": "user", "content": "Count." }],
        "tools": [{ "type": "function", "function": { "name": "count", "parameters": schema } }],
    });
    let whole = post(&url, &body).unwrap().json().unwrap();
    let expected = &whole["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"];

    body["stream"] = true.into();
    let mut stream = events(&url, &body).unwrap().map(Result::unwrap);
    let mut data: Vec<String> = stream.by_ref().take(20).collect();
    let running = cluster.samples("baton_requests_running").unwrap();
    let busy = ["decode-1", "decode-2"].into_iter().find(|node| running[*node] >= 1.0).unwrap();
    cluster.child(busy).unwrap().kill().unwrap();
    data.extend(stream);
    let arguments: String = data
        .iter()
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|chunk| {
            let call = &chunk["choices"][0]["delta"]["tool_calls"][0];
            call["function"]["arguments"].as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(json!(arguments), *expected);
    assert_eq!(data.last().map(String::as_str), Some("[DONE]"));
    let metrics = baton_tests::get(&cluster.path("/metrics")).unwrap().body;
    assert!(metrics.contains("baton_router_retries_total"), "nobody was replayed:\n{metrics}");
}
