//! What the router learns of what steps cost.

use std::{collections::BTreeMap, thread};

use baton_tests::{Cluster, Engine, Options, get, post};
use serde_json::json;

/// What the simulated engine takes, in microseconds, and what the router is told to begin with.
const COEFFICIENTS: [(&str, &str, f64, f64); 6] = [
    ("prefill-1", "prefill", 8000.0, 24000.0),
    ("prefill-1", "prefill_token", 150.0, 50.0),
    ("prefill-1", "prefill_attention", 0.3, 0.1),
    ("decode-1", "decode", 6000.0, 2000.0),
    ("decode-1", "decode_sequence", 1500.0, 4500.0),
    ("decode-1", "decode_context", 6.0, 18.0),
];

/// Requests of many lengths, up to eight at a time; `round` makes the prompts new.
fn work(cluster: &Cluster, round: usize) {
    let url = cluster.path("/v1/completions");
    for together in [1, 3, 8] {
        thread::scope(|scope| {
            for number in 0..together {
                let prompt = format!("{round} {together} {number} ").repeat(1 + 17 * number);
                let body = json!({
                    "model": "sim", "prompt": prompt, "max_tokens": 12 + 4 * number, "temperature": 0,
                });
                let url = &url;
                scope.spawn(move || assert_eq!(post(url, &body).unwrap().status, 200));
            }
        });
    }
}

/// The coefficients as the router's metrics have them, in microseconds.
fn learned(cluster: &Cluster) -> BTreeMap<(String, String), f64> {
    let metrics = get(&cluster.path("/metrics")).unwrap().body;
    let samples = metrics.lines().filter_map(|line| {
        let labels = line.strip_prefix("baton_router_latency_model_coefficient_seconds{")?;
        let (labels, value) = labels.split_once("} ")?;
        let words: Vec<&str> = labels.split('"').collect();
        let key = (words[1].to_owned(), words[5].to_owned());
        Some((key, value.parse::<f64>().unwrap() * 1e6))
    });
    samples.collect()
}

#[test]
fn the_router_learns_what_steps_cost_whatever_it_was_told() {
    let mut options = Options::new(Engine::Sim).nodes(1, 1);
    for (_, name, cost, told) in COEFFICIENTS {
        options = options
            .set(format!("engine.profile.{name}_us={cost}"))
            .router_set(format!("latency.default.{name}_us={told}"));
    }
    let cluster = Cluster::start(&options).unwrap();
    let is_near = |learned: &BTreeMap<(String, String), f64>| {
        COEFFICIENTS.iter().all(|&(node, name, cost, _)| {
            let seen = learned[&(node.to_owned(), name.to_owned())];
            (0.8..1.2).contains(&(seen / cost))
        })
    };
    let told = learned(&cluster);
    for (node, name, _, told_us) in COEFFICIENTS {
        let seen = told[&(node.to_owned(), name.to_owned())];
        assert!((seen / told_us - 1.0).abs() < 1e-6, "{name} is {seen} before there was any step");
    }
    for round in 0..20 {
        work(&cluster, round);
        if is_near(&learned(&cluster)) {
            return;
        }
    }
    panic!("after twenty rounds: {:?}", learned(&cluster));
}
