//! Batches as a client sees them.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use baton_tests::{Cluster, get, post, upload};
use serde_json::{Value, json};

/// How long a batch may take here.
const PATIENCE: Duration = Duration::from_secs(60);

/// A line that completes `prompt`.
pub(super) fn line(custom_id: &str, prompt: &str, max_tokens: u32) -> Value {
    let body = json!({ "model": "sim", "prompt": prompt, "max_tokens": max_tokens, "seed": 5 });
    json!({ "custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body })
}

/// So many short lines with names of their own.
pub(super) fn lines(count: usize, max_tokens: u32) -> Vec<Value> {
    let of = |number: usize| line(&format!("line-{number}"), &format!("go {number}"), max_tokens);
    (0..count).map(of).collect()
}

pub(super) fn jsonl(lines: &[Value]) -> Vec<u8> {
    lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes()
}

pub(super) fn create(cluster: &Cluster, content: &[u8]) -> String {
    let file = upload(&cluster.path("/v1/files"), "batch", "in.jsonl", content).unwrap();
    assert_eq!(file.status, 200, "{file:?}");
    let body = json!({
        "input_file_id": file.json().unwrap()["id"],
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    });
    let batch = post(&cluster.path("/v1/batches"), &body).unwrap();
    assert_eq!(batch.status, 200, "{batch:?}");
    batch.json().unwrap()["id"].as_str().unwrap().to_owned()
}

pub(super) fn batch(cluster: &Cluster, id: &str) -> Value {
    get(&cluster.path(&format!("/v1/batches/{id}"))).unwrap().json().unwrap()
}

pub(super) fn completed(batch: &Value) -> u64 {
    batch["request_counts"]["completed"].as_u64().unwrap()
}

/// Looks again until `done`.
pub(super) fn wait(cluster: &Cluster, id: &str, done: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let batch = batch(cluster, id);
        if done(&batch) {
            return batch;
        }
        assert!(start.elapsed() < PATIENCE, "{batch}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(super) fn wait_for(cluster: &Cluster, id: &str, status: &str) -> Value {
    let ended = ["failed", "completed", "expired", "cancelled"];
    let batch = wait(cluster, id, |batch| {
        let now = batch["status"].as_str().unwrap();
        now == status || ended.contains(&now)
    });
    assert_eq!(batch["status"], status, "{batch}");
    batch
}

/// The lines of the file that `batch` names, none when it names none.
pub(super) fn content(cluster: &Cluster, batch: &Value, file: &str) -> Vec<Value> {
    let Some(id) = batch[file].as_str() else { return Vec::new() };
    let reply = get(&cluster.path(&format!("/v1/files/{id}/content"))).unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.body.ends_with('\n'));
    reply.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every line of `sent` is in one of the batch's two files, once. Returns the answers.
pub(super) fn check_whole(cluster: &Cluster, batch: &Value, sent: &[Value]) -> Vec<Value> {
    let answers = content(cluster, batch, "output_file_id");
    let errors = content(cluster, batch, "error_file_id");
    let counts = json!({
        "total": sent.len(), "completed": answers.len(), "failed": errors.len(),
    });
    assert_eq!(batch["request_counts"], counts);
    let names = |lines: &[Value]| -> BTreeSet<String> {
        lines.iter().map(|line| line["custom_id"].as_str().unwrap().to_owned()).collect()
    };
    let both = [answers.clone(), errors].concat();
    assert_eq!(both.len(), sent.len(), "no line is there twice");
    assert_eq!(names(&both), names(sent));
    answers
}
