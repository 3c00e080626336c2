//! Streams over HTTP outlive their connections (`exact-stream`), and headers reach where they
//! should.

use std::{collections::BTreeMap, time::Duration};

use baton_tests::{Cluster, Engine, Event, Options, get, numbered_events, post, post_with};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);

fn slow(options: Options) -> Cluster {
    Cluster::start(&options.set("engine.profile.decode_us=2000.0")).unwrap()
}

fn body(max_tokens: u32, stream: bool) -> Value {
    json!({
        "model": "sim", "prompt": "Once upon a time", "max_tokens": max_tokens, "seed": 5,
        "stream": stream, "ignore_eos": true,
    })
}

fn text(events: &[Event]) -> String {
    let chunk = |event: &Event| serde_json::from_str::<Value>(&event.data).ok();
    let text = |chunk: Value| Some(chunk["choices"][0]["text"].as_str()?.to_owned());
    events.iter().filter_map(|event| text(chunk(event)?)).collect()
}

#[test]
fn a_stream_whose_connection_breaks_again_and_again_says_everything_once() {
    let cluster = slow(Options::new(Engine::Sim));
    let url = cluster.path("/v1/completions");
    let whole = post(&url, &body(120, false)).unwrap().json().unwrap();
    let (mut all, mut last) = (Vec::<Event>::new(), None);
    loop {
        let headers: Vec<(&str, &str)> =
            last.as_deref().map(|id| ("last-event-id", id)).into_iter().collect();
        let stream = numbered_events(&url, &body(120, true), &headers).unwrap();
        // More of it may have been sent than is read here.
        all.extend(stream.take(10).map(Result::unwrap));
        let event = all.last().unwrap();
        if event.data == "[DONE]" {
            break;
        }
        last = Some(event.id.clone());
    }
    assert_eq!(text(&all), whole["choices"][0]["text"].as_str().unwrap());
    assert!(all.len() > 30, "it broke several times");
    // Who has the last event has everything: nothing comes, and the stream ends.
    let id = all.last().unwrap().id.clone();
    let rest = numbered_events(&url, &body(120, true), &[("last-event-id", &id)]).unwrap();
    assert_eq!(rest.count(), 0);
    cluster.wait_whole(PATIENCE).unwrap();
}

#[test]
fn a_stream_nobody_takes_up_is_cancelled_and_gone() {
    let cluster = slow(Options::new(Engine::Sim).router_set("timeouts.resume=100ms"));
    let url = cluster.path("/v1/completions");
    let mut stream = numbered_events(&url, &body(4000, true), &[]).unwrap();
    let id = stream.next().unwrap().unwrap().id;
    drop(stream);
    cluster.wait_whole(PATIENCE).unwrap();
    let reply = post_with(&url, &body(4, true), &[("last-event-id", &id)]).unwrap();
    assert_eq!(reply.status, 410, "{reply:?}");
    assert_eq!(reply.json().unwrap()["error"]["code"], "stream_gone");
}

#[test]
fn a_trace_and_objectives_are_taken_from_headers() {
    let cluster = slow(Options::new(Engine::Sim));
    let url = cluster.path("/v1/completions");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let fast =
        [("traceparent", parent.as_str()), ("x-slo-ttft-ms", "60000"), ("x-slo-tpot-ms", "0.001")];
    assert_eq!(post_with(&url, &body(8, false), &fast).unwrap().status, 200);
    let wrong = post_with(&url, &body(8, false), &[("x-slo-ttft-ms", "soon")]).unwrap();
    assert_eq!(wrong.status, 400, "{wrong:?}");
    assert_eq!(wrong.json().unwrap()["error"]["param"], "x-slo-ttft-ms");

    let metrics = get(&cluster.path("/metrics")).unwrap().body;
    for line in [
        r#"baton_router_objectives_total{class="default",objective="ttft",met="true"} 1"#,
        r#"baton_router_objectives_total{class="default",objective="tpot",met="false"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let logs = cluster.logs().unwrap();
    for process in ["router", "prefill-1"] {
        assert!(logs[process].contains(trace), "{process} knows no trace:\n{}", logs[process]);
    }
}

/// What a stream said of one choice.
#[derive(Debug, Default, PartialEq)]
struct Choice {
    openings: usize,
    text: String,
    calls: String,
    logprobs: Vec<Value>,
    reasons: Vec<String>,
}

/// A stream put together: what it said of each choice, and what of all.
#[derive(Debug, Default, PartialEq)]
struct Told {
    choices: BTreeMap<u64, Choice>,
    usage: Vec<(u64, u64)>,
    heads: std::collections::BTreeSet<String>,
    done: usize,
}

fn told(events: &[Event]) -> Told {
    let mut told = Told::default();
    for event in events {
        if event.data == "[DONE]" {
            told.done += 1;
            continue;
        }
        let chunk: Value = serde_json::from_str(&event.data).unwrap();
        told.heads.insert(format!("{} {} {}", chunk["id"], chunk["created"], chunk["model"]));
        if let Some(usage) = chunk["usage"].as_object() {
            let of = |key: &str| usage[key].as_u64().unwrap();
            told.usage.push((of("prompt_tokens"), of("completion_tokens")));
        }
        for choice in chunk["choices"].as_array().unwrap() {
            let one = told.choices.entry(choice["index"].as_u64().unwrap()).or_default();
            let delta = &choice["delta"];
            one.openings += usize::from(delta["role"].is_string());
            one.text += choice["text"].as_str().or(delta["content"].as_str()).unwrap_or_default();
            if let Some(calls) = delta["tool_calls"].as_array() {
                let part = |call: &Value| {
                    let (id, name) = (&call["id"], &call["function"]["name"]);
                    let head = if id.is_null() { String::new() } else { format!("[{id} {name}]") };
                    head + call["function"]["arguments"].as_str().unwrap_or_default()
                };
                one.calls.extend(calls.iter().map(part));
            }
            let logprobs = &choice["logprobs"];
            for key in ["tokens", "text_offset", "content"] {
                one.logprobs.extend(logprobs[key].as_array().into_iter().flatten().cloned());
            }
            one.reasons.extend(choice["finish_reason"].as_str().map(str::to_owned));
        }
    }
    // Those of one piece stand together, and pieces are of different sizes each time.
    for one in told.choices.values_mut() {
        one.logprobs.sort_by_key(ToString::to_string);
    }
    told
}

/// Streams of every kind, and the endpoint of each.
fn streams() -> Vec<(&'static str, Value)> {
    let chat = |extra: Value| {
        let mut body = json!({
            "model": "sim", "max_tokens": 24, "stream": true, "ignore_eos": true,
            "messages": [{ "role": "user", "content": "Count." }],
        });
        if let (Some(body), Value::Object(extra)) = (body.as_object_mut(), extra) {
            body.extend(extra);
        }
        ("/v1/chat/completions", body)
    };
    let text = |extra: Value| {
        let (_, mut body) = chat(extra);
        body.as_object_mut().unwrap().remove("messages");
        body["prompt"] = "Once upon a time".into();
        ("/v1/completions", body)
    };
    let many =
        json!({ "type": "array", "items": { "type": "integer" }, "minItems": 6, "maxItems": 6 });
    let parameters = json!({
        "type": "object", "properties": { "numbers": many }, "required": ["numbers"],
        "additionalProperties": false,
    });
    let tool =
        json!({ "type": "function", "function": { "name": "count", "parameters": parameters } });
    let mut calling =
        chat(json!({ "tools": [tool], "tool_choice": "required", "max_tokens": 300 }));
    calling.1.as_object_mut().unwrap().remove("ignore_eos");
    let usage = json!({ "include_usage": true });
    vec![
        text(json!({ "seed": 3, "stream_options": usage })),
        text(json!({ "logprobs": 2, "echo": true })),
        text(json!({ "stop": ["a", "q"], "temperature": 1.0 })),
        chat(json!({ "n": 2, "stream_options": usage })),
        chat(json!({ "logprobs": true, "top_logprobs": 2 })),
        calling,
    ]
}

fn read(url: &str, body: &Value, last: Option<&str>) -> Vec<Event> {
    let headers: Vec<(&str, &str)> = last.map(|id| ("last-event-id", id)).into_iter().collect();
    numbered_events(url, body, &headers).unwrap().map(Result::unwrap).collect()
}

/// Wherever a stream breaks off, another router goes on with it as if nothing had been, though it never heard of it.
#[test]
fn any_router_goes_on_with_a_stream_from_any_event_on() {
    // Each of them is made some hundred times.
    let options = Options::new(Engine::Sim).set("engine.profile.decode_us=100.0");
    let options = options.set("engine.profile.prefill_us=100.0");
    let cluster = Cluster::start(&Options { routers: 2, ..options }).unwrap();
    let [first, second] = cluster.urls() else { panic!("two routers") };
    for (path, body) in streams() {
        let here = format!("{first}{path}");
        let whole = read(&here, &body, None);
        let expected = told(&whole);
        assert_eq!(expected.done, 1, "{body}");
        let other = format!("{second}{path}");
        // Each of them is made again, and taken up where it is made, too.
        for cut in 1..whole.len() {
            let (had, id) = (&whole[..cut], &whole[cut - 1].id);
            let rest = read(&other, &body, Some(id));
            let all: Vec<Event> = had.iter().chain(&rest).cloned().collect();
            assert_eq!(told(&all), expected, "{body}, cut after {id}");
            let (half, url) = (rest.len() / 2, if cut % 2 == 0 { &other } else { &here });
            let (more, last) = (&rest[..half], rest[..half].last().map_or(id, |event| &event.id));
            let rest = read(url, &body, Some(last));
            let all: Vec<Event> = had.iter().chain(more).chain(&rest).cloned().collect();
            assert_eq!(told(&all), expected, "{body}, cut after {id} and {last}");
        }
    }
    cluster.wait_whole(PATIENCE).unwrap();
}

/// Streams of every kind are in the middle when their router dies, and their tokens are kept where they were made.
#[test]
fn streams_of_every_kind_survive_their_router() {
    let options = Options { routers: 2, ..Options::new(Engine::Sim) };
    let cluster = Cluster::start(&options.set("engine.profile.decode_us=8000.0")).unwrap();
    let [first, second] = cluster.urls() else { panic!("two routers") };
    let streams: Vec<(&str, Value)> = streams()
        .into_iter()
        .map(|(path, mut body)| {
            body["max_tokens"] = 200.into();
            (path, body)
        })
        .collect();
    let mut begun: Vec<_> = streams
        .iter()
        .map(|(path, body)| numbered_events(&format!("{first}{path}"), body, &[]).unwrap())
        .collect();
    let mut parts: Vec<Vec<Event>> = Vec::new();
    for (at, stream) in begun.iter_mut().enumerate() {
        parts.push(stream.take(3 + 5 * at).map(Result::unwrap).collect());
    }
    cluster.router_at(first).unwrap().kill().unwrap();
    let mut went_on = 0;
    for (((path, body), part), rest) in streams.iter().zip(&mut parts).zip(begun) {
        // What was on its way.
        part.extend(rest.map_while(Result::ok));
        let last = part.last().unwrap().clone();
        if last.data != "[DONE]" {
            went_on += 1;
            part.extend(read(&format!("{second}{path}"), body, Some(&last.id)));
        }
        // Made again from its first event on it is the same: that one's id tells the seed as well.
        let from = part[0].clone();
        let again = read(&format!("{second}{path}"), body, Some(&from.id));
        let again: Vec<Event> = std::iter::once(from).chain(again).collect();
        assert_eq!(told(part), told(&again), "{body}");
        assert_eq!(told(part).done, 1, "{body}");
    }
    assert!(went_on >= 4, "{went_on} were in the middle");
    let metrics = get(&format!("{second}/metrics")).unwrap().body;
    let kept = "baton_router_taken_up_total{tokens=\"nodes\"} ";
    let kept = metrics.lines().find_map(|line| line.strip_prefix(kept)).unwrap_or("0");
    // Of those without log-probabilities.
    assert!(kept.parse::<usize>().unwrap() + 2 >= went_on, "{kept} of {went_on} were kept");
    cluster.wait_whole(PATIENCE).unwrap();
}

#[test]
fn a_stream_survives_its_router() {
    let options = Options { routers: 2, ..Options::new(Engine::Sim) };
    let cluster = slow(options);
    let [first, second] = cluster.urls() else { panic!("two routers") };
    let url = format!("{first}/v1/completions");
    let expected = read(&url, &body(200, true), None);
    let mut stream = numbered_events(&url, &body(200, true), &[]).unwrap();
    let mut all: Vec<Event> = stream.by_ref().take(30).map(Result::unwrap).collect();
    cluster.router_at(first).unwrap().kill().unwrap();
    // What was on its way.
    all.extend(stream.map_while(Result::ok));
    assert!(all.len() < expected.len(), "it was killed in the middle");
    let last = all.last().unwrap().id.clone();
    all.extend(read(&format!("{second}/v1/completions"), &body(200, true), Some(&last)));
    assert_eq!(text(&all), text(&expected));
    assert_eq!(all.last().map(|event| event.data.as_str()), Some("[DONE]"));

    // Only who asked for it knows what was asked for.
    let other =
        json!({ "model": "sim", "prompt": "Something else", "max_tokens": 9, "stream": true });
    let headers = [("last-event-id", expected[20].id.as_str())];
    let refused = post_with(&format!("{second}/v1/completions"), &other, &headers).unwrap();
    assert_eq!(refused.status, 410);
    cluster.wait_whole(PATIENCE).unwrap();
}

/// What nodes kept is found again and again, and by nobody else.
#[test]
fn a_stream_survives_one_router_after_the_other() {
    let options = Options { routers: 3, ..Options::new(Engine::Sim) };
    let cluster = slow(options);
    let urls: Vec<String> =
        cluster.urls().iter().map(|url| format!("{url}/v1/completions")).collect();
    let body = body(300, true);
    let expected = read(&urls[0], &body, None);
    let mut all: Vec<Event> = Vec::new();
    for url in &urls[..2] {
        let last = all.last().map(|event| event.id.clone());
        let headers: Vec<_> = last.as_deref().map(|id| ("last-event-id", id)).into_iter().collect();
        let mut stream = numbered_events(url, &body, &headers).unwrap();
        all.extend(stream.by_ref().take(40).map(Result::unwrap));
        let router = url.strip_suffix("/v1/completions").unwrap();
        cluster.router_at(router).unwrap().kill().unwrap();
        all.extend(stream.map_while(Result::ok));
        assert!(all.len() < expected.len(), "it was killed in the middle");
    }
    let last = all.last().unwrap().id.clone();
    let theirs = [("last-event-id", last.as_str()), ("x-tenant-id", "other")];
    let theirs: Vec<Event> =
        numbered_events(&urls[2], &body, &theirs).unwrap().map(Result::unwrap).collect();
    let rest = read(&urls[2], &body, Some(&last));
    assert_eq!(text(&theirs), text(&rest), "who has the body can have it made");
    all.extend(rest);
    let (all, expected) = (told(&all), told(&expected));
    assert_eq!((all.heads.len(), all.done), (1, 1), "one answer");
    assert_eq!(all.choices, expected.choices);
    let metrics = get(&format!("{}/metrics", cluster.urls()[2])).unwrap().body;
    for who in ["nodes", "nobody"] {
        let line = format!("baton_router_taken_up_total{{tokens=\"{who}\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    cluster.wait_whole(PATIENCE).unwrap();
}
