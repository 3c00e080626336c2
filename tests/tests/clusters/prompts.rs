//! Several prompts in one request: `same-tokens` as each alone, `exact-stream` for all of them, and
//! nothing left behind (`no-leak`).

use std::time::Duration;

use baton_tests::{
    Cluster, Engine, Event, Options, events, get, model, numbered_events, post, post_with,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);

fn with(mut body: Value, extra: &Value) -> Value {
    if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
        body.extend(extra.clone());
    }
    body
}

/// The choices of an answer, each without its index, which is its place.
fn choices(answer: &Value) -> Vec<Value> {
    let choices = answer["choices"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let without_index = |(at, choice): (usize, &Value)| {
        assert_eq!(choice["index"], at, "{answer}");
        with(choice.clone(), &json!({ "index": null }))
    };
    choices.iter().enumerate().map(without_index).collect()
}

/// The same out of a stream, put together.
fn gathered(events: impl Iterator<Item = String>) -> (Vec<Value>, Value) {
    let (mut choices, mut usage, mut done) = (Vec::new(), Value::Null, 0);
    for event in events {
        if event == "[DONE]" {
            done += 1;
            continue;
        }
        let chunk: Value = serde_json::from_str(&event).unwrap();
        if !chunk["usage"].is_null() {
            usage = chunk["usage"].clone();
        }
        for piece in chunk["choices"].as_array().unwrap_or_else(|| panic!("{chunk}")) {
            let index = piece["index"].as_u64().unwrap() as usize;
            if choices.len() <= index {
                let empty = json!({
                    "index": null, "text": "", "logprobs": null, "finish_reason": null,
                });
                choices.resize(index + 1, empty);
            }
            append(&mut choices[index], piece);
        }
    }
    assert_eq!(done, 1, "one end");
    (choices, usage)
}

fn append(choice: &mut Value, piece: &Value) {
    assert!(choice["finish_reason"].is_null(), "{piece} follows the end");
    let text = choice["text"].as_str().unwrap().to_owned() + piece["text"].as_str().unwrap();
    choice["text"] = text.into();
    choice["finish_reason"] = piece["finish_reason"].clone();
    let Some(told) = piece["logprobs"].as_object() else { return };
    for (name, values) in told {
        let all = &mut choice["logprobs"][name];
        let before = all.as_array().cloned().unwrap_or_default();
        *all = [before, values.as_array().unwrap().clone()].concat().into();
    }
}

fn stream(url: &str, body: &Value) -> (Vec<Value>, Value) {
    let options = json!({ "stream": true, "stream_options": { "include_usage": true } });
    gathered(events(url, &with(body.clone(), &options)).unwrap().map(Result::unwrap))
}

/// Every answer to `prompts` in one request is what each gets alone, whole and streamed.
fn check(url: &str, model: &str, prompts: &[Value], extra: &Value) {
    let body =
        |prompt: Value| with(json!({ "model": model, "prompt": prompt, "max_tokens": 6 }), extra);
    let alone: Vec<Value> = prompts
        .iter()
        .map(|prompt| post(url, &body(prompt.clone())).unwrap().json().unwrap())
        .collect();
    let expected: Vec<Value> = alone.iter().flat_map(choices).collect();
    let together = post(url, &body(json!(prompts))).unwrap().json().unwrap();
    assert_eq!(choices(&together), expected, "{extra}");
    let (streamed, usage) = stream(url, &body(json!(prompts)));
    assert_eq!(streamed, expected, "streamed, {extra}");
    for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        let sum: u64 = alone.iter().map(|answer| answer["usage"][name].as_u64().unwrap()).sum();
        assert_eq!((&together["usage"][name], &usage[name]), (&json!(sum), &json!(sum)), "{name}");
    }
}

/// Strings and token ids, from one token to many blocks, two of them the same.
fn prompts() -> Vec<Value> {
    let ids = |length: u32| -> Value { (0..length).map(|i| 40 + (i * 7) % 80).collect() };
    vec![
        json!("The capital of France is"),
        ids(1),
        json!("naïve café 🏃"),
        ids(33),
        json!("The capital of France is"),
        ids(150),
    ]
}

fn check_all(url: &str, model: &str) {
    for extra in [
        json!({ "temperature": 0 }),
        json!({ "temperature": 1, "seed": 5, "n": 2 }),
        json!({ "temperature": 0, "echo": true, "logprobs": 2 }),
        json!({ "temperature": 0.9, "seed": -3, "n": 2, "echo": true, "logprobs": 0, "max_tokens": 1 }),
        json!({ "temperature": 0.9, "seed": 8, "stop": ["e", "a"], "max_tokens": 12 }),
    ] {
        check(url, model, &prompts(), &extra);
    }
}

#[test]
fn several_prompts_get_what_each_gets_alone() {
    let options = Options::new(Engine::Sim).set("scheduler.chunk_tokens=7");
    let cluster = Cluster::start(&options).unwrap();
    check_all(&cluster.path("/v1/completions"), "sim");
    cluster.wait_whole(PATIENCE).unwrap();
}

#[test]
fn the_real_engine_gives_several_prompts_what_each_gets_alone() {
    let options = Options::new(Engine::Llama).set("scheduler.chunk_tokens=64");
    let cluster = Cluster::start(&options).unwrap();
    let name = model().file_stem().unwrap().to_string_lossy().into_owned();
    check_all(&cluster.path("/v1/completions"), &name);
    cluster.wait_whole(PATIENCE).unwrap();
}

#[test]
fn the_best_of_each_prompt_are_its_own() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let url = cluster.path("/v1/completions");
    let name = model().file_stem().unwrap().to_string_lossy().into_owned();
    let prompts = ["Once upon a time", "The recipe needs"];
    let best = |prompt: Value| {
        let body = json!({
            "model": name, "prompt": prompt, "max_tokens": 8, "seed": 11, "n": 2, "best_of": 4,
        });
        post(&url, &body).unwrap().json().unwrap()
    };
    let alone = prompts.map(|one| best(json!(one)));
    let together = best(json!(prompts));
    assert_eq!(choices(&together), alone.iter().flat_map(choices).collect::<Vec<_>>());
    let drawn = |answer: &Value| answer["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!(drawn(&together), alone.iter().map(drawn).sum::<u64>(), "all that were drawn");
}

fn slow(options: Options) -> Cluster {
    Cluster::start(&options.set("engine.profile.decode_us=2000.0")).unwrap()
}

fn long(max_tokens: u32, prompts: usize) -> Value {
    let prompts: Vec<String> = (0..prompts).map(|number| format!("prompt {number}")).collect();
    json!({
        "model": "sim", "prompt": prompts, "max_tokens": max_tokens, "seed": 5, "ignore_eos": true,
    })
}

#[test]
fn a_stream_of_several_prompts_is_taken_up_where_it_broke() {
    let cluster = slow(Options::new(Engine::Sim));
    let url = cluster.path("/v1/completions");
    let whole = post(&url, &long(60, 4)).unwrap().json().unwrap();
    let body = with(long(60, 4), &json!({ "stream": true }));
    let (mut all, mut last) = (Vec::<Event>::new(), None);
    while all.last().is_none_or(|event| event.data != "[DONE]") {
        let headers: Vec<(&str, &str)> =
            last.as_deref().map(|id| ("last-event-id", id)).into_iter().collect();
        all.extend(numbered_events(&url, &body, &headers).unwrap().take(20).map(Result::unwrap));
        last = all.last().map(|event| event.id.clone());
    }
    assert!(all.len() > 100, "it broke several times");
    let (streamed, _) = gathered(all.into_iter().map(|event| event.data));
    assert_eq!(streamed, choices(&whole));
    cluster.wait_whole(PATIENCE).unwrap();
}

#[test]
fn disconnecting_cancels_every_prompt() {
    let cluster = slow(Options::new(Engine::Sim).router_set("timeouts.resume=0s"));
    let url = cluster.path("/v1/completions");
    let body = with(long(4000, 8), &json!({ "stream": true }));
    for _ in 0..3 {
        let mut stream = events(&url, &body).unwrap();
        stream.next().unwrap().unwrap();
        drop(stream);
    }
    cluster.wait_whole(PATIENCE).unwrap();
    let metrics = get(&cluster.path("/metrics")).unwrap().body;
    assert!(metrics.contains("baton_router_in_flight 0\n"), "{metrics}");
}

/// More than the nodes can hold at one time, for longer than a request may wait at the door.
#[test]
fn prompts_that_have_no_room_yet_wait_for_those_before_them() {
    let mut options = Options::new(Engine::Sim).router_set("timeouts.queue=\"100ms\"");
    (options.kv_size, options.decode) = ("1MiB", 1);
    let cluster = slow(options);
    let body = with(long(200, 64), &json!({ "n": 2 }));
    let reply = post(&cluster.path("/v1/completions"), &body).unwrap();
    let answer = reply.json().unwrap();
    assert_eq!(reply.status, 200, "{answer}");
    assert_eq!(choices(&answer).len(), 128);
    assert_eq!(answer["usage"]["completion_tokens"], 128 * 200);
    cluster.wait_whole(PATIENCE).unwrap();
}

#[test]
fn a_request_of_several_prompts_has_one_name_and_one_clock() {
    let cluster = slow(Options::new(Engine::Sim));
    let url = cluster.path("/v1/completions");
    let headers = [("x-request-id", "several-1"), ("x-baton-timings", "1")];
    let answer = post_with(&url, &long(8, 3), &headers).unwrap().json().unwrap();
    assert!(answer["baton"]["ttft_us"].as_u64().unwrap() > 0, "{answer}");
    assert_eq!(answer["baton"]["prefill_node"], "prefill-1");
    let unnamed = post(&url, &long(8, 3)).unwrap().json().unwrap();
    cluster.wait_whole(PATIENCE).unwrap();
    let log = &cluster.logs().unwrap()["router"];
    let named = unnamed["id"].as_str().unwrap().replace("cmpl-", "req-");
    for name in ["several-1", &named] {
        let tag = format!("tag=\"{name}\"");
        let ends = log.lines().filter(|line| line.contains("request ended") && line.contains(&tag));
        assert_eq!(ends.count(), 3, "{name}: {log}");
    }
}
