//! Nodes that refuse, lie and die: the client sees the exact text, or a typed error.

use std::time::{Duration, Instant};

use baton_node::config::Span;
use baton_types::Role;
use futures::future::join_all;
use serde_json::json;
use tonic::{Code, Status};

use crate::{
    cluster::{Cluster, PROMPT, eventually},
    fake::{FakeNode, Step, refusal, text},
};

/// A completion of eight tokens is exactly what it must be.
async fn check_exact(cluster: &Cluster) {
    let reply = cluster.complete(json!({})).await;
    let body = reply.json();
    assert_eq!(reply.status, 200, "{body}");
    assert_eq!(body["choices"][0]["text"], text(PROMPT, 8));
    assert_eq!(body["usage"]["completion_tokens"], 8);
}

#[tokio::test]
async fn a_full_node_is_passed_over() {
    let cluster = Cluster::start(1, 2).await;
    for node in &cluster.decode {
        node.shared.script(vec![refusal(Code::ResourceExhausted, "KV_POOL_FULL")]);
    }
    check_exact(&cluster).await;
    let tried: usize = cluster.decode.iter().map(|node| node.shared.calls().len()).sum();
    assert_eq!(tried, 3, "each once in vain, then either");
    cluster.prefill[0].shared.script(vec![refusal(Code::ResourceExhausted, "QUEUE_FULL")]);
    check_exact(&cluster).await;
    let metrics = cluster.get("/metrics").await.body;
    assert!(metrics.contains("baton_router_retries_total{reason=\"full\"}"), "{metrics}");
}

#[tokio::test]
async fn a_cluster_that_stays_full_says_so() {
    let cluster = Cluster::start(1, 1).await;
    for _ in 0..10 {
        let full = refusal(Code::ResourceExhausted, "KV_POOL_FULL");
        cluster.decode[0].shared.script(vec![full]);
        cluster.prefill[0].shared.script(vec![Step::Hang]);
    }
    let reply = cluster.complete(json!({})).await;
    assert_eq!(reply.status, 429, "{reply:?}");
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.json()["error"]["type"], "rate_limit_error");
    assert_eq!(cluster.decode[0].shared.calls().len(), 6, "one attempt and five more");
}

#[tokio::test]
async fn a_decode_node_that_dies_is_replaced_where_it_was() {
    let died = || vec![Step::Honest(Some(5)), Step::Fail(Status::unavailable("reset"))];
    let cluster = Cluster::start(1, 2).await;
    cluster.decode[0].shared.script(died());
    cluster.decode[1].shared.script(died());
    check_exact(&cluster).await;
    let epochs: Vec<u64> =
        cluster.prefill[0].shared.calls().iter().map(|c| c.epoch.unwrap().counter).collect();
    assert_eq!(epochs, [1, 2, 3], "a fresh epoch for each attempt");
    let continued = cluster.prefill[0].shared.calls().pop().unwrap();
    assert_eq!(continued.prompt_len as usize, PROMPT.len());
    assert!(continued.tokens.len() >= PROMPT.len() + 5, "{} tokens", continued.tokens.len());
}

#[tokio::test]
async fn a_stop_string_across_a_replay_is_found() {
    let cluster = Cluster::start(1, 1).await;
    cluster.decode[0]
        .shared
        .script(vec![Step::Honest(Some(4)), Step::Fail(Status::unavailable("reset"))]);
    let whole = text(PROMPT, 8);
    let reply = cluster.complete(json!({ "stop": [&whole[3..6]] })).await.json();
    assert_eq!(reply["choices"][0]["text"], whole[..3]);
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn repeated_tokens_are_dropped_and_wrong_ones_end_the_attempt() {
    let cluster = Cluster::start(1, 1).await;
    let right: Vec<u32> = text(PROMPT, 8).bytes().map(u32::from).collect();
    cluster.decode[0].shared.script(vec![
        Step::Honest(Some(3)),
        Step::Token { index: 0, id: right[0] },
        Step::Token { index: 2, id: right[2] },
        Step::Token { index: 4, id: right[4] },
        Step::Token { index: 3, id: right[3] },
        Step::Token { index: 1, id: right[1] + 1 },
        Step::Hang,
    ]);
    check_exact(&cluster).await;
    let calls = cluster.decode[0].shared.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[1].tokens.len(), PROMPT.len() + 5);
}

#[tokio::test]
async fn an_end_with_a_hole_is_no_end() {
    let cluster = Cluster::start(1, 1).await;
    let right: Vec<u32> = text(PROMPT, 8).bytes().map(u32::from).collect();
    cluster.decode[0].shared.script(vec![
        Step::Honest(Some(2)),
        Step::Token { index: 3, id: right[3] },
        Step::Finished,
        Step::Hang,
    ]);
    check_exact(&cluster).await;
}

#[tokio::test]
async fn a_transfer_that_fails_is_prefilled_again() {
    let cluster = Cluster::start(2, 2).await;
    for node in &cluster.decode {
        node.shared.script(vec![refusal(Code::Aborted, "PULL_FAILED")]);
    }
    check_exact(&cluster).await;
    let cluster = Cluster::start(1, 1).await;
    let expired = refusal(Code::Aborted, "LEASE_EXPIRED");
    cluster.prefill[0].shared.script(vec![Step::Honest(Some(1)), expired]);
    cluster.decode[0].shared.script(vec![Step::Hang]);
    check_exact(&cluster).await;
}

#[tokio::test]
async fn a_prefill_stream_that_ends_early_is_run_again() {
    let cluster = Cluster::start(2, 1).await;
    for node in &cluster.prefill {
        node.shared.script(vec![Step::End]);
    }
    check_exact(&cluster).await;
}

#[tokio::test]
async fn one_token_needs_no_decode_node() {
    let cluster = Cluster::start(1, 1).await;
    let reply = cluster.complete(json!({ "max_tokens": 1 })).await.json();
    assert_eq!(reply["choices"][0]["text"], text(PROMPT, 1));
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert!(cluster.decode[0].shared.calls().is_empty());
}

#[tokio::test]
async fn a_node_that_left_is_replaced_though_its_streams_are_silent() {
    let mut cluster = Cluster::start(1, 1).await;
    cluster.decode[0].shared.script(vec![Step::Honest(Some(3)), Step::Hang]);
    let gone = cluster.decode.remove(0);
    let shared = gone.shared.clone();
    let asking = cluster.complete(json!({}));
    let replacing = async {
        eventually("the first node is called", || shared.calls().len() == 1).await;
        let successor = FakeNode::join(&cluster.control, Role::Decode, "d9").await;
        drop(gone);
        successor
    };
    let (reply, successor) = tokio::join!(asking, replacing);
    assert_eq!(reply.json()["choices"][0]["text"], text(PROMPT, 8));
    assert_eq!(successor.shared.calls().len(), 1);
}

#[tokio::test]
async fn a_silent_member_is_gone_with_its_lease() {
    let mut cluster = Cluster::alone(|config| {
        config.timeouts.heartbeat = Span::from_millis(20);
        config.timeouts.lease = Span::from_millis(300);
    })
    .await;
    cluster.prefill.push(FakeNode::join(&cluster.control, Role::Prefill, "p").await);
    cluster.decode.push(FakeNode::join(&cluster.control, Role::Decode, "d").await);
    assert_eq!(cluster.get("/ready").await.status, 200);
    // Its connection stays.
    cluster.decode[0].fall_silent();
    let waiting = async {
        while cluster.get("/ready").await.status == 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("the leases end");
    assert_eq!(cluster.complete(json!({})).await.status, 503);
}

#[tokio::test]
async fn attempts_are_bounded() {
    let cluster = Cluster::start(1, 1).await;
    for _ in 0..20 {
        cluster.decode[0].shared.script(vec![refusal(Code::Internal, "ENGINE_FAILED")]);
    }
    let reply = cluster.complete(json!({ "max_tokens": 20 })).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.body.contains("6 attempts"), "{reply:?}");
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_the_nodes() {
    let cluster = Cluster::start(1, 1).await;
    cluster.prefill[0].shared.script(vec![Step::Honest(Some(1)), Step::Hang]);
    cluster.decode[0].shared.script(vec![Step::Honest(Some(4)), Step::Hang]);
    let line = cluster.peek(json!({ "stream": true })).await;
    assert!(line.starts_with('{'), "{line:?}");
    let open = || cluster.prefill[0].shared.open() + cluster.decode[0].shared.open();
    eventually("both nodes' streams are dropped", || open() == 0).await;
    check_exact(&cluster).await;
}

/// It looks for a place more than once, and still has its turn when there is one.
#[tokio::test]
async fn who_waits_for_a_node_is_woken_however_often_there_was_none() {
    let cluster = Cluster::start(1, 1).await;
    for _ in 0..3 {
        cluster.decode[0].shared.script(vec![Step::Fail(Status::unavailable("reset"))]);
    }
    check_exact(&cluster).await;
}

/// Where everything fails, requests that are tried again must not become the load that keeps it failing.
#[tokio::test]
async fn retries_of_all_requests_together_are_bounded() {
    let mut cluster = Cluster::alone(|config| {
        config.limits.retries_per_second = 2;
        config.limits.retries_per_request = 0.0;
        config.timeouts.request = Span::from_secs(3);
    })
    .await;
    cluster.join(1, 1).await;
    for _ in 0..200 {
        cluster.decode[0].shared.script(vec![refusal(Code::Internal, "ENGINE_FAILED")]);
    }
    let began = Instant::now();
    let requests = 10;
    let replies = join_all((0..requests).map(|_| cluster.complete(json!({})))).await;
    let seconds = began.elapsed().as_secs_f64();
    assert!(replies.iter().all(|reply| matches!(reply.status, 503 | 504)), "{replies:?}");
    // Two attempts each, a second's retries that were there, and those that were earned.
    let most = 2 * requests + 2 + (2.0 * seconds).ceil() as usize;
    let calls = cluster.decode[0].shared.calls().len();
    assert!((2 * requests..=most).contains(&calls), "{calls} calls of at most {most}");
    let metrics = cluster.get("/metrics").await.body;
    let delayed =
        metrics.lines().find(|line| line.starts_with("baton_router_retries_delayed_total"));
    assert!(delayed.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    // What came of nobody's retries is there for others again.
    cluster.decode[0].shared.forget_script();
    check_exact(&cluster).await;
}
