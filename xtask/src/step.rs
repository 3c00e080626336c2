//! Running one command, loudly.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, ensure};

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies below the workspace's root")
}

/// The cargo that runs this, or the one on the PATH.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = Command::new(program);
    command.current_dir(root());
    // Set for xtask itself; inherited, they would make cargo rebuild what it has.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION", "CARGO_MANIFEST_PATH"]
    {
        command.env_remove(name);
    }
    command
}

/// Runs `command` with its output on the terminal; a failure names the step.
pub(crate) fn run(what: &str, command: &mut Command) -> anyhow::Result<()> {
    println!("── {what}");
    let started = Instant::now();
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("{what}: {command:?}"))?;
    ensure!(status.success(), "{what} failed: {command:?} ended with {status}");
    println!("── {what}: passed in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Runs `command` and returns what it wrote to standard output.
pub(crate) fn output(what: &str, command: &mut Command) -> anyhow::Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{what}: {command:?}"))?;
    ensure!(output.status.success(), "{what} failed: {command:?} ended with {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{what}: output is no text"))
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let metadata = output(
        "cargo metadata",
        cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]),
    )?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let dir = metadata["target_directory"].as_str().context("cargo names no target directory")?;
    Ok(PathBuf::from(dir))
}
