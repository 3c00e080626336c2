//! Clients in Python, as their users have them.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::{Pid, baton};

/// How long a script may take; it is a matter of seconds, even when others use the cores.
const PATIENCE: Duration = Duration::from_secs(120);
/// What documents call a cluster.
const DEFAULT_ADDRESS: &str = "127.0.0.1:8000";

/// Runs a script of this folder with the Python clients `cargo xtask test` brings.
///
/// # Panics
///
/// When it fails, with what it said.
pub fn python(script: &str, args: &[&str]) {
    let script = format!("{}/{script}", env!("CARGO_MANIFEST_DIR"));
    run(Command::new("python3").arg(script).args(args));
}

/// Runs the first Python example of a document, such as `docs/grpc.md`, with another address in it.
///
/// # Panics
///
/// When there is none, or it fails.
pub fn python_example(document: &str, address: &str) {
    let path = format!("{}/../{document}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the document is there");
    let (_, after) = text.split_once("```python\n").expect("the document has an example");
    let (example, _) = after.split_once("```").expect("the example ends");
    assert!(example.contains(DEFAULT_ADDRESS), "the example names no address");
    run(Command::new("python3").arg("-c").arg(example.replace(DEFAULT_ADDRESS, address)));
}

/// Runs the Python tests of a folder, such as `client/python/tests`, against the binary under test.
///
/// # Panics
///
/// When one fails, with what it said.
pub fn python_tests(folder: &str) {
    let tests = format!("{}/../{folder}", env!("CARGO_MANIFEST_DIR"));
    // Plugins of other clients have no part in it, and nothing is left in the tree.
    let options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis"];
    run(Command::new("python3").args(options).arg(tests).env("BATON_BIN", baton()));
}

fn run(python: &mut Command) {
    let python = python.env("PYTHONFAULTHANDLER", "1").stdin(Stdio::null());
    let child = python.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("python3 starts");
    let pid = Pid::new(child.id()).expect("a child has an id");
    let output = thread::spawn(|| child.wait_with_output());
    if !pid.wait_end(PATIENCE) {
        // It says where each of its threads is.
        pid.abort().expect("a child that runs can be ended");
    }
    let output = output.join().expect("waiting doesn't panic").expect("python3 can be read");
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        !errors.contains("No module named"),
        "python3 misses a package; run the tests with `cargo xtask test`\n{errors}"
    );
    assert!(output.status.success(), "{said}\n{errors}");
}
