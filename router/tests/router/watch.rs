//! `baton.v1.Operations/WatchNodes`: what nodes say of themselves.

use baton_proto::v1::{
    Phase, WatchNodesRequest, WatchNodesResponse, operations_client::OperationsClient,
};
use baton_types::{KvDtype, Role, StepReport, StepShape};
use tokio::time::timeout;
use tonic::Streaming;

use crate::{
    cluster::{Cluster, PATIENCE},
    fake::{FakeNode, MODEL},
};

async fn watch(cluster: &Cluster, model: &str) -> Streaming<WatchNodesResponse> {
    let mut client = OperationsClient::connect(cluster.url.clone()).await.unwrap();
    client.watch_nodes(WatchNodesRequest { model: model.to_owned() }).await.unwrap().into_inner()
}

async fn next(said: &mut Streaming<WatchNodesResponse>) -> Option<WatchNodesResponse> {
    timeout(PATIENCE, said.message()).await.expect("somebody speaks").unwrap()
}

#[tokio::test]
async fn every_heartbeat_is_told_with_who_says_it_and_its_steps() {
    let cluster = Cluster::start(1, 1).await;
    let mut shape = StepShape::default();
    shape.add_prefill(100, 32);
    let step = StepReport { shape, duration: PATIENCE };
    cluster.prefill[0].state.send_modify(|state| {
        state.running = 3;
        state.waiting = 2;
        state.handing_over = 1;
        state.step_reports = vec![step.into()];
    });
    let mut said = watch(&cluster, "").await;
    let mut heard = [None, None];
    while heard.iter().any(Option::is_none) {
        let report = next(&mut said).await.unwrap();
        let node = report.node.clone().unwrap();
        // The first may be from before the change.
        match node.phase() {
            Phase::Prefill if !report.steps.is_empty() => heard[0] = Some(report),
            Phase::Decode => heard[1] = Some(report),
            _ => {}
        }
    }
    let [prefill, decode] = heard.map(Option::unwrap);
    let node = prefill.node.unwrap();
    assert_eq!((&node.name[..], &node.model[..], node.role()), ("p0", MODEL, Ok(Role::Prefill)));
    let layout = node.layout().unwrap();
    assert_eq!((layout.layers, layout.block_tokens, layout.dtype), (2, 16, KvDtype::F16));
    assert_eq!((node.total_blocks, node.max_batch_tokens, node.max_running), (64, 512, 64));
    assert_eq!((prefill.running, prefill.waiting, prefill.handing_over), (3, 2, 1));
    assert_eq!(prefill.steps.into_iter().map(StepReport::from).collect::<Vec<_>>(), [step]);
    assert_eq!(decode.node.unwrap().name, "d0");
    assert_eq!((decode.running, decode.steps.len()), (0, 0));
}

#[tokio::test]
async fn only_the_nodes_of_the_model_that_was_named_are_told() {
    let cluster = Cluster::start(1, 0).await;
    let other = FakeNode::join_as(&cluster.control, Role::Decode, "d9", |hello| {
        hello.model = "other".to_owned();
    })
    .await;
    let mut said = watch(&cluster, "other").await;
    for _ in 0..5 {
        assert_eq!(next(&mut said).await.unwrap().node.unwrap().name, "d9");
    }
    drop(other);
}

#[tokio::test]
async fn a_watch_holds_up_no_shutdown() {
    let cluster = Cluster::start(1, 1).await;
    let mut said = watch(&cluster, "").await;
    next(&mut said).await.unwrap();
    cluster.shutdown.cancel();
    while next(&mut said).await.is_some() {}
    timeout(PATIENCE, cluster.serving).await.expect("the router ends").unwrap().unwrap();
}
