//! `baton profile`: what a live cluster's steps cost.

use std::{
    fs,
    process::{Command, Output, Stdio},
    thread,
};

use baton_tests::{Cluster, Engine, Options, baton, get, post};
use serde_json::json;

/// What the simulated engine takes, in microseconds.
const COSTS: [(&str, f64); 6] = [
    ("prefill", 4000.0),
    ("prefill_token", 60.0),
    ("prefill_attention", 0.05),
    ("decode", 5000.0),
    ("decode_sequence", 400.0),
    ("decode_context", 2.0),
];

fn run(args: &[&str]) -> Output {
    Command::new(baton()).args(args).stdin(Stdio::null()).output().unwrap()
}

fn check_refused(args: &[&str], parts: &[&str]) {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{args:?}: {said}");
    assert!(said.starts_with("error: "), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

fn cluster() -> Cluster {
    let options = Options::new(Engine::Sim).nodes(1, 1).set("scheduler.max_running=12");
    let set = |options: Options, (name, us): (&str, f64)| {
        options.set(format!("engine.profile.{name}_us={us}"))
    };
    Cluster::start(&COSTS.into_iter().fold(options, set)).unwrap()
}

#[test]
fn a_measured_profile_has_what_steps_cost_and_can_be_simulated_and_planned_with() {
    let cluster = cluster();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let path = path.to_str().unwrap();
    let args = ["profile", "--url", cluster.url(), "--time=12s", "--price=2.5", "--out", path];
    let output = run(&args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(path).unwrap();
    for part in ["prefill-1", "decode-1", "max_running = 12", "price_per_hour = 2.5"] {
        assert!(text.contains(part), "{part:?} isn't in\n{text}");
    }
    // Whatever else the machine does makes steps longer, and these tests make it busy.
    for (name, cost) in COSTS {
        let key = format!("{name}_us = ");
        let found = text.lines().find_map(|line| line.strip_prefix(&key)?.parse::<f64>().ok());
        let found = found.unwrap_or_else(|| panic!("no {key}in\n{text}"));
        assert!((0.5..2.0).contains(&(found / cost)), "{name}: {found} for {cost}\n{text}");
    }

    // Nothing is refused as too late, however long steps were here.
    let simulated = run(&[
        "simulate",
        "--profile",
        path,
        "--rate=5",
        "--requests=50",
        "--ttft-ms=60000",
        "--tpot-ms=60000",
        "--json",
    ]);
    assert!(simulated.status.success(), "{}", String::from_utf8_lossy(&simulated.stderr));
    let report: serde_json::Value = serde_json::from_slice(&simulated.stdout).unwrap();
    assert_eq!(report["completed"], 50);
    let planned = run(&[
        "plan",
        "--profile",
        path,
        "--prompt=50",
        "--output=20",
        "--slo=ttft=1,tpot=0.1",
        "--rate=5",
    ]);
    assert!(planned.status.success(), "{}", String::from_utf8_lossy(&planned.stderr));

    let broken = text.replace("max_context = 8192", "max_context = 1");
    fs::write(path, broken).unwrap();
    check_refused(&["simulate", "--profile", path], &[path, "max_context is 1"]);
}

#[test]
fn what_cant_be_measured_is_refused() {
    let cluster = cluster();
    let url = cluster.url();
    let profile = |more: &[&'static str], parts: &[&str]| {
        check_refused(&[&["profile", "--url", url], more].concat(), parts);
    };
    profile(&["--time=1s"], &["--time", "five seconds"]);
    profile(&["--price=-1"], &["--price", "above 0"]);
    profile(&["--model=other"], &["--model other", "sim"]);
    check_refused(&["profile", "--url=http://127.0.0.1:9"], &["nothing answers"]);

    let (path, ready) = (cluster.path("/v1/completions"), cluster.path("/metrics"));
    thread::scope(|scope| {
        let body = json!({ "model": "sim", "prompt": "x", "max_tokens": 2000 });
        let long = scope.spawn(move || post(&path, &body));
        while !get(&ready).unwrap().body.contains("baton_router_in_flight 1") {
            assert!(!long.is_finished(), "the request ended before it was seen");
        }
        profile(&[], &["has work of others", "1 running"]);
        // Ends the request, too.
        drop(cluster.parent().unwrap().kill());
        let _ = long.join().unwrap();
    });
}
