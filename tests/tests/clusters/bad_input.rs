//! What no client should send. Each costs its sender an error that names the parameter, soon, and
//! nobody else anything.

use std::time::{Duration, Instant};

use baton_tests::{Cluster, Engine, Options, Reply, post, post_bytes};
use serde_json::{Value, json};

/// For the refusal of anything, on a machine that tests other things too.
const SOON: Duration = Duration::from_secs(5);
/// Of an error that may quote what was sent.
const SHORT: usize = 4000;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn with(mut body: Value, extra: Value) -> Value {
    if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
        body.extend(extra);
    }
    body
}

fn chat(extra: Value) -> Value {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    with(json!({ "model": "sim", "messages": messages, "max_tokens": 4 }), extra)
}

fn completion(extra: Value) -> Value {
    with(json!({ "model": "sim", "prompt": "hi", "max_tokens": 4 }), extra)
}

/// What is wrong with the answer, if anything is.
fn problem(
    ask: impl FnOnce() -> anyhow::Result<Reply>,
    status: u16,
    param: Value,
    what: &str,
) -> Option<String> {
    let begun = Instant::now();
    let reply = match ask() {
        Ok(reply) => reply,
        Err(error) => return Some(format!("{what}: {error:#}")),
    };
    let took = begun.elapsed();
    let body = reply.json().unwrap_or_default();
    let is_right = (reply.status, &body["error"]["param"]) == (status, &param);
    let is_short = reply.body.len() < SHORT && took < SOON;
    let said: String = reply.body.chars().take(SHORT).collect();
    (!is_right || !is_short).then(|| format!("{what}: {} after {took:?}: {said}", reply.status))
}

fn nested(open: &str, inside: &str, close: &str, depth: usize) -> String {
    format!("{}{inside}{}", open.repeat(depth), close.repeat(depth))
}

fn grammar(schema: impl Into<Value>) -> Value {
    json!({ "structured_outputs": { "json": schema.into() } })
}

/// Bodies that are no request at all.
fn bytes() -> Vec<(&'static str, u16, Vec<u8>)> {
    let text = |text: String| text.into_bytes();
    vec![
        ("invalid UTF-8", 400, b"{\"model\": \"sim\", \"prompt\": \"\xff\xfe\"}".to_vec()),
        ("half a surrogate", 400, text("{\"model\": \"sim\", \"prompt\": \"\\ud800\"}".into())),
        ("a null byte", 400, b"{\"model\": \"sim\",\0 \"prompt\": \"a\"}".to_vec()),
        ("no number", 400, text("{\"model\": \"sim\", \"temperature\": NaN}".into())),
        ("too large a number", 400, text("{\"model\": \"sim\", \"temperature\": 1e999}".into())),
        ("two bodies", 400, text(format!("{}{}", completion(json!({})), completion(json!({}))))),
        ("deep arrays", 400, text(nested("[", "", "]", 1_000_000))),
        ("deep objects", 400, text(nested("{\"a\":", "1", "}", 1_000_000))),
        ("10 MiB", 413, text(completion(json!({ "user": "x".repeat(10 << 20) })).to_string())),
    ]
}

/// Values out of all proportion, and the parameter each is in.
fn enormous() -> Vec<(&'static str, Value, &'static str)> {
    let stops: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let biases: Value = (0..10_000).map(|id| (id.to_string(), json!(1))).collect();
    vec![
        (COMPLETIONS, json!({ "stop": stops }), "stop"),
        (COMPLETIONS, json!({ "stop": "x".repeat(1 << 20) }), "stop"),
        (COMPLETIONS, json!({ "stop_token_ids": vec![1; 100_000] }), "stop_token_ids"),
        (COMPLETIONS, json!({ "logit_bias": biases }), "logit_bias"),
        (COMPLETIONS, json!({ "prompt": "x".repeat(7 << 20) }), "prompt"),
        (COMPLETIONS, json!({ "prompt": vec![1; 1_000_000] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": [4_294_967_296_u64] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": vec!["x"; 129] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": vec![""; 1_000_000] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": vec![[1]; 1_000_000] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": ["x", "x".repeat(7 << 20)] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": vec!["x"; 65], "n": 2 }), "prompt"),
        (COMPLETIONS, json!({ "prompt": vec!["x"; 7], "best_of": 20 }), "prompt"),
        (COMPLETIONS, json!({ "prompt": vec!["x"; 128], "max_tokens": u64::MAX }), "prompt"),
        (COMPLETIONS, json!({ "max_tokens": u64::MAX }), "prompt"),
        (COMPLETIONS, json!({ "max_tokens": i64::MIN }), "max_tokens"),
        (COMPLETIONS, json!({ "n": 1e300 }), "n"),
        (COMPLETIONS, json!({ "seed": 1e300 }), "seed"),
        (COMPLETIONS, json!({ "temperature": 1e300 }), "temperature"),
        (
            CHAT,
            json!({ "messages": vec![json!({ "role": "user", "content": "x" }); 20_000] }),
            "messages",
        ),
        (CHAT, json!({ "messages": [{ "role": "x".repeat(1 << 20) }] }), "messages[0].role"),
        (
            CHAT,
            json!({ "response_format": { "type": "x".repeat(1 << 20) } }),
            "response_format.type",
        ),
        (
            CHAT,
            json!({ "structured_outputs": { "choice": vec!["x"; 1025] } }),
            "structured_outputs.choice",
        ),
        (CHAT, grammar(json!({ "enum": vec!["x".repeat(1000); 1000] })), "structured_outputs"),
    ]
}

/// Options that can't both be meant, and schemas that nothing matches or that don't end.
fn senseless() -> Vec<(&'static str, Value, &'static str)> {
    let tool = |parameters: Value| {
        let function = json!({ "name": "f", "parameters": parameters });
        json!({ "tools": [{ "type": "function", "function": function }], "tool_choice": "required" })
    };
    let deep_schema = |depth| nested("{\"properties\":{\"a\":", "{}", "}}", depth);
    vec![
        (COMPLETIONS, json!({ "logprobs": true }), "logprobs"),
        (COMPLETIONS, json!({ "stream_options": { "include_usage": true } }), "stream_options"),
        (
            COMPLETIONS,
            json!({ "stream": true, "stream_options": { "include_usage": 1 } }),
            "stream_options.include_usage",
        ),
        (COMPLETIONS, json!({ "min_tokens": 5 }), "min_tokens"),
        (COMPLETIONS, json!({ "n": 5, "best_of": 2 }), "best_of"),
        (COMPLETIONS, json!({ "prompt": ["x", ""] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": ["x", []] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": ["x", null] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": ["x", 1] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": [1, "x"] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": [[1], [[1]]] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": [[1], [257]] }), "prompt"),
        (COMPLETIONS, json!({ "prompt": [257] }), "prompt"),
        (CHAT, json!({ "top_logprobs": 2 }), "top_logprobs"),
        (CHAT, json!({ "prompt": "x", "messages": null }), "messages"),
        (
            CHAT,
            with(tool(json!({})), grammar(json!({ "$ref": "#/$defs/none" }))),
            "structured_outputs",
        ),
        (CHAT, with(tool(json!({})), json!({ "ignore_eos": true })), "ignore_eos"),
        (CHAT, with(grammar(json!({})), json!({ "ignore_eos": true })), "ignore_eos"),
        (CHAT, grammar(false), "structured_outputs"),
        (
            CHAT,
            grammar(json!({ "type": "integer", "minimum": 3, "maximum": 2 })),
            "structured_outputs",
        ),
        (CHAT, grammar(json!({ "enum": [] })), "structured_outputs"),
        (CHAT, grammar(json!({ "$ref": "#/$defs/none" })), "structured_outputs"),
        (CHAT, grammar(json!({ "$ref": "http://127.0.0.1:9/schema" })), "structured_outputs"),
        (CHAT, grammar(json!({ "$ref": "file:///etc/passwd" })), "structured_outputs"),
        (CHAT, grammar(json!({ "$ref": "#" })), "structured_outputs"),
        (CHAT, grammar(deep_schema(10_000)), "structured_outputs"),
        (CHAT, tool(serde_json::from_str(&deep_schema(40)).unwrap()), "tools"),
        (
            CHAT,
            json!({ "structured_outputs": { "regex": nested("(", "a", ")", 10_000) } }),
            "structured_outputs",
        ),
        (
            CHAT,
            json!({ "structured_outputs": { "grammar": "start: start" } }),
            "structured_outputs",
        ),
    ]
}

#[test]
fn bad_input_costs_its_sender_alone() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let mut problems = Vec::new();
    for (what, status, body) in bytes() {
        for path in [CHAT, COMPLETIONS, "/tokenize", "/detokenize"] {
            let ask = || post_bytes(&cluster.path(path), &body);
            problems.extend(problem(ask, status, Value::Null, &format!("{what} to {path}")));
        }
    }
    for (path, extra, param) in enormous().into_iter().chain(senseless()) {
        let what: String = extra.to_string().chars().take(80).collect();
        let body = if path == CHAT { chat(extra) } else { completion(extra) };
        let ask = || post(&cluster.path(path), &body);
        problems.extend(problem(ask, 400, json!(param), &what));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    // What nobody knows is ignored, as OpenAI does, whatever it is.
    let strange = json!({ "user": [1], "metadata": nested("[", "", "]", 50), "x-y": { "": null } });
    for (path, body) in [(CHAT, chat(strange.clone())), (COMPLETIONS, completion(strange))] {
        let reply = post(&cluster.path(path), &body).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    cluster.wait_whole(Duration::from_secs(10)).unwrap();
}
