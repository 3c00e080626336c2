//! What the router learns of its nodes' steps and caches.

use std::time::Duration;

use baton_proto::node::v1::{JoinResponse, KvEvents, StepReport, join_response};
use baton_types::{LatencyProfile, Role, StepShape};

use crate::{
    cluster::{Cluster, PATIENCE},
    fake::FakeNode,
};

/// Of decode steps of many shapes.
fn reports(profile: &LatencyProfile) -> Vec<StepReport> {
    let shapes = (1..=16).flat_map(|batch| (0..4).map(move |length| (batch, length)));
    let report = |(batch, length): (u32, u64)| {
        let mut shape = StepShape::default();
        (0..batch).for_each(|_| shape.add_decode(100 << (2 * length)));
        baton_types::StepReport { shape, duration: profile.step(&shape) }.into()
    };
    shapes.map(report).collect()
}

/// A sample of the router's metrics.
async fn sample(cluster: &Cluster, name: &str) -> Option<f64> {
    let metrics = cluster.get("/metrics").await.body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map(|value| value.parse().unwrap())
}

async fn until(cluster: &Cluster, name: &str, is_fine: impl Fn(Option<f64>) -> bool) {
    let waiting = async {
        while !is_fine(sample(cluster, name).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let late = tokio::time::timeout(PATIENCE, waiting).await.is_err();
    assert!(!late, "{name} is {:?}", sample(cluster, name).await);
}

#[tokio::test]
async fn step_reports_change_what_steps_are_predicted_to_cost() {
    let truth = LatencyProfile {
        decode_us: 9000.0,
        decode_sequence_us: 700.0,
        decode_context_us: 2.0,
        ..LatencyProfile::default()
    };
    let cluster = Cluster::alone(|config| {
        config.latency.default.decode_us = 3.0;
        let seed = LatencyProfile { decode_us: 500.0, ..LatencyProfile::default() };
        config.latency.models.insert("fake".to_owned(), seed);
    })
    .await;
    let node = FakeNode::join(&cluster.control, Role::Decode, "d0").await;
    let name = |coefficient: &str| {
        format!(
            "baton_router_latency_model_coefficient_seconds\
             {{node=\"d0\",role=\"decode\",coefficient=\"{coefficient}\"}}"
        )
    };
    assert_eq!(sample(&cluster, &name("decode")).await, Some(500e-6), "the model's seed");
    node.state.send_modify(|state| state.step_reports = reports(&truth));
    for (at, coefficient) in LatencyProfile::COEFFICIENTS.into_iter().enumerate().skip(3) {
        let expected = truth.coefficients()[at] / 1e6;
        let near = |seen: f64| (0.9..1.1).contains(&(seen / expected));
        until(&cluster, &name(coefficient), |seen| seen.is_some_and(near)).await;
    }
    let error =
        "baton_router_latency_model_error_ratio{node=\"d0\",role=\"decode\",step=\"decode\"}";
    until(&cluster, error, |seen| seen.is_some_and(|error| error < 0.05)).await;
    drop(node);
    until(&cluster, &name("decode"), |seen| seen.is_none()).await;
}

#[tokio::test]
async fn missing_kv_events_are_found_and_a_snapshot_mends_it() {
    let cluster = Cluster::alone(|_| {}).await;
    let mut node = FakeNode::join(&cluster.control, Role::Prefill, "p0").await;
    let blocks = "baton_router_prefix_index_blocks{node=\"p0\",role=\"prefill\"}";
    let changes = KvEvents { since: Some(5), upto: 8, stored: vec![1; 16], ..KvEvents::default() };
    node.state.send_modify(|state| state.kv_events = Some(changes));
    let answer = tokio::time::timeout(PATIENCE, node.answers.message()).await;
    let answer = answer.expect("an answer in time").expect("a stream that goes on");
    let wanted = matches!(
        answer,
        Some(JoinResponse { message: Some(join_response::Message::KvSnapshot(_)) })
    );
    assert!(wanted, "{answer:?}");
    assert_eq!(sample(&cluster, blocks).await, Some(0.0), "changes of what?");
    let hash = |hash: u128| hash.to_be_bytes();
    let snapshot =
        KvEvents { upto: 9, stored: (0..3).flat_map(hash).collect(), ..KvEvents::default() };
    node.state.send_modify(|state| state.kv_events = Some(snapshot));
    until(&cluster, blocks, |seen| seen == Some(3.0)).await;
    let changes = KvEvents {
        since: Some(9),
        upto: 11,
        stored: hash(7).to_vec(),
        removed: (0..2).flat_map(hash).collect(),
    };
    node.state.send_modify(|state| state.kv_events = Some(changes));
    until(&cluster, blocks, |seen| seen == Some(2.0)).await;
    let missed = "baton_router_kv_events_missed_total{node=\"p0\",role=\"prefill\"}";
    assert!(sample(&cluster, missed).await >= Some(1.0));
}
