//! Where requests are run, and what becomes of those that would be too late.

use std::{process::Command, thread, time::Duration};

use baton_tests::{Cluster, Engine, Options, baton, post, post_with};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// An answer with its timings.
fn ask(cluster: &Cluster, prompt: &str, max_tokens: u32) -> Value {
    let body = json!({
        "model": "sim", "prompt": prompt, "max_tokens": max_tokens, "seed": 7, "logprobs": 0,
    });
    let url = cluster.path("/v1/completions");
    let answer = post_with(&url, &body, &[("x-baton-timings", "1")]).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json().unwrap()
}

#[test]
fn a_short_prompt_is_computed_where_it_is_decoded_and_gives_the_same_tokens() {
    let nodes = || Options::new(Engine::Sim).nodes(1, 1);
    let apart = Cluster::start(&nodes()).unwrap();
    let local = nodes().router_set("policy.local_tokens=64").router_set("policy.near_equal=0.0");
    let local = Cluster::start(&local).unwrap();
    let long = "a prompt that is longer than that ".repeat(4);
    for (prompt, is_local) in [("a short prompt", true), (&long, false)] {
        let (apart, local) = (ask(&apart, prompt, 40), ask(&local, prompt, 40));
        assert_eq!(apart["choices"], local["choices"], "same-tokens");
        assert_eq!(apart["usage"], local["usage"]);
        let nodes = |answer: &Value| {
            let timings = &answer["baton"];
            (timings["prefill_node"].clone(), timings["pages_moved"].as_u64().unwrap() > 0)
        };
        assert_eq!(nodes(&apart), (json!("prefill-1"), true));
        let expected = if is_local { "decode-1" } else { "prefill-1" };
        assert_eq!(nodes(&local), (json!(expected), !is_local));
    }
    for cluster in [&apart, &local] {
        cluster.wait_whole(PATIENCE).unwrap();
    }
}

#[test]
fn who_would_be_too_late_is_refused_with_a_hint_and_the_others_are_served() {
    let options = Options::new(Engine::Sim)
        .nodes(1, 1)
        .set("engine.profile.prefill_token_us=2000")
        .router_set("latency.default.prefill_token_us=2000");
    let cluster = Cluster::start(&options).unwrap();
    let url = cluster.path("/v1/completions");
    let body = |number: usize| {
        let prompt = format!("{number} ").repeat(100);
        json!({ "model": "sim", "prompt": prompt, "max_tokens": 2 })
    };
    // Each prompt takes some 400 ms: whoever comes first, some are in time, and some can't be.
    let statuses: Vec<u16> = thread::scope(|scope| {
        let send = |number: usize| {
            let (url, body) = (&url, body(number));
            scope.spawn(move || {
                let answer = match number {
                    0..4 => post(url, &body).unwrap(),
                    _ => post_with(url, &body, &[("x-slo-ttft-ms", "2500")]).unwrap(),
                };
                if answer.status == 429 {
                    assert!(answer.retry_after.is_some(), "{}", answer.body);
                    let error = answer.json().unwrap();
                    let message = error["error"]["message"].as_str().unwrap();
                    assert!(message.contains("x-slo-ttft-ms"), "{message}");
                }
                answer.status
            })
        };
        let sent: Vec<_> = (0..12).map(send).collect();
        sent.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(statuses[..4].iter().all(|&status| status == 200), "{statuses:?}");
    let refused = statuses[4..].iter().filter(|&&status| status == 429).count();
    let served = statuses[4..].iter().filter(|&&status| status == 200).count();
    assert!(refused > 0 && served > 0 && refused + served == 8, "{statuses:?}");
    cluster.wait_whole(PATIENCE).unwrap();
}

#[test]
fn a_placement_is_explained() {
    let options = Options::new(Engine::Sim).nodes(1, 2);
    let cluster = Cluster::start(&options).unwrap();
    let answer = ask(&cluster, "the way of a prompt", 20);
    let explain = |id: &str| {
        let output = Command::new(baton()).args(["explain", id, "--url", cluster.url()]).output();
        let output = output.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (is_fine, said, error) = explain(answer["id"].as_str().unwrap());
    assert!(is_fine, "{error}");
    for expected in ["chosen", "prefill-1", "decode-1", "decode-2", "predicted", "came out"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let (is_fine, _, error) = explain("cmpl-00000000000000000000000000000007");
    assert!(!is_fine && error.matches("latest thousand").count() == 1, "{error}");
}
