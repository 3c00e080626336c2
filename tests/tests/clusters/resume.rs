//! Streams over HTTP outlive their connections (`exact-stream`), and headers reach where they
//! should.

use std::time::Duration;

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
