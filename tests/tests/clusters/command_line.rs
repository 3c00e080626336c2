//! What `baton` says when something is in the way: one clear sentence, exit code 1, no backtrace.

use std::{
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use baton_tests::{baton, model};

fn run(args: &[&str]) -> Output {
    Command::new(baton()).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Runs `baton` and expects it to refuse with one line that holds all of `parts`.
fn check_refused(args: &[&str], parts: &[&str]) {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{args:?} said\n{said}");
    assert!(said.starts_with("error: "), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    check_refused(
        &["up", "--engine=sim", "--control-port=0", "--port", &port],
        &[&port, "it is in use", "--port"],
    );
    check_refused(
        &["up", "--engine=sim", "--port=0", "--control-port", &port],
        &[&port, "it is in use", "--control-port"],
    );
}

#[test]
fn a_model_file_that_is_missing_is_named() {
    check_refused(&["up", "--model", "/no/such.gguf"], &["/no/such.gguf"]);
}

#[test]
fn a_model_file_that_is_something_else_is_named_by_the_node_that_read_it() {
    let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    std::fs::write(file.path(), "GGUF or not").unwrap();
    let path = file.path().to_str().unwrap();
    let args = ["up", "--port=0", "--control-port=0", "--model", path];
    let output = run(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(path), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn too_little_memory_is_told_with_both_values() {
    let model = model();
    let model = model.to_str().unwrap();
    check_refused(
        &["up", "--port=0", "--control-port=0", "--kv-size=100000GiB", "--model", model],
        &["3 nodes need about", "MiB are available", "--kv-size"],
    );
}

#[test]
fn a_wrong_key_of_the_configuration_is_named() {
    check_refused(
        &["decode-node", "--sim", "--set", "scheduler.chunk_toknes=7"],
        &["chunk_toknes"],
    );
    check_refused(&["prefill-node", "--sim", "--set", "kv.blocks=0"], &["kv.blocks", "0"]);
}

#[test]
fn tools_say_when_no_cluster_answers() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    for tool in ["chat", "status"] {
        check_refused(&[tool, "--url", &url], &[&url, "baton up"]);
    }
}

#[test]
fn the_model_is_found_where_it_was_pulled() {
    let output = run(&["model", "pull"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = String::from_utf8(output.stdout).unwrap();
    assert!(path.trim().ends_with("SmolLM2-135M-Instruct.Q4_1.gguf"), "{path}");
}

#[test]
fn without_python_pulling_says_so_in_one_sentence() {
    let cache = tempfile::tempdir().unwrap();
    let output = Command::new(baton())
        .args(["model", "pull", "--cache-dir"])
        .arg(cache.path())
        .env("PATH", "/nowhere")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("python3 isn't installed"), "{said}");
    let left = std::fs::read_dir(cache.path().join("models")).unwrap().count();
    assert_eq!(left, 0, "something was left behind");
}

#[test]
fn a_cluster_is_simulated_from_flags_a_file_and_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (scenario, trace, rows, chart) =
        (path("scenario.toml"), path("trace.csv"), path("rows.csv"), path("chart.svg"));
    let printed = run(&["simulate", "--prefill=2", "--decode=3", "--seed=5", "--print-scenario"]);
    assert!(printed.status.success());
    std::fs::write(&scenario, &printed.stdout).unwrap();
    let lines = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
                 2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:47.6805900,396,9\n";
    std::fs::write(&trace, lines).unwrap();

    let args = ["simulate", &scenario, "--trace", &trace, "--rate=4", "--json"];
    let output = run(&[&args[..], &["--csv", &rows, "--svg", &chart]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["completed"], &report["seed"]), (&2.into(), &5.into()));
    assert_eq!(report["roles"][1]["workers"], 3);
    assert_eq!(std::fs::read_to_string(&rows).unwrap().lines().count(), 3);
    assert!(std::fs::read_to_string(&chart).unwrap().starts_with("<svg"));

    let again = run(&args);
    assert_eq!(again.stdout, output.stdout, "the same seed, the same bytes");

    check_refused(&["simulate", "--prefill=0"], &["no prefill worker"]);
    check_refused(&["simulate", "--policy=luck"], &["--policy luck", "joint"]);
    std::fs::write(&trace, format!("{lines}2023-11-16 18:15:48.0,-1,2\n")).unwrap();
    check_refused(&["simulate", "--trace", &trace], &[&trace, "line 4", "ContextTokens", "-1"]);
    std::fs::write(&scenario, "seed = 1\n[slo]\nttft = 3\n").unwrap();
    check_refused(&["simulate", &scenario], &[&scenario, "line 3", "ttft"]);
}

/// A profile of the repository, with one parallelism.
fn profile() -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/profiles");
    std::fs::read_to_string(format!("{folder}/opt-13b-a100.toml")).unwrap()
}

#[test]
fn a_plan_is_told_as_text_json_svg_and_helm_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (file, svg, values) = (path("a.toml"), path("plan.svg"), path("values.yaml"));
    std::fs::write(&file, profile()).unwrap();
    let args = ["plan", "--profile", &file, "--slo=ttft=0.25,tpot=0.1", "--rate=4"];
    let lengths = ["--prompt=400", "--output=40"];
    let told = run(&[&args[..], &lengths].concat());
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told = String::from_utf8_lossy(&told.stdout);
    assert!(told.contains("plan: ") && told.contains("designs simulated whole"), "{told}");

    let written = ["--json", "--svg", &svg, "--helm-values", &values];
    let output = run(&[&args[..], &lengths, &written].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let best = &plan["configurations"][0];
    assert!(best["attainment"].as_f64().unwrap() >= 0.9 && best["capacity"].as_f64() >= Some(4.0));
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"), "{drawn}");
    let values = std::fs::read_to_string(&values).unwrap();
    let apart = plan["configurations"].as_array().unwrap().iter();
    let pools = apart.map(|c| c["pools"].as_array().unwrap()).find(|pools| pools.len() == 2);
    for pool in pools.expect("a disaggregated configuration") {
        let (role, workers) = (pool["role"].as_str().unwrap(), &pool["workers"]);
        let block = values.split(&format!("{role}:\n")).nth(1).expect("the role");
        let replicas = block.lines().find(|line| line.trim_start().starts_with("replicas:"));
        assert_eq!(replicas.unwrap().trim(), format!("replicas: {workers}"), "{values}");
    }
}

#[test]
fn what_cannot_be_planned_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = file("good.toml", &profile());
    let unknown = file("unknown.toml", &format!("colour = 1\n{}", profile()));
    let no_memory = profile()
        .lines()
        .map(
            |line| {
                if line.starts_with("memory_bytes") { "memory_bytes = 1000000000" } else { line }
            },
        )
        .collect::<Vec<_>>()
        .join("\n");
    let no_memory = file("small.toml", &no_memory);
    let header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
    let row = "2023-11-16 18:15:46.6805900,10,5\n";
    let earlier = "2023-11-16 18:15:45.6805900,10,5\n";
    let negative = row.replace(",10,", ",-10,");
    let negative = file("negative.csv", &format!("{header}{row}{negative}"));
    let unsorted = file("unsorted.csv", &format!("{header}{row}{row}{earlier}"));
    let broken = file("broken.jsonl", "{\"timestamp\": 0\n");
    let slo = "--slo=ttft=0.25,tpot=0.1";
    for (profile, others, told) in [
        ("/no/such.toml", vec![slo, "--rate=1"], &["/no/such.toml"][..]),
        (&unknown, vec![slo, "--rate=1"], &[&unknown, "line 1", "colour"]),
        (&no_memory, vec![slo, "--rate=1"], &[&no_memory, "memory"]),
        (
            &good,
            vec!["--slo=ttft=0.001,tpot=0.1", "--rate=1"],
            &["nothing meets TTFT 1.0 ms", "at best"],
        ),
        (&good, vec![slo, "--rate=0"], &["rate is 0", "from 0.001"]),
        (
            &good,
            vec![slo, "--rate=1", "--attainment=1.5"],
            &["attainment is 1.5", "from 0.01 to 1"],
        ),
        (&good, vec![slo, "--rate=1", "--workload", &negative], &[&negative, "line 3", "-10"]),
        (&good, vec![slo, "--rate=1", "--workload", &unsorted], &[&unsorted, "line 4", "sort"]),
        (&good, vec![slo, "--rate=1", "--workload", &broken], &[&broken, "line 1"]),
    ] {
        check_refused(&[&["plan", "--profile", profile][..], &others].concat(), told);
    }
}
