//! From the file to its answers, or to another end.

use baton_tests::{Cluster, Engine, Options, delete, get, post, upload};
use serde_json::{Value, json};

use super::client::{
    batch, check_whole, completed, content, create, jsonl, line, lines, wait, wait_for,
};

/// Steps that take long enough for something to happen meanwhile.
fn slow(options: Options) -> Options {
    options.set("engine.profile.decode_us=20000.0")
}

#[test]
fn a_batch_answers_what_the_same_requests_are_answered() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let mut sent = lines(30, 6);
    sent[7]["body"]["temperature"] = json!(-1);
    sent[8]["body"]["stream"] = json!(true);
    sent[9]["body"]["prompt"] = json!(["one prompt", [40, 41], "and another"]);
    sent[9]["body"]["n"] = json!(2);
    let id = create(&cluster, &jsonl(&sent));
    let batch = wait_for(&cluster, &id, "completed");
    let answers = check_whole(&cluster, &batch, &sent);
    assert_eq!(answers.len(), 28);
    for answer in answers {
        let number: usize = answer["custom_id"].as_str().unwrap()[5..].parse().unwrap();
        let direct = post(&cluster.path("/v1/completions"), &sent[number]["body"]).unwrap();
        let (direct, body) = (direct.json().unwrap(), &answer["response"]["body"]);
        assert_eq!(body["choices"], direct["choices"]);
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(fields(body), fields(&direct));
        assert_eq!(
            body["id"],
            answer["response"]["request_id"].as_str().unwrap().replace("req", "cmpl")
        );
    }
    let errors = content(&cluster, &batch, "error_file_id");
    let params: Vec<_> = errors.iter().map(|e| &e["response"]["body"]["error"]["param"]).collect();
    assert!(params.contains(&&json!("temperature")) && params.contains(&&json!("stream")));
    for time in ["in_progress_at", "finalizing_at", "completed_at", "expires_at"] {
        assert!(batch[time].is_u64(), "{time}: {batch}");
    }
    let metrics = get(&cluster.path("/metrics")).unwrap().body;
    for (outcome, count) in [("ok", 28), ("failed", 2)] {
        let line = format!("baton_router_batch_lines_total{{outcome=\"{outcome}\"}} {count}");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[test]
fn a_batch_that_is_cancelled_tells_of_every_line() {
    let cluster = Cluster::start(&slow(Options::new(Engine::Sim))).unwrap();
    let sent = lines(200, 20);
    let id = create(&cluster, &jsonl(&sent));
    let running = wait(&cluster, &id, |batch| completed(batch) >= 2);
    let input = running["input_file_id"].as_str().unwrap();
    let refused = delete(&cluster.path(&format!("/v1/files/{input}"))).unwrap();
    assert_eq!(refused.status, 409, "{refused:?}");
    let path = cluster.path(&format!("/v1/batches/{id}/cancel"));
    let cancelling = post(&path, &json!({})).unwrap().json().unwrap();
    assert_eq!(cancelling["status"], "cancelling", "{cancelling}");
    let ended = wait_for_end(&cluster, &id, "cancelled");
    let answers = check_whole(&cluster, &ended, &sent).len();
    assert!((2..200).contains(&answers), "{answers} answers");
    let errors = content(&cluster, &ended, "error_file_id");
    assert!(errors.iter().all(|line| line["error"]["code"] == "batch_cancelled"));
    assert_eq!(post(&path, &json!({})).unwrap().status, 409);
    // Its lines were cancelled, too.
    cluster.wait_whole(std::time::Duration::from_secs(10)).unwrap();
    assert_eq!(delete(&cluster.path(&format!("/v1/files/{input}"))).unwrap().status, 200);
}

#[test]
fn a_batch_that_takes_too_long_expires() {
    let options = slow(Options::new(Engine::Sim)).router_set("batches.window=\"2s\"");
    let cluster = Cluster::start(&options).unwrap();
    let sent = lines(2000, 40);
    let id = create(&cluster, &jsonl(&sent));
    let ended = wait_for_end(&cluster, &id, "expired");
    assert!(ended["expired_at"].as_u64() >= ended["expires_at"].as_u64(), "{ended}");
    check_whole(&cluster, &ended, &sent);
    let errors = content(&cluster, &ended, "error_file_id");
    assert!(errors.iter().all(|line| line["error"]["code"] == "batch_expired"));
    cluster.wait_whole(std::time::Duration::from_secs(10)).unwrap();
}

fn wait_for_end(cluster: &Cluster, id: &str, status: &str) -> Value {
    wait(cluster, id, |batch| batch["status"] == status)
}

#[test]
fn a_file_that_cannot_be_run_says_why_and_where() {
    let options = Options::new(Engine::Sim).router_set("batches.max_lines=8");
    let cluster = Cluster::start(&options).unwrap();
    let with = |change: fn(&mut Value)| {
        let mut line = line("a", "p", 1);
        change(&mut line);
        line
    };
    let wrong = [
        line("a", "p", 1),
        line("a", "p", 1),
        with(|line| line["custom_id"] = json!(7)),
        with(|line| line["url"] = json!("/v1/embeddings")),
        with(|line| line["body"]["model"] = json!("nobody's")),
        with(|line| line["body"] = json!([])),
    ];
    let check = |content: &[u8], expected: Value| {
        let id = create(&cluster, content);
        let failed = wait_for(&cluster, &id, "failed");
        let errors = failed["errors"]["data"].as_array().unwrap();
        let told = errors.iter().map(|error| json!([error["code"], error["param"], error["line"]]));
        assert_eq!(Value::from_iter(told), expected, "{failed}");
        assert!(failed["output_file_id"].is_null() && failed["error_file_id"].is_null());
    };
    check(
        &jsonl(&wrong),
        json!([
            ["duplicate_custom_id", "custom_id", 2],
            ["missing_required_parameter", "custom_id", 3],
            ["url_mismatch", "url", 4],
            ["model_not_found", "body.model", 5],
            ["missing_required_parameter", "body", 6],
        ]),
    );
    check(b"\n \n", json!([["empty_file", null, null]]));
    check(&jsonl(&lines(9, 1)), json!([["too_many_tasks", null, null]]));
}

#[test]
fn several_batches_run_side_by_side() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let sent: Vec<Vec<Value>> = (1..8).map(|count| lines(count * 3, 4)).collect();
    let ids: Vec<String> = sent.iter().map(|sent| create(&cluster, &jsonl(sent))).collect();
    for (id, sent) in ids.iter().zip(&sent) {
        wait_for(&cluster, id, "completed");
        check_whole(&cluster, &batch(&cluster, id), sent);
    }
    let list = get(&cluster.path("/v1/batches?limit=3")).unwrap().json().unwrap();
    let listed: Vec<_> = list["data"].as_array().unwrap().iter().map(|b| &b["id"]).collect();
    assert_eq!(listed, [&ids[6], &ids[5], &ids[4]]);
    assert_eq!((&list["has_more"], &list["last_id"]), (&json!(true), &json!(ids[4])));
}

#[test]
fn limits_on_files_are_kept() {
    let options = Options::new(Engine::Sim)
        .router_set("batches.max_file=\"1KiB\"")
        .router_set("batches.max_bytes=\"2000B\"")
        .router_set("batches.max_files=3");
    let cluster = Cluster::start(&options).unwrap();
    let send = |bytes: usize| {
        upload(&cluster.path("/v1/files"), "batch", "x", &vec![b'x'; bytes]).unwrap()
    };
    assert_eq!(send(1025).status, 413);
    let first = send(1024).json().unwrap();
    assert_eq!(send(1000).status, 429, "all bytes together");
    assert_eq!((send(10).status, send(10).status), (200, 200));
    assert_eq!(send(10).status, 429, "the number of files");
    let id = first["id"].as_str().unwrap();
    assert_eq!(delete(&cluster.path(&format!("/v1/files/{id}"))).unwrap().status, 200);
    assert_eq!(send(1000).status, 200, "what is deleted makes room");
}
