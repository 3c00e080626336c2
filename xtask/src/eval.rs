//! `cargo xtask eval`: the evaluation, into its document.

use std::{path::PathBuf, process::Command};

use crate::step::{cargo, root, run, target_dir};

#[derive(Debug, clap::Args)]
pub(crate) struct EvalArgs {
    /// Folder with azure_llm_2023_conv.csv and mooncake_synthetic.jsonl.
    #[arg(long, value_name = "DIR")]
    traces: PathBuf,
    /// Fewer cells, requests and seeds, in less than five minutes; printed, and not written down.
    #[arg(long)]
    short: bool,
    /// What to evaluate: distserve, traces, large, dispatch, rebalance, roles, fidelity, engine. Left out: everything.
    #[arg(value_name = "SECTION")]
    sections: Vec<String>,
}

pub(crate) fn eval(args: &EvalArgs) -> anyhow::Result<()> {
    run(
        "building",
        cargo().args(["build", "--release", "--locked", "--package=baton", "--package=baton-eval"]),
    )?;
    let release = target_dir()?.join("release");
    let mut eval = Command::new(release.join("baton-eval"));
    eval.env("BATON_BIN", release.join("baton"));
    eval.arg("--traces").arg(&args.traces).args(&args.sections);
    eval.arg("--profiles").arg(root().join("deploy/profiles"));
    if args.short {
        eval.arg("--short");
    } else {
        eval.arg("--document").arg(root().join("docs/evaluation.md"));
    }
    run("evaluating", &mut eval)
}
