//! What the router learns of its nodes' steps.

use std::time::Duration;

use baton_proto::node::v1::StepReport;
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
