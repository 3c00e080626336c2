//! Several prompts in one request: several requests to the nodes, one to the client.

use std::collections::BTreeSet;

use baton_node::config::Span;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::{
    cluster::{Cluster, eventually},
    fake::{Step, refusal, text},
};

const PROMPTS: [&str; 3] = ["pass", "the", "baton"];

/// All texts of an answer, by their index.
fn texts(body: &Value) -> Vec<String> {
    let choices = body["choices"].as_array().unwrap_or_else(|| panic!("{body}"));
    let indexes: Vec<_> = choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, (0..choices.len() as u64).collect::<Vec<_>>());
    choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
}

fn open(cluster: &Cluster) -> usize {
    cluster.prefill.iter().chain(&cluster.decode).map(|node| node.shared.open()).sum()
}

#[tokio::test]
async fn choices_stand_prompt_by_prompt_and_each_prompt_counts_once() {
    let cluster = Cluster::start(1, 2).await;
    let ids: Vec<Vec<u8>> = PROMPTS.iter().map(|prompt| prompt.bytes().collect()).collect();
    for prompt in [json!(PROMPTS), json!(ids)] {
        let extra = json!({ "prompt": prompt, "n": 2, "max_tokens": 5, "echo": true });
        let body = cluster.complete(extra).await.json();
        let expected = PROMPTS.iter().flat_map(|prompt| {
            let whole = format!("{prompt}{}", text(prompt, 5));
            [whole.clone(), whole]
        });
        assert_eq!(texts(&body), expected.collect::<Vec<_>>());
        let prompts: usize = PROMPTS.iter().map(|prompt| prompt.len()).sum();
        let usage = json!({
            "prompt_tokens": prompts, "completion_tokens": 30, "total_tokens": prompts + 30,
            "prompt_tokens_details": { "cached_tokens": 9 },
        });
        assert_eq!(body["usage"], usage);
    }
}

#[tokio::test]
async fn each_prompt_is_a_request_of_its_own_underneath() {
    let cluster = Cluster::start(1, 1).await;
    let body = cluster.complete(json!({ "prompt": PROMPTS, "seed": 4 })).await.json();
    let calls = cluster.prefill[0].shared.calls();
    let ids: BTreeSet<_> = calls.iter().map(|call| call.key.clone().unwrap().request_id).collect();
    assert_eq!((calls.len(), ids.len()), (3, 3), "{body}");
    let seeds = |from: usize| {
        let calls = cluster.prefill[0].shared.calls();
        let seeds = calls[from..].iter().map(|call| call.sampling.as_ref().unwrap().seed);
        seeds.collect::<BTreeSet<_>>()
    };
    assert_eq!(seeds(0), [4].into(), "a seed that is named is all prompts'");
    cluster.complete(json!({ "prompt": PROMPTS })).await;
    assert_eq!(seeds(3).len(), 3, "without one each has its own");
    let metrics = cluster.get("/metrics").await.body;
    assert!(metrics.contains("baton_router_requests_total{outcome=\"ok\"} 6\n"), "{metrics}");
    assert!(metrics.contains("baton_router_in_flight 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_stream_of_several_prompts_ends_once_with_the_usage_of_all() {
    let cluster = Cluster::start(1, 1).await;
    let options = json!({ "include_usage": true });
    let extra = json!({ "prompt": PROMPTS, "n": 2, "stream": true, "stream_options": options });
    let mut events = cluster.complete(extra).await.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> = events.iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let (last, chunks) = chunks.split_last().unwrap();
    let prompts: usize = PROMPTS.iter().map(|prompt| prompt.len()).sum();
    assert_eq!(last["usage"]["prompt_tokens"], prompts);
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(48)));
    let (mut whole, mut ends) = (vec![String::new(); 6], Vec::new());
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        let index = choice["index"].as_u64().unwrap() as usize;
        whole[index] += choice["text"].as_str().unwrap();
        if choice["finish_reason"] == "length" {
            ends.push(index);
        }
        assert_eq!(chunks[0]["id"], last["id"]);
    }
    let expected = PROMPTS.iter().flat_map(|prompt| [text(prompt, 8), text(prompt, 8)]);
    assert_eq!(whole, expected.collect::<Vec<_>>());
    ends.sort_unstable();
    assert_eq!(ends, [0, 1, 2, 3, 4, 5], "each choice ends once");
}

#[tokio::test]
async fn one_prompt_that_is_wrong_refuses_all_before_any_is_begun() {
    let cluster = Cluster::start(1, 1).await;
    for stream in [false, true] {
        let reply = cluster.complete(json!({ "prompt": ["a", "b", ""], "stream": stream })).await;
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("prompt")));
        assert!(reply.body.contains("prompt[2]"), "{reply:?}");
    }
    assert!(cluster.prefill[0].shared.calls().is_empty());
    let metrics = cluster.get("/metrics").await.body;
    assert!(metrics.contains("baton_router_requests_total{outcome=\"invalid\"} 2\n"), "{metrics}");
}

#[tokio::test]
async fn one_prompt_that_a_node_refuses_refuses_all_and_frees_the_nodes() {
    for stream in [false, true] {
        let cluster = Cluster::start(1, 1).await;
        // One of the prompts, whichever, is refused by the node for itself; the others never end.
        cluster.prefill[0].shared.script(vec![refusal(Code::InvalidArgument, "SCRIPTED")]);
        for _ in 1..PROMPTS.len() {
            cluster.prefill[0].shared.script(vec![Step::Hang]);
        }
        let reply = cluster.complete(json!({ "prompt": PROMPTS, "stream": stream })).await;
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["param"]), (400, &json!("prompt")), "{reply:?}");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("prompt["), "{message}");
        eventually("the others are cancelled", || open(&cluster) == 0).await;
    }
}

#[tokio::test]
async fn a_prompt_that_fails_later_ends_the_stream_with_its_error() {
    let cluster = Cluster::start(1, 1).await;
    let mut events = Vec::new();
    // The failure may come before all prompts have begun: then there is no stream yet.
    while events.is_empty() {
        for _ in 0..20 {
            cluster.decode[0].shared.script(vec![
                Step::Honest(Some(3)),
                Step::Fail(Status::invalid_argument("scripted")),
            ]);
        }
        let reply = cluster.complete(json!({ "prompt": PROMPTS, "stream": true })).await;
        assert!(reply.body.contains("scripted"), "{reply:?}");
        events = reply.events();
        assert!(reply.status == 200 || events.is_empty(), "{reply:?}");
    }
    let (last, before) = events.split_last().unwrap();
    let error: Value = serde_json::from_str(last).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("scripted"), "{last}");
    assert!(before.iter().all(|event| event.contains("\"choices\"")), "{before:?}");
    eventually("the others are cancelled", || open(&cluster) == 0).await;
}

#[tokio::test]
async fn who_hangs_up_cancels_all_prompts() {
    let cluster = Cluster::start(1, 1).await;
    for _ in PROMPTS {
        cluster.decode[0].shared.script(vec![Step::Honest(Some(4)), Step::Hang]);
    }
    cluster.peek(json!({ "prompt": PROMPTS, "stream": true })).await;
    eventually("all streams are dropped", || open(&cluster) == 0).await;
    let metrics = cluster.get("/metrics").await.body;
    let line = "baton_router_requests_total{outcome=\"cancelled\"} 3\n";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn no_more_prompts_are_taken_than_could_ever_be_inside() {
    let cluster = Cluster::alone(|config| config.limits.max_in_flight = 2).await;
    let reply = cluster.complete(json!({ "prompt": PROMPTS })).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("prompt")));
    assert!(reply.body.contains("at most 2 prompts"), "{reply:?}");
    // As many are taken, and find no nodes.
    let reply = cluster.complete(json!({ "prompt": &PROMPTS[..2] })).await;
    assert_eq!(reply.status, 503, "{reply:?}");
}

#[tokio::test]
async fn all_prompts_are_inside_or_none() {
    let mut cluster = Cluster::alone(|config| {
        config.limits.max_in_flight = 4;
        config.timeouts.resume = Span::from_secs(0);
    })
    .await;
    cluster.join(1, 1).await;
    for _ in 0..2 {
        cluster.prefill[0].shared.script(vec![Step::Hang]);
    }
    let asking = cluster.complete(json!({ "prompt": &PROMPTS[..2] }));
    let refused = async {
        eventually("two are inside", || cluster.prefill[0].shared.calls().len() == 2).await;
        let reply = cluster.complete(json!({ "prompt": PROMPTS })).await;
        assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")), "{reply:?}");
        // It has left no trace: there is room for two more, and no third.
        let reply = cluster.complete(json!({ "prompt": &PROMPTS[..2] })).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    };
    tokio::select! {
        () = refused => {}
        reply = asking => panic!("it hangs: {reply:?}"),
    }
}
