//! What survives the router: everything, however it ends.

use baton_tests::{Cluster, Engine, Options, get, post};
use serde_json::json;

use super::client::{batch, check_whole, completed, create, jsonl, lines, wait, wait_for};

fn options(data: &tempfile::TempDir) -> Options {
    let options = Options::new(Engine::Sim).set("engine.profile.decode_us=10000.0");
    Options { data: Some(data.path().to_path_buf()), ..options }
}

fn check_goes_on(end: impl Fn(&mut Cluster)) {
    let data = tempfile::tempdir().unwrap();
    let sent = lines(120, 12);
    let mut cluster = Cluster::start(&options(&data)).unwrap();
    let id = create(&cluster, &jsonl(&sent));
    let mut before = 0;
    for round in 1..3_u64 {
        before = completed(&wait(&cluster, &id, |batch| completed(batch) >= 25 * round));
        assert!(before < 120, "the batch was over before the router");
        end(&mut cluster);
        drop(cluster);
        cluster = Cluster::start(&options(&data)).unwrap();
        let found = batch(&cluster, &id);
        assert_eq!(found["status"], "in_progress", "{found}");
    }
    let done = wait_for(&cluster, &id, "completed");
    let answers = check_whole(&cluster, &done, &sent);
    assert_eq!(answers.len(), 120);
    let metrics = get(&cluster.path("/metrics")).unwrap().body;
    let line = "baton_router_batch_lines_total{outcome=\"ok\"} ";
    let run = metrics.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    assert!(run.parse::<u64>().unwrap() <= 120 - before, "what was done is not done again");
}

#[test]
fn a_batch_goes_on_after_its_router_was_killed() {
    check_goes_on(|cluster| {
        cluster.router().unwrap().kill().unwrap();
        assert_eq!(cluster.wait().unwrap(), Some(1));
    });
}

#[test]
fn a_batch_goes_on_after_an_orderly_end_which_does_not_wait_for_it() {
    check_goes_on(|cluster| {
        cluster.parent().unwrap().terminate().unwrap();
        assert_eq!(cluster.wait().unwrap(), Some(0));
    });
}

#[test]
fn files_and_what_was_cancelled_stay_so() {
    let data = tempfile::tempdir().unwrap();
    let sent = lines(400, 20);
    let cluster = Cluster::start(&options(&data)).unwrap();
    let id = create(&cluster, &jsonl(&sent));
    wait(&cluster, &id, |batch| completed(batch) >= 1);
    post(&cluster.path(&format!("/v1/batches/{id}/cancel")), &json!({})).unwrap();
    cluster.router().unwrap().kill().unwrap();
    drop(cluster);
    let cluster = Cluster::start(&options(&data)).unwrap();
    let ended = wait_for(&cluster, &id, "cancelled");
    check_whole(&cluster, &ended, &sent);
    let input = ended["input_file_id"].as_str().unwrap();
    let content = get(&cluster.path(&format!("/v1/files/{input}/content"))).unwrap();
    assert_eq!(content.body.as_bytes(), jsonl(&sent));
}

#[test]
fn a_folder_has_one_router() {
    let data = tempfile::tempdir().unwrap();
    let _first = Cluster::start(&options(&data)).unwrap();
    let second = std::process::Command::new(baton_tests::baton())
        .args(["router", "--listen=127.0.0.1:0", "--control=127.0.0.1:0", "--batch-dir"])
        .arg(data.path().join("batches"))
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && said.contains("another router's"), "{said}");
}
