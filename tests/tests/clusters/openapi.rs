//! The OpenAPI document against a cluster that serves it: schemathesis makes requests of it, good
//! and bad ones, and judges the answers.

use std::time::Duration;

use baton_tests::{Cluster, Engine, Options, python};

/// Of the simulated engine.
const VOCABULARY: &str = "257";

#[test]
fn a_cluster_keeps_what_its_document_promises() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    python("openapi_client.py", &[cluster.url(), "sim", VOCABULARY]);
    cluster.wait_whole(Duration::from_secs(10)).unwrap();
}
