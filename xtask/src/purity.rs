//! Are the pure crates pure? They must run on virtual time, so nothing they depend on may bring a
//! runtime, a network, a device or entropy along.

use std::collections::BTreeSet;

use anyhow::bail;

use crate::step;

const PURE: [&str; 11] = [
    "baton-types",
    "baton-kv-cache",
    "baton-scheduler",
    "baton-policy",
    "baton-membership",
    "baton-migration",
    "baton-sim",
    "baton-workload",
    "baton-transfer-protocol",
    "baton-text",
    "baton-grammar",
];

/// Packages no pure crate may see, with what they would let in.
const BANNED: [(&str, &str); 14] = [
    ("tokio", "a runtime"),
    ("mio", "a runtime"),
    ("futures-executor", "a runtime"),
    ("tonic", "a network"),
    ("hyper", "a network"),
    ("axum", "a network"),
    ("socket2", "a network"),
    ("etcd-client", "a network"),
    ("kube", "a network"),
    ("cudarc", "a device"),
    ("baton-device", "a device"),
    ("memmap2", "a device"),
    ("libc", "the operating system"),
    ("getrandom", "entropy"),
];

/// The tokeniser's library brings these; whoever speaks of text is pure in what it does, not in
/// what it links.
const TEXT: [&str; 2] = ["baton-text", "baton-grammar"];
const TEXT_MAY: [&str; 2] = ["libc", "getrandom"];

/// Who only speaks the protocol links none of what is behind it.
const CLIENT: &str = "baton-client";
const BEHIND: [(&str, &str); 3] =
    [("baton-types", "the domain"), ("baton-text", "a tokeniser"), ("tokenizers", "a tokeniser")];

/// Fails with every dependency that must not be there.
pub(crate) fn check() -> anyhow::Result<()> {
    println!("── purity of {}", PURE.join(", "));
    let mut found = Vec::new();
    let behind = banned_in(&tree(CLIENT)?, &BEHIND);
    found.extend(
        behind.into_iter().map(|(name, what)| format!("{CLIENT} depends on {name} ({what})")),
    );
    for package in PURE {
        let text = TEXT.contains(&package);
        found.extend(
            banned_in(&tree(package)?, &BANNED)
                .into_iter()
                .filter(|(name, _)| !(text && TEXT_MAY.contains(name)))
                .map(|(name, what)| format!("{package} depends on {name} ({what})")),
        );
    }
    if !found.is_empty() {
        bail!("dependencies that must not be there:\n  {}", found.join("\n  "));
    }
    Ok(())
}

fn tree(package: &str) -> anyhow::Result<String> {
    let mut cargo = step::cargo();
    cargo.args(["tree", "--locked", "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    step::output("cargo tree", cargo.args(["-p", package]))
}

fn banned_in(
    tree: &str,
    banned: &[(&'static str, &'static str)],
) -> Vec<(&'static str, &'static str)> {
    let names: BTreeSet<&str> =
        tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    banned.iter().copied().filter(|(name, _)| names.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_found_by_its_whole_name() {
        let tree = "baton-policy v0.1.0 (/x)\ntokio-util v0.7.1\nserde v1.0.0\n";
        assert!(banned_in(tree, &BANNED).is_empty());
        let impure = format!("{tree}tokio v1.0.0 (*)\n");
        assert_eq!(banned_in(&impure, &BANNED), [("tokio", "a runtime")]);
    }
}
