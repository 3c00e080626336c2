//! The load test against whole clusters, also while their parts are killed.

use std::{path::PathBuf, process::Command};

use baton_tests::{Cluster, Engine, Options, baton};
use serde_json::Value;

/// Runs `baton load`; its exit status, what it said, and its report.
fn load(test: &str, args: &[&str]) -> (i32, String, Value) {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}.json"));
    let _ = std::fs::remove_file(&file);
    let mut command = Command::new(baton());
    command.args(["load", "--no-live", "--json"]).arg(&file).args(args);
    let output = command.output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let report = std::fs::read(&file).ok().and_then(|json| serde_json::from_slice(&json).ok());
    (output.status.code().unwrap_or(-1), said.concat(), report.unwrap_or(Value::Null))
}

fn targets(cluster: &Cluster) -> [String; 2] {
    let urls = cluster.urls();
    let grpc: Vec<String> = urls.iter().map(|url| url.replace("http://", "grpc://")).collect();
    [format!("grpc={}", grpc.join(",")), format!("http={}", urls.join(","))]
}

/// Over both protocols, of the real model: prompts are exact, the server's parts are there, and ids can be explained.
#[test]
fn both_protocols_and_where_the_time_went() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let http = format!("http={}", cluster.url());
    let grpc = format!("grpc={}", cluster.url().replace("http://", "grpc://"));
    let args =
        ["--arrivals", "constant:rate=4", "-n", "8", "-i", "uniform:min=40,max=90", "-o", "6"];
    let (status, said, report) = load(
        "protocols",
        &[&["-t", &grpc, "-t", &http][..], &args, &["--slo", "e2e=60s"]].concat(),
    );
    assert_eq!(status, 0, "{said}");
    for target in report["targets"].as_array().unwrap() {
        assert_eq!(
            (&target["completed"], &target["lengths"]["exact"]),
            (&8.into(), &8.into()),
            "{said}"
        );
        let parts = target["parts"]["ttft"].as_array().unwrap();
        let mean = |name: &str| {
            let part = parts.iter().find(|part| part["name"] == name).unwrap();
            part["mean"].as_f64().unwrap()
        };
        let ttft = target["latencies"]["ttft"]["mean"].as_f64().unwrap();
        let all: f64 = parts.iter().map(|part| part["mean"].as_f64().unwrap()).sum();
        assert!(
            mean("prefill") > 1.0 && (all / ttft - 1.0).abs() < 0.05,
            "{all} of {ttft}: {said}"
        );
        let id = target["slowest"][0]["request_id"].as_str().unwrap();
        let explained =
            Command::new(baton()).args(["explain", id, "--url", cluster.url()]).output().unwrap();
        assert!(explained.status.success(), "{id}: {}", String::from_utf8_lossy(&explained.stderr));
    }
}

/// A router and a decode node die under it, with streams over both protocols: each token is there once, and right.
#[test]
fn answers_are_whole_though_a_router_and_a_node_are_killed() {
    let options = Options { routers: 2, ..Options::new(Engine::Sim).nodes(2, 2) };
    let cluster = Cluster::start(&options.set("engine.profile.decode_us=2500.0")).unwrap();
    let [grpc, http] = targets(&cluster);
    let router = cluster.router_at(&cluster.urls()[1]).unwrap().id();
    let node = cluster.child("decode-2").unwrap().id();
    let faults = [format!("1s:kill -9 {router}"), format!("2s:kill -9 {node}")];
    let args = [
        "--arrivals",
        "constant:rate=15",
        "--duration",
        "3s",
        "-i",
        "60",
        "-o",
        "150",
        "--model",
        "sim",
    ];
    let chaos = [
        "--chaos",
        &faults[0],
        "--chaos",
        &faults[1],
        "--assert",
        "token_faults==0",
        "--assert",
        "errors==0",
    ];
    let (status, said, report) =
        load("killed", &[&["-t", &grpc, "-t", &http][..], &args, &chaos].concat());
    assert_eq!(status, 0, "{said}");
    for target in ["grpc", "http"] {
        let verdict = &report["chaos"]["tokens"][target];
        assert_eq!((&verdict["compared"], &verdict["exact"]), (&44.into(), &44.into()), "{said}");
    }
    let resumed = |target: &Value| target["resumed"].as_u64().unwrap();
    assert!(
        report["targets"].as_array().unwrap().iter().all(|target| resumed(target) > 0),
        "{said}"
    );
}
