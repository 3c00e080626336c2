//! Which tests this machine leaves out. The list is told by name, so that nothing goes missing
//! silently: CI accepts those that need a GPU, or networks of their own, and
//! nothing else.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context;

use crate::{step, test, tools::Tools};

/// Tests that cut networks: they need root, network namespaces and iproute2.
pub(crate) const NETWORKS: &str = "test(partition::)";

/// Whether this machine lets us have networks of our own.
pub(crate) fn has_networks() -> bool {
    let probe = format!("baton-probe-{}", std::process::id());
    let ip = |verb: &str| {
        let mut ip = Command::new("ip");
        ip.args(["netns", verb, &probe]).stdin(Stdio::null()).stdout(Stdio::null());
        ip.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    ip("add") && ip("del")
}

/// The ignored tests of the workspace as `binary name`, from nextest's own list.
pub(crate) fn ignored(tools: &Tools, features: &[&str]) -> anyhow::Result<Vec<String>> {
    list(tools, features, &["--run-ignored", "only"])
}

/// Those that cut networks.
pub(crate) fn networks(tools: &Tools, features: &[&str]) -> anyhow::Result<Vec<String>> {
    list(tools, features, &["-E", NETWORKS])
}

fn list(tools: &Tools, features: &[&str], which: &[&str]) -> anyhow::Result<Vec<String>> {
    let list = step::output(
        "listing what is left out",
        Command::new(&tools.nextest)
            .env("PROTOC", &tools.protoc)
            .current_dir(step::root())
            .args(["nextest", "list", "--locked"])
            .args(test::PACKAGES)
            .args(which)
            .args(["--message-format", "json", "--cargo-quiet"])
            .args(features),
    )?;
    let list: serde_json::Value = serde_json::from_str(&list).context("nextest's list")?;
    Ok(matching(&list))
}

fn matching(list: &serde_json::Value) -> Vec<String> {
    let suites = list["rust-suites"].as_object().into_iter().flatten();
    suites
        .flat_map(|(binary, suite)| {
            let cases = suite["testcases"].as_object().into_iter().flatten();
            cases
                .filter(|(_, case)| case["filter-match"]["status"] == "matches")
                .map(move |(name, _)| format!("{binary} {name}"))
        })
        .collect()
}

/// Prints the list, and writes it to `file` one a line.
pub(crate) fn report(names: &[String], file: Option<&Path>) -> anyhow::Result<()> {
    if let Some(file) = file {
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        fs::write(file, text).with_context(|| file.display().to_string())?;
    }
    if names.is_empty() {
        println!("left out on this machine: nothing");
        return Ok(());
    }
    println!("left out on this machine:");
    for name in names {
        println!("  {name}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_that_match_the_filter_are_listed() {
        let list = serde_json::json!({ "rust-suites": { "crate": { "testcases": {
            "gpu::copies": { "filter-match": { "status": "matches" } },
            "runs": { "filter-match": { "status": "mismatch" } },
        } } } });
        assert_eq!(matching(&list), ["crate gpu::copies"]);
    }
}
