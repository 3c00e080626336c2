//! The official Python client against a real cluster. `cargo xtask test` brings the client.

use baton_tests::{Cluster, Engine, Options, python};

#[test]
fn the_official_python_client_works() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    python("openai_client.py", &[&cluster.path("/v1")]);
}

#[test]
fn the_official_python_client_runs_batches() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    python("openai_batches.py", &[&cluster.path("/v1")]);
}
