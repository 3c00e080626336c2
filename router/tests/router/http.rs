//! Answers in OpenAI's shapes.

use baton_proto::node::v1::Hello;
use baton_types::Role;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, PROMPT},
    fake::{FakeNode, MODEL, Step, text},
};

#[tokio::test]
async fn a_completion_has_openais_shape() {
    let cluster = Cluster::start(1, 1).await;
    let headers = [("x-request-id", "mine-1"), ("x-baton-timings", "1")];
    let body = json!({ "model": MODEL, "prompt": [PROMPT], "max_tokens": 6, "seed": -3 });
    let reply = cluster.post_with("/v1/completions", body.to_string(), &headers).await;
    assert_eq!((reply.status, reply.header("x-request-id")), (200, Some("mine-1")));
    let body = reply.json();
    assert!(body["id"].as_str().unwrap().starts_with("cmpl-"), "{body}");
    assert_eq!((&body["object"], &body["model"]), (&json!("text_completion"), &json!(MODEL)));
    assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
    let choice = json!({
        "index": 0, "text": text(PROMPT, 6), "logprobs": null, "finish_reason": "length",
    });
    assert_eq!(body["choices"], json!([choice]));
    let prompt = PROMPT.len();
    let usage = json!({
        "prompt_tokens": prompt, "completion_tokens": 6, "total_tokens": prompt + 6,
        "prompt_tokens_details": { "cached_tokens": 3 },
    });
    assert_eq!(body["usage"], usage);
    let timings = &body["baton"];
    for (name, expected) in [
        ("prefill_node", json!("p0")),
        ("decode_node", json!("d0")),
        ("prefill_queue_us", json!(11)),
        ("prefill_us", json!(22)),
        ("exposed_transfer_us", json!(33)),
        ("decode_admission_us", json!(44)),
        ("first_decode_step_us", json!(55)),
        ("pages_moved", json!(4)),
        ("bytes_moved", json!(64)),
    ] {
        assert_eq!(timings[name], expected, "{name} in {timings}");
    }
    let specs = (cluster.prefill[0].shared.calls(), cluster.decode[0].shared.calls());
    assert_eq!(specs.0[0].sampling, specs.1[0].sampling);
    assert_eq!(specs.0[0].sampling.clone().unwrap().seed, (-3_i64).cast_unsigned());
}

#[tokio::test]
async fn token_ids_are_a_prompt_and_sixteen_tokens_the_default() {
    let cluster = Cluster::start(1, 1).await;
    let ids: Vec<u8> = PROMPT.bytes().collect();
    for prompt in [json!(ids), json!([ids])] {
        let body = json!({ "model": MODEL, "prompt": prompt });
        let reply = cluster.post("/v1/completions", body.to_string()).await;
        assert!(reply.header("x-request-id").unwrap().starts_with("req-"), "{reply:?}");
        let body = reply.json();
        assert_eq!(body["choices"][0]["text"], text(PROMPT, 16), "{body}");
        assert_eq!(body.get("baton"), None, "nobody asked");
    }
}

#[tokio::test]
async fn a_streamed_completion_ends_with_usage_and_done() {
    let cluster = Cluster::start(1, 1).await;
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let reply = cluster.complete(options).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let mut events = reply.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events.iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let (last, chunks) = chunks.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(8)));
    let mut whole = String::new();
    for chunk in chunks {
        assert_eq!((&chunk["object"], &chunk["usage"]), (&json!("text_completion"), &Value::Null));
        whole += chunk["choices"][0]["text"].as_str().unwrap();
    }
    assert_eq!(whole, text(PROMPT, 8));
    let reasons: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]["finish_reason"]).collect();
    let (end, before) = reasons.split_last().unwrap();
    assert!(before.iter().all(|reason| reason.is_null()) && **end == "length", "{reasons:?}");
}

#[tokio::test]
async fn a_chat_is_a_message_or_deltas() {
    let cluster = Cluster::start(1, 1).await;
    let ask = |extra: Value| {
        let mut body = json!({
            "model": MODEL,
            "messages": [
                { "role": "system", "content": "be brief" },
                { "role": "user", "content": [{ "type": "text", "text": "hello" }] },
            ],
            "max_completion_tokens": 5,
        });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body.to_string()
    };
    let url = "/v1/chat/completions";
    let whole = cluster.post(url, ask(json!({}))).await.json();
    assert_eq!(whole["object"], "chat.completion");
    assert!(whole["id"].as_str().unwrap().starts_with("chatcmpl-"), "{whole}");
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["role"], "assistant");
    let expected = text("system: be brief\nuser: hello\nassistant: ", 5);
    assert_eq!(message["content"], expected);

    let reply = cluster.post(url, ask(json!({ "stream": true }))).await;
    let events = reply.events();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    let text: String =
        chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, expected);
    let last = chunks.last().unwrap();
    assert_eq!(last["object"], "chat.completion.chunk");
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert_eq!(last.get("usage"), None, "nobody asked");
}

#[tokio::test]
async fn models_health_readiness_and_metrics_are_told() {
    let cluster = Cluster::start(1, 0).await;
    let ready = cluster.get("/ready").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    let cluster = Cluster::start(1, 1).await;
    for path in ["/health", "/ready"] {
        assert_eq!(cluster.get(path).await.status, 200, "{path}");
    }
    let models = cluster.get("/v1/models").await.json();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!(MODEL)));
    assert_eq!(cluster.get("/v1/models/fake").await.json(), models["data"][0]);
    cluster.complete(json!({})).await;
    let metrics = cluster.get("/metrics").await.body;
    for line in [
        "baton_router_requests_total{outcome=\"ok\"} 1",
        "baton_router_ttft_seconds_count{class=\"default\"} 1",
        "baton_router_tpot_seconds_count{class=\"default\"} 1",
        "baton_router_in_flight 0",
        "baton_router_nodes{role=\"prefill\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is missing from\n{metrics}");
    }
}

#[tokio::test]
async fn each_model_is_served_by_its_own_nodes() {
    let cluster = Cluster::start(1, 1).await;
    let other = |hello: &mut Hello| hello.model = "other".to_owned();
    let prefill = FakeNode::join_as(&cluster.control, Role::Prefill, "p9", other).await;
    let decode = FakeNode::join_as(&cluster.control, Role::Decode, "d9", other).await;
    let models = cluster.get("/v1/models").await.json();
    let ids: Vec<_> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, [MODEL, "other"]);
    for (model, own) in [(MODEL, 0), ("other", 1)] {
        let reply = cluster.complete(json!({ "model": model })).await.json();
        assert_eq!(
            (&reply["model"], &reply["choices"][0]["text"]),
            (&json!(model), &json!(text(PROMPT, 8)))
        );
        let asked = [prefill.shared.calls().len(), decode.shared.calls().len()];
        assert_eq!(asked, [own, own], "{model}");
    }
    assert_eq!(cluster.decode[0].shared.calls().len(), 1);
}

#[tokio::test]
async fn the_first_token_does_not_wait_for_the_pages() {
    let cluster = Cluster::start(1, 1).await;
    cluster.decode[0].shared.script(vec![Step::Hang]);
    let line = cluster.peek(json!({ "stream": true })).await;
    assert!(line.contains(&text(PROMPT, 1)), "{line}");
}
