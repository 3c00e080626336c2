//! `cargo xtask test`: cheap checks first, then the real thing.

use std::{path::PathBuf, process::Command};

use crate::{
    left_out, purity,
    step::{cargo, root, run, target_dir},
    tools::{self, Tools},
    wire,
};

/// What a plain build leaves out: etcd's client needs protoc, and both take longer to build than most need them.
pub(crate) const FEATURES: [&str; 2] = ["--features", "baton/etcd,baton/kubernetes"];

/// What is built and tested: a benchmark's anchor takes minutes to build and has no tests.
pub(crate) const PACKAGES: [&str; 3] = ["--workspace", "--exclude", "candle-baseline"];

#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// Also write the names of the tests left out on this machine to a file, one a line.
    #[arg(long, value_name = "FILE")]
    left_out: Option<PathBuf>,
    /// Skip format, lints, licences, purity and wire compatibility.
    #[arg(long)]
    only_tests: bool,
    /// Which tests, in nextest's filter syntax. Left out: all.
    filter: Option<String>,
}

pub(crate) fn test(args: &TestArgs) -> anyhow::Result<()> {
    let tools = Tools::prepare()?;
    if !args.only_tests {
        check(&tools)?;
    }

    // Together, for a binary built by itself has other features of what it depends on, and all of that
    // would be built twice.
    let mut build = cargo();
    build
        .args(["build", "--bins", "--tests", "--examples", "--locked"])
        .args(PACKAGES)
        .args(FEATURES);
    run("building", build.env("PROTOC", &tools.protoc))?;
    let baton = target_dir()?.join("debug").join("baton");
    let mut nextest = Command::new(&tools.nextest);
    nextest
        .current_dir(root())
        .args(["nextest", "run", "--locked", "--no-fail-fast"])
        .args(PACKAGES)
        .args(FEATURES)
        .env("PROTOC", &tools.protoc)
        .env("BATON_ETCD", &tools.etcd)
        .env("BATON_CHROMIUM", &tools.chromium)
        .env("BATON_MODEL", tools::model(&baton)?)
        .env("BATON_BIN", &baton);
    if let Some(folder) = &tools.python_path {
        nextest.env("PYTHONPATH", folder);
    }
    let mut filter = args.filter.clone();
    let mut left_out = left_out::ignored(&tools, &FEATURES)?;
    if !left_out::has_networks() {
        left_out.extend(left_out::networks(&tools, &FEATURES)?);
        let wanted = filter.as_deref().unwrap_or("all()");
        filter = Some(format!("({wanted}) & not {}", left_out::NETWORKS));
    }
    if let Some(filter) = &filter {
        nextest.arg("-E").arg(filter);
    }
    let result = run("tests", &mut nextest);
    left_out::report(&left_out, args.left_out.as_deref())?;
    result
}

fn check(tools: &Tools) -> anyhow::Result<()> {
    run("format", cargo().args(["fmt", "--all", "--check"]))?;
    purity::check()?;
    wire::check(&tools.buf)?;
    // Advisories need a database from the network and change without us; licences, bans and
    // sources are ours.
    run(
        "licences, bans and sources",
        Command::new(&tools.deny)
            .current_dir(root())
            .args(["--workspace", "--locked", "check", "--hide-inclusion-graph"])
            .args(["bans", "licenses", "sources"]),
    )?;
    let mut clippy = cargo();
    clippy.args(["clippy", "--workspace", "--all-targets", "--locked"]).args(FEATURES);
    run("lints", clippy.args(["--", "-D", "warnings"]).env("PROTOC", &tools.protoc))
}
