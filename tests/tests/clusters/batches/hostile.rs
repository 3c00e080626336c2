//! Files that nobody should send, and names that nobody should ask for.

use baton_tests::{Cluster, Engine, Options, get, post, upload};
use serde_json::{Value, json};

use super::client::{check_whole, create, jsonl, line, lines, wait_for};

#[test]
fn no_file_harms_the_router() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let first = |content: &[u8], code: &str, number: Value| {
        let id = create(&cluster, content);
        let failed = wait_for(&cluster, &id, "failed");
        let error = &failed["errors"]["data"][0];
        assert_eq!((&error["code"], &error["line"]), (&json!(code), &number), "{failed}");
        assert!(failed.to_string().len() < 100_000, "a short answer to a long file");
    };
    let good = jsonl(&lines(1, 1));
    let after_good = |bad: &[u8]| [&good[..], bad].concat();
    let huge = "x".repeat(10 << 20);
    let huge_line = line("huge", &huge, 1).to_string();
    first(&after_good(huge_line.as_bytes()), "invalid_request", json!(2));
    let huge_name = line(&huge[..1 << 20], "p", 1).to_string();
    first(&after_good(huge_name.as_bytes()), "invalid_request", json!(2));
    first(&after_good(b"{\"custom_id\": \"\xff\xfe\"}\n"), "invalid_json_line", json!(2));
    first(&after_good(&[0; 1000]), "invalid_json_line", json!(2));
    first(&after_good("[".repeat(100_000).as_bytes()), "invalid_json_line", json!(2));
    first(&"{\n".repeat(60_000).into_bytes(), "invalid_json_line", json!(1));
    first(&jsonl(&lines(50_001, 1)), "too_many_tasks", Value::Null);
    let id = create(&cluster, &good);
    check_whole(&cluster, &wait_for(&cluster, &id, "completed"), &lines(1, 1));
}

#[test]
fn wrong_types_are_answered_as_over_http() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let values =
        [json!(null), json!(-1), json!(1e300), json!("x"), json!([[]]), json!({ "a": {} })];
    let names =
        ["prompt", "max_tokens", "temperature", "stop", "logit_bias", "n", "stream", "seed"];
    let mut sent = Vec::new();
    for name in names {
        for (number, value) in values.iter().enumerate() {
            let mut line = line(&format!("{name}-{number}"), "p", 2);
            line["body"][name] = value.clone();
            sent.push(line);
        }
    }
    let id = create(&cluster, &jsonl(&sent));
    check_whole(&cluster, &wait_for(&cluster, &id, "completed"), &sent);
}

#[test]
fn names_are_never_paths() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let url = cluster.path("/v1/files");
    for name in ["../../../../tmp/escaped", "/etc/passwd", "..", "", "a\\b", "%2e%2e%2f"] {
        let reply = upload(&url, "batch", name, b"{}").unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        let file = reply.json().unwrap();
        assert!(file["id"].as_str().unwrap().starts_with("file-"), "{file}");
    }
    assert!(!std::path::Path::new("/tmp/escaped").exists());
    let hostile = [
        "..%2f..%2f..%2fetc%2fpasswd",
        "..%2flock",
        "file-..%2f..%2fbatches%2flock",
        "file-00000000000000000000000000000000",
        "file-0000000000000000000000000000000g",
        "%00",
        "%ff%fe",
    ];
    for id in hostile {
        for path in [format!("/v1/files/{id}"), format!("/v1/files/{id}/content")] {
            let reply = get(&cluster.path(&path)).unwrap();
            assert!(matches!(reply.status, 400 | 404), "{path}: {reply:?}");
        }
        assert!(matches!(
            get(&cluster.path(&format!("/v1/batches/{id}"))).unwrap().status,
            400 | 404
        ));
        let body = json!({
            "input_file_id": id, "endpoint": "/v1/completions", "completion_window": "24h",
        });
        assert_eq!(post(&cluster.path("/v1/batches"), &body).unwrap().status, 404);
    }
}

#[test]
fn bad_parameters_are_refused_by_name() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let file = upload(&cluster.path("/v1/files"), "batch", "x", b"{}").unwrap().json().unwrap();
    let check = |change: Value, param: &str| {
        let mut body = json!({
            "input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h",
        });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let reply = post(&cluster.path("/v1/batches"), &body).unwrap();
        assert_eq!(reply.status, 400, "{reply:?}");
        assert_eq!(reply.json().unwrap()["error"]["param"], param);
    };
    check(json!({ "input_file_id": 7 }), "input_file_id");
    check(json!({ "endpoint": "/v1/embeddings" }), "endpoint");
    check(json!({ "endpoint": null }), "endpoint");
    check(json!({ "completion_window": "1h" }), "completion_window");
    check(json!({ "metadata": { "a": 1 } }), "metadata");
    check(json!({ "metadata": { "a": "x".repeat(513) } }), "metadata");
    check(json!({ "metadata": "x" }), "metadata");
    let reply = upload(&cluster.path("/v1/files"), "fine-tune", "x", b"{}").unwrap();
    assert_eq!((reply.status, &reply.json().unwrap()["error"]["param"]), (400, &json!("purpose")));
    for query in ["limit=0", "limit=x", "order=up", "after=file-0"] {
        assert_eq!(
            get(&cluster.path(&format!("/v1/files?{query}"))).unwrap().status,
            400,
            "{query}"
        );
    }
}
