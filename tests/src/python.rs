//! Clients in Python, as their users have them.

use std::process::{Command, Stdio};

/// Runs a script of this folder with the Python clients `cargo xtask test` brings.
///
/// # Panics
///
/// When it fails, with what it said.
pub fn python(script: &str, args: &[&str]) {
    let output = Command::new("python3")
        .arg(format!("{}/{script}", env!("CARGO_MANIFEST_DIR")))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("python3 starts");
    let (said, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        !errors.contains("No module named"),
        "python3 misses a package; run the tests with `cargo xtask test`\n{errors}"
    );
    assert!(output.status.success(), "{said}\n{errors}");
}
