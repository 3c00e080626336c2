//! OpenAI's error object, for everything a client can do wrong.

use baton_node::config::ByteSize;
use baton_proto::{
    node::v1::Hello,
    v1::{DrainRequest, operations_client::OperationsClient},
};
use baton_types::Role;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, PATIENCE, Reply},
    fake::{FakeNode, Step, register},
};

fn check(reply: &Reply, status: u16, param: Value, code: Value, part: &str) {
    assert_eq!(reply.status, status, "{part}: {reply:?}");
    let body = reply.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{body}"));
    let keys: Vec<&str> = error.keys().map(String::as_str).collect();
    assert_eq!(keys, ["message", "type", "param", "code"], "{body}");
    assert_eq!((&error["param"], &error["code"]), (&param, &code), "{body}");
    assert!(error["message"].as_str().unwrap().contains(part), "{part:?} is not in {body}");
    assert!(reply.header("x-request-id").is_some());
}

#[tokio::test]
async fn wrong_parameters_are_refused_by_name() {
    let cluster = Cluster::start(1, 1).await;
    let value = json!("invalid_value");
    for (extra, param, code, part) in [
        (json!({ "temperature": "hot" }), "temperature", json!("invalid_type"), "a string"),
        (json!({ "temperature": -1 }), "temperature", value.clone(), "-1"),
        (json!({ "temperature": 2.5 }), "temperature", value.clone(), "2.5"),
        (json!({ "max_tokens": 0 }), "max_tokens", json!("integer_below_min_value"), "0"),
        (json!({ "max_tokens": 1.5 }), "max_tokens", json!("invalid_type"), "a decimal"),
        (json!({ "max_tokens": 600 }), "prompt", json!("context_length_exceeded"), "512"),
        (json!({ "prompt": "x".repeat(600) }), "prompt", json!("context_length_exceeded"), "512"),
        (json!({ "prompt": "" }), "prompt", value.clone(), "empty"),
        (json!({ "prompt": [] }), "prompt", value.clone(), "empty"),
        (json!({ "prompt": 5 }), "prompt", json!("invalid_type"), "an integer"),
        (json!({ "prompt": null }), "prompt", json!("missing_required_parameter"), "prompt"),
        (json!({ "prompt": [999] }), "prompt", value.clone(), "token 999"),
        (json!({ "prompt": ["a", ""] }), "prompt", value.clone(), "prompt[1]: the prompt is empty"),
        (json!({ "prompt": [[97], [999]] }), "prompt", value.clone(), "prompt[1]"),
        (json!({ "prompt": ["a", "b", 5] }), "prompt", json!("invalid_type"), "prompt[2]"),
        (
            json!({ "prompt": ["a", "x".repeat(600)] }),
            "prompt",
            json!("context_length_exceeded"),
            "prompt[1]",
        ),
        (
            json!({ "prompt": vec!["a"; 129] }),
            "prompt",
            json!("array_above_max_length"),
            "at most 128",
        ),
        (
            json!({ "prompt": vec!["a"; 43], "n": 3 }),
            "prompt",
            json!("array_above_max_length"),
            "at most 42",
        ),
        (json!({ "prompt": ["a", "b"], "n": 129 }), "n", value.clone(), "129"),
        (json!({ "prompt": ["a", "b"], "min_tokens": 9 }), "min_tokens", value.clone(), "9"),
        (json!({ "prompt": [[["a"]]] }), "prompt", json!("invalid_type"), "an array"),
        (json!({ "prompt": [1.5] }), "prompt", json!("invalid_type"), "token ids"),
        (json!({ "top_k": i64::MIN }), "top_k", json!("integer_below_min_value"), "-9223372"),
        (json!({ "prompt": [1, -1] }), "prompt", json!("invalid_type"), "token ids"),
        (json!({ "model": null }), "model", json!("missing_required_parameter"), "model"),
        (json!({ "model": 1 }), "model", json!("invalid_type"), "an integer"),
        (json!({ "stop": 1 }), "stop", json!("invalid_type"), "an integer"),
        (json!({ "stop": "" }), "stop", value.clone(), "empty"),
        (json!({ "stop": vec!["x"; 17] }), "stop", value.clone(), "17"),
        (json!({ "seed": "x" }), "seed", json!("invalid_type"), "a string"),
        (json!({ "stream": 1 }), "stream", json!("invalid_type"), "an integer"),
        (json!({ "stream_options": {} }), "stream_options", value.clone(), "stream"),
        (json!({ "n": 129 }), "n", json!("invalid_value"), "129"),
        (json!({ "best_of": 21 }), "best_of", json!("invalid_value"), "21"),
        (json!({ "best_of": 2, "n": 3 }), "best_of", json!("invalid_value"), "n = 3"),
        (json!({ "best_of": 2, "stream": true }), "best_of", json!("invalid_value"), "stream"),
        (json!({ "suffix": "x" }), "suffix", json!("unsupported_value"), "x"),
        (json!({ "top_p": 1.5 }), "top_p", json!("invalid_value"), "1.5"),
        (json!({ "logit_bias": { "5": 101 } }), "logit_bias", json!("invalid_value"), "101"),
    ] {
        check(&cluster.complete(extra).await, 400, json!(param), code, part);
    }
    let stray = json!({ "n": 1, "top_p": 1.0, "echo": false, "user": "u", "whatever": [1] });
    assert_eq!(cluster.complete(stray).await.status, 200, "no-ops and strangers are ignored");
    let decimals = json!({ "max_tokens": 3.0, "seed": 1e300, "top_k": -1.0, "prompt": [104.0] });
    check(
        &cluster.complete(decimals.clone()).await,
        400,
        json!("seed"),
        json!("invalid_type"),
        "64",
    );
    let mut decimals = decimals;
    (decimals["seed"], decimals["top_k"]) = (json!(7.0), json!(u64::MAX));
    assert_eq!(cluster.complete(decimals).await.status, 200, "an integer however it is written");
}

#[tokio::test]
async fn wrong_conversations_are_refused_by_path() {
    let cluster = Cluster::start(1, 1).await;
    let unsupported = json!("unsupported_value");
    let image = json!([{ "type": "text", "text": "a" }, { "type": "image_url", "image_url": {} }]);
    let user = |content: Value| json!([{ "role": "user", "content": content }]);
    for (messages, param, code, part) in [
        (json!([]), "messages", json!("invalid_value"), "empty"),
        (json!("hi"), "messages", json!("invalid_type"), "a string"),
        (json!([1]), "messages[0]", json!("invalid_type"), "an integer"),
        (json!([{ "content": "x" }]), "messages[0].role", json!("invalid_type"), "null"),
        (json!([{ "role": "robot" }]), "messages[0].role", json!("invalid_value"), "robot"),
        (user(json!(5)), "messages[0].content", json!("invalid_type"), "an integer"),
        (user(image), "messages[0].content[1].type", unsupported.clone(), "image_url"),
    ] {
        let body = json!({ "model": "fake", "messages": messages, "max_tokens": 4 });
        let reply = cluster.post("/v1/chat/completions", body.to_string()).await;
        check(&reply, 400, json!(param), code, part);
    }
}

#[tokio::test]
async fn what_is_no_request_at_all_is_refused() {
    let cluster = Cluster::start(1, 1).await;
    let url = "/v1/completions";
    for body in ["{", "", "[]", "\"x\""] {
        let reply = cluster.post(url, body).await;
        check(&reply, 400, Value::Null, Value::Null, "could not parse the JSON");
    }
    check(&cluster.get("/v1/nothing").await, 404, Value::Null, Value::Null, "/v1/nothing");
    check(&cluster.get(url).await, 405, Value::Null, Value::Null, "GET");
    check(&cluster.post("/health", "").await, 405, Value::Null, Value::Null, "POST");
    let reply = cluster.complete(json!({ "model": "other" })).await;
    check(&reply, 404, json!("model"), json!("model_not_found"), "other");
    let reply = cluster.get("/v1/models/%FF").await;
    check(&reply, 400, json!("model"), json!("invalid_value"), "UTF-8");
    let reply = cluster.get("/v1/models/other").await;
    check(&reply, 404, json!("model"), json!("model_not_found"), "other");
}

#[tokio::test]
async fn bodies_are_bounded() {
    let mut cluster = Cluster::alone(|config| config.limits.max_body = ByteSize(1024)).await;
    cluster.prefill.push(FakeNode::join(&cluster.control, Role::Prefill, "p").await);
    cluster.decode.push(FakeNode::join(&cluster.control, Role::Decode, "d").await);
    assert_eq!(cluster.complete(json!({})).await.status, 200);
    let reply = cluster.complete(json!({ "user": "x".repeat(2000) })).await;
    check(&reply, 413, Value::Null, json!("request_too_large"), "1024");
}

#[tokio::test]
async fn a_model_whose_nodes_are_gone_is_unavailable() {
    let mut cluster = Cluster::start(1, 1).await;
    assert_eq!(cluster.get("/ready").await.status, 200);
    cluster.decode.clear();
    while cluster.get("/ready").await.status == 200 {
        tokio::task::yield_now().await;
    }
    let reply = cluster.complete(json!({})).await;
    check(&reply, 503, Value::Null, json!("no_nodes"), "decode");
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(cluster.get("/health").await.status, 200, "alive all the same");
}

/// It was started a moment ago, and its nodes come the next moment.
#[tokio::test]
async fn a_router_that_nobody_has_joined_says_that_it_is_to_be_asked_again() {
    let cluster = Cluster::alone(|_config| {}).await;
    let reply = cluster.complete(json!({})).await;
    check(&reply, 503, Value::Null, json!("no_nodes"), "try again");
    assert_eq!(reply.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_full_house_sheds() {
    let mut cluster = Cluster::alone(|config| config.limits.max_in_flight = 1).await;
    cluster.prefill.push(FakeNode::join(&cluster.control, Role::Prefill, "p").await);
    cluster.decode.push(FakeNode::join(&cluster.control, Role::Decode, "d").await);
    cluster.prefill[0].shared.script(vec![Step::Hang]);
    let calls = || cluster.prefill[0].shared.calls().len();
    let shed = async {
        crate::cluster::eventually("the first is inside", || calls() == 1).await;
        cluster.complete(json!({})).await
    };
    let hung = cluster.complete(json!({}));
    tokio::select! {
        reply = shed => {
            check(&reply, 429, Value::Null, json!("rate_limit_exceeded"), "1 requests");
            assert_eq!(reply.header("retry-after"), Some("1"));
        }
        reply = hung => panic!("{reply:?}"),
    }
}

#[tokio::test]
async fn nodes_of_other_numerics_never_pair() {
    let mut cluster = Cluster::start(1, 0).await;
    let strange = |hello: &mut baton_proto::node::v1::Hello| hello.numerics_id = vec![9; 16];
    cluster.decode.push(FakeNode::join_as(&cluster.control, Role::Decode, "d", strange).await);
    assert_eq!(cluster.get("/ready").await.status, 503);
    let reply = cluster.complete(json!({})).await;
    check(&reply, 503, Value::Null, json!("no_nodes"), "decode");
    cluster.decode.push(FakeNode::join(&cluster.control, Role::Decode, "e").await);
    assert_eq!(cluster.complete(json!({})).await.status, 200);
    assert!(cluster.decode[0].shared.calls().is_empty());
}

#[tokio::test]
async fn nodes_that_do_not_fit_are_refused_at_the_registry() {
    let cluster = Cluster::start(1, 1).await;
    let hello = &cluster.decode[0].hello;
    let mut other = hello.clone();
    other.node = "x".into();
    other.text.as_mut().unwrap().chat_template = "another".into();
    let refused = register(&cluster.control, &other).await.unwrap_err();
    assert!(refused.message().contains("another tokeniser"), "{refused:?}");
    let mut taken = hello.clone();
    taken.generation += 1;
    let refused = register(&cluster.control, &taken).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists, "{refused:?}");
    let mut newer = hello.clone();
    (newer.node, newer.protocol_version) = ("y".into(), 7);
    let refused = register(&cluster.control, &newer).await.unwrap_err();
    assert!(refused.message().contains("version 7"), "{refused:?}");
    assert_eq!(cluster.complete(json!({})).await.status, 200);
}

#[tokio::test]
async fn a_draining_node_gets_no_more() {
    let cluster = Cluster::start(1, 2).await;
    cluster.decode[0].state.send_modify(|state| state.draining = true);
    let calls = || cluster.decode[0].shared.calls().len();
    let hear = async {
        loop {
            let before = calls();
            for _ in 0..10 {
                assert_eq!(cluster.complete(json!({})).await.status, 200);
            }
            if calls() == before {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, hear).await.expect("the drain is heard");
}

#[tokio::test]
async fn a_router_without_a_folder_says_what_batches_need() {
    let cluster = Cluster::alone(|_| {}).await;
    for path in ["/v1/files", "/v1/files/file-1", "/v1/files/file-1/content", "/v1/batches"] {
        let reply = cluster.get(path).await;
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("batches_off")));
        assert!(reply.body.contains("batches.directory"), "{reply:?}");
    }
    let reply = cluster.post("/v1/batches", "{}").await;
    assert_eq!(reply.json()["error"]["code"], "batches_off");
}

/// Whoever is drained by hand and started again is another incarnation, which nobody has drained.
#[tokio::test]
async fn a_drained_node_that_was_restarted_takes_requests() {
    let mut cluster = Cluster::start(1, 1).await;
    let mut operations = OperationsClient::connect(cluster.url.clone()).await.unwrap();
    let drain = DrainRequest { node: "d0".to_owned(), ..DrainRequest::default() };
    assert_eq!(operations.drain(drain).await.unwrap().into_inner().left, 0);

    let mut restarted = cluster.decode.remove(0).hello.clone();
    restarted.generation += 1;
    let generation = restarted.generation;
    let back = async { while register(&cluster.control, &restarted).await.is_err() {} };
    tokio::time::timeout(PATIENCE, back).await.expect("the old one has left");
    let change = |hello: &mut Hello| hello.generation = generation;
    let node = FakeNode::join_as(&cluster.control, Role::Decode, "d0", change).await;
    // Also once it has spoken of itself, a few times.
    for _ in 0..50 {
        let answer = tokio::time::timeout(PATIENCE, cluster.complete(json!({}))).await;
        assert_eq!(answer.expect("somebody takes it").status, 200);
    }
    assert_eq!(node.shared.calls().len(), 50);
}
