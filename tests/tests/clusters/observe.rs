//! What an operator sees: logs, metrics, configuration.

use std::process::Command;

use baton_tests::{Cluster, Engine, Options, baton, get, post};
use serde_json::json;

#[test]
fn one_request_id_runs_through_all_logs() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let body = json!({ "model": "sim", "prompt": "secret words", "max_tokens": 8 });
    let reply = post(&cluster.path("/v1/completions"), &body).unwrap();
    let answer = reply.json().unwrap();
    let id = answer["id"].as_str().unwrap().rsplit('-').next().unwrap().to_owned();
    cluster.wait_whole(std::time::Duration::from_secs(5)).unwrap();
    let logs = cluster.logs().unwrap();
    let telling: Vec<_> = logs
        .iter()
        .filter(|(_, log)| log.lines().any(|line| line.contains(&id)))
        .map(|(name, _)| name.trim_end_matches(char::is_numeric).trim_end_matches('-'))
        .collect();
    assert_eq!(telling, ["decode", "prefill", "router"], "{id}: {}", cluster.last_words());
    for (name, log) in &logs {
        assert!(!log.contains("secret"), "{name} logged the prompt: {log}");
        assert!(!log.contains('\u{1b}'), "{name} logs colours into a file");
    }
}

#[test]
fn every_process_tells_its_metrics() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let body = json!({ "model": "sim", "prompt": "words", "max_tokens": 8 });
    assert_eq!(post(&cluster.path("/v1/completions"), &body).unwrap().status, 200);
    cluster.wait_whole(std::time::Duration::from_secs(5)).unwrap();
    let router = get(&cluster.path("/metrics")).unwrap().body;
    assert!(router.contains("baton_router_requests_total"), "{router}");
    for (name, address) in cluster.nodes().unwrap() {
        let node = get(&format!("http://{address}/metrics")).unwrap().body;
        for family in ["baton_kv_blocks", "baton_requests_running", "baton_transfers_held"] {
            assert!(node.contains(&format!("# TYPE {family} gauge")), "{name}: {node}");
        }
    }
}

#[test]
fn more_nodes_are_recommended_when_more_comes_than_there_are_for() {
    let options = Options::new(Engine::Sim)
        .nodes(1, 1)
        .set("engine.profile.prefill_token_us=10000")
        .router_set("latency.default.prefill_token_us=10000")
        .router_set("advice.every=\"200ms\"");
    let cluster = Cluster::start(&options).unwrap();
    let url = cluster.path("/v1/completions");
    std::thread::scope(|scope| {
        for number in 0..24 {
            let prompt = format!("{number} words that nobody has cached");
            let body = json!({ "model": "sim", "prompt": prompt, "max_tokens": 2 });
            let url = &url;
            scope.spawn(move || assert_eq!(post(url, &body).unwrap().status, 200));
        }
    });
    // What rose stays for minutes.
    let recommended = |role: &str| {
        let metrics = get(&cluster.path("/metrics")).unwrap().body;
        let sample = format!("baton_recommended_replicas{{model=\"sim\",role=\"{role}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&sample));
        line.unwrap_or_else(|| panic!("{sample} isn't in {metrics}")).parse::<u32>().unwrap()
    };
    assert!(recommended("prefill") >= 2);
    assert_eq!(recommended("decode"), 1);
    let status = Command::new(baton()).args(["status", "--url", cluster.url()]).output().unwrap();
    let told = String::from_utf8(status.stdout).unwrap();
    for part in ["sim should have (predicted)", " more): ", "decode  (as it is)"] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn each_part_prints_the_configuration_it_would_run_with() {
    for (part, name, value, shown) in [
        ("router", "BATON_ROUTER_LIMITS__MAX_RETRIES", "9", "max_retries = 9"),
        ("prefill-node", "BATON_NODE_SCHEDULER__CHUNK_TOKENS", "77", "chunk_tokens = 77"),
        ("decode-node", "BATON_NODE_SCHEDULER__CHUNK_TOKENS", "77", "chunk_tokens = 77"),
    ] {
        let mut command = Command::new(baton());
        command.args([part, "--print-config"]).env(name, value);
        if part != "router" {
            command.arg("--sim");
        }
        let output = command.output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(printed.lines().any(|line| line.trim() == shown), "{printed}");
        // What it prints is a configuration.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("baton.toml");
        std::fs::write(&file, &printed).unwrap();
        let output =
            Command::new(baton()).args([part, "--print-config", "--config"]).arg(&file).output();
        assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), printed);
    }
}

#[test]
fn a_node_without_an_engine_says_what_gives_it_one() {
    let output = Command::new(baton()).arg("decode-node").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        said.contains("engine") && said.contains("--model") && said.contains("--sim"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}
