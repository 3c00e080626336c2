//! `baton.v1.Operations`: why a request ran where it did.

use baton_proto::{
    status::Refused,
    v1::{ExplainRequest, Won, operations_client::OperationsClient},
};
use serde_json::json;
use tonic::{Code, transport::Channel};

use crate::{cluster::Cluster, fake::refusal};

async fn client(cluster: &Cluster) -> OperationsClient<Channel> {
    OperationsClient::connect(cluster.url.clone()).await.unwrap()
}

fn asked(request_id: &str) -> ExplainRequest {
    ExplainRequest { request_id: request_id.to_owned() }
}

#[tokio::test]
async fn a_request_is_told_with_the_paths_it_could_have_taken() {
    let cluster = Cluster::start(2, 2).await;
    let answer = cluster.complete(json!({ "max_tokens": 4 })).await;
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let explained = client(&cluster).await.explain(asked(&id)).await.unwrap().into_inner();
    let [decision] = &explained.decisions[..] else { panic!("{explained:?}") };
    assert_eq!((decision.choice, decision.attempt, decision.candidates), (0, 1, 4));
    assert_eq!((decision.won(), decision.near_equal), (Won::Draw, 4), "all nodes are idle");
    let chosen = decision.chosen.as_ref().unwrap();
    assert_eq!(decision.alternatives.len(), 3);
    for other in &decision.alternatives {
        let nodes =
            |path: &baton_proto::v1::Path| (path.prefill_node.clone(), path.decode_node.clone());
        assert_ne!(nodes(other), nodes(chosen));
        assert_eq!(other.ttft_us, chosen.ttft_us);
    }
    assert!(chosen.ttft_us > 0 && chosen.cost_us > chosen.ttft_us, "{chosen:?}");
    assert!(decision.ttft_us.is_some(), "{decision:?}");
}

#[tokio::test]
async fn every_attempt_is_told() {
    let cluster = Cluster::start(1, 2).await;
    for node in &cluster.decode {
        node.shared.script(vec![refusal(Code::ResourceExhausted, "SCRIPTED")]);
    }
    let answer = cluster.complete(json!({ "max_tokens": 4 })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let explained = client(&cluster).await.explain(asked(&id)).await.unwrap().into_inner();
    let attempts: Vec<u32> = explained.decisions.iter().map(|told| told.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    let nodes = |at: usize| explained.decisions[at].chosen.clone().unwrap().decode_node;
    assert_ne!(nodes(0), nodes(1), "the one that refused is passed over");
    let ended: Vec<bool> = explained.decisions.iter().map(|told| told.ttft_us.is_some()).collect();
    assert_eq!(ended, [false, false, true]);
}

#[tokio::test]
async fn who_is_not_known_is_named() {
    let cluster = Cluster::start(1, 1).await;
    let mut client = client(&cluster).await;
    let unknown = format!("cmpl-{:032x}", 7);
    let error = client.explain(asked(&unknown)).await.unwrap_err();
    let refused = Refused::from(&error);
    assert_eq!((refused.code, &refused.reason[..]), (Code::NotFound, "REQUEST_NOT_FOUND"));
    assert!(error.message().contains("req-"), "{error}");
    let error = client.explain(asked("nonsense")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("nonsense"), "{error}");
}
