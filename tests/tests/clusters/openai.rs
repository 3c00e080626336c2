//! The official Python client against a real cluster. `cargo xtask test` brings the client.

use std::process::{Command, Stdio};

use baton_tests::{Cluster, Engine, Options};

#[test]
fn the_official_python_client_works() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/openai_client.py"))
        .arg(cluster.path("/v1"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        !errors.contains("No module named 'openai'"),
        "python3 has no openai package; run the tests with `cargo xtask test`"
    );
    assert!(output.status.success(), "{said}\n{errors}");
}
